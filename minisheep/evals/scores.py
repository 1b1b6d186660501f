"""The harness's scores, item by item, in a form for bootstrap and pairing.

Most metrics are a sum over items divided by another sum: the number of items for an accuracy, of constraints for
IFEval's instruction level, of words for a perplexity (followed by the exponential).

SQuAD 2.0 is scored here, since the harness would load its metric as a program from the hub. IFEval is decided by the
harness's code if NLTK's Punkt model, which that code needs, is installed, else by minisheep's own. Both decide alike; a
test compares them on IFEval's prompts.
"""

from __future__ import annotations

import contextlib
import math
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

from minisheep.rules.ifeval import HALVES, Constraint, VerifiableItem, loose, strict

Parts = tuple[float, float]
"""Numerator and denominator that one item adds."""
PERPLEXITIES = frozenset({"perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte"})
OWN = "minisheep's checkers (the harness's need NLTK's punkt_tab, which is not installed)"
THEIRS = "the harness's checkers"
_IDS = ("key", "id", "task_id", "question_id", "doc_id")
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def compute(predictions: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Exact match and F1 of SQuAD 2.0 (Rajpurkar et al. 2018, arXiv 1806.03822), in per cent, as the task names them.

    Scores of a kind of question that does not occur (with or without an answer) are left out. A prediction has ``id``,
    ``prediction_text`` and ``no_answer_probability``, a reference ``id`` and ``answers``.
    """
    given = {p["id"]: p for p in predictions}
    rows = [(given[r["id"]], _golds(r), bool(_answers(r))) for r in references]
    scores = {
        "exact": [float(exact(p["prediction_text"], golds)) for p, golds, _ in rows],
        "f1": [f1(p["prediction_text"], golds) for p, golds, _ in rows],
    }
    answerable = [has for _, _, has in rows]
    results: dict[str, float] = {}
    for name, values in scores.items():
        results[name] = _percent(values)
        for prefix, kind in (("HasAns", True), ("NoAns", False)):
            some = [value for value, has in zip(values, answerable, strict=True) if has is kind]
            if some:
                results[f"{prefix}_{name}"] = _percent(some)
        results[f"best_{name}"] = _best(values, answerable, [p for p, _, _ in rows])
    return results


def item(metric: str, prediction: Mapping[str, Any], reference: Mapping[str, Any]) -> float | None:
    """One question's part of a metric, in per cent; None if it does not count for it, or the metric is no mean."""
    kind, _, name = metric.rpartition("_")
    if kind not in ("", "HasAns", "NoAns") or (kind and (kind == "HasAns") is not bool(_answers(reference))):
        return None
    text, golds = prediction["prediction_text"], _golds(reference)
    return 100.0 * (exact(text, golds) if name == "exact" else f1(text, golds))


def normal(text: str) -> str:
    """Lower case, without punctuation, articles and extra blanks."""
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact(text: str, golds: Sequence[str]) -> bool:
    return any(normal(text) == normal(gold) for gold in golds)


def f1(text: str, golds: Sequence[str]) -> float:
    """The best F1 of the words over all right answers, 0 .. 1; if one side has no words, 1 if neither has."""
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
    """The score in per cent if questions above the best threshold of ``no_answer_probability`` had no answer."""
    current = best = float(answerable.count(False))
    order = sorted(range(len(values)), key=lambda n: predictions[n]["no_answer_probability"])
    for n in order:
        current += values[n] if answerable[n] else -float(bool(predictions[n]["prediction_text"]))
        best = max(best, current)
    return 100.0 * best / len(values)


def items(samples: Iterable[Mapping[str, Any]], trained: frozenset[str] = frozenset()) -> list[dict[str, Any]]:
    """One entry for each document: ``id``, ``responses`` (unchanged) and ``scores`` by metric.

    `samples` are the harness's, one for each document and filter. A score is ``[numerator, denominator]``; metrics
    that are no such ratio are left out. Of IFEval, constraints of the kinds in `trained` and the others are counted
    apart too, under the metric's name with ``_trained`` and ``_unseen``.
    """
    listed = list(samples)
    filters = {sample["filter"] for sample in listed}
    entries: dict[int, dict[str, Any]] = {}
    for sample in listed:
        new = {"id": _id(sample), "responses": _plain(sample["resps"]), "scores": {}}
        entry = entries.setdefault(sample["doc_id"], new)
        for metric in sample["metrics"]:
            parts = _parts(metric, sample[metric])
            if parts is not None:
                entry["scores"][name(metric, sample["filter"], len(filters))] = list(parts)
            for half, verdicts in _halves(sample, metric, trained).items():
                entry["scores"][f"{metric}_{half}"] = [float(sum(verdicts)), float(len(verdicts))]
    repeated = {id_ for id_, count in Counter(entry["id"] for entry in entries.values()).items() if count > 1}
    for number, entry in entries.items():
        if entry["id"] in repeated:
            entry["id"] = f"{entry['id']}#{number}"
    return list(entries.values())


def _halves(sample: Mapping[str, Any], metric: str, trained: frozenset[str]) -> dict[str, list[bool]]:
    """The verdicts on an answer's constraints by half, as far as it has any; empty for other metrics than IFEval's."""
    value, doc = sample[metric], sample["doc"]
    kinds = doc.get("instruction_id_list") if isinstance(doc, Mapping) else None
    if not trained or not isinstance(kinds, list) or not isinstance(value, list) or len(kinds) != len(value):
        return {}
    halves = {
        half: [bool(verdict) for kind, verdict in zip(kinds, value, strict=True) if (kind in trained) is wanted]
        for half, wanted in zip(HALVES, (True, False), strict=True)
    }
    return {half: verdicts for half, verdicts in halves.items() if verdicts}


def half_values(entries: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The share of each metric that `items` counts by half; the harness itself knows no halves."""
    sums: dict[str, list[float]] = {}
    for entry in entries:
        for metric, (above, below) in entry["scores"].items():
            if metric.endswith(tuple(f"_{half}" for half in HALVES)):
                total = sums.setdefault(metric, [0.0, 0.0])
                total[0], total[1] = total[0] + above, total[1] + below
    return {metric: above / below for metric, (above, below) in sums.items()}


def name(metric: str, filter: str, filters: int) -> str:
    return metric if filters == 1 else f"{metric},{filter}"


def values(results: Mapping[str, Any]) -> dict[str, float]:
    """The harness's own aggregates of one task, by our metric names."""
    pairs = [key.partition(",") for key, value in results.items() if "," in key and isinstance(value, Real)]
    filters = {filter for _, _, filter in pairs}
    return {
        name(metric, filter, len(filters)): float(results[f"{metric},{filter}"])
        for metric, _, filter in pairs
        if not metric.endswith("_stderr")
    }


def pairs_of(entries: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Parts]:
    """Each item's part of `metric`, by id."""
    return {e["id"]: (e["scores"][metric][0], e["scores"][metric][1]) for e in entries if metric in e["scores"]}


def whole(metric: str) -> Callable[[Any], Any]:
    """The function that turns a ratio (or an array of them) into the metric."""
    base = metric.partition(",")[0]
    if base not in PERPLEXITIES:
        return lambda ratio: ratio
    if base == "bits_per_byte":
        return lambda ratio: -ratio / math.log(2)
    return lambda ratio: math.e ** (-ratio)


def agrees(metric: str, pairs: Iterable[Parts], value: float) -> bool:
    """Whether the items' parts give the harness's own value, so that a bootstrap over them is meaningful."""
    listed = list(pairs)
    below = sum(parts[1] for parts in listed)
    if not below:
        return False
    return math.isclose(whole(metric)(sum(parts[0] for parts in listed) / below), value, rel_tol=1e-6, abs_tol=1e-9)


def _parts(metric: str, value: Any) -> Parts | None:
    if isinstance(value, Real):
        return float(value), 1.0
    if isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(part, Mapping) for part in value):
        scored = item(metric, *value) if "prediction_text" in value[0] else None
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


def no_downloads() -> None:
    """From now on NLTK downloads nothing in this process; it would when the harness is imported."""
    with contextlib.suppress(ImportError):
        import nltk

        nltk.download = lambda *_, **__: False


def punkt_is_here() -> bool:
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab/english/")
    except LookupError:
        return False
    return True


def choose(task: Any) -> str:
    """Set the checkers of the harness's task ``ifeval``, and return their name."""
    if punkt_is_here():
        import langdetect  # type: ignore[import-untyped]

        # The detector is random; with a seed, the same answer always gets the same verdict.
        langdetect.DetectorFactory.seed = 0
        return THEIRS
    task.set_config("process_results", own)
    return OWN


def own(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The four scores of one answer, as the harness's own function names them."""
    checks = tuple(
        Constraint(kind, {name: value for name, value in given.items() if value is not None})
        for kind, given in zip(doc["instruction_id_list"], doc["kwargs"], strict=True)
    )
    item = VerifiableItem(str(doc["key"]), doc["prompt"], checks)
    scores: dict[str, Any] = {}
    for name, read in (("strict", strict), ("loose", loose)):
        verdicts = list(read(item, results[0]))
        scores[f"prompt_level_{name}_acc"] = all(verdicts)
        scores[f"inst_level_{name}_acc"] = verdicts
    return scores
