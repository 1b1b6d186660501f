"""What a run's numbers mean, in words: the title, the findings, and advice on what to try next. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

from minisheep import config
from minisheep.data.seed_tasks import load_items
from minisheep.report.blocks import Block, Items, Level, ListItem, Paragraph
from minisheep.report.gather import Gathered, ReportRound
from minisheep.rules import plain_text
from minisheep.run import verdict
from minisheep.run.decision import lengths, told
from minisheep.run.metric_catalogue import Estimate, round_values
from minisheep.stages.collapse import alarms, comparable
from minisheep.stages.exam import Exam, failed_warning
from minisheep.stages.judge import LEAST_PAIRS, findings
from minisheep.terminal import words

MOST_WARNINGS = 30
"""Of the run's other warnings."""


class Finding(NamedTuple):
    subject: str
    """What it is about; the findings about one subject never hold both good and bad news."""
    level: Level
    text: str


def findings_blocks(run: Gathered) -> Iterator[Block]:
    found = decided(run)
    known = [finding.text for finding in found] + [str(_decision(r).get("text", "")) for r in run.measured]
    others = [text for text in run.warnings if not any(text in one or (one and one in text) for one in known)]
    items = [ListItem(finding.text, finding.level) for finding in found]
    items += [ListItem(text, "warning") for text in others[:MOST_WARNINGS]]
    if len(others) > MOST_WARNINGS:
        items.append(ListItem(f"{len(others) - MOST_WARNINGS} more warnings are in events.jsonl."))
    yield Items(tuple(items)) if items else Paragraph("Nothing has been measured yet.")
    if run.notes:
        yield Paragraph("This report could not read everything:")
        yield Items(tuple(ListItem(note, "warning") for note in run.notes))


def decided(run: Gathered) -> list[Finding]:
    """What the run's own files say of each subject: a round's gain, collapse, a round's judge. For each of them one
    state is decided first, and the state alone chooses the words and the level."""
    return [
        *(found for r in run.measured for found in _gain(r, run)),
        *_collapse(run),
        *(found for r in run.rounds for found in judged(r.number, r.exam, r.health)),
    ]


def _decision(r: ReportRound) -> Mapping[str, Any]:
    found = (r.metrics or {}).get("decision", {})
    return found if isinstance(found, Mapping) else {}


GAINS: Mapping[str, Level] = {"gain": "good", "none": "plain", "mixed": "warning", "loss": "warning"}


def _gain(r: ReportRound, run: Gathered) -> Iterator[Finding]:
    decision, subject = _decision(r), f"gain of round {r.number}"
    if said := told(r.number, decision):
        rival = next((m for m in run.measured if m.number == decision.get("against")), None)
        if decision.get("outcome") == "gain" and rival is not None:
            said += lengths((r.metrics or {})["model"], (rival.metrics or {})["model"])
        yield Finding(subject, GAINS.get(decision.get("outcome", ""), "plain"), said)
    elif r.number and "decision" not in (r.metrics or {}):
        old = f"Round {r.number} was measured by an earlier version, which compared no rounds. Its numbers are below."
        yield Finding(subject, "plain", old)


COLLAPSE: Mapping[str, tuple[Level, str]] = {
    "varied": (
        "good",
        "No sign of collapse: the data of {later} is as varied as that of round {first}, within what chance explains.",
    ),
    "few": ("plain", "The rounds have too few drafts to tell whether the data of {later} is less varied."),
    "one": ("plain", "Collapse shows only between rounds, and the variety of just one round was measured."),
    "none": ("plain", "The variety of the data was not measured, so this report cannot say whether it collapsed."),
}
"""By state; where there are signs of collapse, they are said instead."""


def _collapse(run: Gathered) -> Iterator[Finding]:
    measured = {r.number: r.diversity for r in run.rounds if r.diversity is not None}
    if not run.rounds:
        return
    first, *later = sorted(measured) or [0]
    # Each round is compared with the first, as the run itself did, so a sign may be listed for several rounds.
    raised = [alarm for n in later for alarm in alarms({first: measured[first], n: measured[n]})]
    yield from (Finding("collapse", "warning", alarm.text) for alarm in raised)
    if not raised:
        enough = any(comparable(measured[first], measured[n]) for n in later)
        state = "varied" if enough else "few" if later else "one" if measured else "none"
        level, text = COLLAPSE[state]
        names = f"rounds {later[0]} to {later[-1]}" if len(later) > 1 else f"round {later[-1]}" if later else ""
        yield Finding("collapse", level, text.format(first=first, later=names))


HEALTH = {
    "healthy": "The judge of round {round}, {judge}: basic health checks passed.",
    "signs": "The judge of round {round}, {sign}",
    "few": "Round {round}: only {scored} pairs were judged, too few to say whether the judge is reliable.",
}
# Scores that look healthy say nothing of whether they are right: only an exam does.
UNPROVEN = {"none": "No exam tells whether its scores are right.", "failed": "It failed its exam.", "passed": ""}
"""Follows a judge's good health, by its exam."""


