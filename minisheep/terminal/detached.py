"""A run in its own process and session, which goes on without the terminal; and the screen of such a run.

The process that the user started stays at the terminal and draws; the one that it forks has no terminal and does the
run. A pipe tells the first one where the run folder is, and at the end how the run ended; it need not be read.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from minisheep.errors import DiskError, MinisheepError, Stopped, WorkerError, by_name
from minisheep.machine.worker import on_stop
from minisheep.run.folder import RunFolder
from minisheep.run.run_state import holder
from minisheep.terminal import words
from minisheep.terminal.live_screen import LiveScreen, Terminal, Watched, Why
from minisheep.terminal.screen_state import State

LOG = "loop.log"
"""In the run's scratch folder: what the run's process printed, which is only faults."""

Work = Callable[[Callable[[str], None]], None]
"""Does the run; calls its argument with the run folder as soon as there is one. Raises `errors.MinisheepError`."""


class DetachedRun:
    """A run that was started in its own process; see `terminal.live_screen.Watched`."""

    def __init__(self, process: int, pipe: int) -> None:
        self.process, self._pipe = process, pipe
        self._data = b""
        self._open = True
        self._reaped = False

    @property
    def wake(self) -> int | None:
        return self._pipe if self._open else None

    @property
    def over(self) -> bool:
        return not self._open

    def look(self) -> bool:
        self._read(0.0)
        return self._open

    def signalled(self, number: int) -> str:
        """Pass the signal on: the run's process stops as it always does, and says so in its events."""
        if not self._reaped:
            os.kill(self.process, number)
        return words.STOPPING if number == signal.SIGINT else ""

    def folder(self) -> str | None:
        """The run folder, waiting until there is one; None if the run ended before."""
        while True:
            for message in self._messages():
                if "run" in message:
                    return str(message["run"])
            if not self._open:
                return None
            self._read(None)

    def ends_within(self, seconds: float) -> bool:
        self._read(seconds)
        return self.over

    def finish(self) -> None:
        """Wait for the end. Raises the error that the run ended with."""
        while self._open:
            self._read(None)
        _, status = os.waitpid(self.process, 0)
        self._reaped = True
        os.close(self._pipe)
        messages = [line for line in self._messages() if "run" not in line]
        if not messages:
            code = os.waitstatus_to_exitcode(status)
            raise WorkerError(
                f"The run's process ended with code {code}. Everything recorded before is safe.",
                "Give the same command to go on.",
            )
        if "kind" in messages[-1]:
            error = by_name(messages[-1]["kind"])(messages[-1]["message"], messages[-1]["fix"])
            error.exit_code = int(messages[-1]["exit_code"])
            raise error

    def _messages(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._data.split(b"\n")[:-1]]

    def _read(self, seconds: float | None) -> None:
        """Take what is in the pipe, after waiting at most `seconds` for it (None: without limit)."""
        if self._open and select.select([self._pipe], [], [], seconds)[0]:
            data = os.read(self._pipe, 1 << 16)
            self._data += data
            self._open = bool(data)


def start(work: Work) -> DetachedRun:
    """Do `work` in another process. Nothing in this one may have started a thread."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reading)
        _do(work, writing)
    os.close(writing)
    return DetachedRun(process, reading)


def _do(work: Work, pipe: int) -> NoReturn:
    """The whole life of the run's process."""

    def send(**what: Any) -> None:
        # The process that started the run may be gone.
        with contextlib.suppress(OSError):
            os.write(pipe, json.dumps(what).encode() + b"\n")

    def started(run: str) -> None:
        _leave_terminal(RunFolder(Path(run)).scratch / LOG)
        send(run=run)

    def failed(error: MinisheepError) -> None:
        send(kind=type(error).__name__, message=error.message, fix=error.fix, exit_code=error.exit_code)

    code = 1
    try:
        os.setsid()
        work(started)
        send(done=True)
        code = 0
    except MinisheepError as error:
        failed(error)
        code = error.exit_code
    except KeyboardInterrupt:
        failed(Stopped("Stopped before anything was begun."))
        code = Stopped.exit_code
    except OSError as error:
        failed(DiskError(f"The system refused: {error}.", "Fix this and give the same command again."))
        code = DiskError.exit_code
    except BaseException as error:
        traceback.print_exc()
        failed(WorkerError(f"minisheep failed: {type(error).__name__}: {error}.", f"See scratch/{LOG} in the run."))
    finally:
        os._exit(code)


def _leave_terminal(log: Path) -> None:
    """Keep everything that this process prints off the screen."""
    nothing = os.open(os.devnull, os.O_RDWR)
    try:
        written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError:
        written = nothing
    for number, target in ((0, nothing), (1, written), (2, written)):
        os.dup2(target, number)


LOOK_SECONDS = 1.0


class Attached:
    """A run that another process does; see `terminal.live_screen.Watched`. It is shown until the user leaves."""

    over = False
    wake: int | None = None

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._looked, self._holder = float("-inf"), holder(folder)

    def look(self) -> bool:
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked, self._holder = time.monotonic(), holder(self._folder)
        return self._holder is not None

    def signalled(self, number: int) -> str:
        """Ctrl-C stops the run, as on the screen of the command that started it; SIGTERM is meant for the screen."""
        if number == signal.SIGTERM:
            raise SystemExit(128 + number)
        if self._holder is None:
            return "It is not running. q leaves."
        return self._holder.ask() or words.STOPPING


AT_ONCE = 0.5
"""Seconds; a run that ends sooner gets no screen."""
HUNG_UP = 128 + signal.SIGHUP


@dataclass(frozen=True, slots=True)
class Shown:
    run: Path
    left: bool
    """Whether the user left while it went on."""
    last_words: tuple[str, ...]
    """What should stay on the terminal when the screen is gone: the warnings, and how it ended."""


def show(work: Work) -> Shown:
    """Start a run in its own process and show it until it ends or the user leaves. Raises what the run raises.

    If the terminal is gone, this process ends and the run goes on.
    """
    detached = start(work)
    state = State()
    # For the run, also before and after the screen is there.
    with on_stop(detached.signalled):
        run = detached.folder()
        if run is not None and not detached.ends_within(AT_ONCE):
            why, state = _screen(RunFolder(Path(run)), detached)
            if why == "left":
                return Shown(Path(run), True, ())
        detached.finish()
    assert run is not None, "a run that ends well has a folder"
    warnings = (f"WARNING: {warning.text}" for warning in state.warnings)
    return Shown(Path(run), False, (*warnings, *([state.ended] if state.ended else [])))


def attach(folder: RunFolder) -> None:
    """Show the run of `folder`, which any process may be doing, until the user leaves."""
    _screen(folder, Attached(folder.path))


def _screen(folder: RunFolder, watched: Watched) -> tuple[Why, State]:
    screen = LiveScreen(folder, watched, Terminal(sys.stdin.fileno(), sys.stdout.fileno()))
    why = screen.run()
    if why == "gone":
        raise SystemExit(HUNG_UP)
    return why, screen.state
