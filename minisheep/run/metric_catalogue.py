"""The numbers that decide, and where a round's files hold them. Pure: dictionaries in, estimates out.

A number that a file does not hold is left out, never guessed: runs may be of different versions, unfinished, or
measured without one of the parts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple


class Estimate(NamedTuple):
    """A number with its 95 % interval (`low`, `high`), or with its standard error, or alone."""

    value: float
    low: float | None = None
    high: float | None = None
    error: float | None = None

    def to_dict(self) -> dict[str, float]:
        """What is known of it, JSON-ready."""
        return {name: value for name, value in self._asdict().items() if value is not None}


Value = Estimate | str
Form = Literal["share", "points", "nats", "change", "count", "number", "word"]


@dataclass(frozen=True, slots=True)
class Metric:
    name: str
    """For ``--sort``, CSV and JSON."""
    title: tuple[str, str]
    """Two lines of a column's heading."""
    form: Form
    better: Literal["higher", "lower", ""] = "higher"


READINGS = {
    "prompt_strict": ("strict", "prompts"),
    "instruction_strict": ("strict", "instr."),
    "prompt_loose": ("loose", "prompts"),
    "instruction_loose": ("loose", "instr."),
    "prompt_own": ("own words", "prompts"),
    "instruction_own": ("own words", "instr."),
    "constraints_trained": ("own words", "trained"),
    "constraints_unseen": ("own words", "unseen"),
    "verifiable_ended": ("checked", "ended"),
    "verifiable_copied": ("checked", "copied"),
}
"""Shares with a bootstrap interval that are measured on verifiable instructions, and their headings. Trained and unseen
are constraints of the kinds that a run trains on, and of the others."""
LOWER = frozenset({"verifiable_copied"})
TO_BASE = "minus base"

CATALOGUE: tuple[Metric, ...] = (
    *(
        metric
        for name, title in READINGS.items()
        for metric in (
            Metric(name, title, "share", "lower" if name in LOWER else "higher"),
            Metric(f"{name}_change", (" ".join(title), TO_BASE), "points", "lower" if name in LOWER else "higher"),
        )
    ),
    Metric("nll", ("held-out", "NLL"), "nats", "lower"),
    Metric("nll_change", ("NLL minus", "base (se)"), "change", "lower"),
    Metric("ended", ("held-out", "ended"), "share"),
    Metric("answer_words", ("words in", "an answer"), "count", ""),
    Metric("kept", ("pairs", "kept"), "count", ""),
    Metric("keep_rate", ("keep", "rate"), "share", ""),
    Metric("judge_used", ("judge", "used"), "word", ""),
    Metric("exam_auc", ("exam", "AUC"), "number"),
)


def round_values(metrics: Mapping[str, Any], exam: Mapping[str, Any], judge: str) -> dict[str, Value]:
    """The catalogue's values of one round.

    metrics: a round's metrics.json.
    exam: its exam.json; empty where there was none.
    judge: the judge of the settings, for a round whose files name none.
    """
    model, data = mapping(metrics.get("model")), mapping(metrics.get("data"))
    found: dict[str, Value | None] = {}
    for name in READINGS:
        part, stored = _place(name)
        found[name] = estimate(mapping(model.get(part)).get(stored))
        found[f"{name}_change"] = estimate(mapping(model.get(f"{part}_change")).get(stored))
    change = mapping(model.get("nll_change"))
    found |= {
        "nll": estimate(model.get("held_out_nll")),
        "nll_change": estimate({"value": change.get("mean"), "error": change.get("standard_error")}),
        "ended": estimate(model.get("ended")),
        "answer_words": estimate(model.get("answer_words")),
        "kept": estimate(data.get("kept")),
        "keep_rate": estimate(data.get("keep_rate")),
    }
    if data:
        chosen = exam.get("chosen") or mapping(data.get("scores")).get("judge") or judge
        mark = mapping(mapping(exam.get("judges")).get(str(chosen)))
        found |= {"judge_used": str(chosen), "exam_auc": estimate({"value": mark.get("auc"), "error": mark.get("se")})}
    return {name: value for name, value in found.items() if value is not None}


def _place(name: str) -> tuple[str, str]:
    """The part of a model's metrics that holds one of `READINGS`, and its name there."""
    if name.startswith("constraints_"):
        return name.replace("constraints", "verifiable"), "instruction_own"
    return "verifiable", name.removeprefix("verifiable_")


def harness_values(report: Mapping[str, Any], variant: str = "") -> dict[str, Estimate]:
    """``TASK.METRIC`` of one result of the evaluation harness, numbers only.

    A `variant` (fewer items, other shots) is named behind the task, since its numbers are not those of the whole.
    """
    task = str(report.get("task", ""))
    named = {f"{task}{variant}.{name}": estimate(value) for name, value in mapping(report.get("metrics")).items()}
    return {name: value for name, value in named.items() if value is not None} if task else {}


def harness_metric(name: str) -> Metric:
    """How to show a harness value: a share, except for perplexities and other open scales."""
    task, _, metric = name.partition(".")
    lower = any(word in metric for word in ("perplexity", "bits_per_byte"))
    return Metric(name, (task, metric), "number", "lower" if lower else "higher")


def estimate(found: Any) -> Estimate | None:
    """A number, or a mapping with ``value`` and perhaps ``low``, ``high``, ``error``; None where it is neither."""
    if not isinstance(found, Mapping):
        value = _number(found)
        return None if value is None else Estimate(value)
    value = _number(found.get("value"))
    if value is None:
        return None
    return Estimate(value, _number(found.get("low")), _number(found.get("high")), _number(found.get("error")))


def _number(found: Any) -> float | None:
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        return None
    return float(found)


def mapping(found: Any) -> Mapping[str, Any]:
    """`found` if it is one, else nothing: for files that may be of another version."""
    return found if isinstance(found, Mapping) else {}
