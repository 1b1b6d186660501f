"""Bootstrap intervals for shares of kept constraints, by prompt, and for the paired difference of two models.

Constraints of one prompt are answered together, so a prompt with all its verdicts is what is drawn anew (a cluster
bootstrap; Efron and Tibshirani 1993, chapters 8 and 13). Intervals are percentiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

DRAWS = 10_000
SEED = 1
LEVEL = 0.95

_BLOCK = 1000
"""Draws at a time: a block for 541 prompts is 4 MB."""

Floats = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """An estimate and its interval; `_asdict()` of it is JSON-ready."""

    value: float
    low: float
    high: float


class Accuracy(NamedTuple):
    """Of prompts, the share with every verdict true; of single verdicts, the share that is true. Both 0 .. 1."""

    prompt: Interval
    instruction: Interval


def accuracy(verdicts: Sequence[Sequence[bool]], *, draws: int = DRAWS, seed: int = SEED) -> Accuracy:
    """Accuracy with 95 % intervals. `verdicts` holds one row a prompt, one verdict a constraint.

    The same rows, draws and seed give the same numbers. ValueError for no prompts or a prompt without verdicts.
    """
    table = _table(verdicts)
    return Accuracy(*_intervals(_shares(np.ones((1, len(table))), table)[0], _redrawn(table, draws, seed)))


def change(
    verdicts: Sequence[Sequence[bool]], base: Sequence[Sequence[bool]], *, draws: int = DRAWS, seed: int = SEED
) -> Accuracy:
    """`verdicts` minus `base` with 95 % intervals, the rows of both being the same prompts in the same order.

    Each draw takes the same prompts of both, which takes out the spread between prompts. ValueError as for
    `accuracy`, and where the two differ in their shape.
    """
    if [len(row) for row in verdicts] != [len(row) for row in base]:
        raise ValueError("only verdicts on the same constraints of the same prompts can be paired")
    tables = _table(verdicts), _table(base)
    ours, theirs = (_shares(np.ones((1, len(table))), table)[0] for table in tables)
    drawn = _redrawn(tables[0], draws, seed) - _redrawn(tables[1], draws, seed)
    return Accuracy(*_intervals(ours - theirs, drawn))


def _table(verdicts: Sequence[Sequence[bool]]) -> Floats:
    """prompts x 3: all kept (0 or 1), constraints kept, constraints."""
    if not verdicts or not all(len(row) for row in verdicts):
        raise ValueError("an accuracy needs prompts, and every prompt a verdict")
    return np.array([(all(row), sum(row), len(row)) for row in verdicts], dtype=np.float64)


def _shares(weights: Floats, table: Floats) -> Floats:
    """draws x 2: prompt level and instruction level, each prompt counted as often as its weight says."""
    whole, kept, constraints = (weights @ table).T
    return np.stack([whole / weights.sum(axis=1), kept / constraints], axis=1)


def _redrawn(table: Floats, draws: int, seed: int) -> Floats:
    """draws x 2 shares of prompts drawn with replacement; which ones follows from the seed and their number alone."""
    chance = np.random.default_rng(seed)
    prompts = len(table)
    even = np.full(prompts, 1 / prompts)
    blocks = [min(_BLOCK, draws - start) for start in range(0, draws, _BLOCK)]
    return np.concatenate(
        [_shares(chance.multinomial(prompts, even, size=size).astype(np.float64), table) for size in blocks]
    )


def _intervals(values: Floats, drawn: Floats) -> list[Interval]:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return [Interval(float(v), float(a), float(b)) for v, a, b in zip(values, low, high, strict=True)]
