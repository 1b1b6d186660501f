"""What a run's numbers mean, in words: the title, the findings, and advice on what to try next. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from minisheep import config
from minisheep.data.seed_tasks import load_items
from minisheep.report.blocks import Block, Items, ListItem, Paragraph, Section
from minisheep.report.gather import Gathered, ReportRound
from minisheep.rules import plain_text
from minisheep.run import verdict
from minisheep.run.metric_catalogue import Estimate, round_values
from minisheep.stages.collapse import alarms
from minisheep.stages.exam import failed_warning
from minisheep.stages.judge import LEAST_PAIRS, findings
from minisheep.terminal import words

MOST_WARNINGS = 30
"""Of the run's other warnings."""


def findings_section(run: Gathered) -> Section:
    return Section("findings", "Findings", tuple(_blocks(run)))


def _blocks(run: Gathered) -> Iterator[Block]:
    items = [*_gains(run), *_collapse(run), *(item for r in run.rounds for item in _judge(r))]
    others = [text for text in run.warnings if not any(text in item.text or item.text in text for item in items)]
    items += [ListItem(text, "warning") for text in others[:MOST_WARNINGS]]
    if len(others) > MOST_WARNINGS:
        items.append(ListItem(f"{len(others) - MOST_WARNINGS} more warnings are in events.jsonl."))
    yield Items(tuple(items)) if items else Paragraph("Nothing has been measured yet.")
    if run.notes:
        yield Paragraph("This report could not read everything:")
        yield Items(tuple(ListItem(note, "warning") for note in run.notes))


def _gains(run: Gathered) -> Iterator[ListItem]:
    for r in run.measured:
        decision = (r.metrics or {}).get("decision", {})
        if decision.get("text"):
            levels = {"gain": "good", "none": "plain"}
            yield ListItem(str(decision["text"]), levels.get(decision.get("outcome"), "warning"))  # type: ignore[arg-type]
        elif r.number and "decision" not in (r.metrics or {}):
            yield ListItem(
                f"Round {r.number} was measured by an earlier version, which compared no rounds. Its numbers are below."
            )


def _collapse(run: Gathered) -> Iterator[ListItem]:
    measured = {r.number: r.diversity for r in run.rounds if r.diversity is not None}
    numbers = sorted(measured)
    # Each round is compared with the first, as the run itself did, so a sign may be listed for several rounds.
    raised = [
        ListItem(alarm.text, "warning")
        for n in numbers[1:]
        for alarm in alarms({numbers[0]: measured[numbers[0]], n: measured[n]})
    ]
    yield from raised
    if len(numbers) > 1 and not raised:
        later = f"round {numbers[1]}" if len(numbers) == 2 else f"rounds {numbers[1]} to {numbers[-1]}"
        yield ListItem(
            f"No sign of collapse: the data of {later} is as varied as that of round {numbers[0]}, within what chance"
            " explains.",
            "good",
        )
    elif len(numbers) == 1:
        yield ListItem("Collapse shows only between rounds, and the variety of just one round was measured.")
    elif not numbers and run.rounds:
        yield ListItem(
            "The variety of the data was not measured, so this report cannot say whether the data collapsed."
        )


def _judge(r: ReportRound) -> Iterator[ListItem]:
    if r.exam is not None:
        if r.exam.passed:
            yield ListItem(f"Round {r.number}: {r.exam.why}", "good")
        else:
            yield ListItem(f"Round {r.number}: {failed_warning(r.exam)}", "warning")
    if r.health is None:
        return
    signs = findings(r.health)
    for text in signs:
        yield ListItem(f"The judge of round {r.number}, {text}", "warning")
    if not signs and r.health["scored"] >= LEAST_PAIRS:
        # Scores that look healthy say nothing of whether they are right: only an exam does.
        unproven = "It failed its exam." if r.exam is not None else "No exam tells whether its scores are right."
        passed = r.exam is not None and r.exam.passed
        yield ListItem(
            f"The judge of round {r.number}, {r.health['judge']}: basic health checks passed."
            + ("" if passed else f" {unproven}"),
            "good" if passed else "plain",
        )
    elif not signs:
        yield ListItem(
            f"Round {r.number}: only {r.health['scored']} pairs were judged, too few to say whether the judge is"
            " reliable."
        )


