"""Two sides do the same work in turns, so that a change of the machine's speed affects both. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.measure import Comparison, Target
from minisheep.plan.calibration import Turn

Side = Callable[[int], Turn]
"""Does turn number `n` (from 0) and times itself, since each side knows what belongs to the work."""


@dataclass(frozen=True, slots=True)
class Turns:
    ours: tuple[Turn, ...]
    peer: tuple[Turn, ...]


def alternate(ours: Side, peer: Side, repeats: int) -> Turns:
    """`repeats` turns of each side: ours, peer, peer, ours, ours, peer ...

    Each side is first and second equally often, so a machine that warms up or is throttled favours neither.
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
    """The medians of values that each side measured; with an empty `peer` there is none to compare with."""
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
