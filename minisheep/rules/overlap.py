"""An inverted index over multisets of tokens: which texts share many tokens with a query, at most how many.

The number of shared tokens, repetitions counted, is never below the longest common subsequence, so it tells which texts
a search for the nearest need not compare at all. The idea is that of prefix filtering for set-similarity joins (PPJoin,
Xiao et al. 2008): a text that shares n of a query's k tokens shares one of any k - n + 1 of them, so the rarest are
looked up, and the frequent ones, whose lists are long, are not. What the frequent tokens add is read from one bit for
each of them and each text.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]

WORDS = 2
"""Machine words of frequent tokens that each text has, so 128 such tokens."""
FREQUENT_SHARE, FREQUENT_LEAST = 1 / 100, 32
"""A token becomes frequent when this share of the texts, and this many, hold it (while there are bits)."""
DENSE_SHARE = 2
"""With postings for this many times the texts, counting into a table is faster than sorting."""


Symbol: TypeAlias = int | str
"""A token's code point, for its first occurrence in a text; for the second and later ones it, repeated."""
Posting: TypeAlias = "int | array[int]"
"""The texts that hold a symbol, ascending. One bare number where it is a single text, as for most symbols."""


def symbols(code: str) -> list[Symbol]:
    """The multiset of a text's tokens (one character each) as a set: the second ``a`` is ``aa``, the third ``aaa``."""
    if len(set(code)) == len(code):
        return list(map(ord, code))
    seen: dict[str, int] = {}
    found: list[Symbol] = []
    for token in code:
        seen[token] = count = seen.get(token, 0) + 1
        found.append(ord(token) if count == 1 else token * count)
    return found


class OverlapIndex:
    """Texts as sets of symbols, numbered from 0 in order of adding.

    About 4 bytes for each token of a text and 16 for the text, and some 100 for each distinct symbol.
    """

    def __init__(self) -> None:
        self._count = 0
        # By code point, which are given out without gaps; a list takes a tenth of a dictionary's memory.
        self._first: list[Posting | None] = []
        self._later: dict[str, Posting] = {}
        self._bits: dict[Symbol, int] = {}
        self._words: list[NDArray[np.uint64]] = [np.zeros(64, np.uint64) for _ in range(WORDS)]

    def __len__(self) -> int:
        return self._count

    def posting(self, symbol: Symbol) -> Posting | None:
        """None where no text holds the symbol."""
        if isinstance(symbol, str):
            return self._later.get(symbol)
        return self._first[symbol] if symbol < len(self._first) else None

    def add(self, found: Iterable[Symbol]) -> None:
        """Index the next text, given its `symbols`."""
        number = self._count
        self._count += 1
        self._words = [grown(word, self._count) for word in self._words]
        frequent = max(FREQUENT_LEAST, self._count * FREQUENT_SHARE)
        row = [0] * WORDS
        for symbol in found:
            posting = self.posting(symbol)
            if posting is None:
                self._set(symbol, number)
            elif isinstance(posting, int):
                self._set(symbol, array("i", (posting, number)))
            else:
                posting.append(number)
                bit = self._bits.get(symbol)
                if bit is not None:
                    row[bit >> 6] |= 1 << (bit & 63)
                elif len(posting) >= frequent and len(self._bits) < WORDS * 64:
                    self._give_bit(symbol, posting)
        for word, mask in enumerate(row):
            if mask:
                # Bits that were given just now are there already.
                self._words[word][number] |= np.uint64(mask)

    def search(self, found: Sequence[Symbol]) -> Search:
        """Begin a search for texts that overlap with a query, given its `symbols`."""
        return Search(self, found)

    def _set(self, symbol: Symbol, posting: Posting) -> None:
        if isinstance(symbol, str):
            self._later[symbol] = posting
            return
        if symbol >= len(self._first):
            self._first.extend([None] * (symbol + 1 - len(self._first)))
        self._first[symbol] = posting

    def _give_bit(self, symbol: Symbol, posting: array[int]) -> None:
        bit = self._bits[symbol] = len(self._bits)
        self._words[bit >> 6][np.array(posting)] |= np.uint64(1 << (bit & 63))


class Search:
    """One query's symbols, rarest first, and the texts that hold any of the first so many. Valid until the next add."""

    def __init__(self, index: OverlapIndex, found: Sequence[Symbol]) -> None:
        self._index = index
        known = []
        for symbol in found:
            posting = index.posting(symbol)
            if posting is not None:
                listed = array("i", (posting,)) if isinstance(posting, int) else posting
                known.append((len(listed), symbol, listed))
        known.sort(key=lambda item: item[0])
        self._known: list[tuple[int, Symbol, array[int]]] = known
        self.sizes = [size for size, _, _ in known]
        """How many texts hold each symbol of the query that any text holds; ascending."""

    def candidates(self, prefix: int) -> tuple[Numbers, Numbers]:
        """The texts that hold any of the first `prefix` symbols, ascending, and for each how many it shares at most.

        Two arrays of the same shape (n,). The second counts exactly, except for symbols beyond `prefix` that have no
        bit, which are taken to be shared.
        """
        numbers, shared = _counted([posting for _, _, posting in self._known[:prefix]], len(self._index))
        row, unsure = [0] * WORDS, 0
        for _, symbol, _ in self._known[prefix:]:
            bit = self._index._bits.get(symbol)
            if bit is None:
                unsure += 1
            else:
                row[bit >> 6] |= 1 << (bit & 63)
        for word, mask in enumerate(row):
            if mask:
                shared += np.bitwise_count(self._index._words[word][numbers] & np.uint64(mask))
        shared += unsure
        return numbers, shared


def grown(values: NDArray[Any], count: int) -> NDArray[Any]:
    """`values` (one dimension), or a copy twice as long where they are fewer than `count`; the new ones are zero."""
    if count <= len(values):
        return values
    return np.concatenate((values, np.zeros_like(values)))


def _counted(postings: Sequence[array[int]], texts: int) -> tuple[Numbers, Numbers]:
    """Each number that is in any of the lists, ascending, and in how many."""
    numbers = np.frombuffer(bytearray().join(postings), np.intc)
    if len(numbers) > texts * DENSE_SHARE:
        counts = np.bincount(numbers, minlength=texts)
        present = np.flatnonzero(counts)
        return present, counts[present]
    numbers.sort()
    ends = np.append(np.flatnonzero(numbers[1:] != numbers[:-1]), len(numbers) - 1)
    counts = ends.copy()
    counts[1:] -= ends[:-1]
    counts[0] += 1
    return numbers[ends].astype(np.int64), counts
