"""Bootstrap intervals of ratios over items, and of their paired change, as `rules.bootstrap` has them for verdicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from minisheep.harness.scores import Parts
from minisheep.rules.bootstrap import DRAWS, LEVEL, SEED, Interval

_CELLS = 4_000_000
"""Weights drawn at a time: 32 MB."""
_WORK = 50_000_000
"""Weights drawn in all, at most: 10,000 draws of 5,000 items; more items need fewer draws."""

Floats = npt.NDArray[np.float64]


def interval(pairs: Sequence[Parts], whole: Callable[[Any], Any], *, draws: int = DRAWS, seed: int = SEED) -> Interval:
    """The metric and its 95 % percentile interval, items drawn with replacement. ValueError without items."""
    table = _table(pairs)
    return _interval(float(whole(_ratio(table.sum(axis=0)))), whole(_redrawn(table, draws, seed)))


def change(
    ours: Sequence[Parts],
    base: Sequence[Parts],
    whole: Callable[[Any], Any],
    *,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Interval:
    """`ours` minus `base` with its 95 % interval, the same items being drawn of both. ValueError without items, or
    where the two are not of one length."""
    if len(ours) != len(base):
        raise ValueError("only the same items can be paired")
    first, second = _table(ours), _table(base)
    value = float(whole(_ratio(first.sum(axis=0)))) - float(whole(_ratio(second.sum(axis=0))))
    return _interval(value, whole(_redrawn(first, draws, seed)) - whole(_redrawn(second, draws, seed)))


def _table(pairs: Sequence[Parts]) -> Floats:
    if not pairs:
        raise ValueError("an interval needs items")
    return np.array(pairs, dtype=np.float64)


def _ratio(sums: Floats) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(sums[..., 0], sums[..., 1])


def _redrawn(table: Floats, draws: int, seed: int) -> Floats:
    """The ratio of each draw; which items are drawn follows from the seed and their number alone."""
    chance = np.random.default_rng(seed)
    count = len(table)
    even = np.full(count, 1 / count)
    draws = max(200, min(draws, _WORK // count))
    block = max(1, _CELLS // count)
    sizes = [min(block, draws - start) for start in range(0, draws, block)]
    return np.concatenate(
        [_ratio(chance.multinomial(count, even, size=size).astype(np.float64) @ table) for size in sizes]
    )


def _interval(value: float, drawn: Floats) -> Interval:
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))
