"""Exact match and F1 of SQuAD 2.0 (Rajpurkar et al. 2018, arXiv 1806.03822), with its treatment of questions that have
no answer. The harness would load the metric as a program from the hub; this one needs no network. Pure."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_MARKS = str.maketrans("", "", string.punctuation)


def compute(predictions: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """All scores in per cent, as the task names them; those of a kind of question that is missing are left out.

    A prediction has ``id``, ``prediction_text`` and ``no_answer_probability``, a reference ``id`` and ``answers``.
    """
    given = {p["id"]: p for p in predictions}
    rows = [(given[r["id"]], _golds(r), bool(_answers(r))) for r in references]
    scores = {
        "exact": [float(exact(p["prediction_text"], golds)) for p, golds, _ in rows],
        "f1": [f1(p["prediction_text"], golds) for p, golds, _ in rows],
    }
    answerable = [has for _, _, has in rows]
    found: dict[str, float] = {}
    for name, values in scores.items():
        found[name] = _percent(values)
        for prefix, wanted in (("HasAns", True), ("NoAns", False)):
            some = [value for value, has in zip(values, answerable, strict=True) if has is wanted]
            if some:
                found[f"{prefix}_{name}"] = _percent(some)
        found[f"best_{name}"] = _best(values, answerable, [p for p, _, _ in rows])
    return found


def item(metric: str, prediction: Mapping[str, Any], reference: Mapping[str, Any]) -> float | None:
    """What one question adds to a metric, in per cent; None where it does not count for it or the metric is no mean."""
    kind, _, name = metric.rpartition("_")
    if kind not in ("", "HasAns", "NoAns") or (kind and (kind == "HasAns") is not bool(_answers(reference))):
        return None
    text, golds = prediction["prediction_text"], _golds(reference)
    return 100.0 * (exact(text, golds) if name == "exact" else f1(text, golds))


def normal(text: str) -> str:
    """Lower case, without punctuation, articles and superfluous blanks."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_MARKS)).split())


def exact(text: str, golds: Sequence[str]) -> bool:
    return any(normal(text) == normal(gold) for gold in golds)


def f1(text: str, golds: Sequence[str]) -> float:
    """The best F1 of the words over the right answers, 0 .. 1; without words on one side, whether both have none."""
    return max(_f1(normal(text).split(), normal(gold).split()) for gold in golds)


def _f1(words: list[str], gold: list[str]) -> float:
    if not words or not gold:
        return float(words == gold)
    same = (Counter(words) & Counter(gold)).total()
    return 2 * same / (len(words) + len(gold))


def _answers(reference: Mapping[str, Any]) -> list[str]:
    return [answer for answer in reference["answers"]["text"] if normal(answer)]


def _golds(reference: Mapping[str, Any]) -> list[str]:
    return _answers(reference) or [""]


def _percent(values: Sequence[float]) -> float:
    return 100.0 * sum(values) / len(values)


def _best(values: Sequence[float], answerable: Sequence[bool], predictions: Sequence[Mapping[str, Any]]) -> float:
    """The score in per cent if questions above the best threshold of ``no_answer_probability`` were left unanswered."""
    current = best = float(answerable.count(False))
    order = sorted(range(len(values)), key=lambda n: predictions[n]["no_answer_probability"])
    for n in order:
        current += values[n] if answerable[n] else -float(bool(predictions[n]["prediction_text"]))
        best = max(best, current)
    return 100.0 * best / len(values)
