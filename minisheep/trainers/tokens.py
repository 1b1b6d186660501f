"""The decisions of training that need no tensors: what is learned from, in which order, and how fast.

Every choice comes from a seed and an identity through `records.derive_seed`, never from a stream of random numbers: a
run that was killed continues with the same batches without a saved generator state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from minisheep.records import derive_seed

SHORT_RUN = 200
"""Optimizer steps; below it, a warm-up of more than a tenth of the run is shortened."""

Indices = tuple[int, ...]
"""Which examples form a batch."""


@dataclass(frozen=True, slots=True)
class TokenPair:
    """A training pair as token ids: `ids` is prompt and completion, `prompt` how many of them are the prompt."""

    ids: tuple[int, ...]
    prompt: int

    @property
    def first(self) -> int:
        """Position of the first token with a loss. A sequence's very first token is never predicted."""
        return max(self.prompt, 1)

    @property
    def supervised(self) -> int:
        """How many tokens carry a loss."""
        return len(self.ids) - self.first


@dataclass(frozen=True, slots=True)
class Tokenised:
    pairs: tuple[TokenPair, ...]
    truncated: int
    """Pairs whose completion was cut."""
    left_out: int
    """Pairs with nothing to learn from: no completion, or a prompt that fills `max_length` alone."""


def join_pairs(tokens: Sequence[tuple[Sequence[int], Sequence[int]]], max_length: int) -> Tokenised:
    """Join (prompt, completion) token ids, at most `max_length` long (paper, appendix E: 1024)."""
    pairs, truncated, left_out = [], 0, 0
    for prompt, completion in tokens:
        pair = TokenPair((*prompt, *completion)[:max_length], min(len(prompt), max_length))
        if pair.supervised < 1:
            left_out += 1
            continue
        truncated += len(prompt) + len(completion) > max_length
        pairs.append(pair)
    return Tokenised(tuple(pairs), truncated, left_out)


def split(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices for (training, validation), both in order.

    Below ten examples, or with a share of 0, none is held back; otherwise at least one is, and never all.
    """
    if count < 10 or share <= 0:
        return list(range(count)), []
    held = min(max(1, round(count * share)), count - 1)
    shuffled = sorted(range(count), key=lambda index: derive_seed(seed, "validation", index))
    chosen = set(shuffled[:held])
    return [i for i in range(count) if i not in chosen], sorted(chosen)


def plan_epoch(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[Indices]:
    """One epoch's batches, each the indices into `lengths` of the examples of one optimizer step.

    Every example occurs once. Which examples share a step is random by seed and epoch; within a step they are sorted by
    length, so that micro-batches cut from it (`cut`) need little padding. The gradient does not depend on that order.
    """
    order = sorted(range(len(lengths)), key=lambda index: derive_seed(seed, "epoch", epoch, index))
    batches = cut(order, batch_size)
    return [tuple(sorted(batch, key=lambda index: (lengths[index], index))) for batch in batches]


def cut(indices: Sequence[int], size: int) -> list[Indices]:
    """`indices` in parts of at most `size`, in order."""
    return [tuple(indices[start : start + size]) for start in range(0, len(indices), size)]


def steps_per_epoch(examples: int, batch_size: int) -> int:
    return math.ceil(examples / batch_size)


def usable_warmup(warmup: int, total: int) -> int:
    """The warm-up in steps. The paper's 20 would be most of a small run, so in a run of fewer than `SHORT_RUN` steps it
    is at most a tenth."""
    return min(warmup, total // 10) if total < SHORT_RUN else warmup


def learning_rate(step: int, total: int, warmup: int, peak: float) -> float:
    """The rate of step `step` (from 0) of `total`: linear warm-up, then half a cosine down towards 0.

    The first step already moves (1 / warm-up of the peak), unlike schedules that begin at exactly 0.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
