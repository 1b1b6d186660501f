"""Where phases run: in a worker process (the rule), or in this one (tests, and notebooks on the fake engine)."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from minisheep.errors import Stopped, WorkerError, by_name
from minisheep.events import Emit, Failed, JobDone, from_dict
from minisheep.loop import Phase
from minisheep.store import RunFolder
from minisheep.worker import Desk

ALONE = frozenset({"prepare", "train"})
"""Phases that get a worker of their own: nothing else holds memory while they run, and all of theirs is given back."""

TICK_SECONDS = 0.5
LOG_TAIL = 2000


def job_for(folder: RunFolder, phase: Phase) -> dict[str, object]:
    return {"run": str(folder.path), "round": phase.round, "phase": phase.name}


class InlineHost:
    """Runs phases in this process."""

    def __init__(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        self._desk = Desk()
        self._should_stop = should_stop

    def run(self, folder: RunFolder, phase: Phase, emit: Emit) -> None:
        self._desk.do(job_for(folder, phase), emit, self._should_stop)

    def close(self) -> None:
        self._desk.close()


class WorkerHost:
    """Runs phases in worker processes, one at a time.

    `lock` is the handle of the run's lock: workers inherit it, so the run stays locked until the last of them is gone.
    `tick` is called at least twice a second while a worker is busy.
    """

    def __init__(self, lock: int, tick: Callable[[], None] = lambda: None) -> None:
        self._lock = lock
        self._tick = tick
        self._worker: subprocess.Popen[bytes] | None = None
        self._log: Path | None = None
        self._stopping = False

    def run(self, folder: RunFolder, phase: Phase, emit: Emit) -> None:
        """Raises the error that the phase raised, or `errors.WorkerError` if the worker died."""
        if self._stopping:
            raise Stopped(f"Stopped before round {phase.round}, {phase.name}; everything made so far is safe.")
        if phase.name in ALONE:
            self.close()
        worker = self._worker or self._start(folder)
        self._send(json.dumps(job_for(folder, phase)))
        try:
            self._follow(worker, phase, emit)
        except BaseException:
            # After a failure nothing is known of the worker's state; a clean stop ends it too.
            self._kill()
            raise
        if phase.name in ALONE:
            self.close()

    def stop(self) -> None:
        """Ask the worker to finish its record and end. Safe to call from a signal handler."""
        self._stopping = True
        self._send("stop")

    def kill(self) -> None:
        """End the worker at once; what it acknowledged is safe."""
        if self._worker is not None and self._worker.poll() is None:
            self._worker.kill()

    def close(self) -> None:
        """Let the worker end by itself, which frees its memory."""
        if self._worker is None:
            return
        self._send(json.dumps({"phase": "quit"}))
        try:
            self._worker.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._worker.kill()
        self._forget()

    def _start(self, folder: RunFolder) -> subprocess.Popen[bytes]:
        self._log = folder.scratch / "worker.log"
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
        with open(self._log, "ab") as log:
            self._worker = subprocess.Popen(
                [sys.executable, "-m", "minisheep.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=(self._lock,),
                start_new_session=True,
                env=environment,
            )
        return self._worker

    def _send(self, line: str) -> None:
        worker = self._worker
        if worker is not None and worker.stdin is not None:
            # A dead worker is noticed, and explained, where its events are read.
            with contextlib.suppress(BrokenPipeError, ValueError):
                os.write(worker.stdin.fileno(), line.encode() + b"\n")

    def _follow(self, worker: subprocess.Popen[bytes], phase: Phase, emit: Emit) -> None:
        assert worker.stdout is not None
        handle = worker.stdout.fileno()
        pending = b""
        with selectors.DefaultSelector() as selector:
            selector.register(handle, selectors.EVENT_READ)
            while True:
                self._tick()
                if not selector.select(TICK_SECONDS):
                    continue
                data = os.read(handle, 1 << 16)
                if not data:
                    raise self._died(worker, phase)
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

    def _died(self, worker: subprocess.Popen[bytes], phase: Phase) -> WorkerError:
        code = worker.wait()
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

    def _kill(self) -> None:
        self.kill()
        self._forget()

    def _forget(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            for pipe in (worker.stdin, worker.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
            worker.wait()


class SignalledStop:
    """First Ctrl-C (or SIGTERM): finish the record and stop. Second: stop at once. Restores the handlers on exit."""

    def __init__(self, host: WorkerHost, tell: Callable[[str], None]) -> None:
        self._host, self._tell = host, tell
        self.signal = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> SignalledStop:
        # Only the main thread may set handlers; a notebook's own thread keeps what it has.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        if isinstance(error, Stopped) and self.signal:
            error.exit_code = 128 + self.signal

    def _handle(self, number: int, _frame: object) -> None:
        if self.signal:
            self._host.kill()
            raise Stopped("Stopped at once. Everything acknowledged is on disk.", "Give the same command to go on.")
        self.signal = number
        self._tell("Stopping: finishing what is in hand. Once more stops at once.")
        self._host.stop()
