"""Events and metrics in words, for the terminal, the screen and the report. Pure: no terminal is touched here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from minisheep.rules.ifeval import HALVES
from minisheep.rules.plain_text import BARS, duration, one_line, plural, round_name
from minisheep.run import events
from minisheep.run.verdict import curve, curve_totals

COUNTED = {
    "exam": "{tasks:,.0f} seed tasks, AUC {auc:.2f} (1: the judge knows right from wrong answers, 0.5: it guesses)",
    "generate": "{instructions:,.0f} new instructions from {drafts:,.0f} drafts, {rejected:,.0f} dropped",
    "respond": "{responses:,.0f} answers, {tokens:,.0f} tokens",
    "judge": "{judged:,.0f} pairs judged, {dropped_by_rules:,.0f} dropped by rules before",
    "filter": "{kept:,.0f} pairs kept for training, {dropped:,.0f} dropped",
    "train": "{steps:,.0f} steps on {examples:,.0f} examples, loss {first_loss:.3f} at first, {last_loss:.3f} at last",
    "evaluate": "{tasks:,.0f} held-out tasks scored, {answers:,.0f} answers written and measured",
}
"""What a finished phase says of its counts, by the name of the phase."""
STOPPING = "Stopping after the current record. Ctrl-C again stops now."


def where(round: int, phase: str) -> str:
    return f"base model, {one_line(phase)}" if round == 0 else f"round {round}, {one_line(phase)}"


def counted(phase: str, counts: Mapping[str, float]) -> str:
    """``18 pairs kept for training, 12 dropped``; names and numbers where another version counted other things."""
    try:
        text = COUNTED[phase].format_map(counts)
    except KeyError:
        named = ((one_line(name.replace("_", " ")), value) for name, value in counts.items() if name != "seconds")
        return ", ".join(f"{name} {value:g}" for name, value in named)
    if "checked" in counts:
        # Where a program alone judges, no pair was judged by the model, which would read as a fault.
        text = text.removeprefix("0 pairs judged, ")
        text += f"; {counts['passed']:,.0f} of {counts['checked']:,.0f} answers keep their constraint"
    if "tokens_per_pair" in counts:
        text += f", {counts['tokens_per_pair']:,.0f} tokens a pair"
    if "best" in counts:
        text += f"; best: {round_name(int(counts['best']))}"
    if waited := int(counts.get("without_gain", 0)):
        text += f"; {waited} round{'s' * (waited > 1)} without improvement"
    return text


def line(event: events.Event) -> str:
    """The event as one line, safe to show; empty for events that are only drawn."""
    if isinstance(event, events.RunStarted):
        verb = "Continuing" if event.resumed else "Starting"
        return (
            f"{verb} {one_line(event.run)}: {one_line(event.model)}, {plural(event.rounds, 'round')},"
            f" engine {one_line(event.engine)}, trainer {one_line(event.trainer)}"
        )
    if isinstance(event, events.EngineReady):
        return f"engine: {one_line(event.description)}"
    if isinstance(event, events.Note):
        return f"{'WARNING: ' if event.level == 'warning' else ''}{one_line(event.text)}"
    if isinstance(event, events.PhaseStarted):
        resumed = f", {event.done} already done" if event.done else ""
        return f"{where(event.round, event.phase)}" + (
            f": {event.total} {one_line(event.unit)}{resumed}" if event.total else ""
        )
    if isinstance(event, events.Progress):
        of = f" of {event.total}" if event.total else ""
        detail = f" ({one_line(event.detail, 60)})" if event.detail else ""
        return f"{where(event.round, event.phase)}: {event.done}{of}{detail}"
    if isinstance(event, events.Paused):
        text = "paused; `minisheep resume RUN` goes on, and so does p on its screen"
        return f"{where(event.round, event.phase)}: {text if event.paused else 'going on'}"
    if isinstance(event, events.Stopping):
        return STOPPING
    if isinstance(event, events.TrainStep):
        validation = "" if event.validation_loss is None else f", validation loss {event.validation_loss:.3f}"
        return (
            f"round {event.round}, train: step {event.step} of {event.total}, loss {event.loss:.3f}{validation},"
            f" {event.tokens_per_second:.0f} tokens/s"
        )
    if isinstance(event, events.PhaseFinished):
        text = counted(event.phase, event.counts)
        return f"{where(event.round, event.phase)} done in {duration(event.seconds)}" + (f": {text}" if text else "")
    if isinstance(event, events.RunFinished):
        return finished(event)
    if isinstance(event, events.Failed):
        return f"{one_line(event.message)} {one_line(event.fix)}".strip()
    return ""


def finished(event: events.RunFinished) -> str:
    """How the run ended, and which round to use."""
    how = "Stopped early: no improvement in the last rounds." if event.early else "Finished"
    best = "" if event.best is None else f" Best: {round_name(event.best, 'the base model')}."
    return f"{how} {plural(event.rounds, 'round')} in {duration(event.seconds)}.{best}"


Row = tuple[str, list[str]]


def metric_rows(metrics: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[Row]]:
    """The table of rounds: column titles, and a row for each measure. `metrics` in order, the base first; what is no
    round has a ``name``."""
    titles = [m.get("name") or round_name(m["round"]) for m in metrics]

    def row(name: str, *path: str, form: str = "{:.3f}") -> Row:
        return name, [_cell(m, path, form) for m in metrics]

    rows = [
        row("held-out NLL per token", "model", "held_out_nll"),
        ("  change to base (standard error)", [_change(m) for m in metrics]),
        row("NLL of ending after the answer", "model", "end_nll"),
        row("greedy answers that end by themselves", "model", "ended", form="{:.0%}"),
        row("words in a greedy answer", "model", "answer_words", form="{:.0f}"),
        row("constraints kept, strict", "model", "verifiable", "instruction_strict", "value", form="{:.0%}"),
        row("  in its own words", "model", "verifiable", "instruction_own", "value", form="{:.0%}"),
        *(
            row(f"  of {half} kinds", "model", f"verifiable_{half}", "instruction_own", "value", form="{:.0%}")
            for half in HALVES
        ),
        ("  change from the best earlier round (95 % CI)", [_points(m, "constraints") for m in metrics]),
        *(
            (f"  {half} kinds, from the best earlier round", [_points(m, f"constraints_{half}") for m in metrics])
            for half in HALVES
        ),
        row("answers that repeat the instruction", "model", "verifiable", "copied", "value", form="{:.0%}"),
        ("verdict", [_outcome(m) for m in metrics]),
        row("distinct-1 of greedy answers", "model", "distinct_1"),
        row("distinct-2 of greedy answers", "model", "distinct_2"),
        row("instructions written", "data", "instructions", form="{:.0f}"),
        row("near-duplicate rate", "data", "near_duplicate_rate", form="{:.0%}"),
        row("pairs kept", "data", "kept", form="{:.0f}"),
        row("keep rate", "data", "keep_rate", form="{:.0%}"),
        row("words in a kept answer", "data", "kept_words", form="{:.0f}"),
        ("judge", [_judge(m) for m in metrics]),
        ("  AUC in its exam", [_exam(m) for m in metrics]),
        ("draws that keep their constraint", [_draws(m) for m in metrics]),
        row("mean judge score", "data", "scores", "mean"),
        row("judge score, standard deviation", "data", "scores", "sd"),
        row("saturation at the top score", "data", "scores", "saturation", form="{:.0%}"),
    ]
    return titles, [(name, cells) for name, cells in rows if any(cell != "-" for cell in cells)]


def score_histogram(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each round: its judge scores as bars from the lowest bin to the highest."""
    lines = []
    for m in metrics:
        scores = m.get("data", {}).get("scores")
        if scores and "histogram" in scores:
            edges, counts = scores["histogram"]["edges"], scores["histogram"]["counts"]
            most = max(counts) or 1
            bars = "".join(BARS[-(-8 * count // most)] for count in counts)
            judge = one_line(scores["judge"])
            lines.append(f"scores of round {m['round']} ({judge}): {edges[0]:g} |{bars}| {edges[-1]:g}")
    return lines


def _cell(metrics: Mapping[str, Any], path: Sequence[str], form: str) -> str:
    value: Any = metrics
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return form.format(value) if isinstance(value, int | float) else "-"


def _change(metrics: Mapping[str, Any]) -> str:
    change = metrics.get("model", {}).get("nll_change")
    return "-" if change is None else f"{change['mean']:+.3f} ({change['standard_error']:.3f})"


def _points(metrics: Mapping[str, Any], measure: str) -> str:
    difference = metrics.get("decision", {}).get("measures", {}).get(measure)
    if difference is None:
        return "-"
    value, low, high = (100 * difference[name] for name in ("value", "low", "high"))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def _draws(metrics: Mapping[str, Any]) -> str:
    """Of the answers drawn to instructions with a constraint, the share that kept it."""
    counts = curve_totals(curve([metrics])).get(metrics.get("round", 0))
    return "-" if counts is None else f"{counts[1] / counts[0]:.0%}"


def _outcome(metrics: Mapping[str, Any]) -> str:
    """``better than base``, ``equal to round 1``: the decision, and the round that this one was compared with."""
    decision = metrics.get("decision", {})
    if "against" not in decision:
        return "-"
    rival = round_name(decision["against"])
    verdicts = {"gain": "better than", "loss": "worse than", "mixed": "mixed against", "none": "equal to"}
    return f"{verdicts.get(decision.get('outcome', ''), 'not comparable to')} {rival}"


def _judge(metrics: Mapping[str, Any]) -> str:
    scores = metrics.get("data", {}).get("scores")
    return one_line(scores["judge"]) if scores else "-"


def _exam(metrics: Mapping[str, Any]) -> str:
    exam = metrics.get("data", {}).get("exam")
    mark = None if exam is None else exam["judges"].get(exam["chosen"])
    return "-" if mark is None else f"{mark['auc']:.2f}"


def measured(event: events.RoundMeasured) -> str:
    model = event.metrics["model"]
    name = round_name(event.round, "base model")
    change = _change(event.metrics)
    ended = f", {model['ended']:.0%} of answers end by themselves" if "ended" in model else ""
    return f"{name}: held-out NLL {model['held_out_nll']:.3f}" + (f", change {change}" if change != "-" else "") + ended
