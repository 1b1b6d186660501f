"""Texts for people: model text that is safe to show, sizes and times in words. Pure.

Nothing in sanitised text can move the cursor, set a title, open a link or reorder a line.
rich removes only a few control characters by itself; escape sequences and the 8-bit controls would pass.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable

_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and newline, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # direction marks, embeddings, overrides, isolates
    "\u2028\u2029\ufeff\ufff9-\ufffb\ud800-\udfff"  # separators, byte-order mark, annotations, lone surrogates
    "\U000e0000-\U000e007f]"  # invisible tags
)


def sanitise(text: str) -> str:
    """`text` with every control, direction and invisible character replaced by the replacement character."""
    return _UNSAFE.sub("\ufffd", text.replace("\r\n", "\n").replace("\t", "    "))


def one_line(text: str, width: int = 0) -> str:
    """Sanitised, on one line, cut to `width` characters if that is given."""
    line = " ".join(sanitise(text).split())
    return line if not width or len(line) <= width else line[: width - 3] + "..."


def without_secrets(text: str, hidden: Iterable[str]) -> str:
    """`text` without the `hidden` words, also as JSON writes them. Mask before you cut: a part of a key is a secret."""
    for secret in filter(None, hidden):
        escaped = json.dumps(secret)[1:-1]
        for spelling in (escaped.replace("/", "\\/"), escaped, secret):
            text = text.replace(spelling, "***")
    return text


def plural(count: int, noun: str) -> str:
    """``1 round``, ``3 rounds``."""
    return f"{count} {noun}{'s' * (count != 1)}"


def round_name(round: int, base: str = "base") -> str:
    """``round 2``; the base model, which is round 0, as `base`."""
    return f"round {round}" if round else base


def megabytes(count: float) -> str:
    return f"{count / 1e6:.0f} MB" if count < 10_000_000_000 else f"{count / 1e9:.1f} GB"


def duration(seconds: float) -> str:
    """``7 s``, ``3 min 05 s``, ``2 h 10 min``; for what is no number of seconds, that it is not known."""
    if not abs(seconds) < 1e15:
        return "an unknown time"
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


BARS = " ▁▂▃▄▅▆▇█"


def shell(text: object) -> str:
    """A path or name as one word of a shell's command, where it is no option either. What no terminal shows, or what
    would act on it, is spelt out, so that the word can be copied."""
    word = re.sub("[\ud800-\udc7f\udd00-\udfff]", "?", str(text))  # in JSON they may stand, in no path
    here = "./" * word.startswith("-")
    if "\n" not in word and sanitise(word) == word:
        return here + shlex.quote(word)
    unseen = {c: c.encode("utf-8", "surrogateescape") for c in set(word) if not c.isprintable() or c in "\\'"}
    spelt = {ord(c): "".join(f"\\x{byte:02x}" for byte in data) for c, data in unseen.items()}
    return f"{here}$'{word.translate(spelt)}'"


def json_fault(error: Exception, whole: bool = False) -> str:
    """Why JSON cannot be read, in words; of a `whole` file with the line. Python's own name a line of the one line that
    was read, and settings of Python."""
    if isinstance(error, json.JSONDecodeError):
        place = f"line {error.lineno}, character {error.colno}" if whole else f"character {error.pos + 1}"
        return f"{error.msg[:1].lower()}{error.msg[1:].removesuffix(' at')} at {place}"
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8 text"
    return "nested too deeply" if isinstance(error, RecursionError) else "a number of thousands of digits"
