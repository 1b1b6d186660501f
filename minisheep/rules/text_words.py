"""Words of a text in any script: the one tokeniser of rules and metrics. Pure.

Where a script has blanks between words, a word is a run of letters and digits. Chinese, Japanese, Thai, Lao, Khmer and
Burmese have none, so there each character (with the marks on it) counts as a word. Python's ``\\w`` holds no combining
marks, without which words of Hindi or vocalised Arabic would fall apart; they belong to the letter before them.

A character says less than a word, so a limit in words becomes a limit in characters by `scaled`.
"""

from __future__ import annotations

import math
import re
import unicodedata
from functools import cache

_IDEOGRAPHS = (
    "\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U000323af"
)
"""Chinese and Japanese."""
_SYLLABIC = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\ua9e0-\ua9ff\uaa60-\uaa7f"
"""Thai, Lao, Burmese and Khmer."""
UNSPACED = _IDEOGRAPHS + _SYLLABIC
"""What stands between the brackets of an expression for a character of a script without blanks."""

IDEOGRAPHS_A_WORD, LETTERS_A_WORD = 1.4, 4.0
"""Characters that say about as much as one English word, in Chinese and Japanese, and in scripts of letters."""

_ASCII_WORD = re.compile(r"[a-z0-9]+")
_ONE_IDEOGRAPH = re.compile(rf"(?=[^\W_])[{_IDEOGRAPHS}]")
_ONE_LETTER = re.compile(rf"(?=[^\W_])[{_SYLLABIC}]")
_PIECE = re.compile(rf"[^\w\s]*(?=[^\W_])[{UNSPACED}][^\w\s]*|(?:(?!(?=[^\W_])[{UNSPACED}])\S)+")
START, END = rf"(?<![^\W{UNSPACED}])", rf"(?![^\W{UNSPACED}])"
"""Expressions for where a word may begin and end: beside no word character, or in a script without blanks."""
NUMBER_END = rf"(?![^\W{UNSPACED}\uac00-\ud7a3])"
"""Where a number may end: Korean writes what is counted, and its particles, on to it."""
NUMBER = rf"{START}\d+(?:[.,]\d+)*{NUMBER_END}"


def words(text: str, *, inside: str = "", letters: str = "") -> list[str]:
    """The words of `text`, case-folded and without punctuation; of ASCII text, runs of a-z and 0-9 by default.

    inside: characters that join two words to one (apostrophes).
    letters: characters that count as letters (the low line).
    """
    if not (inside or letters) and text.isascii():
        return _ASCII_WORD.findall(text.lower())
    return _word(inside, letters).findall(unicodedata.normalize("NFC", text).casefold())


def pieces(text: str) -> list[str]:
    """`text` in parts that a person would call words, punctuation included; what `str.split` gives, and in a script
    without blanks each character."""
    return text.split() if text.isascii() else _PIECE.findall(text)


def spans(text: str) -> list[tuple[int, int]]:
    """Where each of `pieces` begins and ends."""
    return [match.span() for match in _PIECE.finditer(text)]


def word_count(text: str) -> int:
    """How many words, or characters in a script without blanks."""
    return len(pieces(text))


def per_word(text: str) -> float:
    """How many of its `words` say about as much as one English word: 1, or more where most are single characters."""
    if text.isascii():
        return 1.0
    ideographs, letters = len(_ONE_IDEOGRAPH.findall(text)), len(_ONE_LETTER.findall(text))
    if 2 * (ideographs + letters) <= len(words(text)):
        return 1.0
    return IDEOGRAPHS_A_WORD if ideographs >= letters else LETTERS_A_WORD


def scaled(limit: int, text: str) -> int:
    """A limit in words as one for the `words` of this text."""
    return math.ceil(limit * per_word(text))


def unspaced(text: str) -> bool:
    """Whether most of `text` is in a script without blanks between words."""
    return per_word(text) > 1


def whole(word: str) -> str:
    """An expression that finds `word` where it stands as a whole word; in a script without blanks, anywhere."""
    return f"{START}{re.escape(word)}{NUMBER_END if word[-1:].isdigit() else END}"


@cache
def _word(inside: str, letters: str) -> re.Pattern[str]:
    low_line = "" if "_" in letters else "_"
    letter = rf"[^\W{low_line}{UNSPACED}]"
    run = rf"{letter}+(?:[{_marks()}]+{letter}*)*"
    joined = rf"(?:[{re.escape(inside)}]{run})*" if inside else ""
    return re.compile(rf"(?=[^\W_])[{UNSPACED}][{_marks()}]*|{run}{joined}")


@cache
def _marks() -> str:
    """All combining marks, as what stands between the brackets of an expression."""
    found: list[list[int]] = []
    for code in range(0x300, 0x1F000):
        if unicodedata.category(chr(code)) in ("Mn", "Mc"):
            if found and found[-1][1] == code - 1:
                found[-1][1] = code
            else:
                found.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in found)
