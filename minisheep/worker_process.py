"""One worker process as its parent sees it: jobs go in, events come out, and its death is explained."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from minisheep.errors import Stopped, WorkerError, by_name
from minisheep.events import Emit, Failed, JobDone, from_dict
from minisheep.loop import Phase

TICK_SECONDS = 0.5


class WorkerProcess:
    """A started ``python -m minisheep.worker`` (see there), or a `module` that speaks as it does.

    What it prints goes to `log`; it inherits `lock`, if it is given one.
    """

    def __init__(self, log: Path, lock: int | None, module: str = "minisheep.worker") -> None:
        self._log = log
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
        with open(log, "ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                pass_fds=() if lock is None else (lock,),
                start_new_session=True,
                env=environment,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def do(self, job: dict[str, object], phase: Phase, emit: Emit, tick: Callable[[], None]) -> None:
        """Have a job done, telling its events. `tick` is called at least twice a second.

        Raises the error that the job raised, or `errors.WorkerError` if the worker died.
        """
        self.send(json.dumps(job))
        assert self._process.stdout is not None
        handle = self._process.stdout.fileno()
        pending = b""
        with selectors.DefaultSelector() as selector:
            selector.register(handle, selectors.EVENT_READ)
            while True:
                tick()
                if not selector.select(TICK_SECONDS):
                    continue
                data = os.read(handle, 1 << 16)
                if not data:
                    raise self._died(phase)
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    event = from_dict(json.loads(line))
                    if isinstance(event, Failed):
                        if event.kind == "WorkerError":
                            raise WorkerError(event.message, self._way_on())
                        raise by_name(event.kind)(event.message, event.fix)
                    if isinstance(event, JobDone):
                        return
                    emit(event)

    def send(self, line: str) -> None:
        """Safe to call from a signal handler."""
        if self._process.stdin is not None:
            # A dead worker is noticed, and explained, where its events are read.
            with contextlib.suppress(BrokenPipeError, ValueError):
                data = line.encode() + b"\n"
                while data:
                    # A signal may cut a write short.
                    data = data[os.write(self._process.stdin.fileno(), data) :]

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()

    def close(self) -> None:
        """Let it end by itself, which frees its memory, or kill it after ten seconds."""
        self.send(json.dumps({"phase": "quit"}))
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.wait()

    def _died(self, phase: Phase) -> WorkerError:
        code = self._process.wait()
        if code < 0:
            with contextlib.suppress(ValueError):
                reason = f"ended by {signal.Signals(-code).name}"
                if -code == signal.SIGKILL:
                    reason += " (often: the system ran out of memory)"
                return WorkerError(f"The worker was {reason} in round {phase.round}, {phase.name}.", self._way_on())
        return WorkerError(f"The worker ended with code {code} in round {phase.round}, {phase.name}.", self._way_on())

    def _way_on(self) -> str:
        return (
            f"Everything recorded before is safe: give the same command to go on. What it said last is in {self._log}."
        )


@contextlib.contextmanager
def stoppable(message: str, fix: str = "") -> Iterator[None]:
    """Ctrl-C and SIGTERM end the work at once, with `errors.Stopped`; for work that leaves nothing half done."""

    def stop(number: int, _frame: object) -> None:
        stopped = Stopped(message, fix)
        stopped.exit_code = 128 + number
        raise stopped

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
