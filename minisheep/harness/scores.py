"""What the harness found for each item, in a form that can be drawn anew and paired. Pure.

Most of its metrics are a sum over items divided by another sum: an accuracy (the number of items), IFEval's
instruction level (the number of constraints), a perplexity (the number of words, and then the exponential).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

from minisheep.harness import squad

Parts = tuple[float, float]
"""Numerator and denominator that one item adds."""

PERPLEXITIES = frozenset({"perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte"})
_IDS = ("key", "id", "task_id", "question_id", "doc_id")


def items(samples: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each document: ``id``, ``responses`` (as the model gave them) and ``scores`` by metric.

    `samples` are the harness's, one for each document and filter. A score is ``[numerator, denominator]``; metrics that
    are no such ratio are left out.
    """
    listed = list(samples)
    filters = {sample["filter"] for sample in listed}
    found: dict[int, dict[str, Any]] = {}
    for sample in listed:
        entry = found.setdefault(
            sample["doc_id"], {"id": _id(sample), "responses": _plain(sample["resps"]), "scores": {}}
        )
        for metric in sample["metrics"]:
            parts = _parts(metric, sample[metric])
            if parts is not None:
                entry["scores"][name(metric, sample["filter"], len(filters))] = list(parts)
    repeated = {id_ for id_, count in Counter(entry["id"] for entry in found.values()).items() if count > 1}
    for number, entry in found.items():
        if entry["id"] in repeated:
            entry["id"] = f"{entry['id']}#{number}"
    return list(found.values())


def name(metric: str, filter: str, filters: int) -> str:
    return metric if filters == 1 else f"{metric},{filter}"


def values(results: Mapping[str, Any]) -> dict[str, float]:
    """The harness's own aggregates of one task, by our names."""
    pairs = [key.partition(",") for key, value in results.items() if "," in key and isinstance(value, Real)]
    filters = {filter for _, _, filter in pairs}
    return {
        name(metric, filter, len(filters)): float(results[f"{metric},{filter}"])
        for metric, _, filter in pairs
        if not metric.endswith("_stderr")
    }


def pairs_of(entries: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Parts]:
    """By item, what it adds to `metric`."""
    return {e["id"]: (e["scores"][metric][0], e["scores"][metric][1]) for e in entries if metric in e["scores"]}


def whole(metric: str) -> Callable[[Any], Any]:
    """What turns a ratio (or an array of them) into the metric."""
    base = metric.partition(",")[0]
    if base not in PERPLEXITIES:
        return lambda ratio: ratio
    if base == "bits_per_byte":
        return lambda ratio: -ratio / math.log(2)
    return lambda ratio: math.e ** (-ratio)


def agrees(metric: str, pairs: Iterable[Parts], value: float) -> bool:
    """Whether the items' parts make up the harness's own value, so that drawing them anew means something."""
    listed = list(pairs)
    below = sum(parts[1] for parts in listed)
    if not below:
        return False
    return math.isclose(whole(metric)(sum(parts[0] for parts in listed) / below), value, rel_tol=1e-6, abs_tol=1e-9)


def _parts(metric: str, value: Any) -> Parts | None:
    if isinstance(value, Real):
        return float(value), 1.0
    if isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(part, Mapping) for part in value):
        scored = squad.item(metric, *value) if "prediction_text" in value[0] else None
        return None if scored is None else (scored, 1.0)
    if metric in PERPLEXITIES and isinstance(value, tuple | list) and len(value) == 2:
        return float(value[0]), float(value[1])
    if isinstance(value, list) and value and all(isinstance(part, Real) for part in value):
        return float(sum(value)), float(len(value))
    return None


def _id(sample: Mapping[str, Any]) -> str:
    doc = sample["doc"] if isinstance(sample["doc"], Mapping) else {}
    return str(next((doc[key] for key in _IDS if isinstance(doc.get(key), str | int)), sample["doc_id"]))


def _plain(responses: Any) -> Any:
    """Lists, texts and numbers, for JSON."""
    if isinstance(responses, list | tuple):
        return [_plain(one) for one in responses]
    return responses if isinstance(responses, str | bool | int | float) or responses is None else str(responses)
