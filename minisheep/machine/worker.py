"""Work in a process of its own, by one protocol: jobs go in, events come out, and a death is explained.

The child is ``python -m minisheep.machine.worker MODULE:NAME``. It owns its model (and the GPU's memory) alone, so both
are given back when it ends, and a crash in native code costs one worker and not the run. Each line of its stdin is a
job, ``stop`` (finish the present record and end) or ``quit``. The end of stdin means that the parent is gone, however
it went: the worker ends at once, since whoever continues the run starts another.

MODULE:NAME is the handler: a function of a job, `emit` and `should_stop`, which may return facts; or a class whose
objects have that function as `do`, keep what it loads from one job to the next, and give it back in `close`. A job is a
JSON-ready dictionary; its ``phase`` names it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from minisheep.errors import DiskError, MinisheepError, Stopped, TimeUpError, WorkerError, by_name
from minisheep.machine.gpu import worker_variables
from minisheep.run.events import Emit, Event, Failed, JobDone, Note, Paused, from_dict, to_dict

TICK_SECONDS = 0.5
QUIT_SECONDS = 10.0
"""How long a worker may take to end by itself."""
STOP, QUIT = b"stop", b"quit"
SILENT_SECONDS = 120.0
"""Without an event, after which a worker is reported, and again after twice as long each time;"""
HALTED_SECONDS = 5.0
"""so soon if the system holds it (SIGSTOP): it will never say anything."""
STOP_SECONDS = 60.0
"""Without an event since the user asked to stop, after which it is ended. What it acknowledged is safe."""

Facts = dict[str, Any]
Do = Callable[[dict[str, Any], Emit, Callable[[], bool]], Facts | None]


class Silence:
    """When a worker that says nothing is reported, and when it is ended. Pure: times in seconds of one clock."""

    def __init__(self, now: float) -> None:
        self.heard_of(now)

    def heard_of(self, now: float, *, paused: bool = False) -> None:
        """An event came; in a pause none need come."""
        self.heard, self.paused = now, paused
        self._told = 0.0

    def verdict(self, now: float, asked: float | None, *, halted: bool) -> str:
        """``tell``, ``end`` or nothing. `asked`: when the user asked to stop; `halted`: whether the system holds it."""
        since = now - self.heard
        if asked is not None and now - max(asked, self.heard) >= (HALTED_SECONDS if halted else STOP_SECONDS):
            return "end"
        limit = max(2 * self._told, HALTED_SECONDS if halted else SILENT_SECONDS)
        if self.paused or since < limit:
            return ""
        self._told = since
        return "tell"


def halted(pid: int, proc: Path = Path("/proc")) -> bool:
    """Whether the system holds a process (SIGSTOP, a debugger); False where that cannot be told."""
    try:
        return (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] in ("T", "t")
    except (OSError, IndexError):
        return False


class WorkerProcess:
    """A started worker as its parent sees it; it inherits `handle`, of a lock or a listening socket, if there is one.

    What it prints goes to `log`, the file of a run that can go on; its folder is made where it is missing, since a
    copied run may lack it. Without a log only the last line counts, where it explains the worker's death. `died` is the
    error that a death raises. As a context manager, it ends the worker on the way out: at once after an error.
    """

    def __init__(
        self, handler: str, log: Path | None = None, handle: int | None = None, died: type[MinisheepError] = WorkerError
    ) -> None:
        self._died = died
        self._asked: float | None = None
        """When the user asked to stop."""
        self._kept = log is not None
        self._fix = "Give the same command again, or report it."
        if log is not None:
            self._fix = (
                f"Everything recorded before is safe: give the same command to go on. Its last words are in {log}."
            )
            log.parent.mkdir(parents=True, exist_ok=True)
        self._log = open(log, "ab") if log is not None else tempfile.TemporaryFile("a+b")  # noqa: SIM115  # see close
        self._process = subprocess.Popen(
            [sys.executable, "-m", "minisheep.machine.worker", handler],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            pass_fds=() if handle is None else (handle,),
            start_new_session=True,
            env={
                **os.environ,
                **worker_variables(os.environ),
                "TOKENIZERS_PARALLELISM": "false",
                "PYTHONUNBUFFERED": "1",
            },
        )

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self.kill()
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended_by(self) -> int:
        """The number of the signal that ended it; 0 where it still runs, or ended otherwise."""
        code = self._process.poll()
        return -code if code is not None and code < 0 else 0

    def do(
        self,
        job: dict[str, Any],
        doing: str,
        emit: Emit = lambda event: None,
        tick: Callable[[], None] = lambda: None,
        seconds: float = float("inf"),
    ) -> Facts:
        """Have a job done and `emit` its events. Returns the facts that the handler returned.

        `doing` begins the sentence about a death. `tick` is called at least twice a second. Raises the error that the
        job raised, `errors.TimeUpError` after `seconds`, or the error of a death if the worker died or failed.
        """
        self.send(json.dumps(job))
        ends = time.monotonic() + seconds
        silence = Silence(time.monotonic())
        assert self._process.stdout is not None
        handle = self._process.stdout.fileno()
        pending = b""
        with selectors.DefaultSelector() as selector:
            selector.register(handle, selectors.EVENT_READ)
            while True:
                tick()
                left = ends - time.monotonic()
                if left <= 0:
                    raise TimeUpError(f"{doing} did not end within {seconds:.0f} s.")
                if not selector.select(min(left, TICK_SECONDS)):
                    self._look(silence, doing, emit)
                    continue
                data = os.read(handle, 1 << 16)
                if not data:
                    raise self._died(f"{doing} failed: its process {self._death()}.", self._fix)
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    event = from_dict(json.loads(line))
                    silence.heard_of(time.monotonic(), paused=isinstance(event, Paused) and event.paused)
                    if isinstance(event, Failed):
                        if event.kind == WorkerError.__name__:
                            raise self._died(event.message, self._fix)
                        raise by_name(event.kind)(event.message, event.fix)
                    if not isinstance(event, JobDone):
                        emit(event)
                    elif event.job == job["phase"]:  # and not a warm-up that nobody waited for
                        return event.facts

    def _look(self, silence: Silence, doing: str, emit: Emit) -> None:
        """Report, or end, a worker that has said nothing for long. Raises `errors.Stopped` for one that it ended."""
        now, held = time.monotonic(), halted(self.pid)
        verdict = silence.verdict(now, self._asked, halted=held)
        if verdict == "tell":
            freed = f"The system holds it: `kill -CONT {self.pid}` lets it go on"
            why = freed if held else "It may be busy with something long"
            emit(Note(
                f"{doing}: nothing heard of its process {self.pid} for {now - silence.heard:.0f} s. {why}; Ctrl-C stops"
                " it, and everything recorded is safe.",
                "warning",
            ))  # fmt: skip
        elif verdict == "end":
            self.kill()
            raise Stopped(
                f"Stopped. The process of {doing[0].lower()}{doing[1:]} did not answer and was ended; everything"
                " recorded before is on disk."
            )

    def send(self, line: str) -> None:
        """A job, ``stop`` or ``quit``. Safe to call from a signal handler."""
        if line == STOP.decode():
            self._asked = time.monotonic()
        if self._process.stdin is not None:
            # A dead worker is noticed, and explained, where its events are read.
            with contextlib.suppress(BrokenPipeError, ValueError):
                data = line.encode() + b"\n"
                while data:
                    # A signal may cut a write short.
                    data = data[os.write(self._process.stdin.fileno(), data) :]

    def kill(self) -> None:
        """End it at once, with whatever it started. Safe to call from a signal handler."""
        # The group may outlive its leader, so it is ended even where that is gone.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Let it end by itself, which frees its memory, or kill it after `QUIT_SECONDS`; what it started ends too."""
        self.send(QUIT.decode())
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(QUIT_SECONDS)
        self.kill()
        for file in (self._process.stdin, self._process.stdout, self._log):
            if file is not None:
                with contextlib.suppress(OSError):
                    file.close()
        self._process.wait()

    def _death(self) -> str:
        """How it ended, for a sentence."""
        code = self._process.wait()
        death = f"ended with code {code}"
        if code < 0:
            with contextlib.suppress(ValueError):
                death = f"was ended by {signal.Signals(-code).name}"
        if -code == signal.SIGKILL:
            death += " (often: the system ran out of memory)"
        if self._kept:
            return death
        self._log.seek(0)
        return f"{death}: {last_line(self._log.read()) or 'it printed nothing'}"


