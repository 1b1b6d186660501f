"""The child process that does the work: ``python -m minisheep.worker``, jobs in on stdin, events out on stdout.

It owns the model (and the GPU's memory) alone, so both are given back when it ends, and a crash in native code costs
one worker and not the run. Each line of stdin is a job, or ``stop`` (finish the present record and end). The end of
stdin means that the parent is gone, however it went: the worker ends at once, since whoever continues the run starts
another.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import threading
import traceback
from pathlib import Path
from typing import Any, NoReturn, Protocol

from minisheep.errors import DiskError, MinisheepError
from minisheep.events import Event, Failed, JobDone, to_dict

WARM_UP = "warm up"
"""A job that loads the libraries of the inference phases, and tells nothing."""


class Does(Protocol):
    """Does jobs; see `Desk`."""

    def do(self, job: dict[str, Any], emit: Any, should_stop: Any) -> None: ...

    def warm_up(self, run: Path) -> None: ...

    def close(self) -> None: ...


def main(desk: Does | None = None) -> NoReturn:
    # Libraries print what they like; stdout is for events alone.
    events = os.dup(1)
    os.dup2(2, 1)
    # The terminal's Ctrl-C is the parent's to interpret.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stopping = threading.Event()
    jobs: queue.Queue[dict[str, Any]] = queue.Queue()
    telling = threading.Lock()

    def emit(event: Event) -> None:
        line = json.dumps(to_dict(event), separators=(",", ":")).encode() + b"\n"
        with telling:
            while line:
                line = line[os.write(events, line) :]

    def listen() -> None:
        pending = b""
        # Read without Python's buffer: its lock would be held by this thread when the process ends.
        while data := os.read(0, 1 << 16):
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                if line == b"stop":
                    stopping.set()
                else:
                    jobs.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    desk = desk or Desk()
    while True:
        job = jobs.get()
        if job["phase"] == "quit":
            desk.close()
            # Not by return: torch dismantles itself slowly, and the next phase waits for this process's memory.
            os._exit(0)
        if job["phase"] == WARM_UP:
            desk.warm_up(Path(job["run"]))
            continue
        try:
            desk.do(job, emit, stopping.is_set)
        except MinisheepError as error:
            emit(Failed(type(error).__name__, error.message, error.fix))
        except OSError as error:
            traceback.print_exc()
            emit(
                Failed(
                    DiskError.__name__, f"The system refused: {error}.", "Mend that and give the same command again."
                )
            )
        except Exception as error:
            # A fault of minisheep or of a library: its traceback is in the worker's log, the run stays whole.
            traceback.print_exc()
            emit(Failed("WorkerError", f"{job['phase']} failed: {type(error).__name__}: {error}."))
        else:
            emit(JobDone(job["phase"]))


class Desk:
    """Does jobs in this process, keeping the model loaded from one to the next. For workers and in-process hosts."""

    def __init__(self) -> None:
        self._work: Any = None

    def do(self, job: dict[str, Any], emit: Any, should_stop: Any) -> None:
        """``{"run": folder, "round": number, "phase": name}``. Raises what the phase raises."""
        from minisheep.workspace import Workspace

        run = Path(job["run"])
        if self._work is None or self._work.folder.path != run:
            self.close()
            self._work = Workspace(run)
        if job["phase"] == "prepare":
            from minisheep.models.prepare import prepare

            prepare(self._work.settings, self._work.folder.model, emit)
        else:
            from minisheep.phases import do

            do(self._work, job["round"], job["phase"], emit, should_stop)

    def warm_up(self, run: Path) -> None:
        """Load what the inference phases of a run need, but no model. A failure is left to the phase to report."""
        try:
            import minisheep.phases
            from minisheep.workspace import Workspace

            if Workspace(run).settings.engine == "llamacpp":
                import minisheep.engines.llamacpp  # noqa: F401
        except Exception:
            traceback.print_exc()

    def close(self) -> None:
        if self._work is not None:
            self._work.close()
            self._work = None


if __name__ == "__main__":
    main()
