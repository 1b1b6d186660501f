"""ROUGE-L between texts, and an index that finds the nearest earlier text.

The F measure is that of the `rouge_score` package without stemming, to the last bit: P = L / len(a), R = L / len(b),
F = 2PR / (P + R) in double precision, where L is the longest common subsequence of tokens. Ties with a threshold are
decided by that same arithmetic (for 7 and 13 tokens with L = 7 it gives 0.7000000000000001, which is above 0.7).

One knowing difference: `rouge_score` sees no tokens in a text without a-z or 0-9, so in other scripts even exact
duplicates score 0. Such a text is compared by its characters here, and only with other texts of that kind.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from rapidfuzz import process
from rapidfuzz.distance import LCSseq

UNSEEN = "\0"
"""Stands for every token of a query that no indexed text has; it can match nothing, so one character is enough."""

_WORD = re.compile(r"[a-z0-9]+")
_SURROGATES = range(0xD800, 0xE000)
_CODE_POINTS = 0x110000


def tokens(text: str) -> list[str]:
    """Tokens as `rouge_score` makes them (lower case, runs of a-z and 0-9), or, where there are none, the characters.

    Characters are case-folded, marked with a leading space so that they equal no word, and white space is left out.
    """
    words = _WORD.findall(text.lower())
    return words or [f" {character}" for character in text.casefold() if not character.isspace()]


def f_measure(common: int, first: int, second: int) -> float:
    """ROUGE-L F, 0 .. 1, from the length of the common subsequence and the lengths, as `rouge_score` has it."""
    if common == 0:
        return 0.0
    precision, recall = common / first, common / second
    return 2 * precision * recall / (precision + recall)


def common_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence of two token sequences."""
    codes = _Codes()
    return int(LCSseq.similarity(codes.learn(first), codes.learn(second)))


def rouge_l(first: str, second: str) -> float:
    """ROUGE-L F of two texts, 0 .. 1; 0 where one of them is blank."""
    a, b = tokens(first), tokens(second)
    return f_measure(common_length(a, b), len(a), len(b))


class NoveltyIndex:
    """Texts added one by one, and for a new text the most similar of them.

    Texts are kept by length, in tokens. For one length F grows with L alone, so the longest common subsequence decides,
    in integers; and F <= 2 min(la, lb) / (la + lb), so lengths too far from the query's need not be looked at.
    Some 5 million pairs a second on one core. (rapidfuzz's `Indel.normalized_similarity` is the same measure, but
    release 3.14.6 mostly returns 0 for texts that score 1e-9 above its `score_cutoff`; `LCSseq.similarity` is exact.)
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._codes = _Codes()
        self._count = 0
        self._by_length: dict[int, tuple[list[str], list[int]]] = {}
        for text in texts:
            self.add(text)

    def __len__(self) -> int:
        return self._count

    def add(self, text: str) -> int:
        """Index `text` and return its number, from 0 in order of adding.

        Raises OverflowError beyond 1.1 million distinct tokens, the number of code points.
        """
        code = self._codes.learn(tokens(text))
        codes, numbers = self._by_length.setdefault(len(code), ([], []))
        codes.append(code)
        numbers.append(self._count)
        self._count += 1
        return numbers[-1]

    def nearest(self, text: str) -> tuple[float, int]:
        """Highest ROUGE-L F with any indexed text, and the first text that has it; (0.0, -1) where none shares a token.

        F is in the arithmetic of `rouge_score`, so of two equal fractions the one that it rounds up is the higher.
        """
        query = self._codes.look_up(tokens(text))
        length = len(query)
        if not query.strip(UNSEEN):
            return 0.0, -1
        best, nearest = 0.0, -1
        bounds = ((f_measure(min(length, other), length, other), other) for other in self._by_length if other)
        for bound, other in sorted(bounds, reverse=True):
            if bound < best:
                break
            codes, numbers = self._by_length[other]
            # The least L that reaches the best F so far; the small step keeps ties that rounding would lose.
            least = max(1, math.ceil(best * (length + other) / 2 - 1e-6))
            found = process.extractOne(query, codes, scorer=LCSseq.similarity, score_cutoff=least)
            if found is None:
                continue
            f, number = f_measure(int(found[1]), length, other), numbers[found[2]]
            if f > best or (f == best and number < nearest):
                best, nearest = f, number
        return best, nearest

    def too_similar(self, text: str, threshold: float) -> tuple[bool, float, int]:
        """Whether F with any indexed text is above `threshold`, decided as `rouge_score` would, and `nearest`."""
        highest, number = self.nearest(text)
        return highest > threshold, highest, number


class _Codes:
    """One code point for each distinct token, so that a text becomes a string and comparing it is fast."""

    def __init__(self) -> None:
        self._codes: dict[str, str] = {}
        self._next = ord(UNSEEN) + 1

    def learn(self, words: Sequence[str]) -> str:
        return "".join(self._codes.get(word) or self._new(word) for word in words)

    def look_up(self, words: Sequence[str]) -> str:
        return "".join(self._codes.get(word, UNSEEN) for word in words)

    def _new(self, word: str) -> str:
        # rapidfuzz takes any code point, but a surrogate cannot be printed or encoded when something goes wrong.
        if self._next in _SURROGATES:
            self._next = _SURROGATES.stop
        if self._next >= _CODE_POINTS:
            raise OverflowError("more distinct tokens than code points")
        self._codes[word] = code = chr(self._next)
        self._next += 1
        return code