@contextlib.contextmanager
def stoppable(message: str, fix: str = "") -> Iterator[None]:
    """Ctrl-C and SIGTERM end the work at once, with `errors.Stopped`; for work that leaves nothing half done."""

    def stop(number: int) -> None:
        stopped = Stopped(message, fix)
        stopped.exit_code = 128 + number
        raise stopped

    with on_stop(stop):
        yield


@contextlib.contextmanager
def on_stop(stop: Callable[[int], object]) -> Iterator[None]:
    """Ctrl-C and SIGTERM call `stop` with their number meanwhile. Only the main thread can have that; in another, such
    as a notebook's own, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, _frame: stop(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def last_line(output: bytes) -> str:
    """What a process printed last, for the message about its end; empty where that is nothing."""
    lines = output.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else ""


def load(handler: str) -> tuple[Do, Callable[[], None]]:
    """The `do` and `close` of the handler called ``module:name``."""
    module, _, name = handler.partition(":")
    function_or_class = getattr(importlib.import_module(module), name)
    if not isinstance(function_or_class, type):
        return function_or_class, lambda: None
    worker: Any = function_or_class()
    return worker.do, worker.close


def main(handler: str) -> NoReturn:
    # Libraries print what they like; stdout is for events alone.
    events = os.dup(1)
    os.dup2(2, 1)
    # The terminal's Ctrl-C is the parent's to interpret.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stopping = threading.Event()
    jobs: queue.Queue[bytes] = queue.Queue()
    writing = threading.Lock()

    def emit(event: Event) -> None:
        line = json.dumps(to_dict(event), separators=(",", ":")).encode() + b"\n"
        with writing:
            while line:
                line = line[os.write(events, line) :]

    def listen() -> None:
        pending = b""
        # Read without Python's buffer: its lock would be held by this thread when the process ends.
        while data := os.read(0, 1 << 16):
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                if line == STOP:
                    stopping.set()
                else:
                    jobs.put(line)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    do, close = load(handler)
    while (line := jobs.get()) != QUIT:
        emit(outcome(do, json.loads(line), emit, stopping.is_set))
    close()
    # Not by return: native libraries may crash while they are torn down, torch dismantles itself slowly, and the next
    # phase waits for this process's memory.
    os._exit(0)


def outcome(do: Do, job: dict[str, Any], emit: Emit, should_stop: Callable[[], bool]) -> Failed | JobDone:
    """Do a job. Returns the event that ends it."""
    try:
        return JobDone(job["phase"], do(job, emit, should_stop) or {})
    except MinisheepError as error:
        return Failed(type(error).__name__, error.message, error.fix)
    except OSError as error:
        traceback.print_exc()
        return Failed(DiskError.__name__, f"The system refused: {error}.", "Fix this and give the same command again.")
    except Exception as error:
        # A fault of minisheep or of a library. Its traceback is in the worker's log, and the run stays whole.
        traceback.print_exc()
        return Failed(WorkerError.__name__, f"{job['phase']} failed: {type(error).__name__}: {error}.")


if __name__ == "__main__":
    main(sys.argv[1])
