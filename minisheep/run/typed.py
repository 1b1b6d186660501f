"""Typed reading of what a run folder holds: JSON of a known shape, or a sentence about the first place that differs.

A run folder may be damaged, of another version, or made by somebody with bad intent; its files are data until they were
read here. A shape is one of these:

- a type annotation, of the types that JSON has,
- a dictionary of shapes: a name with ``!`` must be there, others may be, and what is not named is not looked at,
- `Each`, a dictionary of any names, or of names of one form; `Maybe`, a shape or null; or a list of one shape,
- a function that says whether a value is what its name says.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import types
import typing
from collections.abc import Hashable, Mapping
from typing import Any, cast

LARGEST = 1e300
"""No number of ours is near it, and arithmetic below it does not overflow."""


class NotOfShapeError(ValueError):
    """Says which place is not what it should be."""


@dataclasses.dataclass(frozen=True, slots=True)
class Each:
    """A dictionary of any names (or of those that match `names`) whose values have one shape."""

    shape: Any
    names: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Maybe:
    """What a shape says, or null."""

    shape: Any


def check(value: Any, shape: Any, where: str = "") -> None:
    """Raise `NotOfShapeError` for the first place of `value` that is not of `shape`."""
    if isinstance(shape, Mapping):
        _expect(isinstance(value, dict), where, "an object")
        for key, inner in shape.items():
            name = key.removesuffix("!")
            if name in value:
                check(value[name], inner, f"{where}.{name}" if where else name)
            else:
                _expect(name == key, f"{where}.{name}" if where else name, "there")
    elif isinstance(shape, Each):
        _expect(isinstance(value, dict), where, "an object")
        for name, inner in value.items():
            place = f"{where}.{name[:40]}" if where else name[:40]
            _expect(not shape.names or re.fullmatch(shape.names, name) is not None, place, "a name that is used there")
            check(inner, shape.shape, place)
    elif isinstance(shape, Maybe):
        if value is not None:
            check(value, shape.shape, where)
    elif isinstance(shape, list):
        _expect(isinstance(value, list), where, "a list")
        for place, inner in enumerate(value):
            check(inner, shape[0], f"{where}[{place}]")
    elif isinstance(shape, types.FunctionType):
        _expect(shape(value), where, shape.__name__.strip("_").replace("_", " "))
    else:
        _expect(_fits(value, shape), where, getattr(shape, "__name__", str(shape)))


def check_fields(kind: type[Any], fields: Mapping[str, Any]) -> None:
    """Raise `NotOfShapeError` where a field of the dataclass `kind` does not get what its annotation says.

    Fields that are missing or unknown are left to the dataclass itself.
    """
    hints: dict[str, Any] = _hints(cast("Hashable", kind))
    _expect(isinstance(fields, Mapping), kind.__name__.lower(), "an object")
    for name, value in fields.items():
        if name in hints:
            # A figure that stands alone may be NaN or infinite, as a training's loss may; it is shown as it is.
            odd = isinstance(value, float) and _fits(0.0, hints[name])
            _expect(odd or _fits(value, hints[name]), name, getattr(hints[name], "__name__", str(hints[name])))


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a value read from JSON (lists may have become tuples) is what a type annotation says."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return True
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST
    if origin in (types.UnionType, typing.Union):
        return any(_fits(value, part) for part in parts)
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and all(_fits(part, parts[0]) for part in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(part, parts[1]) for part in value.values())
    if annotation is type(None):
        return value is None
    return isinstance(value, annotation)


def _expect(is_so: bool, where: str, what: str) -> None:
    if not is_so:
        raise NotOfShapeError(f"{where or 'the whole'} is not {what}")


def _a_histogram(value: Any) -> bool:
    """Counts between edges, as they are drawn."""
    if not isinstance(value, dict):
        return False
    edges, counts = value.get("edges", []), value.get("counts", [])
    return (
        _fits(edges, list[float])
        and _fits(counts, list[int])
        and len(edges) == len(counts) + 1 > 1
        and min(counts) >= 0
    )


def _an_estimate(value: Any) -> bool:
    """None, or a number with an error that has groups behind it."""
    if value is None:
        return True
    if not isinstance(value, dict) or not {"value", "error", "groups"} <= set(value):
        return False
    error, groups = value["error"], value["groups"]
    return (
        _fits(value["value"], float) and _fits(groups, int) and (error is None or (_fits(error, float) and groups > 1))
    )


def _estimates_by_size(value: Any) -> bool:
    """Estimates by a number of words, written in digits."""
    return isinstance(value, dict) and all(
        size.isascii() and size.isdigit() and len(size) < 10 and found is not None and _an_estimate(found)
        for size, found in value.items()
    )


def _verdicts_on_each_constraint(value: Any) -> bool:
    """Of one item: readings as long as ``strict``, which every version stored, and what is said of the whole answer."""
    if not isinstance(value, dict) or not _fits(value.get("strict"), list[bool]):
        return False
    readings = [value[name] for name in ("loose", "own", "trained") if name in value]
    return all(_fits(verdicts, list[bool]) and len(verdicts) == len(value["strict"]) for verdicts in readings) and all(
        isinstance(value.get(name, False), bool) for name in ("ended", "copied")
    )


NUMBER = float | None
_INTERVAL = {"value": NUMBER, "low": NUMBER, "high": NUMBER, "error": NUMBER}
_MEASURED = {"value!": float, "low!": float, "high!": float}
_MARK = {"auc!": float, "se!": float, "kinds!": Each(float), "kinds_se": Each(float), "passes": bool}

_PHASE = "round-[0-9]{1,9}/[a-z-]+"
_INSIDE = r"(?s)(?!/)(?!.*\.\.)[^\0]+"
"""A path that leads nowhere else."""

MANIFEST: dict[str, Any] = {
    "phases!": Each(Each(float), _PHASE),
    "files": Each(Each(dict[str, Any], _INSIDE), _PHASE),
    "inputs": Each(str),
    "settings": dict[str, Any],
    "preset": str,
}
"""Runs of before there were marks have no ``files``, and those of before presets were recorded no ``preset``."""
EXAM: dict[str, Any] = {
    "round": int,
    "chosen!": str,
    "judges!": Each(_MARK),
    "blend": dict[str, Any] | None,
    "spoiled": Each(int),
    "tasks": int,
    "right": int,
    "passed": bool,
    "why": str,
    "least_auc": float,
    "least_kind": float,
}
HEALTH: dict[str, Any] = {
    "judge!": str,
    "judged!": int,
    "scored!": int,
    "agreement_pairs!": int,
    **dict.fromkeys(("agreement!", "invalid!", "length!", "saturation!", "spread!"), NUMBER),
}
DIVERSITY: dict[str, Any] = {
    "answers!": {
        "count": int,
        "distinct!": _estimates_by_size,
        "seen_before!": _an_estimate,
        **{f"{name}!": _an_estimate for name in ("duplicates", "ended", "words")},
    },
    "instructions!": {
        "count": int,
        "distinct!": _estimates_by_size,
        "openings!": {"commonest!": str | None, "crowding!": _an_estimate, "different": int, "share!": NUMBER},
        "topics!": Maybe({"crowding!": _an_estimate, "entropy": NUMBER, "hit": int, "largest!": NUMBER, "of": int}),
        "similarity": {"mean": _an_estimate, "p90": NUMBER},
        **{f"{name}!": _an_estimate for name in ("near_duplicates", "words")},
    },
}
TRAINING: dict[str, Any] = {
    **dict.fromkeys(("examples", "steps", "tokens", "best_step", "left_out", "truncated"), int),
    **dict.fromkeys(("first_loss", "last_loss", "best_validation_loss", "seconds"), NUMBER),
    "load_in": str,
}
METRICS: dict[str, Any] = {
    "round!": int,
    "model!": {
        **dict.fromkeys(("held_out_nll", "end_nll", "ended", "answer_words", "distinct_1", "distinct_2"), NUMBER),
        "nll_by_task": Each(float),
        "nll_change": {"mean!": float, "standard_error!": float},
        "verifiable": Each(_INTERVAL),
        "verifiable_change": dict[str, Any],
        "verifiable_by_item": Each(_verdicts_on_each_constraint),
        "verifiable_by_kind": Each(Each(int)),
    },
    "data": {
        **dict.fromkeys(("drafts", "instructions", "responses", "judged", "kept"), int),
        **dict.fromkeys(("keep_rate", "kept_words", "near_duplicate_rate", "kept_distinct_2"), NUMBER),
        "dropped_by_rule": Each(int, r"[\w.-]{1,99}"),
        "exam": Maybe(EXAM),
        "judge": Maybe(HEALTH),
        "diversity": Maybe(DIVERSITY),
        "scores": {
            "judge!": str,
            "histogram": _a_histogram,
            **dict.fromkeys(("n", "max", "mean", "median", "min", "sd", "saturation", "unreadable"), NUMBER),
        },
    },
    "decision": {
        "best": int,
        "against": int,
        "outcome": str,
        "text": str,
        "without_gain": int,
        "measures": Each(_MEASURED),
    },
}
"""The files of a round, as far as anything reads them."""
