"""What a run's numbers mean, in words: is a round better, did the data collapse, can the judge be trusted. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from itertools import islice

from minisheep import config
from minisheep.report.blocks import Block, Items, ListItem, Paragraph, Section
from minisheep.report.gather import Gathered, ReportRound
from minisheep.rules import plain_text
from minisheep.run.metric_catalogue import Estimate, round_values
from minisheep.stages.collapse import alarms
from minisheep.stages.exam import failed_warning
from minisheep.stages.judge import LEAST_PAIRS, findings
from minisheep.terminal import words

MOST_WARNINGS = 30
"""Other warnings of the run that are repeated here."""


def findings_section(run: Gathered) -> Section:
    return Section("findings", "Findings", tuple(_blocks(run)))


def _blocks(run: Gathered) -> Iterator[Block]:
    items = [*_gains(run), *_collapse(run), *(item for r in run.rounds for item in _judge(r))]
    told = {item.text for item in items}
    others = [text for text in run.warnings if not any(text in said or said in text for said in told)]
    items += [ListItem(text, "warning") for text in others[:MOST_WARNINGS]]
    if len(others) > MOST_WARNINGS:
        items.append(ListItem(f"{len(others) - MOST_WARNINGS} more warnings are in events.jsonl."))
    yield Items(tuple(items)) if items else Paragraph("Nothing has been measured yet.")
    if run.notes:
        yield Paragraph("What could not be read:")
        yield Items(tuple(ListItem(note, "warning") for note in run.notes))


def _gains(run: Gathered) -> Iterator[ListItem]:
    for r in run.measured:
        decision = (r.metrics or {}).get("decision", {})
        if decision.get("text"):
            levels = {"gain": "good", "none": "plain"}
            yield ListItem(str(decision["text"]), levels.get(decision.get("outcome"), "warning"))  # type: ignore[arg-type]
        elif r.number and "decision" not in (r.metrics or {}):
            yield ListItem(
                f"Round {r.number} was measured by a version that compared no rounds; its numbers are below."
            )


def _collapse(run: Gathered) -> Iterator[ListItem]:
    found = {r.number: r.diversity for r in run.rounds if r.diversity is not None}
    # Each round beside the first, as the run itself looked at them; what several rounds show is said of each.
    numbers = sorted(found)
    raised = [
        ListItem(a.text, "warning") for n in numbers[1:] for a in alarms({numbers[0]: found[numbers[0]], n: found[n]})
    ]
    yield from raised
    if len(numbers) > 1 and not raised:
        last = numbers[-1]
        yield ListItem(
            f"No sign of collapse: beside round {numbers[0]}, the data of"
            f" {'round 2' if numbers == [1, 2] else f'rounds {numbers[1]} to {last}'} is as varied, beyond what chance"
            " explains.",
            "good",
        )
    elif len(numbers) == 1:
        yield ListItem("Collapse shows between rounds, and the variety of one round alone was measured.")
    elif run.rounds:
        yield ListItem("The variety of the data was not measured, so nothing is said about collapse.")


def _judge(r: ReportRound) -> Iterator[ListItem]:
    if r.exam is not None:
        text = f"Round {r.number}: {r.exam.why}"
        yield (
            ListItem(text, "good")
            if r.exam.passed
            else ListItem(f"Round {r.number}: {failed_warning(r.exam)}", "warning")
        )
    if r.health is None:
        return
    found = findings(r.health)
    for text in found:
        yield ListItem(f"The judge of round {r.number}, {text}", "warning")
    if not found and r.health["scored"] >= LEAST_PAIRS:
        yield ListItem(
            f"The judge of round {r.number}, {r.health['judge']}, shows none of the signs of a bad one.", "good"
        )
    elif not found:
        yield ListItem(
            f"Round {r.number}: too few pairs were judged ({r.health['scored']}) to say how fit the judge is."
        )


# What to try next, from what the run measured: a few sentences, the most useful first. Pure.
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


def advice_section(run: Gathered) -> Section:
    items = tuple(islice(_advice(run), MOST))
    return Section("next", "What to try next", (Items(items) if items else Paragraph("Nothing stands out."),))


def _advice(run: Gathered) -> Iterator[ListItem]:
    settings = run.settings
    where = shlex.quote(str(run.path))
    if settings is None:
        yield ListItem("Restore run.toml from a copy: without it the run can neither be continued nor compared.")
        return
    after = run.next_phase
    if after is not None:
        yield ListItem(
            "Finish the run; the same command goes on where it stopped.",
            command=f"minisheep align --run {where}",
        )
    last = max((r for r in run.rounds if r.responses), key=lambda r: r.number, default=None)
    yield from _judging(run)
    if after is None and run.best == 0 and run.rounds:
        yield ListItem(
            f"No round was better than the base. More data ({_widest(run)} pairs were kept in the largest round), a"
            " better judge or a larger model are likelier to help than more rounds.",
            command=f"minisheep align --model {shlex.quote(settings.model)} --per-round {settings.per_round * 4}",
        )
    elif run.rounds and 0 < _widest(run) < FEW_KEPT:
        yield ListItem(
            f"Write more: at most {_widest(run)} pairs were kept in a round, and the paper trains on thousands.",
            command=f"minisheep align --model {shlex.quote(settings.model)} --per-round {settings.per_round * 4}",
        )
    if last is not None:
        yield from _data(last, settings)
    yield from _measuring(run, settings)
    yield from _training(run)
    if run.best:
        yield ListItem(
            f"Look at what round {run.best} says where the base said something else, through an outside judge.",
            command=f"minisheep versus {where} --round {run.best} --judge-url URL --judge-model-name NAME",
        )
    if run.rounds and not run.harness:
        yield ListItem(
            "Measure on a public benchmark too; the held-out tasks here are few.",
            command=f"minisheep eval {where} --tasks ifeval",
        )
    other = next(s for s in ("one-base", "total-base") if s != settings.strategy)
    yield ListItem(
        f"Try another strategy, and compare: this one is {settings.strategy}.",
        command=f"minisheep align --model {shlex.quote(settings.model)} --strategy {other} --run {where}-{other} &&"
        f" minisheep compare {where} {where}-{other}",
    )


def _judging(run: Gathered) -> Iterator[ListItem]:
    failed = [r for r in run.rounds if r.exam is not None and not r.exam.passed]
    if failed:
        yield ListItem(
            f"The judge failed its exam in round(s) {', '.join(str(r.number) for r in failed)}, so what was kept may be"
            " chance: a larger --model judges better, and --answers 4 lets answers to one instruction compete.",
        )
    saturated = [r for r in run.rounds if r.health and (r.health["saturation"] or 0.0) > 0.5]
    if saturated:
        yield ListItem(
            "Most answers got the top grade, so the grades hardly rank: in a new run keep a share, --keep top:0.3."
        )


def _data(last: ReportRound, settings: config.Settings) -> Iterator[ListItem]:
    cut = sum(response.finish == "length" for response in last.responses) / len(last.responses)
    if cut > CUT_OFF:
        yield ListItem(
            f"{cut:.0%} of round {last.number}'s answers were cut off at {settings.answer_max_tokens} tokens: allow"
            f" more with --answer-max-tokens {2 * settings.answer_max_tokens}."
        )
    similar = sum(rejection.rule == "too_similar" for rejection in last.rejected)
    if last.instructions and similar / (similar + len(last.instructions)) > ALIKE:
        yield ListItem(
            f"{similar} new instructions of round {last.number} were too near to earlier ones: more varied --seeds, a"
            " higher --generate-temperature or --samples-per-prompt 1."
        )


def _measuring(run: Gathered, settings: config.Settings) -> Iterator[ListItem]:
    for r in run.measured:
        found = round_values(r.metrics or {}, {}, "").get("instruction_strict")
        if not isinstance(found, Estimate) or found.low is None or found.high is None:
            continue
        whole, width = config.Settings.model_fields["eval_verifiable"].default, found.high - found.low
        if width / 2 > WIDE and settings.eval_verifiable < whole:
            yield ListItem(
                f"The constraints were checked on {settings.eval_verifiable} instructions only, and their interval is"
                f" {100 * width:.0f} points wide: --eval-verifiable {whole} in a new run tells more."
            )
            return


def _training(run: Gathered) -> Iterator[ListItem]:
    for r in reversed(run.rounds):
        held_back = [step.validation_loss for step in r.steps if step.validation_loss is not None]
        if len(held_back) > 2 and held_back[-1] > min(held_back) + RISING:
            yield ListItem(
                f"The validation loss of round {r.number} rose again after its lowest point: fewer --epochs or a lower"
                " --learning-rate."
            )
            return


def _widest(run: Gathered) -> int:
    return max((len(r.kept) for r in run.rounds), default=0)


# The top of a report: what was run, how far it is, and the few numbers that a reader wants first. Pure.
def title(run: Gathered) -> str:
    return f"minisheep: {run.settings.model if run.settings else run.path.resolve().name}"


def lead(run: Gathered) -> str:
    """How far the run is, and which model to use."""
    return f"{_state(run)} {_best(run)}".strip()


def facts(run: Gathered) -> tuple[tuple[str, str], ...]:
    best = run.best
    filtered = [r for r in run.rounds if r.kept]
    found = [
        ("run", run.path.resolve().name),
        ("rounds", f"{len(_done(run))} of {run.settings.rounds}" if run.settings else str(len(run.rounds))),
        ("best", "not decided" if best is None else "base model" if best == 0 else f"round {best}"),
        ("pairs kept", " + ".join(str(len(r.kept)) for r in filtered) or "none yet"),
    ]
    if judges := dict.fromkeys(r.verdicts[0].judge for r in run.rounds if r.verdicts):
        found.append(("judge", ", ".join(judges)))
    if run.settings:
        found.append(("strategy", run.settings.strategy))
    if run.seconds:
        found.append(("time", plain_text.duration(run.seconds)))
    return tuple(found)


def _done(run: Gathered) -> list[int]:
    """Rounds that were trained."""
    return [r.number for r in run.rounds if f"round-{r.number}/train" in run.phases]


def _state(run: Gathered) -> str:
    if run.settings is None or not run.state_known:
        return "How far the run is cannot be told, since its settings or its manifest could not be read."
    after, settings = run.next_phase, run.settings
    if after is not None:
        stopped = f" It stopped: {run.failure}" if run.failure else ""
        return f"The run is not finished: {words.where(after.round, after.name)} comes next.{stopped}"
    rounds = len(_done(run))
    if rounds < settings.rounds:
        return f"The run ended after {rounds} of {settings.rounds} rounds, since the last ones brought no gain."
    return f"The run is finished: {rounds} round(s)."


def _best(run: Gathered) -> str:
    if run.best is None:
        return "No round was compared with another, so none is called the best."
    if run.best == 0:
        return "The model to use is the base: no round was better beyond chance." if run.rounds else ""
    return f"The model to use is that of round {run.best}."
