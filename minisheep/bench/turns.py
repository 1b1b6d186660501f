"""Two sides do the same work in turns, so that a change of the machine's speed meets both. Pure, given a clock."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from minisheep.bench.measure import Comparison, Target

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side did when its turn came: an amount of work (tokens, pairs ...) in seconds."""

    amount: float
    seconds: float

    @property
    def rate(self) -> float:
        """Work a second."""
        return self.amount / max(self.seconds, 1e-9)


Side = Callable[[int], Turn]
"""Does turn number `n` (from 0). It times itself, since what belongs to the work differs."""


@dataclass(frozen=True, slots=True)
class Turns:
    ours: tuple[Turn, ...]
    peer: tuple[Turn, ...]


def timed(work: Callable[[], float], clock: Clock = time.perf_counter) -> Turn:
    """Do `work`, which returns its amount, and time it."""
    began = clock()
    amount = work()
    return Turn(amount, clock() - began)


def alternate(ours: Side, peer: Side, repeats: int) -> Turns:
    """`repeats` turns of each side: ours, peer, peer, ours, ours, peer ...

    Each side is first and second equally often, so that a machine that warms up or is throttled favours neither.
    """
    mine: list[Turn] = []
    theirs: list[Turn] = []
    for number in range(repeats):
        if number % 2 == 0:
            mine.append(ours(number))
            theirs.append(peer(number))
        else:
            theirs.append(peer(number))
            mine.append(ours(number))
    return Turns(tuple(mine), tuple(theirs))


def spread(values: Sequence[float]) -> float:
    """(highest - lowest) / median; 0 for one value."""
    middle = statistics.median(values)
    return (max(values) - min(values)) / middle if middle else 0.0


def compare_rates(
    what: str, turns: Turns, *, peer_name: str, unit: str, sizes: str, target: Target | None = None, note: str = ""
) -> Comparison:
    """The medians of both sides' rates, in `unit` (something a second)."""
    return compare_values(
        what,
        [turn.rate for turn in turns.ours],
        [turn.rate for turn in turns.peer],
        peer_name=peer_name, unit=unit, sizes=sizes, target=target, note=note,
    )  # fmt: skip


def compare_values(
    what: str,
    ours: Sequence[float],
    peer: Sequence[float],
    *,
    peer_name: str,
    unit: str,
    sizes: str,
    target: Target | None = None,
    note: str = "",
) -> Comparison:
    """The medians of values that each side measured itself; an empty `peer` is a figure without a peer."""
    return Comparison(
        what=what,
        ours=statistics.median(ours),
        peer=statistics.median(peer) if peer else None,
        peer_name=peer_name,
        unit=unit,
        repeats=len(ours),
        spread_ours=spread(ours),
        spread_peer=spread(peer) if peer else None,
        sizes=sizes,
        target=target,
        note=note,
    )


def after_first_step(steps: list[tuple[float, float]]) -> Turn:
    """Tokens and seconds from the end of the first step to that of the last.

    `steps` holds when each was told and its own tokens a second, which times its duration gives its tokens.
    """
    seconds = [later[0] - earlier[0] for earlier, later in itertools.pairwise(steps)]
    tokens = sum(duration * step[1] for duration, step in zip(seconds, steps[1:], strict=True))
    return Turn(tokens, sum(seconds))
