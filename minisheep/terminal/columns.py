"""Columns as lines for a terminal of any width. Pure; whatever shows a table may import it at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len

GAP = "  "


@dataclass(frozen=True, slots=True)
class Column:
    title: tuple[str, ...]
    cells: list[str]
    right: bool = True

    @property
    def width(self) -> int:
        return max(map(cell_len, (*self.title, *self.cells)), default=0)


def laid_out(index: Sequence[Column], columns: Sequence[Column], width: int) -> list[str]:
    """The table's lines, no wider than `width` wherever a single column beside the index allows it."""
    taken = sum(column.width + len(GAP) for column in index)
    blocks: list[list[Column]] = [[]]
    room = width - taken
    for column in columns:
        if blocks[-1] and column.width > room:
            blocks.append([])
            room = width - taken
        blocks[-1].append(column)
        room -= column.width + len(GAP)
    lines: list[str] = []
    for block in blocks:
        lines += [""] if lines else []
        lines += _lines([*index, *block])
    return lines


def _lines(columns: Sequence[Column]) -> list[str]:
    """Headings, which end on the same line, then rows; nothing behind the last word."""
    height = max(len(column.title) for column in columns)
    rows = [
        *zip(*(("",) * (height - len(column.title)) + column.title for column in columns), strict=True),
        *zip(*(column.cells for column in columns), strict=True),
    ]
    return [GAP.join(_padded(text, column) for text, column in zip(row, columns, strict=True)).rstrip() for row in rows]


def _padded(text: str, column: Column) -> str:
    space = " " * (column.width - cell_len(text))
    return space + text if column.right else text + space
