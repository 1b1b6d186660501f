"""Whether the judge of a round is fit for its work, by what it did: no right answers are needed for these signs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from minisheep.config import GRADED
from minisheep.engines.base import Engine
from minisheep.records import Verdict, derive_seed
from minisheep.rules.prompts import Frame
from minisheep.rules.statistics import six_decimals, spearman, standard_deviation
from minisheep.stages.asked import Asked, Judge, Pair
from minisheep.stages.judge import judge as judge_items

AGAIN, AGAIN_SHARE = 30, 0.1
"""Pairs that are judged a second time: so many, but at most this share of the round, since judging takes its time."""
LEAST_PAIRS = 10
"""Below so many, the signs are measured but nothing is said of them."""
TOP_GRADE = 9.5
SATURATED, UNREADABLE, FLAT, LONGER, DISAGREES = 0.5, 0.5, 0.05, 0.6, 0.4
"""When a sign is a finding: the share of top grades and of invalid mass above it, the spread of grades below it, the
rank correlation with length beyond it, the one with itself below it."""

LEAD_IN = "Please do the following for me."
OTHER_STYLE = {"simple": "combined", "combined": "simple", "icl": "combined"}


def judge_health(
    engine: Engine,
    judge: Judge,
    frame: Frame,
    texts: Mapping[str, str],
    pairs: Sequence[Pair],
    verdicts: Sequence[Verdict],
) -> dict[str, Any]:
    """The signs of a round, JSON-ready; None where one is undefined (no grades, no spread, too few pairs).

    judged, scored  pairs with a verdict, and those of them with a score
    saturation      share of scores at the top grade: a judge that gives its best grade to everything ranks nothing
    spread          standard deviation of the scores
    invalid         probability on no grade at all (logits) or share of unreadable replies (sample)
    length          rank correlation of score and number of words
    agreement       rank correlation with its own scores when asked in other words, over `agreement_pairs`
    """
    items = {pair.response.id: Asked.of(pair) for pair in pairs}
    scores = {v.response_id: v.score for v in verdicts if v.score is not None and v.response_id in items}
    values = list(scores.values())
    graded = judge.name in GRADED
    words = [float(len(items[id_].answer.split())) for id_ in scores]
    most = min(AGAIN, int(AGAIN_SHARE * len(scores)))
    again, count = agreement(engine, judge, frame, texts, [items[id_] for id_ in scores], scores, most)
    return {
        "judge": judge.name,
        "judged": len(verdicts),
        "scored": len(scores),
        "saturation": six_decimals(fmean([float(v >= TOP_GRADE) for v in values])) if graded and values else None,
        "spread": six_decimals(standard_deviation(values)) if len(values) > 1 else None,
        "invalid": _invalid(judge, verdicts),
        "length": rank_correlation(values, words),
        "agreement": again,
        "agreement_pairs": count,
    }


def agreement(
    engine: Engine,
    judge: Judge,
    frame: Frame,
    texts: Mapping[str, str],
    items: Sequence[Asked],
    first_scores: Mapping[str, float],
    most: int = AGAIN,
) -> tuple[float | None, int]:
    """Judge `most` of the items again in other words; the rank correlation with `first_scores` (by item id), and n.

    Who gives grades is asked in another of the prompt styles; for others the instruction gets a lead-in that says
    nothing. None where it is undefined.
    """
    chosen = sorted(items, key=lambda item: derive_seed(judge.seed, judge.round, "again", item.id))
    chosen = chosen[:most]
    if judge.name in GRADED:
        judge = replace(judge, prompt=OTHER_STYLE[judge.prompt])
    else:
        chosen = [replace(item, instruction=f"{LEAD_IN} {item.instruction}") for item in chosen]
    second = {v.response_id: v.score for v in judge_items(engine, judge, frame, texts, chosen) if v.score is not None}
    ids = [item.id for item in chosen if item.id in second]
    return rank_correlation([first_scores[id_] for id_ in ids], [second[id_] for id_ in ids]), len(ids)


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's; None for fewer than three pairs or no spread on a side."""
    try:
        return six_decimals(spearman(first, second)) if len(first) > 2 else None
    except ValueError:
        return None


def findings(health: Mapping[str, Any]) -> list[str]:
    """What should worry, a sentence each, to be read after the judge's name; empty for a healthy judge."""
    if health["scored"] < LEAST_PAIRS:
        return []
    name, signs = health["judge"], health
    found = []
    if (top := signs["saturation"]) is not None and top > SATURATED:
        found.append(
            f"{name} gives its top grade to {top:.0%} of the answers, so its scores rank little; --judge-prompt icl or"
            " --keep top:0.3 may help in a new run."
        )
    if name in GRADED and (spread := signs["spread"]) is not None and spread < FLAT:
        found.append(f"{name} gives nearly the same grade to all answers (standard deviation {spread:.3f}).")
    if (invalid := signs["invalid"]) is not None and invalid > UNREADABLE:
        found.append(
            f"{name} mostly says something that is no grade ({invalid:.0%}): it does not understand the question."
        )
    if (length := signs["length"]) is not None and abs(length) > LONGER:
        found.append(
            f"{name} scores mostly by length: {'longer' if length > 0 else 'shorter'} is better ({length:+.2f})."
        )
    again = signs["agreement"]
    if again is not None and signs["agreement_pairs"] >= LEAST_PAIRS and again < DISAGREES:
        found.append(f"{name} disagrees with itself when asked in other words (rank correlation {again:.2f}).")
    return found


def _invalid(judge: Judge, verdicts: Sequence[Verdict]) -> float | None:
    if judge.name not in GRADED or not verdicts:
        return None
    if judge.name == "sample":
        return six_decimals(fmean([float(v.score is None) for v in verdicts]))
    return six_decimals(fmean([1 - v.raw[criterion]["mass"] for v in verdicts for criterion in judge.criteria]))
