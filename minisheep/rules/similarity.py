"""ROUGE-L between texts, and an index that finds the nearest earlier text.

The F measure is that of the `rouge_score` package without stemming, to the last bit: P = L / len(a), R = L / len(b),
F = 2PR / (P + R) in double precision, where L is the longest common subsequence of tokens. Ties with a threshold are
decided by that same arithmetic (for 7 and 13 tokens with L = 7 it gives 0.7000000000000001, which is above 0.7).

One knowing difference: `rouge_score` sees a-z and 0-9 alone, so in other scripts it compares the digits of two texts,
or nothing. Here words are those of any script (`rules.text_words`), and of ASCII texts the same as there. A text
without words (signs alone) is compared by its characters, and only with other texts of that kind.

The search for the nearest rests on an inverted index over multisets of tokens. The number of shared tokens, repetitions
counted, is never below the longest common subsequence, so it shows which texts need no comparison. As in prefix
filtering for set-similarity joins (PPJoin, Xiao et al. 2008), a text that shares n of a query's k tokens shares one of
any k - n + 1 of them, so the rarest are looked up, and the frequent ones, whose lists are long, are not. One bit for
each frequent token and each text says what those add.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import process
from rapidfuzz.distance import LCSseq

from minisheep.rules.text_words import words

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
    """One query's symbols, rarest first, and the texts that hold any of the first of them. Valid until the next add."""

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


UNSEEN = "\0"
"""Stands for every token of a query that no indexed text has; it can match nothing, so one character is enough."""

PROBES = 32
"""Texts that are compared at once at first."""
FIRST_POSTINGS, GROWTH = 8000, 8
"""A search looks up symbols with this many postings at first, and then with that many times more."""
ROUNDING = 1e-9
"""More than any rounding error of an F, less than any difference of two."""

_SURROGATES = range(0xD800, 0xE000)
_CODE_POINTS = 0x110000


def tokens(text: str) -> list[str]:
    """The words of a text, as `rouge_score` makes them for ASCII (runs of a-z and 0-9); where it has none, characters.

    Characters are case-folded, marked with a leading space so that they equal no word, and white space is left out.
    """
    return words(text) or [f" {character}" for character in text.casefold() if not character.isspace()]


def rouge_l(first: str, second: str) -> float:
    """ROUGE-L F of two texts, 0 .. 1, as `rouge_score` has it; 0 where one of them is blank."""
    a, b = tokens(first), tokens(second)
    common = common_length(a, b)
    if common == 0:
        return 0.0
    precision, recall = common / len(a), common / len(b)
    return 2 * precision * recall / (precision + recall)


