"""Statistics of scores and verdicts, and the only bootstrap, where no library gives the same digits. Pure.

Every function raises ValueError where its value is undefined (nothing to average, one value for a standard error,
no spread for a correlation), so that a report says "not measured" rather than showing a made-up number.

The bootstrap gives intervals of ratios over items, and of the paired difference of two models; they are percentiles. An
accuracy is a ratio too: constraints of one prompt are answered together, so each draw takes whole prompts with all
their verdicts (a cluster bootstrap; Efron and Tibshirani 1993, chapters 8 and 13).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from operator import sub
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from minisheep.rules.identity import six_decimals
from minisheep.rules.text_words import pieces

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]


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

    Pairing removes the spread between items, which is mostly far larger than the difference of two models.
    ValueError where the lengths differ or there are fewer than two pairs.
    """
    differences = [a - b for a, b in _paired(first, second)]
    return fmean(differences), standard_error(differences), len(differences)


def distinct_n(texts: Iterable[str], n: int) -> float:
    """Distinct n-grams / all n-grams of lower-case words (`rules.text_words`) over all texts (Li et al. 2016), 0 .. 1.

    ValueError where n is below 1 or no text has n words.
    """
    if n < 1:
        raise ValueError("n must be at least 1")
    seen: set[int] = set()
    total = 0
    for text in texts:
        words = pieces(text.lower())
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
    return Summary(len(values), min(values), quantile(values, 0.5), fmean(values), max(values), spread)


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


def _paired(first: Sequence[float], second: Sequence[float]) -> list[tuple[float, float]]:
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values cannot be paired with {len(second)}")
    return list(zip(first, second, strict=True))


DRAWS = 10_000
SEED = 1
LEVEL = 0.95

_CELLS = 4_000_000
"""Weights drawn at a time: 32 MB."""
_WORK = 50_000_000
"""Weights drawn in all for a ratio, at most: 10,000 draws of 5,000 items; more items need fewer draws."""


class Interval(NamedTuple):
    """An estimate and its interval."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """JSON-ready, as it is stored."""
        return {name: six_decimals(value) for name, value in self._asdict().items()}


class Accuracy(NamedTuple):
    """Of prompts, the share with every verdict true; of single verdicts, the share that is true. Both 0 .. 1."""

    prompt: Interval
    instruction: Interval


def accuracy(verdicts: Sequence[Sequence[bool]], *, draws: int = DRAWS, seed: int = SEED) -> Accuracy:
    """Accuracy with 95 % intervals. `verdicts` holds one row a prompt, one verdict a constraint.

    The same rows, draws and seed give the same numbers. ValueError for no prompts or a prompt without verdicts.
    """
    return Accuracy(*_intervals([_by_prompt(verdicts)], draws, seed))


def change(
    verdicts: Sequence[Sequence[bool]], base: Sequence[Sequence[bool]], *, draws: int = DRAWS, seed: int = SEED
) -> Accuracy:
    """`verdicts` minus `base` with 95 % intervals, the rows of both being the same prompts in the same order.

    Each draw takes the same prompts of both, which removes the spread between prompts. ValueError as for
    `accuracy`, and where the two differ in their shape.
    """
    if [len(row) for row in verdicts] != [len(row) for row in base]:
        raise ValueError("only verdicts on the same constraints of the same prompts can be paired")
    return Accuracy(*_intervals([_by_prompt(verdicts), _by_prompt(base)], draws, seed))


def ratio_interval(
    *models: Sequence[tuple[float, float]], whole: Callable[[Any], Any], draws: int = DRAWS, seed: int = SEED
) -> Interval:
    """A metric of one model, or that of the first of two minus that of the second, with its 95 % interval.

    models: by item, the numerator and denominator that it adds; of two models the same items in the same order.
    whole: what turns a ratio, or an array of them, into the metric.
    ValueError without items, or where the two are not of one length.
    """
    import numpy as np

    count = len(models[0])
    if not count:
        raise ValueError("an interval needs items")
    if any(len(parts) != count for parts in models):
        raise ValueError("only the same items can be paired")
    tables = [np.array(parts, dtype=np.float64) for parts in models]
    return _intervals(tables, max(200, min(draws, _WORK // count)), seed, whole)[0]


def _by_prompt(verdicts: Sequence[Sequence[bool]]) -> Floats:
    """prompts x 4, two ratios: all kept (0 or 1) of 1, constraints kept of constraints."""
    import numpy as np

    if not verdicts or not all(len(row) for row in verdicts):
        raise ValueError("an accuracy needs prompts, and every prompt a verdict")
    return np.array([(all(row), 1, sum(row), len(row)) for row in verdicts], dtype=np.float64)


def _intervals(
    tables: Sequence[Floats], draws: int, seed: int, whole: Callable[[Any], Any] = lambda ratio: ratio
) -> list[Interval]:
    """Of each ratio of the first table, less those of the second if there is one."""
    import numpy as np

    intervals = []
    known, drawn = [_ratios(table.sum(axis=0)) for table in tables], _redrawn(tables, draws, seed)
    for place in range(len(known[0])):
        value = reduce(sub, [float(whole(ratios[place])) for ratios in known])
        differences = reduce(sub, [whole(ratios[:, place]) for ratios in drawn])
        low, high = np.nanquantile(differences, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        intervals.append(Interval(value, float(low), float(high)))
    return intervals


def _redrawn(tables: Sequence[Floats], draws: int, seed: int) -> list[Floats]:
    """For each table draws x ratios, of the same items of all drawn with replacement; which ones follows from the seed
    and their number alone."""
    import numpy as np

    chance = np.random.default_rng(seed)
    count = len(tables[0])
    even = np.full(count, 1 / count)
    block = max(1, _CELLS // count)
    drawn: list[list[Floats]] = [[] for _ in tables]
    for start in range(0, draws, block):
        weights = chance.multinomial(count, even, size=min(block, draws - start)).astype(np.float64)
        for blocks, table in zip(drawn, tables, strict=True):
            blocks.append(_ratios(weights @ table))
    return [np.concatenate(blocks) for blocks in drawn]


def _ratios(sums: Floats) -> Floats:
    """Of columns numerator, denominator, numerator, ...; NaN where a denominator is 0."""
    import numpy as np

    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(sums[..., 0::2], sums[..., 1::2])
