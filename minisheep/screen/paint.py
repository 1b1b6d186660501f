"""Frames onto the terminal: only the lines that changed are written."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text


class Painter:
    """Turns frames into what a terminal must be sent. `console` says which colours it knows."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lines: list[str] = []
        self._size = (0, 0)

    def forget(self) -> None:
        """The terminal no longer shows what was painted."""
        self._size = (0, 0)

    def paint(self, frame: Text, width: int, height: int) -> str:
        """What makes a terminal of this size show `frame`, after what was painted before."""
        self._console.width = width
        with self._console.capture() as caught:
            self._console.print(frame, no_wrap=True, overflow="crop", end="")
        lines = caught.get().split("\n")
        same = (width, height) == self._size
        before = self._lines if same else []
        self._lines, self._size = lines, (width, height)
        parts = [] if same else ["\x1b[0m\x1b[2J"]
        for number, line in enumerate(lines[:height]):
            if number >= len(before) or before[number] != line:
                # Emptied first, since a character may be wider or narrower here than rich believes.
                parts.append(f"\x1b[{number + 1};1H\x1b[K{line}")
        return "".join(parts)