def judged(number: int, exam: Exam | None, health: Mapping[str, Any] | None) -> Iterator[Finding]:
    """A round's judge: good news only if it passed its exam and shows no bad sign."""
    subject, signs = f"judge of round {number}", findings(health) if health else []
    mark = "none" if exam is None else "passed" if exam.passed else "failed"
    state = "none" if health is None else "signs" if signs else "healthy" if health["scored"] >= LEAST_PAIRS else "few"
    level: Level = "good" if mark == "passed" and not signs else "plain"
    if exam is not None:
        text = exam.why if exam.passed else failed_warning(exam)
        yield Finding(subject, "warning" if mark == "failed" else level, f"Round {number}: {text}")
    for sign in signs or ([""] if health else []):
        text = HEALTH[state].format(**{**(health or {}), "round": number, "sign": sign})
        proven = UNPROVEN[mark] if state == "healthy" else ""
        yield Finding(
            subject, "warning" if signs else level if state == "healthy" else "plain", f"{text} {proven}".strip()
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


def advice_blocks(run: Gathered) -> Iterator[Block]:
    items = tuple(islice(_advice(run), MOST))
    yield Items(items) if items else Paragraph("The numbers suggest no particular change.")


def _advice(run: Gathered) -> Iterator[ListItem]:
    settings = run.settings
    where = plain_text.shell(run.path)
    if settings is None:
        yield ListItem("Restore run.toml from a copy. Without it the run cannot be continued or compared.")
        return
    after = run.next_phase
    if after is not None:
        yield ListItem(
            "Finish the run. This command continues where it stopped.", command=f"minisheep align --run {where}"
        )
    last = max((r for r in run.rounds if r.responses), key=lambda r: r.number, default=None)
    most_kept = max((len(r.kept) for r in run.rounds), default=0)
    yield from _judging(run, settings)
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
        yield from _data(run, last, settings)
    yield from _measuring(run, settings)
    yield from _training(run, settings)
    if run.best:
        yield ListItem(
            f"Let an outside judge compare the answers of round {run.best} with those of the base.",
            command=f"minisheep versus {where} --round {run.best} --judge-url URL --judge-model-name NAME",
        )
    if run.rounds and not run.harness:
        # IFEval asks in English, which says little of a run in another language.
        which, task = (
            ("", "ifeval")
            if settings.language == "en"
            else (" in its language (`lm-eval ls tasks` lists them)", "NAME")
        )
        yield ListItem(
            f"Measure on a public benchmark{which} too: the run has few held-out tasks of its own. It needs"
            " lm-evaluation-harness; the command says how to install it.",
            command=f"minisheep eval {where} --tasks {task}",
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


def _judging(run: Gathered, settings: config.Settings) -> Iterator[ListItem]:
    if failed := [r for r in run.rounds if r.exam is not None and not r.exam.passed]:
        yield ListItem(
            f"The judge failed its exam in round {', '.join(str(r.number) for r in failed)}, so chance may have"
            " decided what was kept. Use a larger --model, which judges better, or let several answers to one"
            " instruction compete.",
            command=_again(run, "answers", f"--answers {max(4, 2 * settings.answers)}"),
        )
    if any(r.health and (r.health["saturation"] or 0.0) > 0.5 for r in run.rounds):
        yield ListItem(
            "Most answers got the top score, so scores hardly rank them. Keep the best share of the answers instead.",
            command=_again(run, "top", "--keep top:0.3"),
        )


def _data(run: Gathered, last: ReportRound, settings: config.Settings) -> Iterator[ListItem]:
    cut = sum(response.finish == "length" for response in last.responses) / len(last.responses)
    if cut > CUT_OFF:
        yield ListItem(
            f"{cut:.0%} of round {last.number}'s answers were cut off at {settings.answer_max_tokens} tokens. Allow"
            " longer ones.",
            command=_again(run, "longer", f"--answer-max-tokens {2 * settings.answer_max_tokens}"),
        )
    similar = sum(rejection.rule == "too_similar" for rejection in last.rejected)
    if last.instructions and similar / (similar + len(last.instructions)) > ALIKE:
        yield ListItem(
            f"{similar} new instructions of round {last.number} were too similar to earlier ones. Give more varied"
            " --seeds, a higher --generate-temperature, or other seed tasks to each prompt.",
            command=_again(run, "varied", "--samples-per-prompt 1"),
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
                f" {100 * width:.0f} points wide. A new run that checks more has a narrower one.",
                command=_again(run, "checked", f"--eval-verifiable {whole}"),
            )
            return


def _training(run: Gathered, settings: config.Settings) -> Iterator[ListItem]:
    for r in reversed(run.rounds):
        held_back = [step.validation_loss for step in r.steps if step.validation_loss is not None]
        if len(held_back) > 2 and held_back[-1] > min(held_back) + RISING:
            yield ListItem(
                f"The validation loss of round {r.number} rose again after its lowest point. Learn more slowly, or use"
                " fewer --epochs.",
                command=_again(run, "slower", f"--learning-rate {settings.learning_rate / 2:g}"),
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
        ("best", "not decided" if best is None else plain_text.round_name(best, "base model")),
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
    return f"The run is finished: {rounds} round{'s' * (rounds != 1)}."
