"""The statistics that reports need, in plain Python.

Every function raises ValueError where its value is undefined (nothing to average, one value for a standard error,
no spread for a correlation), so that a report says "not measured" rather than showing a made-up number.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple


class Summary(NamedTuple):
    """`_asdict()` of it is JSON-ready."""

    n: int
    min: float
    median: float
    mean: float
    max: float
    sd: float
    """Sample standard deviation (n - 1); 0 for a single value."""


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean. ValueError for no values."""
    if not values:
        raise ValueError("the mean of no values is undefined")
    return math.fsum(values) / len(values)


def standard_deviation(values: Sequence[float]) -> float:
    """Sample standard deviation (n - 1). ValueError for fewer than two values."""
    if len(values) < 2:
        raise ValueError("a standard deviation needs two values")
    centre = mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def standard_error(values: Sequence[float]) -> float:
    """Standard error of the mean: sample standard deviation / sqrt(n). ValueError for fewer than two values."""
    return standard_deviation(values) / math.sqrt(len(values))


def paired_difference(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, int]:
    """Mean of first - second over the same items, its standard error, and n.

    Pairing takes out the spread between items, which is mostly far larger than the difference of two models.
    ValueError where the lengths differ or there are fewer than two pairs.
    """
    differences = [a - b for a, b in _paired(first, second)]
    return mean(differences), standard_error(differences), len(differences)


def distinct_n(texts: Iterable[str], n: int) -> float:
    """Distinct n-grams / all n-grams of lower-case words over all texts (Li et al. 2016), above 0 and up to 1.

    ValueError where n is below 1 or no text has n words.
    """
    if n < 1:
        raise ValueError("n must be at least 1")
    seen: set[int] = set()
    total = 0
    for text in texts:
        words = text.lower().split()
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        total += len(grams)
        seen.update(map(hash, grams))  # 64 bits: two different n-grams practically never meet
    if not total:
        raise ValueError(f"no text has {n} words")
    return len(seen) / total


def auc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Probability that a positive scores above a negative, ties counting half (Mann-Whitney); 0.5 is a coin.

    ValueError where either side is empty.
    """
    if not positive or not negative:
        raise ValueError("AUC needs positives and negatives")
    ranks = _ranks([*positive, *negative])
    above = math.fsum(ranks[: len(positive)]) - len(positive) * (len(positive) + 1) / 2
    return above / (len(positive) * len(negative))


def histogram(values: Iterable[float], edges: Sequence[float]) -> list[int]:
    """How many values fall in [edge, next edge), the last bin including its upper edge; len(edges) - 1 counts.

    Values outside the edges are not counted. ValueError for fewer than two edges or edges that do not ascend.
    """
    if len(edges) < 2 or any(low >= high for low, high in pairwise(edges)):
        raise ValueError("a histogram needs at least two ascending edges")
    counts = [0] * (len(edges) - 1)
    for value in values:
        if edges[0] <= value <= edges[-1]:
            counts[min(bisect_right(edges, value), len(counts)) - 1] += 1
    return counts


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 .. 1) of the values lie, linear between neighbours (numpy's default).

    ValueError for no values or a share outside 0 .. 1.
    """
    if not values:
        raise ValueError("a quantile of no values is undefined")
    if not 0 <= share <= 1:
        raise ValueError(f"a quantile lies in 0 .. 1, not at {share}")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def describe(values: Sequence[float]) -> Summary:
    """Number, extremes, centre and spread. ValueError for no values."""
    spread = standard_deviation(values) if len(values) > 1 else 0.0
    return Summary(
        n=len(values),
        median=quantile(values, 0.5),
        min=min(values),
        mean=mean(values),
        max=max(values),
        sd=spread,
    )


def pearson(first: Sequence[float], second: Sequence[float]) -> float:
    """Linear correlation, -1 .. 1. ValueError where the lengths differ, or one side has no spread."""
    pairs = _paired(first, second)
    centre_a, centre_b = mean(first), mean(second)
    spread_a = math.sqrt(math.fsum((a - centre_a) ** 2 for a, _ in pairs))
    spread_b = math.sqrt(math.fsum((b - centre_b) ** 2 for _, b in pairs))
    if spread_a == 0 or spread_b == 0:
        raise ValueError("a correlation needs spread on both sides")
    # Dividing each side first keeps tiny spreads from vanishing in a product.
    raw = math.fsum((a - centre_a) / spread_a * ((b - centre_b) / spread_b) for a, b in pairs)
    return max(-1.0, min(1.0, raw))


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Rank correlation, -1 .. 1, ties sharing their mean rank. ValueError as for `pearson`."""
    return pearson(_ranks(first), _ranks(second))


def _paired(first: Sequence[float], second: Sequence[float]) -> list[tuple[float, float]]:
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values cannot be paired with {len(second)}")
    return list(zip(first, second, strict=True))


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1; equal values share the mean of their ranks."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for place in order[start : end + 1]:
            ranks[place] = (start + end) / 2 + 1
        start = end + 1
    return ranks
