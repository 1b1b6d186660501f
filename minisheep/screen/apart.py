"""A run in a process of its own, in a session of its own: the terminal can go, and the run goes on.

The process that the user started stays at the terminal and draws; the one that it forks has no terminal and does the
run. A pipe tells the first one where the run is, and in the end how it went; nobody need read it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from minisheep.errors import DiskError, MinisheepError, Stopped, WorkerError, by_name
from minisheep.store import RunFolder

LOG = "loop.log"
"""In the run's scratch folder: what the run's own process printed, which is nothing but faults."""

Work = Callable[[Callable[[str], None]], None]
"""Does the run; calls its argument with the run folder as soon as there is one. Raises `errors.MinisheepError`."""


class Apart:
    """A run that was started apart; see `live.Watched`."""

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
        """Passed on: the run's process stops as it always does, and says so in its events."""
        if not self._reaped:
            os.kill(self.process, number)
        return "Stopping: finishing what is in hand. Once more stops at once." if number == signal.SIGINT else ""

    def folder(self) -> str | None:
        """The run folder, waiting until there is one; None if the run ended before."""
        while True:
            for told in self._told():
                if "run" in told:
                    return str(told["run"])
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
        told = [line for line in self._told() if "run" not in line]
        if not told:
            code = os.waitstatus_to_exitcode(status)
            raise WorkerError(
                f"The run's process ended with code {code}. Everything recorded before is safe.",
                "Give the same command to go on.",
            )
        if "kind" in told[-1]:
            error = by_name(told[-1]["kind"])(told[-1]["message"], told[-1]["fix"])
            error.exit_code = int(told[-1]["exit_code"])
            raise error

    def _told(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._data.split(b"\n")[:-1]]

    def _read(self, seconds: float | None) -> None:
        """Take what is in the pipe, after waiting for it so long (None: as long as it takes)."""
        if self._open and select.select([self._pipe], [], [], seconds)[0]:
            data = os.read(self._pipe, 1 << 16)
            self._data += data
            self._open = bool(data)


def start(work: Work) -> Apart:
    """Do `work` in another process. Nothing in this one may have started a thread."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reading)
        _do(work, writing)
    os.close(writing)
    return Apart(process, reading)


def _do(work: Work, pipe: int) -> NoReturn:
    """The whole life of the run's process."""

    def tell(**what: Any) -> None:
        # Whoever started the run may have left.
        with contextlib.suppress(OSError):
            os.write(pipe, json.dumps(what).encode() + b"\n")

    def started(run: str) -> None:
        _leave_terminal(RunFolder(Path(run)).scratch / LOG)
        tell(run=run)

    def failed(error: MinisheepError) -> None:
        tell(kind=type(error).__name__, message=error.message, fix=error.fix, exit_code=error.exit_code)

    code = 1
    try:
        os.setsid()
        work(started)
        tell(done=True)
        code = 0
    except MinisheepError as error:
        failed(error)
        code = error.exit_code
    except KeyboardInterrupt:
        failed(Stopped("Stopped before anything was begun."))
        code = Stopped.exit_code
    except OSError as error:
        failed(DiskError(f"The system refused: {error}.", "Mend that and give the same command again."))
        code = DiskError.exit_code
    except BaseException as error:
        traceback.print_exc()
        failed(WorkerError(f"minisheep failed: {type(error).__name__}: {error}.", f"See scratch/{LOG} in the run."))
    finally:
        os._exit(code)


def _leave_terminal(log: Path) -> None:
    """From here on nothing that this process prints can reach the screen."""
    nothing = os.open(os.devnull, os.O_RDWR)
    try:
        written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError:
        written = nothing
    for number, target in ((0, nothing), (1, written), (2, written)):
        os.dup2(target, number)