def common_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence of two token sequences."""
    codes = _Codes()
    return int(LCSseq.similarity(codes.learn(first), codes.learn(second)))


class NoveltyIndex:
    """Texts added one by one, and for a new text the most similar of them.

    No pair is compared twice, and few are compared at all: the tokens that two texts share bound F from above, so
    an `OverlapIndex` names the texts that may be the nearest, most promising first, and only their longest common
    subsequences are computed. The result is that of comparing with every text, to the last bit. (rapidfuzz's
    `Indel.normalized_similarity` is the same measure, but release 3.14.6 mostly returns 0 for texts that score 1e-9
    above its `score_cutoff`; `LCSseq.similarity` is exact.)
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._codes = _Codes()
        self._texts: list[str] = []
        self._lengths: NDArray[np.int32] = np.zeros(64, np.int32)
        self._overlap = OverlapIndex()
        self.compared = 0
        """Longest common subsequences computed so far."""
        for text in texts:
            self.add(text)

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, text: str) -> int:
        """Index `text` and return its number, from 0 in order of adding.

        Raises OverflowError beyond 1.1 million distinct tokens, the number of code points.
        """
        code = self._codes.learn(tokens(text))
        self._texts.append(code)
        self._lengths = grown(self._lengths, len(self._texts))
        self._lengths[len(self._texts) - 1] = len(code)
        self._overlap.add(symbols(code))
        return len(self._texts) - 1

    def nearest(self, text: str) -> tuple[float, int]:
        """Highest ROUGE-L F with any indexed text, and the first text that has it; (0.0, -1) where none shares a token.

        F is in the arithmetic of `rouge_score`, so of two equal fractions the one that it rounds up is the higher.
        """
        query = self._codes.look_up(tokens(text))
        search = Search(self._overlap, symbols(query))
        best, nearest = 0.0, -1
        prefix, known = 0, len(search.sizes)
        enough = known
        while prefix < enough:
            prefix = _next_prefix(search.sizes, prefix, enough)
            numbers, shared = search.candidates(prefix)
            lengths = self._lengths[numbers]
            bounds = 2 * shared / (len(query) + lengths)
            if prefix < enough:
                # Only the most promising, to learn how much need not be looked at.
                best, nearest = self._compare(query, numbers, bounds, (best, nearest), PROBES)
                enough = max(prefix, _enough(best, len(query), known))
            if prefix >= enough:
                best, nearest = self._compare(query, numbers, bounds, (best, nearest), len(numbers))
        return best, nearest

    def too_similar(self, text: str, threshold: float) -> tuple[bool, float, int]:
        """Whether F with any indexed text is above `threshold`, decided as `rouge_score` would, and `nearest`."""
        highest, number = self.nearest(text)
        return highest > threshold, highest, number

    def _compare(
        self, query: str, numbers: Numbers, bounds: NDArray[np.float64], found: tuple[float, int], most: int
    ) -> tuple[float, int]:
        """The better of `found` and the nearest of the texts `numbers`, comparing at most `most` of them.

        bounds: what F with each text cannot exceed; texts that cannot reach the best are not compared.
        """
        best, nearest = found
        chunk = min(most, PROBES)
        while most > 0:
            possible = bounds >= best - ROUNDING
            numbers, bounds = numbers[possible], bounds[possible]
            if not len(numbers):
                break
            if len(numbers) > chunk:
                order = np.argpartition(-bounds, chunk)
                now, later = order[:chunk], order[chunk:]
            else:
                now, later = np.arange(len(numbers)), np.arange(0)
            f = self._f_measures(query, numbers[now])
            if (highest := float(f.max())) >= best:
                first = int(numbers[now][f == highest].min())
                if highest > best or first < nearest:
                    best, nearest = highest, first
            numbers, bounds = numbers[later], bounds[later]
            most -= chunk
            chunk = min(most, 4 * chunk)
        return best, nearest

    def _f_measures(self, query: str, numbers: Numbers) -> NDArray[np.float64]:
        """ROUGE-L F with each of the texts `numbers`, shape (n,), in the arithmetic of `rouge_l`."""
        self.compared += len(numbers)
        texts = [self._texts[number] for number in numbers.tolist()]
        common = process.cdist([query], texts, scorer=LCSseq.similarity, dtype=np.int32)[0]
        precision, recall = common / len(query), common / self._lengths[numbers]
        # Where nothing is common the sum is 0 and so is F.
        f: NDArray[np.float64] = 2 * precision * recall / np.where(common, precision + recall, 1.0)
        return f


def _next_prefix(sizes: Sequence[int], prefix: int, enough: int) -> int:
    """How many symbols to look up next: few at first, then some times as many postings as before."""
    limit = max(FIRST_POSTINGS, GROWTH * sum(sizes[:prefix]))
    total = sum(sizes[: prefix + 1])
    prefix += 1
    while prefix < enough and total + sizes[prefix] <= limit:
        total += sizes[prefix]
        prefix += 1
    return prefix


def _enough(best: float, length: int, known: int) -> int:
    """How many symbols must be looked up, so that a text with none of them cannot have an F of `best`.

    It shares r = `known` less that number at most, and has as many tokens at least, so that F <= 2r / (`length` + r).
    """
    return known - (math.ceil(best * length / (2 - best) - ROUNDING) - 1) if best else known


class _Codes:
    """One code point for each distinct token, so that a text becomes a string and comparing it is fast."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self._next = ord(UNSEEN) + 1

    def learn(self, text: Sequence[str]) -> str:
        return "".join([chr(self._codes.get(word) or self._new(word)) for word in text])

    def look_up(self, text: Sequence[str]) -> str:
        return "".join([chr(self._codes.get(word, 0)) for word in text])

    def _new(self, word: str) -> int:
        # rapidfuzz takes any code point, but a surrogate cannot be printed or encoded when something goes wrong.
        if self._next in _SURROGATES:
            self._next = _SURROGATES.stop
        if self._next >= _CODE_POINTS:
            raise OverflowError("more distinct tokens than code points")
        self._codes[word] = code = self._next
        self._next += 1
        return code
