"""Is a worker's graphics memory given back when it has ended? Asked through the driver, without CUDA."""

from __future__ import annotations

import time
from collections.abc import Callable

from minisheep.trainers.card import Card, find_card, in_words

SLACK = 200 * 2**20
"""Bytes that a desktop takes and gives meanwhile."""
WAIT_SECONDS = 5.0
"""The driver cleans up after a process has ended."""


class Baseline:
    """The card's use before a worker starts; nothing on a machine without an NVIDIA card."""

    def __init__(self, read: Callable[[], Card | None] = find_card, wait: float = WAIT_SECONDS) -> None:
        self._read, self._wait = read, wait
        self._before = read()

    def left_over(self, own: frozenset[int]) -> str:
        """What should be said after the worker has ended; empty if all is back. `own` are PIDs of our other workers.

        Waits a few seconds where not all is back.
        """
        if self._before is None:
            return ""
        end = time.monotonic() + self._wait
        while (after := self._read()) is not None:
            told = difference(self._before, after, own)
            if not told or time.monotonic() >= end:
                return told
            time.sleep(min(0.2, self._wait))
        return ""


def difference(before: Card, after: Card, own: frozenset[int]) -> str:
    """In words how much more of a card is in use than before, and by whom; empty where it is little."""
    more = used_by_others(after, own) - used_by_others(before, own)
    if more <= SLACK:
        return ""
    held = in_words(after.holders, own)
    who = f"It is held by {held}" if held else "The driver does not tell by whom"
    return (
        f"After the worker has ended, {more / 1e9:.1f} GB more of {after.name} are in use than before. {who}; what"
        " comes next has so much less, and may take fewer slots."
    )


def used_by_others(card: Card, own: frozenset[int]) -> int:
    """Bytes in use, without those of `own` processes."""
    return card.total - card.free - sum(used for pid, used in card.holders.items() if pid in own)
