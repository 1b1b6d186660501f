"""How likely the fake engine finds a text: by overlap, repetition and order, so that a judge has something to see.

It knows minisheep's own seed tasks by heart: with one side of a task in the prompt, the words of the other side are
expected. So a judge by likelihood passes its exam, as it does on a real model.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from functools import cache

from minisheep.data.texts import load_seeds
from minisheep.rules.prompts import user_text
from minisheep.rules.templates import Prompt

KNOWN, REPEATED, MISPLACED = 0.5, 0.3, 1.7
"""What a word's cost is multiplied by if the prompt holds it, if it and the word before stood together already, and if
it is capitalised where no sentence begins or not where one does."""
ENDED, BROKEN_OFF = 0.4, 4.0
"""The cost of ending after a closed sentence, and elsewhere."""

_PLAIN = re.compile(r"[^\w]+")


def costs(prompt: str, continuation: Prompt) -> list[float]:
    """Negative log-probabilities, one for each word of the continuation and each segment of markup or blanks; at least
    one. Words cost 0.6 to 3 nats by their spelling alone."""
    known = _bare_words(prompt)
    for told, expected in _by_heart():
        if told in prompt:
            known = known | expected
    found: list[float] = []
    text = ""
    for segment in continuation:
        if segment.special or (segment.text and not segment.text.strip()):
            found.append(ENDED if text.rstrip().endswith((".", "!", "?")) else BROKEN_OFF)
        else:
            text += segment.text
            found += _words(segment.text.split(), known)
    return found or [BROKEN_OFF]


def _words(words: list[str], known: frozenset[str]) -> Iterator[float]:
    said: set[tuple[str, str]] = set()
    before = "."
    for word in words:
        bare = _bare(word)
        cost = 0.6 + 2.4 * zlib.crc32(bare.encode("utf-8", "replace")) / 2**32
        if bare in known:
            cost *= KNOWN
        if (_bare(before), bare) in said:
            cost *= REPEATED
        if word[:1].isalpha() and word[0].isupper() != before.endswith((".", "!", "?", ":")):
            cost *= MISPLACED
        said.add((_bare(before), bare))
        before = word
        yield cost


@cache
def _by_heart() -> list[tuple[str, frozenset[str]]]:
    """Each side of each seed task, with the words of the other side."""
    found = []
    for seed in load_seeds():
        asked = user_text(seed.instruction, seed.input)
        found += [(asked, _bare_words(seed.output)), (seed.output, _bare_words(asked))]
    # Short answers stand in many prompts by chance.
    return [(told, expected) for told, expected in found if len(told.split()) > 3]


def _bare_words(text: str) -> frozenset[str]:
    return frozenset(_bare(word) for word in text.split())


def _bare(word: str) -> str:
    return _PLAIN.sub("", word).casefold()