MOST = 7
"""Pieces of advice; the most useful come first."""
FEW_KEPT = 100
"""Below this many kept pairs, training sees little; the paper trains on thousands."""
CUT_OFF = 0.3
"""Above this share of answers cut off at the token limit, a higher limit is worth it."""
WIDE = 0.15
"""An interval whose half is wider than this share hides any gain to hope for."""
ALIKE = 0.3
"""Advise more variety above this share of new instructions that were too similar to earlier ones."""
RISING = 0.02
"""Nats by which the validation loss may end above its lowest point."""


def advice_section(run: Gathered) -> Section:
    items = tuple(islice(_advice(run), MOST))
    return Section(
        "next", "What to try next", (Items(items) if items else Paragraph("The numbers suggest no particular change."),)
    )


def _advice(run: Gathered) -> Iterator[ListItem]:
    settings = run.settings
    where = plain_text.shell(run.path)
    if settings is None:
        yield ListItem("Restore run.toml from a copy. Without it the run cannot be continued or compared.")
        return
    after = run.next_phase
    if after is not None:
        yield ListItem(
            "Finish the run. This command continues where it stopped.",
            command=f"minisheep align --run {where}",
        )
    last = max((r for r in run.rounds if r.responses), key=lambda r: r.number, default=None)
    most_kept = max((len(r.kept) for r in run.rounds), default=0)
    yield from _judging(run)
    if after is None and run.best == 0 and run.rounds:
        yield ListItem(
            "No round was better than the base. More rounds are unlikely to help. Try more data (the largest round"
            f" kept {most_kept} pairs), a better judge or a larger model.",
            command=_again(run, "more", f"--per-round {settings.per_round * 4}"),
        )
    elif 0 < most_kept < FEW_KEPT:
        yield ListItem(
            f"Generate more data. No round kept more than {most_kept} pairs, and the paper trains on thousands.",
            command=_again(run, "more", f"--per-round {settings.per_round * 4}"),
        )
    if last is not None:
        yield from _data(last, settings)
    yield from _measuring(run, settings)
    yield from _training(run)
    if run.best:
        yield ListItem(
            f"Let an outside judge compare the answers of round {run.best} with those of the base.",
            command=f"minisheep versus {where} --round {run.best} --judge-url URL --judge-model-name NAME",
        )
    if run.rounds and not run.harness:
        yield ListItem(
            "Measure on a public benchmark too: the run has few held-out tasks of its own.",
            command=f"minisheep eval {where} --tasks ifeval",
        )
    other = next(s for s in ("one-base", "total-base") if s != settings.strategy)
    yield ListItem(
        f"Try another strategy and compare the two. This run used {settings.strategy}.",
        command=f"{_again(run, other, f'--strategy {other}')} && minisheep compare {where} {_beside(run, other)}",
    )


def _again(run: Gathered, name: str, flags: str) -> str:
    """The command for a new run with this run's settings but for `flags`, in a folder beside it."""
    settings = plain_text.shell(run.path / "run.toml")
    return f"minisheep align --config {settings} --run {_beside(run, name)} {flags}"


def _beside(run: Gathered, name: str) -> str:
    return plain_text.shell(f"{run.path}-{name}")


def _judging(run: Gathered) -> Iterator[ListItem]:
    if failed := [r for r in run.rounds if r.exam is not None and not r.exam.passed]:
        yield ListItem(
            f"The judge failed its exam in round(s) {', '.join(str(r.number) for r in failed)}, so chance may have"
            " decided what was kept. Use a larger --model, which judges better, or --answers 4, so that several"
            " answers to one instruction compete.",
        )
    if any(r.health and (r.health["saturation"] or 0.0) > 0.5 for r in run.rounds):
        yield ListItem(
            "Most answers got the top score, so scores hardly rank them. Start a new run that keeps the best share of"
            " the answers: --keep top:0.3."
        )


