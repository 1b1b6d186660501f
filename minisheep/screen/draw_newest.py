"""The newest instruction with its answer and scores. Pure."""

from __future__ import annotations

from rich.text import Text

from minisheep.screen.lines import ACCENT, DIM, STRONG, Part, clean, line, title, wrap
from minisheep.screen.state import Newest
from minisheep.ui import words

MARK = " │ "


def newest(found: Newest | None, width: int, height: int) -> list[Text]:
    """A title with the scores, the instruction in at most two fifths of the lines, and the answer in the rest."""
    if found is None:
        return [title(width, "newest"), line(width, ("   no text to show yet", DIM))]
    scores: list[Part] = []
    for name, value in found.scores:
        scores += [" " if scores else "", (f"{name} ", DIM), (f"{value:.2f}", STRONG)]
    rows = [title(width, f"newest, {words.where(*found.where)}", scores)]
    room = width - len(MARK)
    for_it = max(1, 2 * (height - 1) // 5) if found.answer else height - 1
    asked = wrap(clean(found.instruction), room, for_it)
    rows += [line(width, (MARK, ACCENT), (row, STRONG)) for row in asked]
    answered = wrap(clean(found.answer), room, height - len(rows))
    return [*rows, *(line(width, (MARK, DIM), row) for row in answered)]
