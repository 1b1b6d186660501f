"""How texts of any length are laid into batches of one size. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Piece:
    """The tokens `start` .. `stop` of the text `key`."""

    key: int
    start: int
    stop: int


def pack(lengths: Sequence[int], *, batch: int, cells: int, texts: int) -> Iterator[list[Piece]]:
    """Batches that hold every token of the texts once, in order; `lengths` are in tokens.

    A batch has at most `batch` tokens and pieces of at most `texts` texts. A text that does not end in it goes on at
    the beginning of the next, where its earlier tokens still take room in the cache: together at most `cells`. Raises
    ValueError for a text that is empty or longer than that.
    """
    if not all(0 < length <= cells for length in lengths):
        raise ValueError(f"texts of {min(lengths)} to {max(lengths)} tokens do not fit {cells}")
    pieces: list[Piece] = []
    room = min(batch, cells)
    for key, length in enumerate(lengths):
        start = 0
        while start < length:
            if room == 0 or len(pieces) == texts:
                yield pieces
                pieces, room = [], min(batch, cells - start)
            stop = min(length, start + room)
            pieces.append(Piece(key, start, stop))
            room -= stop - start
            start = stop
    if pieces:
        yield pieces
