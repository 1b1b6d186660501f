"""The loop of the screen: read what is new, draw at most four times a second, obey keys and signals."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal, Protocol

from rich.console import Console

from minisheep import api
from minisheep.machine.system import Gauge
from minisheep.run.folder import RunFolder
from minisheep.terminal.screen_charts import Painter
from minisheep.terminal.screen_draw import draw
from minisheep.terminal.screen_state import Follow, Look, State, fold

ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
"""The other buffer, no cursor, no wrapping of long lines, empty."""
USUAL = (80, 24)
LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.|.)?")
"""What arrows and function keys send; none of them is used."""


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
            size = os.get_terminal_size(self._display)
        except OSError:
            return USUAL
        return (size.columns, size.lines) if size.columns and size.lines else USUAL

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


DRAW_SECONDS = 0.25
"""Least time between two drawings, except after a key."""
SHARE = 0.02
"""Share of a core's time that drawing may take: slow drawings come less often."""
MESSAGE_SECONDS = 4.0
"""How long the answer to a key is shown."""

Why = Literal["left", "ended", "gone"]
"""The user left; what was watched ended; the terminal is gone."""


class Watched(Protocol):
    """The run that a screen is about, be it this command's or another's."""

    def look(self) -> bool:
        """Whether somebody works on it. Called every quarter of a second."""
        ...

    @property
    def over(self) -> bool:
        """Whether the screen has no more to wait for."""
        ...

    @property
    def wake(self) -> int | None:
        """A file descriptor that can be read when `over` may have changed."""
        ...

    def signalled(self, number: int) -> str:
        """Ctrl-C or SIGTERM came; what to tell the user, if anything."""
        ...


class LiveScreen:
    """One screen on one terminal. `run` returns when it is over; the terminal is then as it was."""

    def __init__(self, folder: RunFolder, watched: Watched, terminal: Terminal) -> None:
        self._folder, self._watched, self._terminal = folder, watched, terminal
        self.state = State(run=str(folder.path), outlook=api.outlook(folder))
        """As it was drawn last."""
        self._follow = Follow(folder)
        self._painter = Painter(Console(highlight=False, force_terminal=True))
        self._gauge = Gauge()
        self._look = Look()
        self._message_until = 0.0
        self._signals: list[int] = []
        self._next, self._drawn = 0.0, (0, State(), Look(), (0, 0))

    def run(self) -> Why:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP)
        before = {number: signal.signal(number, lambda n, _: self._signals.append(n)) for number in numbers}
        try:
            with self._terminal:
                return self._loop()
        finally:
            self._gauge.close()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _loop(self) -> Why:
        while True:
            alive = self._watched.look()
            over = self._watched.over
            phase = self.state.now
            for at, event in self._follow.new():
                self.state = fold(self.state, event, at)
            if phase != self.state.now is not None:
                # The model is known by now, and the phase before has left its time.
                self.state = replace(self.state, outlook=api.outlook(self._folder))
            if over:
                return "ended"
            text = self._look.message if time.monotonic() < self._message_until else ""
            self._look = replace(
                self._look, alive=alive, message=text, pausing=self._folder.pause.exists(), machine=self._gauge.read()
            )
            self._draw()
            pressed = self._terminal.keys(DRAW_SECONDS, self._watched.wake)
            if pressed is None or signal.SIGHUP in self._signals:
                return "gone"
            self._obey_signals()
            for key in pressed:
                if key in "qQ":
                    return "left"
                self._obey(key)

    def _draw(self) -> None:
        now = time.time()
        clock = int(now) if self._look.alive and not self.state.outcome else 0
        size = self._terminal.size()
        inputs = (clock, self.state, self._look, size)
        if inputs == self._drawn or (time.monotonic() < self._next and size == self._drawn[3]):
            return
        begun = time.thread_time()
        frame = draw(self.state, *size, now, self._look)
        self._terminal.write(self._painter.paint(frame, *size))
        self._drawn = inputs
        self._next = time.monotonic() + max(DRAW_SECONDS, (time.thread_time() - begun) / SHARE)

    def _obey(self, key: str) -> None:
        if key in "?hH":
            self._look = replace(self._look, help=not self._look.help)
        elif key in "pP":
            self._show_message(self._toggle_pause())
        else:
            return
        self._next = 0.0

    def _toggle_pause(self) -> str:
        """Ask for a pause, or lift it; returns why that failed, or an empty text."""
        if not self._look.alive:
            return "The run is not running, so there is nothing to pause."
        try:
            if self._folder.pause.exists():
                self._folder.pause.unlink(missing_ok=True)
            else:
                self._folder.pause.touch()
        except OSError as error:
            return f"The run cannot be paused from here: {error.strerror}."
        self._look = replace(self._look, pausing=self._folder.pause.exists())
        return ""

    def _obey_signals(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            if number == signal.SIGTSTP:
                self._suspend()
            else:
                self._show_message(self._watched.signalled(number))

    def _suspend(self) -> None:
        """Ctrl-Z: this process stops until ``fg``; the run, which is another, goes on."""
        with self._terminal.suspended():
            handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTSTP)
            signal.signal(signal.SIGTSTP, handler)
        self._painter.forget()
        self._next, self._drawn = 0.0, (0, State(), Look(), (0, 0))

    def _show_message(self, text: str) -> None:
        if text:
            self._look = replace(self._look, message=text)
            self._message_until = time.monotonic() + MESSAGE_SECONDS
            self._next = 0.0
