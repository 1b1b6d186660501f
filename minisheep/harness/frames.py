"""How the harness's text becomes a prompt: as it is, or as the user's turn of a chat template.

The harness hands texts around, and a template's own tokens must not be confused with words of the data. So a chat is
marked with two sequences of private characters here, passes through the harness as text, and is split again before the
engine sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from minisheep.rules.templates import Prompt, Segment, Template

_USER, _START = "\ue0f4minisheep-user\ue0f5", "\ue0f4minisheep-start\ue0f5"

Count = Callable[[str], int]
"""How many tokens a text has."""


def chat(history: Sequence[Mapping[str, str]]) -> str:
    """A chat as one marked text: what system and users say, and the beginning of the answer if the last turn is one.

    Templates here have a single turn, so earlier answers stand among the words of the user, as in the plain prompt.
    """
    start = ""
    turns = list(history)
    if turns and turns[-1]["role"] == "assistant":
        start = turns.pop()["content"]
    asked = "\n\n".join(turn["content"] for turn in turns if turn["content"])
    return f"{_USER}{_clean(asked)}{_START}{_clean(start)}"


def prompt(text: str, template: Template | None) -> Prompt:
    """The prompt of a text from the harness; an unmarked one is never framed."""
    if template is None or not text.startswith(_USER):
        return (Segment(_clean(text)),) if text else ()
    user, start = _parts(text)
    return template.prompt(user, start)


def shorten(text: str, room: int, count: Count) -> str:
    """`text` without so much of its beginning that it has at most `room` tokens; of a chat, the user's words lose it.

    The same as the harness does for its own back-ends.
    """
    if not text.startswith(_USER):
        return last(text, room, count)
    user, start = _parts(text)
    return f"{_USER}{last(user, room - count(start), count)}{_START}{start}"


def last(text: str, room: int, count: Count) -> str:
    """The longest end of `text` with at most `room` tokens, within a few characters."""
    if count(text) <= room:
        return text
    low, high = 0, len(text)
    while high - low > 1:
        middle = (low + high) // 2
        if count(text[middle:]) <= room:
            high = middle
        else:
            low = middle
    return text[high:]


def move_blank(text: str, continuation: str) -> tuple[str, str]:
    """The blanks that end a prompt begin the continuation instead, since tokens carry the blank before a word."""
    if text.startswith(_USER):
        return text, continuation
    bare = text.rstrip()
    return bare, text[len(bare) :] + continuation


def overhead(template: Template | None, count: Count) -> int:
    """Tokens that a frame adds to a text, a BOS and what may part differently at the seams included."""
    return 8 + (count(template.before) + count(template.between) if template else 0)


def _parts(text: str) -> tuple[str, str]:
    user, _, start = text.removeprefix(_USER).partition(_START)
    return _clean(user), _clean(start)


def _clean(text: str) -> str:
    return text.replace(_USER, "").replace(_START, "")
