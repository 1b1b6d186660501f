"""Warnings, which stay, and the newest other lines. Pure."""

from __future__ import annotations

import time

from rich.text import Text

from minisheep.screen.lines import DIM, STRONG, WARN, Part, clean, line, title, wrap
from minisheep.screen.state import Said, State


def said(state: State, width: int, height: int) -> list[Text]:
    """A title, the newest warnings in at least half of the lines, and under them the newest other lines."""
    warnings, others = list(reversed(state.warnings)), list(reversed(state.said))
    if height < 1 or not (warnings or others):
        return []
    named: list[Part] = [(f"{len(warnings)} warning{'s' * (len(warnings) != 1)}", WARN)] if warnings else []
    rows = [title(width, "what was said", named)]
    room = height - 1
    for_warnings = room if not others else max(1, room * 2 // 3)
    for warning in warnings:
        if len(rows) - 1 >= for_warnings:
            break
        rows += _lines(warning, width, min(2, for_warnings - len(rows) + 1), WARN)
    for other in others:
        if len(rows) >= height:
            break
        rows += _lines(other, width, 1, "")
    return rows


def _lines(found: Said, width: int, height: int, style: str) -> list[Text]:
    clock = time.strftime("%H:%M", time.localtime(found.at))
    again = f" ({found.times} times)" if found.times > 1 else ""
    rows = wrap(clean(found.text, 600) + again, width - 9, height)
    return [
        line(width, (f" {clock if number == 0 else '     '} ", DIM), ("! " if style and number == 0 else "  ", STRONG),
             (row, style))
        for number, row in enumerate(rows)
    ]  # fmt: skip
