"""Long texts in pieces, for the likelihood of a text that the context cannot hold."""

from __future__ import annotations

import re
from collections.abc import Iterator

from minisheep.harness.frames import Count, last

_WORD = re.compile(r"\s*\S+|\s+\Z")


def windows(text: str, room: int, count: Count) -> Iterator[tuple[str, str]]:
    """``(before, piece)``: pieces that make up `text`, each with what stands before it, within `room` tokens together.

    A text that fits is one piece with nothing before it. Else a piece takes up to half of the room and the text before
    it fills the rest, so that every word is scored once and none of them without context but the first.
    """
    if count(text) <= room:
        if text:
            yield "", text
        return
    done = 0
    for piece in _pieces(text, room // 2, count):
        yield last(text[:done], room - room // 2, count), piece
        done += len(piece)


def _pieces(text: str, room: int, count: Count) -> Iterator[str]:
    piece, used = "", 0
    for word in _WORD.findall(text):
        for part in _parts(word, room, count):
            needed = count(part)
            if piece and used + needed > room:
                yield piece
                piece, used = "", 0
            piece += part
            used += needed
    if piece:
        yield piece


def _parts(word: str, room: int, count: Count) -> Iterator[str]:
    """A word, or its halves where a script without blanks makes it too long."""
    if count(word) <= room or len(word) < 2:
        yield word
        return
    middle = len(word) // 2
    yield from _parts(word[:middle], room, count)
    yield from _parts(word[middle:], room, count)
