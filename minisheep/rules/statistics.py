"""The statistics that reports need, where no library gives the same digits; ranks are SciPy's, means the standard
library's `fmean`.

Every function raises ValueError where its value is undefined (nothing to average, one value for a standard error,
no spread for a correlation), so that a report says "not measured" rather than showing a made-up number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean
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


def standard_deviation(values: Sequence[float]) -> float:
    """Sample standard deviation (n - 1). ValueError for fewer than two values."""
    if len(values) < 2:
        raise ValueError("a standard deviation needs two values")
    centre = fmean(values)
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
    return fmean(differences), standard_error(differences), len(differences)


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
    from scipy.stats import rankdata

    above = float(rankdata([*positive, *negative])[: len(positive)].sum()) - len(positive) * (len(positive) + 1) / 2
    return above / (len(positive) * len(negative))


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
        mean=fmean(values),
        max=max(values),
        sd=spread,
    )


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Rank correlation, -1 .. 1, ties sharing their mean rank.

    ValueError where the lengths differ, or one side has no spread.
    """
    from scipy.stats import rankdata

    _paired(first, second)
    sides = []
    for values in (first, second):
        ranks = rankdata(values).tolist()
        centre = (len(ranks) + 1) / 2
        spread = math.sqrt(math.fsum((rank - centre) ** 2 for rank in ranks))
        if not spread:
            raise ValueError("a correlation needs spread on both sides")
        # Dividing each side first keeps tiny spreads from vanishing in a product.
        sides.append([(rank - centre) / spread for rank in ranks])
    return max(-1.0, min(1.0, math.fsum(a * b for a, b in zip(*sides, strict=True))))


def six_decimals(number: float) -> float:
    """As figures are stored: more is noise."""
    return round(number, 6)


def six_digits(number: float) -> float:
    """Six significant digits: more is noise, and would make equal runs differ in their last bit."""
    return float(f"{number:.6g}")


def _paired(first: Sequence[float], second: Sequence[float]) -> list[tuple[float, float]]:
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values cannot be paired with {len(second)}")
    return list(zip(first, second, strict=True))
