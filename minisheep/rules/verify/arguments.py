"""What the arguments of a constraint may be. Each reader returns the value as it is used, or raises ValueError.

IFEval's own code draws an argument at random where one is missing, zero or out of range; a verdict that depends on a
draw measures nothing, so here such an argument is refused, or taken literally where it has a literal meaning.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

Reader = Callable[[Any], Any]

LESS_THAN, AT_LEAST = "less than", "at least"

_LANGUAGES = """
af ar bg bn ca cs cy da de el en es et fa fi fr gu he hi hr hu id it ja kn ko lt lv mk ml mr ne nl no pa pl pt
ro ru sk sl so sq sv sw ta te th tl tr uk ur vi zh-cn zh-tw
"""
LANGUAGES = frozenset(_LANGUAGES.split())
"""The codes that the detector can answer with."""


def count(value: Any) -> int:
    """A whole number, at least 0. Tables of numbers often hold 3.0 for 3."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("must be a whole number, 0 or more")
    return value


def place(value: Any) -> int:
    """A number that counts from 1."""
    number = count(value)
    if number < 1:
        raise ValueError("must be 1 or more")
    return number


def relation(value: Any) -> str:
    if value not in (LESS_THAN, AT_LEAST):
        raise ValueError(f'must be "{LESS_THAN}" or "{AT_LEAST}"')
    return str(value)


def text(value: Any) -> str:
    """Some text, without the blanks around it."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a text that is not blank")
    return value.strip()


def letter(value: Any) -> str:
    """One character, in lower case. IFEval's data asks for ``#`` and ``!`` too."""
    found = text(value).lower()
    if len(found) != 1:
        raise ValueError("must be a single character")
    return found


def pattern(value: Any) -> str:
    """A word, which IFEval uses as a regular expression."""
    found = text(value)
    try:
        re.compile(found)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    return found


def patterns(value: Any) -> tuple[str, ...]:
    """Words, each used as a regular expression, blanks around them included."""
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("must be a list of words")
    for word in value:
        pattern(word)
    return tuple(value)


def language(value: Any) -> str:
    """A code of ISO 639-1, as the detector writes it."""
    if value not in LANGUAGES:
        raise ValueError(f"must be one of {', '.join(sorted(LANGUAGES))}")
    return str(value)
