"""The parent's part of a chat: a worker process that owns the model, started when it is needed and again if it died."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from minisheep.chat.session import Answer
from minisheep.errors import MinisheepError, WorkerError
from minisheep.events import AnswerDone, AnswerPart, Emit, Event
from minisheep.machine.worker import WorkerProcess

WORKER = "minisheep.chat.desk:ChatDesk"


class Speaker:
    """Asks the models of a run. `emit` gets whatever is told that is no answer. A context manager."""

    def __init__(self, run: Path, emit: Emit) -> None:
        self._run = run
        self._emit = emit
        self._worker: WorkerProcess | None = None
        self._stopping = False
        # Not in the run: that is read only, by a chat at least.
        handle, name = tempfile.mkstemp(prefix="minisheep-chat-", suffix=".log")
        os.close(handle)
        self._log = Path(name)
        self._keep_log = False

    def __enter__(self) -> Speaker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, system: str) -> None:
        """Load the model. Raises what the worker raises, and `errors.WorkerError` if it died."""
        self._do({"round": 0, "phase": "open", "system": system}, lambda event: self._emit(event))

    def answer(self, job: dict[str, object], on_part: Callable[[str], None]) -> Answer:
        """One answer, told in parts. Raises as `open` does; then the next message starts another worker."""
        parts: list[str] = []
        ended: list[AnswerDone] = []
        number = int(str(job["round"]))

        def listen(event: Event) -> None:
            if isinstance(event, AnswerPart):
                parts.append(event.text)
                on_part(event.text)
            elif isinstance(event, AnswerDone):
                ended.append(event)
            else:
                self._emit(event)

        try:
            self._do({**job, "phase": "answer"}, listen)
        except WorkerError:
            if not self._stopping:
                raise
            return Answer(number, "".join(parts), "stopped")
        done = ended[0]
        return Answer(number, "".join(parts), done.finish, done.tokens, done.left_out)

    @contextlib.contextmanager
    def stoppable(self) -> Iterator[None]:
        """Ctrl-C stops the answer under way, a second one the worker too, which the next message starts again."""

        def stop(_number: int, _frame: object) -> None:
            if self._worker is not None and self._stopping:
                self._worker.kill()
            elif self._worker is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._worker.pid, signal.SIGINT)
            self._stopping = True

        before = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
            self._stopping = False

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None
        if not self._keep_log:
            self._log.unlink(missing_ok=True)

    def _do(self, job: dict[str, object], emit: Emit) -> None:
        if self._worker is None:
            self._worker = WorkerProcess(WORKER, self._log)
        try:
            self._worker.do({"run": str(self._run), **job}, f"Round {job['round']}, chat", emit)
        except BaseException as error:
            if isinstance(error, WorkerError) or not isinstance(error, MinisheepError):
                # It died, or nobody will read the rest of what it is telling.
                self._keep_log |= isinstance(error, WorkerError) and not self._stopping
                self._worker.kill()
                self._worker.close()
                self._worker = None
            raise
