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
from itertools import groupby

_IDEOGRAPHS = (
    "\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\ua000-\ua48f\uf900-\ufaff\uff66-\uff9f\U00017000-\U00018dff\U0001b000-\U0001b2ff\U00020000-\U0003fffd"
)
"""Chinese and Japanese, and Yi, whose characters are syllables."""
_SYLLABIC = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u1b00-\u1b7f\ua980-\ua9ff\uaa60-\uaa7f"
"""Thai, Lao, Burmese, Khmer and the scripts of their neighbours, as Tai Lue, Balinese and Javanese."""
UNSPACED = _IDEOGRAPHS + _SYLLABIC
"""What stands between the brackets of an expression for a character of a script without blanks."""
_BETWEEN = "\u0f0b\u0f0c\u1361"
"""What stands in the place of blanks in Tibetan, where it ends a syllable, and in Ethiopic."""

IDEOGRAPHS_A_WORD, LETTERS_A_WORD = 1.4, 4.0
"""Characters that say about as much as one English word, in Chinese and Japanese, and in scripts of letters."""

_WITH_MARKS = ((0x300, 0x1E00), (0x20D0, 0x20F1), (0x2CEF, 0x3100), (0xA600, 0xAC00), (0xFE00, 0xFE30))
_CHARACTERS = [
    chr(code)
    for block in (*_WITH_MARKS, (0x10A00, 0x12000), (0x1E000, 0x1F000))
    for code in range(*block)
    if unicodedata.category(chr(code)) in ("Mn", "Mc", "Nd")
]
"""All combining marks, and the digits of all scripts."""
_IN_PLACE = [
    [mark for _, mark in run]
    for _, run in groupby(enumerate(c for c in _CHARACTERS if not c.isdecimal()), lambda at: ord(at[1]) - at[0])
]
MARKS = "".join(f"{run[0]}-{run[-1]}" for run in _IN_PLACE) + "\u200c\u200d"
"""What belongs to the letter before it, between brackets: combining marks, the joiners of Persian and Indic words."""
STOPS = "؟۔।॥։።፧།༎។៕။᠃᱾꯫"
"""Ends of sentences that ASCII, Chinese and Japanese lack; no blank need follow."""
BLANK = "[ \t\u00a0\u202f]"
"""An expression for a blank inside a line; French writes one that does not break before a colon."""
GREEK_QUESTION = r"(?<=[\u0370-\u03ff\u1f00-\u1fff]{2})[;\u037e](?=\s|\Z)"
_FULL_STOPS = (
    *(("[\u0900-\u0a7f\u0b00-\u0b7f]", "।"), ("[\u0530-\u058f]", "։"), ("[\u1200-\u139f]", "።")),
    *(("[\u0e00-\u0eff]", ""), ("[\u1000-\u109f]", "။"), ("[\u1780-\u17ff]", "។")),
)

_ASCII_WORD = re.compile(r"[a-z0-9]+")
_ONE_IDEOGRAPH = re.compile(rf"(?=[^\W_])[{_IDEOGRAPHS}]")
_ONE_LETTER = re.compile(rf"(?=[^\W_])[{_SYLLABIC}]")
_PIECE = re.compile(
    rf"[^\w\s]*(?=[^\W_])[{UNSPACED}][^\w\s]*|(?:(?!(?=[^\W_])[{UNSPACED}])[^\s{_BETWEEN}])+[{_BETWEEN}]*|[{_BETWEEN}]+"
)
START = rf"(?<![^\W{UNSPACED}])(?<!(?![{UNSPACED}])[{MARKS}])"
END = rf"(?![^\W{UNSPACED}]|[{MARKS}])"
"""Expressions for where a word may begin and end: beside no word character, or in a script without blanks."""
NUMBER_END = rf"(?![^\W{UNSPACED}\uac00-\ud7a3])"
"""Where a number may end: Korean writes what is counted, and its particles, on to it."""
NUMBER = rf"{START}\d+(?:[.,٫٬]\d+)*{NUMBER_END}"
_OTHER_FORMS = re.compile("[\u0e33\u0eb3\u2e80-\u2fdf\ufb00-\ufdff\ufe70-\ufeff\uff00-\uffef]+")
"""Full and half width, joined Arabic, and other characters that are there twice."""
_OPTIONAL = "\u00ad\u0591-\u05bd\u05bf-\u05c2\u05c4-\u05c7\u0640\u064b-\u0652\u0670\u200c-\u200f\u2060\ufe00-\ufe0f"
"""What a word is written with or without: vowel points, a stretched line, joiners, what chooses a glyph."""
_SAME = {ord(c): str(unicodedata.decimal(c)) for c in _CHARACTERS if c.isdecimal()} | str.maketrans("ıيك", "iیک")
"""Digits, and letters with two code points that are taken for one another."""


def folded(text: str) -> str:
    """`text` in the form in which texts are compared: without case, width, vowel points and the script of digits."""
    text = unicodedata.normalize("NFC", _OTHER_FORMS.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text))
    text = re.sub("(?<=[\u0600-\u06ff])\u200c", " ", text.casefold())  # Persian writes the joiner or a blank.
    return re.sub(f"(?<=i)\u0307|[{_OPTIONAL}]", "", text).translate(_SAME)


def words(text: str, *, inside: str = "", letters: str = "") -> list[str]:
    """The words of `text`, `folded` and without punctuation; of ASCII text, runs of a-z and 0-9 by default.

    inside: characters that join two words to one (apostrophes).
    letters: characters that count as letters (the low line).
    """
    if not (inside or letters) and text.isascii():
        return _ASCII_WORD.findall(text.lower())
    return word(inside, letters).findall(folded(text))


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


def ideographic(text: str) -> bool:
    """Whether most of `text` is in Chinese or Japanese, where no blank stands after a mark either."""
    return per_word(text) == IDEOGRAPHS_A_WORD


def full_stop(text: str, closers: str = "") -> str:
    """What `text` lacks to be a whole sentence, by the script of its last letter; nothing in Thai and Lao.

    closers: marks that end no sentence by themselves.
    """
    closed = rf"|[^.!?。！？{STOPS}][{re.escape(closers)}]\Z" if closers else ""
    if not re.search(rf"[^\W_][{MARKS}]*\Z{closed}", text):
        return ""
    last = next((character for character in reversed(text) if character.isalpha()), "")
    return "。" if ideographic(text) else next((stop for some, stop in _FULL_STOPS if re.match(some, last)), ".")


@cache
def word(inside: str = "", letters: str = "") -> re.Pattern[str]:
    """An expression for one of the `words` of a text."""
    low_line = "" if "_" in letters else "_"
    letter = rf"[^\W{low_line}{UNSPACED}]"
    # Hebrew abbreviations and foreign sounds have a mark inside the word, often typed as a quotation mark.
    run = rf"{letter}+(?:[{MARKS}]+{letter}*|(?<=[\u05d0-\u05ea])[\"'\u05f3\u05f4](?=[\u05d0-\u05ea]){letter}+)*"
    joined = rf"(?:[{re.escape(inside)}]{run})*" if inside else ""
    return re.compile(rf"(?=[^\W_])[{UNSPACED}][{MARKS}]*|{run}{joined}")
