"""The data funnel: how much each round wrote, what was dropped, by which rule, and what that rule means. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from minisheep.report.blocks import Bar, Bars, Block, Paragraph, Section, Table
from minisheep.report.gather import Gathered, Round
from minisheep.rules.instructions import INSTRUCTION_RULES
from minisheep.rules.responses import RESPONSE_RULES

MEANINGS = {
    **{f"generate.{name}": what for name, _, what in INSTRUCTION_RULES},
    **{f"filter.{name}": what for name, _, what in RESPONSE_RULES},
    "generate.too_similar": "is too near to a seed task or an earlier instruction (ROUGE-L)",
    "generate.no_task": "is a draft in which no task could be read",
    "filter.no_score": "has a judgement that holds no grade",
    "filter.not_best": "is not the best judged answer to its instruction",
    "filter.low_score": "is scored too low to be kept",
    "filter.high_perplexity": "is too unlikely for the model itself",
    "filter.crowded": "is in a cluster from which another was drawn",
    "filter.not_lowest": "is in a cluster where another is of lower perplexity",
}
"""What is dropped by a rule: it ..."""


def section(run: Gathered) -> Section:
    return Section("funnel", "Data funnel", tuple(_blocks(run)))


def _blocks(run: Gathered) -> Iterator[Block]:
    if not run.rounds:
        yield Paragraph("No round has been begun.")
        return
    for r in run.rounds:
        bars = tuple(_bars(r))
        if bars:
            yield Bars(f"Round {r.number}", bars)
    if not any(r.instructions for r in run.rounds):
        yield Paragraph("Nothing has been written yet.")
        return
    found = {r.number: r.dropped for r in run.rounds}
    rules = sorted({rule for drops in found.values() for rule in drops}, key=lambda rule: (_place(rule), rule))
    if not rules:
        yield Paragraph("Nothing was dropped.")
        return
    yield Table(
        ("dropped by", "what it drops", *(f"round {r.number}" for r in run.rounds)),
        tuple(
            (rule, MEANINGS.get(rule, ""), *(_share(found[r.number].get(rule, 0), _of(r, rule)) for r in run.rounds))
            for rule in rules
        ),
        "Shares are of the tasks that were read (generate) or of the answers (filter).",
        left=2,
    )


def _bars(r: Round) -> Iterator[Bar]:
    before: int | None = None
    for name, count in r.stages:
        if count is None:
            continue
        # A draft holds several tasks, so that the first step is no loss.
        lost = f" (-{before - count})" if before is not None and before > count and name != "tasks in them" else ""
        yield Bar(name, count, f"{count:,}{lost}")
        before = count


def _of(r: Round, rule: str) -> int:
    return dict(r.stages)["tasks in them"] or 0 if rule.startswith("generate.") else len(r.responses)


def _share(count: int, of: int) -> str:
    return "-" if not count else f"{count:,} ({count / of:.1%})" if of else f"{count:,}"


def _place(rule: str) -> int:
    """In the order in which the rules are asked; those that are not known stand last."""
    return list(MEANINGS).index(rule) if rule in MEANINGS else len(MEANINGS)
