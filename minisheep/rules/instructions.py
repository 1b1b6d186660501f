"""Rules that an instruction must pass before it is answered.

After Self-Instruct (Wang et al. 2023) and the heuristic filter of I-SHEEP. Similarity to earlier instructions is not
here, since it needs them: see `similarity.NoveltyIndex`. Every rule takes the instruction and its input and returns
what it found, or None.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable

SHORTEST, LONGEST = 4, 150
"""Words that an instruction may have, both included."""

OUT_OF_REACH = (
    *("image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps", "draw", "plot"),
    *("go to", "video", "videos", "audio", "music", "flowchart", "flowcharts", "diagram", "diagrams"),
)
"""Words for things that a text model can neither see nor make."""

InstructionRule = Callable[[str, str], str | None]

_OUT_OF_REACH = re.compile(rf"\b(?:{'|'.join(OUT_OF_REACH)})\b".replace(" ", r"\s+"), re.IGNORECASE)
_MARKER = re.compile(
    r"<\s*no[\s_-]?input\s*>|[(\[]\s*(?:none|no\s+input)\s*[)\]]|\bnoinput\b|<\s*none\s*>", re.IGNORECASE
)
# A label in the middle of a line is only one when it is written as one: "Input:" is, "the input: a list" is not.
_LABEL = re.compile(r"\b(?:Instruction|Input|Output|Response)[ \t]?[0-9]{0,3}[ \t]?:")
_LABEL_AT_LINE_START = re.compile(
    r"^[ \t#*>_-]{0,8}(?:instruction|input|output|response|answer|question|task|user|human|assistant|system)"
    r"[ \t]?[0-9]{0,3}[ \t*_]{0,3}:",
    re.IGNORECASE | re.MULTILINE,
)
_URL = re.compile(r"\b(?:https?|ftp)://\S*|\bwww\.[\w-]+\.\S*", re.IGNORECASE)


def too_short(instruction: str, input: str) -> str | None:
    count = len(instruction.split())
    return f"{count} words" if count < SHORTEST else None


def too_long(instruction: str, input: str) -> str | None:
    count = len(instruction.split())
    return f"{count} words" if count > LONGEST else None


def not_text_only(instruction: str, input: str) -> str | None:
    return _found(_OUT_OF_REACH, instruction, input)


def starts_with_punctuation(instruction: str, input: str) -> str | None:
    first = instruction.lstrip()[:1]
    return first if first and first in string.punctuation else None


def starts_non_ascii(instruction: str, input: str) -> str | None:
    first = instruction.lstrip()[:1]
    return None if first.isascii() else first


def no_input_marker(instruction: str, input: str) -> str | None:
    return _found(_MARKER, instruction, input)


def stray_label(instruction: str, input: str) -> str | None:
    # "Question: ..." is ordinary text in an input, so there only the labels of our own fields count.
    return _found(_LABEL_AT_LINE_START, instruction) or _found(_LABEL, instruction, input)


def has_url(instruction: str, input: str) -> str | None:
    return _found(_URL, instruction, input)


def input_repeated(instruction: str, input: str) -> str | None:
    """Whole words only: the input "a" does not stand inside "Translate"."""
    needle = _plain(input)
    whole = _plain(instruction)
    # Most inputs do not stand there at all, and finding that out is far cheaper than compiling an expression.
    if not needle or needle not in whole or not re.search(rf"(?<!\w){re.escape(needle)}(?!\w)", whole):
        return None
    return shortened(needle)


INSTRUCTION_RULES: tuple[tuple[str, InstructionRule, str], ...] = (
    ("too_short", too_short, f"has fewer than {SHORTEST} words"),
    ("too_long", too_long, f"has more than {LONGEST} words"),
    ("not_text_only", not_text_only, "names something that a text model can neither see nor make"),
    ("starts_with_punctuation", starts_with_punctuation, "starts with a punctuation mark"),
    ("starts_non_ascii", starts_non_ascii, "starts with a character outside ASCII"),
    ("no_input_marker", no_input_marker, "carries the marker for no input inside a field"),
    ("stray_label", stray_label, "holds the label of a field or of a speaker"),
    ("has_url", has_url, "holds a web address"),
    ("input_repeated", input_repeated, "already holds its input inside the instruction"),
)
"""Name, function, and what an instruction does that is dropped by it; in the order in which they are asked."""


def instruction_fault(instruction: str, input: str) -> tuple[str, str] | None:
    """The first rule that the instruction breaks and what was found, or None where it passes. Never raises."""
    faults = ((name, rule(instruction, input)) for name, rule, _ in INSTRUCTION_RULES)
    return next(((name, detail) for name, detail in faults if detail is not None), None)


def _found(pattern: re.Pattern[str], *texts: str) -> str | None:
    for text in texts:
        match = pattern.search(text)
        if match:
            return shortened(match.group().strip())
    return None


def _plain(text: str) -> str:
    """Lower case, single spaces, no punctuation around it."""
    return " ".join(text.casefold().split()).strip(string.punctuation + "“”‘’«»… ")


def shortened(text: str, limit: int = 60) -> str:
    """At most `limit` characters, for the detail of a rejection."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
