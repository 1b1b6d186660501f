"""Lines of exactly so many cells, which is what every part of the screen is made of. Pure.

Lines are rich `Text`, in which no markup is read. Whatever comes from a run goes through `clean` first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.cells import cell_len, chop_cells, set_cell_size
from rich.text import Text

from minisheep.ui.sanitise import one_line

Part = str | tuple[str, str]
"""A piece of a line, with its style if it has one."""

DIM, STRONG, GOOD, WARN, BAD, ACCENT, LIT = (
    "dim", "bold", "green", "yellow", "red", "cyan", "bold black on cyan",
)  # fmt: skip
GAP = "  "


_JOINERS = re.compile(
    "[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200d\u2060-\u2064\u3164\ufe00-\ufe0f"
    "\uffa0\U0001f3fb-\U0001f3ff\U000e0100-\U000e01ef]"
)
"""What changes the width of its neighbours, and otherwise on each terminal: joiners, selectors, fillers, tones."""


def clean(text: str, most: int = 2000) -> str:
    """`text` on one line, harmless, of a width that all agree on, and no longer than anybody will read."""
    return one_line(_JOINERS.sub("", text[:most]))


def line(width: int, *parts: Part) -> Text:
    """The parts side by side, cut or filled to `width` cells."""
    return fit(Text.assemble(*parts, no_wrap=True), width)


def fit(text: Text, width: int) -> Text:
    """`text` cut or filled to `width` cells, in place."""
    if width < 1:
        return Text("")
    text.truncate(width, overflow="ellipsis", pad=True)
    return text


def ends(width: int, left: Sequence[Part], right: Sequence[Part]) -> Text:
    """`left` at the left end and `right` at the right one; `left` is cut where both do not fit."""
    last = Text.assemble(*right)
    if last.cell_len > width:
        return line(width, *left)
    first = fit(Text.assemble(*left, no_wrap=True), width - last.cell_len)
    return first.append_text(last)


def title(width: int, name: str, right: Sequence[Part] = ()) -> Text:
    """A rule with the name of what follows."""
    head: list[Part] = [("── ", DIM), (name, STRONG), " "]
    tail: list[Part] = [" ", *right, " ", ("──", DIM)] if right else []
    used = sum(cell_len(part if isinstance(part, str) else part[0]) for part in (*head, *tail))
    return line(width, *head, ("─" * max(0, width - used), DIM), *tail)


def pad(text: str, width: int) -> str:
    """`text` cut or filled to `width` cells at the right."""
    return set_cell_size(text, max(0, width))


def right(text: str, width: int) -> str:
    """`text` cut at the right or filled to `width` cells at the left."""
    size = cell_len(text)
    return " " * (width - size) + text if size <= width else pad(text, width)


def block(rows: Sequence[Text], width: int, height: int) -> list[Text]:
    """The first `height` rows, with empty ones where there are fewer."""
    blank = height - len(rows)
    return [*rows[:height], *(Text(" " * width) for _ in range(blank))]


def beside(columns: Sequence[Sequence[Text]], gap: int = 2) -> list[Text]:
    """Columns of as many lines each, side by side."""
    return [Text(" " * gap).join(row) for row in zip(*columns, strict=True)]


def wrap(text: str, width: int, height: int) -> list[str]:
    """`text` in at most `height` lines of at most `width` cells, broken at spaces; the rest is an ellipsis."""
    if width < 2 or height < 1:
        return []
    rows: list[str] = []
    row, size = "", 0
    # A line of text never holds more characters than twice its cells, but for those of no width.
    for word in text[: 4 * width * height].split():
        for piece in chop_cells(word, width) if cell_len(word) > width else [word]:
            length = cell_len(piece)
            if row and size + 1 + length > width:
                rows.append(row)
                row, size = "", 0
                if len(rows) > height:
                    break
            row, size = (f"{row} {piece}", size + 1 + length) if row else (piece, length)
    rows += [row] if row else []
    if len(rows) > height:
        rows = [*rows[: height - 1], pad(rows[height - 1], min(width - 1, cell_len(rows[height - 1]))).rstrip() + "…"]
    return rows


def bar(width: int, share: float) -> tuple[str, str]:
    """A bar that is filled to `share` (0 .. 1): what is done of it, and the rest."""
    filled = round(min(1.0, max(0.0, share)) * width)
    return "━" * filled, "╌" * (width - filled)
