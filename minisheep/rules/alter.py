"""One fact of an answer changed to a plausible other one: a number, a name, or a word that has a counterpart. Pure."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence

from minisheep.rules import endings

Change = tuple[str, str]
"""A whole word and what takes its place, wherever the word stands."""

_NUMBER = re.compile(r"(?<![\w.,])\d+(?:[.,]\d+)*(?!\w)")
_LIST_NUMBER = re.compile(r"^[ \t]*\(?(\d+)[.)](?=\s)", re.MULTILINE)
_NAME = re.compile(r"(?<![\w'’])[A-Z][a-z]{2,}(?![\w'’])")
_OPENERS = (":", '"', "“", "‘", "'", "(", "-", "*", "•", ")", ".")
_COUNTERPARTS = tuple(
    tuple(group.split())
    for group in (
        "two three four five six seven eight nine ten eleven twelve",
        "twenty thirty forty fifty sixty seventy eighty ninety",
        "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
        "January February April June July August September October November December",
        "red blue green yellow purple orange brown black white grey",
        "north south east west",
        "spring summer autumn winter",
        "morning afternoon evening",
        "mother father sister brother",
        "true false",
        "positive negative",
        "always never",
        "before after",
        "more fewer",
        "hot cold",
        "longer shorter",
        "larger smaller",
        "higher lower",
        "older younger",
        "increase decrease",
        "safe dangerous",
        "easy difficult",
        "first last",
        "singular plural",
    )
)


def altered(answer: str, asked: str, elsewhere: Sequence[str], chance: random.Random) -> str | None:
    """`answer` with one number, name or telling word changed, everywhere it stands; None where it holds none.

    A name is replaced by one of `asked` (the instruction and input) that the answer does not hold, or, where there is
    none, by one from the texts `elsewhere`. List numbers are never changed.
    """
    ways = [list(_numbers(answer, chance)), list(_counterparts(answer, chance)), list(_names(answer, asked, elsewhere))]
    found = [changes for changes in ways if changes]
    if not found:
        return None
    old, new = chance.choice(chance.choice(found))
    return re.sub(rf"(?<![\w.,]){re.escape(old)}(?!\w)", lambda _: new, answer)


def _numbers(answer: str, chance: random.Random) -> Iterator[Change]:
    listed = {match.start(1) for match in _LIST_NUMBER.finditer(answer)}
    for match in _NUMBER.finditer(answer):
        if match.start() not in listed:
            yield match.group(), _other_number(match.group(), chance)


def _other_number(number: str, chance: random.Random) -> str:
    """As many digits, one of them another: of a long number the last but one, so that it stays of the same size."""
    digits = [place for place, character in enumerate(number) if character.isdigit()]
    place = digits[0] if len(digits) < 3 else digits[-2]
    # Never a leading zero, and never 1, which changes the grammar of what follows.
    return number[:place] + chance.choice([d for d in "23456789" if d != number[place]]) + number[place + 1 :]


def _counterparts(answer: str, chance: random.Random) -> Iterator[Change]:
    for group in _COUNTERPARTS:
        for word in group:
            for form in dict.fromkeys((word, word.capitalize())):
                if re.search(rf"\b{form}\b", answer):
                    other = chance.choice([w for w in group if w != word])
                    yield form, other.capitalize() if form[0].isupper() else other


def _names(answer: str, asked: str, elsewhere: Sequence[str]) -> Iterator[Change]:
    own = names(answer)
    near = [name for name in names(asked) if name not in answer]
    far = [name for text in elsewhere for name in names(text) if name not in answer]
    for name in own:
        for other in near or far:
            yield name, other


def names(text: str) -> list[str]:
    """Capitalised words that open no sentence, line or quotation, each once; none of a text that is mostly these."""
    opening = {start for start, _ in endings.sentences(text)}
    found = [
        match.group()
        for match in _NAME.finditer(text)
        if match.start() not in opening and not text[: match.start()].rstrip(" ").endswith(_OPENERS)
    ]
    return list(dict.fromkeys(found)) if len(found) * 2 <= len(text.split()) else []
