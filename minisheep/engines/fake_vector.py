"""The fake engine's embeddings: texts that share words lie near each other."""

from __future__ import annotations

import hashlib
import math

WIDTH = 32
TURN = 0.3
"""How far an adapter moves the vector of a word, where 1 is the length of that vector."""


def mean_vector(text: str, adapter: str) -> tuple[float, ...]:
    """`WIDTH` numbers: the mean of a vector for each word of the text.

    That is a digest of the word, in lower case and without punctuation at its ends, and a little of one of the word and
    the adapter's name where there is an adapter.
    """
    words = [word.strip(".,;:!?\"'()").lower() for word in text.split()] or [""]
    total = [0.0] * WIDTH
    for word in words:
        for i, value in enumerate(_signs(word)):
            total[i] += value
        if adapter:
            for i, value in enumerate(_signs(f"{adapter}\x1f{word}")):
                total[i] += TURN * value
    return tuple(value / len(words) for value in total)


def _signs(word: str) -> list[float]:
    """A vector of length 1 whose numbers differ in sign alone."""
    bits = int.from_bytes(hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest()[: WIDTH // 8], "big")
    return [(1 if bits >> i & 1 else -1) / math.sqrt(WIDTH) for i in range(WIDTH)]
