"""What a judge made of right and spoiled answers, as marks; and which judge may grade. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from minisheep.rules.statistics import auc, six_decimals

Score = float | None


@dataclass(frozen=True, slots=True)
class Mark:
    """AUC: the probability that a right answer scores above a spoiled one, ties counting half; 0.5 is a coin."""

    auc: float
    se: float
    """Standard error (`auc_error`)."""
    kinds: dict[str, float]
    """AUC against each kind of spoiled answer alone."""
    kinds_se: dict[str, float]
    passes: bool

    @property
    def worst(self) -> str:
        """The kind that it sees least."""
        return min(self.kinds, key=lambda kind: self.kinds[kind])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {name: getattr(self, name) for name in type(self).__slots__}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """What `to_dict` wrote. KeyError where something is missing."""
        return cls(*(data[name] for name in cls.__slots__))


def mark(
    right: Sequence[Score], spoiled: Mapping[str, Sequence[Score]], least: float = 0.0, least_kind: float = 0.0
) -> Mark:
    """The mark of a judge that gave these scores; None, an answer that it could not score, counts as the lowest.

    It passes with an AUC of at least `least` over all and, for every kind, of no less than `least_kind` by more than
    one standard error: a kind that it cannot tell (0.5) is let pass whatever the luck of the draw, one that it likes
    better than right answers is not. ValueError where there is nothing right or nothing spoiled.
    """
    good = _ranked(right)
    bad = {kind: _ranked(scores) for kind, scores in spoiled.items() if scores}
    every = [score for scores in bad.values() for score in scores]
    whole = auc(good, every)
    kinds = {kind: auc(good, scores) for kind, scores in bad.items()}
    errors = {kind: auc_error(value, len(good), len(bad[kind])) for kind, value in kinds.items()}
    return Mark(
        six_decimals(whole),
        six_decimals(auc_error(whole, len(good), len(every))),
        {kind: six_decimals(value) for kind, value in kinds.items()},
        {kind: six_decimals(error) for kind, error in errors.items()},
        whole >= least and all(value + errors[kind] >= least_kind for kind, value in kinds.items()),
    )


def auc_error(value: float, positives: int, negatives: int) -> float:
    """Standard error of an AUC (Hanley and McNeil 1982, equation 1)."""
    if not positives or not negatives:
        raise ValueError("AUC needs positives and negatives")
    both_above, above_both = value / (2 - value), 2 * value**2 / (1 + value)
    variance = (
        value * (1 - value) + (positives - 1) * (both_above - value**2) + (negatives - 1) * (above_both - value**2)
    ) / (positives * negatives)
    return math.sqrt(max(0.0, variance))


def choose(marks: Mapping[str, Mark]) -> str:
    """The judge of the highest AUC among those that pass or, if none does, among all; ties go to the first named."""
    passed = {name: found for name, found in marks.items() if found.passes} or marks
    return max(passed, key=lambda name: passed[name].auc)


def sentence(marks: Mapping[str, Mark], least: float) -> str:
    """The marks in words, those that passed first and the best first: ``blend passes with AUC 0.93 (...); ...``."""
    ranked = sorted(marks.items(), key=lambda item: (not item[1].passes, -item[1].auc))
    return "; ".join(_in_words(name, found, least) for name, found in ranked)


def _in_words(name: str, found: Mark, least: float) -> str:
    weakest = f"{found.worst} {found.kinds[found.worst]:.2f}"
    if found.passes:
        return f"{name} passes with AUC {found.auc:.2f} (worst kind: {weakest})"
    if found.auc < least:
        return f"{name} fails with AUC {found.auc:.2f}"
    return f"{name} fails with AUC {found.auc:.2f} since it does not see every kind ({weakest})"


def _ranked(scores: Sequence[Score]) -> list[float]:
    return [-math.inf if score is None else score for score in scores]
