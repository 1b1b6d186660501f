"""What to try next, from what the run measured: a few sentences, the most useful first. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from itertools import islice

from minisheep import config
from minisheep.report.blocks import Item, Items, Paragraph, Section
from minisheep.report.gather import Gathered, Round
from minisheep.run.metrics import Estimate, round_values

MOST = 7
FEW_KEPT = 100
"""Kept pairs below which a training sees little; the paper trains on thousands."""
CUT_OFF = 0.3
"""Share of answers cut off at the token limit that is worth a higher limit."""
WIDE = 0.15
"""Half an interval, as a share, that hides any gain one may hope for."""
ALIKE = 0.3
"""Share of new instructions that were too near to earlier ones."""
RISING = 0.02
"""Nats by which the validation loss may end above its lowest point."""


def section(run: Gathered) -> Section:
    items = tuple(islice(_advice(run), MOST))
    return Section("next", "What to try next", (Items(items) if items else Paragraph("Nothing stands out."),))


def _advice(run: Gathered) -> Iterator[Item]:
    settings = run.settings
    where = shlex.quote(str(run.path))
    if settings is None:
        yield Item("Restore run.toml from a copy: without it the run can neither be continued nor compared.")
        return
    after = run.next_phase
    if after is not None:
        yield Item(
            "Finish the run; the same command goes on where it stopped.",
            command=f"minisheep align --run {where}",
        )
    last = max((r for r in run.rounds if r.responses), key=lambda r: r.number, default=None)
    yield from _judging(run)
    if after is None and run.best == 0 and run.rounds:
        yield Item(
            f"No round was better than the base. More data ({_widest(run)} pairs were kept in the largest round), a"
            " better judge or a larger model are likelier to help than more rounds.",
            command=f"minisheep align --model {shlex.quote(settings.model)} --per-round {settings.per_round * 4}",
        )
    elif run.rounds and 0 < _widest(run) < FEW_KEPT:
        yield Item(
            f"Write more: at most {_widest(run)} pairs were kept in a round, and the paper trains on thousands.",
            command=f"minisheep align --model {shlex.quote(settings.model)} --per-round {settings.per_round * 4}",
        )
    if last is not None:
        yield from _data(last, settings)
    yield from _measuring(run, settings)
    yield from _training(run)
    if run.best:
        yield Item(
            f"Look at what round {run.best} says where the base said something else, through an outside judge.",
            command=f"minisheep versus {where} --round {run.best} --judge-url URL --judge-model-name NAME",
        )
    if run.rounds and not run.harness:
        yield Item(
            "Measure on a public benchmark too; the held-out tasks here are few.",
            command=f"minisheep eval {where} --tasks ifeval",
        )
    other = next(s for s in ("one-base", "total-base") if s != settings.strategy)
    yield Item(
        f"Try another strategy, and compare: this one is {settings.strategy}.",
        command=f"minisheep align --model {shlex.quote(settings.model)} --strategy {other} --run {where}-{other} &&"
        f" minisheep compare {where} {where}-{other}",
    )


def _judging(run: Gathered) -> Iterator[Item]:
    failed = [r for r in run.rounds if r.exam is not None and not r.exam.passed]
    if failed:
        yield Item(
            f"The judge failed its exam in round(s) {', '.join(str(r.number) for r in failed)}, so what was kept may be"
            " chance: a larger --model judges better, and --answers 4 lets answers to one instruction compete.",
        )
    saturated = [r for r in run.rounds if r.health and (r.health["saturation"] or 0.0) > 0.5]
    if saturated:
        yield Item(
            "Most answers got the top grade, so the grades hardly rank: in a new run keep a share, --keep top:0.3."
        )


def _data(last: Round, settings: config.Settings) -> Iterator[Item]:
    cut = sum(response.finish == "length" for response in last.responses) / len(last.responses)
    if cut > CUT_OFF:
        yield Item(
            f"{cut:.0%} of round {last.number}'s answers were cut off at {settings.answer_max_tokens} tokens: allow"
            f" more with --answer-max-tokens {2 * settings.answer_max_tokens}."
        )
    similar = sum(rejection.rule == "too_similar" for rejection in last.rejected)
    if last.instructions and similar / (similar + len(last.instructions)) > ALIKE:
        yield Item(
            f"{similar} new instructions of round {last.number} were too near to earlier ones: more varied --seeds, a"
            " higher --generate-temperature or --samples-per-prompt 1."
        )


def _measuring(run: Gathered, settings: config.Settings) -> Iterator[Item]:
    for r in run.measured:
        found = round_values(r.metrics or {}, {}, "").get("instruction_strict")
        if not isinstance(found, Estimate) or found.low is None or found.high is None:
            continue
        whole, width = config.Settings.model_fields["eval_verifiable"].default, found.high - found.low
        if width / 2 > WIDE and settings.eval_verifiable < whole:
            yield Item(
                f"The constraints were checked on {settings.eval_verifiable} instructions only, and their interval is"
                f" {100 * width:.0f} points wide: --eval-verifiable {whole} in a new run tells more."
            )
            return


def _training(run: Gathered) -> Iterator[Item]:
    for r in reversed(run.rounds):
        held_back = [step.validation_loss for step in r.steps if step.validation_loss is not None]
        if len(held_back) > 2 and held_back[-1] > min(held_back) + RISING:
            yield Item(
                f"The validation loss of round {r.number} rose again after its lowest point: fewer --epochs or a lower"
                " --learning-rate."
            )
            return


def _widest(run: Gathered) -> int:
    return max((len(r.kept) for r in run.rounds), default=0)
