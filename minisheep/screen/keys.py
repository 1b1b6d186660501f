"""The terminal as a screen: keys as they are pressed, the other buffer, and everything given back at the end."""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
import termios
import tty
from collections.abc import Iterator
from typing import Any

ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
"""The other buffer, no cursor, no wrapping of long lines, empty."""
USUAL = (80, 24)
LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.|.)?")
"""What arrows and function keys send, which is no key of ours."""


def usable() -> bool:
    """Whether stdin and stdout are a terminal that this process may read from and draw on."""
    try:
        return sys.stdout.isatty() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):  # no terminal, or no stdin at all
        return False


class Terminal:
    """A terminal on two file descriptors. Use it as a context, inside which `suspended` gives it back for a while."""

    def __init__(self, keyboard: int, display: int) -> None:
        self._keyboard, self._display = keyboard, display
        self._before: list[Any] | None = None

    def __enter__(self) -> Terminal:
        self._take()
        return self

    def __exit__(self, *_: object) -> None:
        self._give_back()

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """The terminal as it was before, for as long as the block takes."""
        self._give_back()
        try:
            yield
        finally:
            self._take()

    def size(self) -> tuple[int, int]:
        """Columns and lines; the usual ones where the terminal does not tell."""
        try:
            found = os.get_terminal_size(self._display)
        except OSError:
            return USUAL
        return (found.columns, found.lines) if found.columns and found.lines else USUAL

    def keys(self, seconds: float, also: int | None = None) -> str | None:
        """What was pressed within `seconds`, or earlier if `also` can be read; None if the keyboard is gone."""
        watched = [self._keyboard] if also is None else [self._keyboard, also]
        ready, _, _ = select.select(watched, [], [], seconds)
        if self._keyboard not in ready:
            return ""
        try:
            data = os.read(self._keyboard, 1024)
        except OSError:
            return None
        return _SEQUENCE.sub("", data.decode("ascii", "replace")) if data else None

    def write(self, text: str) -> None:
        """All of `text`; nothing of it if the display is gone."""
        data = text.encode("utf-8", "replace")
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(self._display, data) :]

    def _take(self) -> None:
        self._before = termios.tcgetattr(self._keyboard)
        # Not raw: Ctrl-C and Ctrl-Z stay signals.
        tty.setcbreak(self._keyboard, termios.TCSANOW)
        self.write(ENTER)

    def _give_back(self) -> None:
        if self._before is not None:
            self.write(LEAVE)
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._keyboard, termios.TCSANOW, self._before)
            self._before = None