def _data(last: ReportRound, settings: config.Settings) -> Iterator[ListItem]:
    cut = sum(response.finish == "length" for response in last.responses) / len(last.responses)
    if cut > CUT_OFF:
        yield ListItem(
            f"{cut:.0%} of round {last.number}'s answers were cut off at {settings.answer_max_tokens} tokens. Allow"
            f" more with --answer-max-tokens {2 * settings.answer_max_tokens}."
        )
    similar = sum(rejection.rule == "too_similar" for rejection in last.rejected)
    if last.instructions and similar / (similar + len(last.instructions)) > ALIKE:
        yield ListItem(
            f"{similar} new instructions of round {last.number} were too similar to earlier ones. Give more varied"
            " --seeds, a higher --generate-temperature or --samples-per-prompt 1."
        )


def _measuring(run: Gathered, settings: config.Settings) -> Iterator[ListItem]:
    for r in run.measured:
        strict = round_values(r.metrics or {}, {}, "").get("instruction_strict")
        if not isinstance(strict, Estimate) or strict.low is None or strict.high is None:
            continue
        whole, width = len(load_items(language=settings.language)), strict.high - strict.low
        if width / 2 > WIDE and settings.eval_verifiable < whole:
            yield ListItem(
                f"Constraints were checked on only {settings.eval_verifiable} instructions, so their interval is"
                f" {100 * width:.0f} points wide. Start a new run with --eval-verifiable {whole} for a narrower one."
            )
            return


def _training(run: Gathered) -> Iterator[ListItem]:
    for r in reversed(run.rounds):
        held_back = [step.validation_loss for step in r.steps if step.validation_loss is not None]
        if len(held_back) > 2 and held_back[-1] > min(held_back) + RISING:
            yield ListItem(
                f"The validation loss of round {r.number} rose again after its lowest point. Use fewer --epochs or a"
                " lower --learning-rate."
            )
            return


def title(run: Gathered) -> str:
    return f"minisheep: {run.settings.model if run.settings else run.path.resolve().name}"


def lead(run: Gathered) -> str:
    """What the run came to, and how far it got."""
    told = verdict.sentence(run.conclusion) if run.conclusion or not run.measured else ""
    return f"{told} {_state(run)}".strip()


def facts(run: Gathered) -> tuple[tuple[str, str], ...]:
    best = run.best
    rows = [
        ("run", run.path.resolve().name),
        ("rounds", f"{len(_done(run))} of {run.settings.rounds}" if run.settings else str(len(run.rounds))),
        ("best", "not decided" if best is None else "base model" if best == 0 else f"round {best}"),
        ("pairs kept", " + ".join(str(len(r.kept)) for r in run.rounds if r.kept) or "none yet"),
    ]
    if judges := dict.fromkeys(r.verdicts[0].judge for r in run.rounds if r.verdicts):
        rows.append(("judge", ", ".join(judges)))
    if run.settings:
        rows.append(("strategy", run.settings.strategy))
    if run.seconds:
        rows.append(("time", plain_text.duration(run.seconds)))
    return tuple(rows)


def _done(run: Gathered) -> list[int]:
    """Rounds that were trained."""
    return [r.number for r in run.rounds if f"round-{r.number}/train" in run.phases]


def _state(run: Gathered) -> str:
    if run.settings is None or not run.state_known:
        return "This report cannot say how far the run got, since run.toml or manifest.json could not be read."
    after, settings = run.next_phase, run.settings
    if after is not None:
        stopped = f" It stopped: {run.failure}" if run.failure else ""
        return f"The run is not finished: {words.where(after.round, after.name)} comes next.{stopped}"
    rounds = len(_done(run))
    if rounds < settings.rounds:
        return f"The run ended after {rounds} of {settings.rounds} rounds, since the last ones brought no improvement."
    return f"The run is finished: {rounds} round(s)."
