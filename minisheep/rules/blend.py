"""A judge made of weak signs: logistic regression over `rules.evidence`, kept as plain numbers. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from minisheep.rules.statistics import six_digits

STRENGTH = 0.5
"""scikit-learn's C. Below 1, since a dozen signs are weighed on some hundred answers."""


@dataclass(frozen=True, slots=True)
class Blend:
    """Standardised signs, a weight each; `score` gives the log-odds that an answer is right."""

    names: tuple[str, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float

    def score(self, evidence: Mapping[str, float]) -> float:
        """Log-odds, 0 for even odds under the balance of the fit. KeyError for evidence that lacks a sign."""
        signs = zip(self.names, self.means, self.scales, self.weights, strict=True)
        return self.intercept + sum(weight * (evidence[name] - mean) / scale for name, mean, scale, weight in signs)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "intercept": self.intercept,
            "signs": {
                name: {"mean": mean, "scale": scale, "weight": weight}
                for name, mean, scale, weight in zip(self.names, self.means, self.scales, self.weights, strict=True)
            },
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """What `to_dict` wrote. KeyError where something is missing."""
        signs = data["signs"]
        means, scales, weights = (tuple(float(s[part]) for s in signs.values()) for part in ("mean", "scale", "weight"))
        return cls(tuple(signs), means, scales, weights, float(data["intercept"]))


def fit(right: Sequence[Mapping[str, float]], spoiled: Mapping[str, Sequence[Mapping[str, float]]]) -> Blend:
    """The weights that tell `right` evidence from `spoiled` evidence (by kind).

    Right and spoiled count alike as a whole, and so do the kinds: a kind that few answers can be spoiled in would
    otherwise hardly count. ValueError where one side is empty.
    """
    from sklearn.linear_model import LogisticRegression

    kinds = [rows for rows in spoiled.values() if rows]
    if not right or not kinds:
        raise ValueError("a blend is fitted on right and on spoiled answers")
    names = tuple(right[0])
    rows = [*right, *(row for some in kinds for row in some)]
    columns = [[row[name] for row in rows] for name in names]
    means = [sum(column) / len(column) for column in columns]
    scales = [_spread(column, mean) for column, mean in zip(columns, means, strict=True)]
    table = [
        [(row[name] - mean) / scale for name, mean, scale in zip(names, means, scales, strict=True)] for row in rows
    ]
    share = len(rows) / 2
    counts = [share / len(right)] * len(right)
    counts += [share / len(kinds) / len(some) for some in kinds for _ in some]
    labels = [1] * len(right) + [0] * (len(rows) - len(right))
    model = LogisticRegression(C=STRENGTH, max_iter=1000).fit(table, labels, sample_weight=counts)
    return Blend(
        names,
        tuple(map(six_digits, means)),
        tuple(map(six_digits, scales)),
        tuple(six_digits(weight) for weight in model.coef_[0]),
        six_digits(model.intercept_[0]),
    )


def _spread(values: Sequence[float], mean: float) -> float:
    """Standard deviation; 1 where all values are the same, so that the sign weighs nothing instead of failing."""
    spread = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
    return spread if spread > 1e-9 else 1.0
