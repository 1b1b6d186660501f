"""The two commands at the terminal: one that starts a run apart and shows it, and one that shows another's."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from minisheep import api, loop
from minisheep.errors import MinisheepError
from minisheep.screen.apart import Apart, Work, start
from minisheep.screen.attached import Attached
from minisheep.screen.keys import Terminal
from minisheep.screen.live import Screen, Watched, Why
from minisheep.screen.state import Key, State
from minisheep.store import RunFolder

AT_ONCE = 0.5
"""A run that is over within so many seconds gets no screen."""
HUNG_UP = 128 + signal.SIGHUP


@dataclass(frozen=True, slots=True)
class Shown:
    run: Path
    left: bool
    """Whether the user left while it went on."""
    last_words: tuple[str, ...]
    """What should stay on the terminal when the screen is gone: the warnings, and how it ended."""


def show(work: Work) -> Shown:
    """Start a run apart and show it until it ends or the user leaves. Raises what the run raises.

    Where the terminal is gone this process ends, and the run goes on.
    """
    apart = start(work)
    state = State()
    with _passed_on(apart):
        run = apart.folder()
        if run is not None and not apart.ends_within(AT_ONCE):
            why, state = _screen(RunFolder(Path(run)), apart)
            if why == "left":
                return Shown(Path(run), True, ())
        apart.finish()
    assert run is not None, "a run that ends well has a folder"
    warnings = (f"WARNING: {warning.text}" for warning in state.warnings)
    return Shown(Path(run), False, (*warnings, *([state.ended] if state.ended else [])))


def attach(folder: RunFolder) -> None:
    """Show the run of `folder`, whoever works on it, until the user leaves."""
    _screen(folder, Attached(folder.path))


def _screen(folder: RunFolder, watched: Watched) -> tuple[Why, State]:
    screen = Screen(folder, plan(folder), watched, Terminal(sys.stdin.fileno(), sys.stdout.fileno()))
    why = screen.run()
    if why == "gone":
        raise SystemExit(HUNG_UP)
    return why, screen.state


def plan(folder: RunFolder) -> tuple[Key, ...]:
    """The stages of the whole run; empty where its settings cannot be read."""
    with contextlib.suppress(MinisheepError):
        return tuple((phase.round, phase.name) for phase in loop.phases(api.stored_settings(folder)))
    return ()


@contextlib.contextmanager
def _passed_on(apart: Apart) -> Iterator[None]:
    """Ctrl-C and SIGTERM are for the run, also before and after the screen is there."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda n, _: _pass(apart, n)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _pass(apart: Apart, number: int) -> None:
    apart.signalled(number)
