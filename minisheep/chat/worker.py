"""The process that answers in a chat (`ChatHandler`) and the parent's side of it (`ChatClient`).

The worker loads the model once and keeps one sequence. SIGINT stops only the current answer: between answers the
worker ignores it, so a late one does no harm. The run folder is only read.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from minisheep.chat.session import ChatAnswer, left_out
from minisheep.engines.base import GenerateRequest, Sampling, StreamingEngine
from minisheep.errors import MinisheepError, UsageError, WorkerError
from minisheep.machine.worker import WorkerProcess
from minisheep.open_engines import open_engine, put_adapter, tell_engine
from minisheep.rules.identity import derive_seed
from minisheep.rules.templates import Message
from minisheep.run.events import AnswerDone, AnswerPart, Emit, Event, Note
from minisheep.workspace import adapter_of, conversation_of

WINDOW = 4
"""Old turns are left out to give an answer up to one token in `WINDOW` of the context."""


class StoppedError(Exception):
    """The user stopped the answer; its parts so far stand."""


class ChatHandler:
    """Does the jobs of `ChatClient` in a worker, or in the caller's process with the fake engine."""

    def __init__(self) -> None:
        self._model: ChatModel | None = None

    def do(self, job: dict[str, Any], emit: Emit, should_stop: Any) -> None:
        """``{"run": folder, "phase": "open", "system": text}``, or ``"answer"`` with what `session.Session.job` gives.

        Raises `errors.MinisheepError`; the next job may still work.
        """
        if self._model is None:
            self._model = ChatModel(Path(job["run"]), emit)
        self._model.check(job["system"])
        if job["phase"] == "answer":
            with _interruptible() as interrupted:
                self._model.answer(job, emit, interrupted)

    def close(self) -> None:
        if self._model is not None:
            self._model.close()
            self._model = None


class ChatModel:
    """A run's model, ready to answer. Raises `errors.MinisheepError` where it is not available."""

    def __init__(self, run: Path, emit: Emit) -> None:
        from minisheep import prepare

        self._work, model = prepare.open_model(run, emit)
        settings = self._work.settings
        self._conversation = conversation_of(model)
        # One sequence is enough; more would only take memory.
        self._engine: StreamingEngine = open_engine(settings.model_copy(update={"slots": 1}), model.inference_gguf)
        self._adapter: Path | None = None
        tell_engine(self._engine.info, emit)
        if self._conversation.again is None:
            text = "The model's template takes one turn, so each message is answered without the ones before."
            emit(Note(text, "warning"))

    def check(self, system: str) -> None:
        """Raises `errors.UsageError` for a system message that the template cannot hold."""
        if system and self._conversation.system is None:
            raise UsageError("The model's template has no place for a system message.", "Leave out --system.")

    def answer(self, job: dict[str, Any], emit: Emit, interrupted: list[int]) -> None:
        """Send an answer in parts, then how it ended. It stops once `interrupted` is not empty."""
        number, system = job["round"], job["system"]
        self._set_adapter(number)
        messages: list[Message] = job["messages"]
        context = self._engine.info.context
        room = min(job["max_tokens"], context // WINDOW)
        one_turn = self._conversation.again is None

        def size(shown: Sequence[Message]) -> int:
            return self._engine.count(self._conversation.prompt(shown, system))

        gone = (len(messages) - 1) // 2 if one_turn else left_out(messages, size, context, room)
        shown = messages[2 * gone :]
        if (needed := size(shown)) >= context:
            raise UsageError(
                f"The message takes {needed} tokens with its template, and the run's context is {context}.",
                "Send a shorter message.",
            )
        settings = self._work.settings
        request = GenerateRequest(
            id="message",
            prompt=self._conversation.prompt(shown, system),
            sampling=Sampling(
                temperature=job["temperature"],
                top_p=settings.answer_top_p,
                max_tokens=job["max_tokens"],
                stop=self._conversation.template.stop,
            ),
            seed=derive_seed(settings.seed, "chat", job["number"]),
        )
        tokens = 0

        def on_progress(_name: str, part: str) -> None:
            nonlocal tokens
            if interrupted:
                raise StoppedError
            tokens += 1
            if part:
                emit(AnswerPart(number, part))

        # A template for one turn never shows older ones: a note at the start says so, not every answer.
        dropped = 0 if one_turn else gone
        try:
            (completion,) = self._engine.generate([request], on_progress, keep=True)
        except StoppedError:
            emit(AnswerDone(number, "stopped", tokens, dropped))
        else:
            emit(AnswerDone(number, completion.finish, completion.tokens, dropped))

    def close(self) -> None:
        self._engine.close()

    def _set_adapter(self, number: int) -> None:
        """Hot-load the adapter of a round, unless it is loaded already."""
        adapter = adapter_of(self._work.folder, number, f"so round {number} cannot answer", "Choose another round.")
        if adapter == self._adapter:
            return
        put_adapter(self._engine, adapter)
        self._adapter = adapter


@contextlib.contextmanager
def _interruptible() -> Iterator[list[int]]:
    """A list that collects each SIGINT during the block."""
    signals: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: signals.append(number))
    try:
        yield signals
    finally:
        signal.signal(signal.SIGINT, before)


WORKER = "minisheep.chat.worker:ChatHandler"


class ChatClient:
    """Asks the models of a run through a worker, which starts when it is needed, and again if it died.

    `emit` gets every event that is not part of an answer. A context manager.
    """

    def __init__(self, run: Path, emit: Emit) -> None:
        self._run = run
        self._emit = emit
        self._worker: WorkerProcess | None = None
        self._stopping = False
        # Not in the run folder, which a chat only reads.
        handle, name = tempfile.mkstemp(prefix="minisheep-chat-", suffix=".log")
        os.close(handle)
        self._log = Path(name)
        self._keep_log = False

    def __enter__(self) -> ChatClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, system: str) -> None:
        """Load the model. Raises what the worker raises, and `errors.WorkerError` if it died."""
        self._do({"round": 0, "phase": "open", "system": system}, self._emit)

    def answer(self, job: dict[str, object], on_part: Callable[[str], None]) -> ChatAnswer:
        """One answer; `on_part` gets its parts. Raises as `open` does; the next message then starts another worker."""
        parts: list[str] = []
        ended: list[AnswerDone] = []
        number = int(str(job["round"]))

        def listen(event: Event) -> None:
            if isinstance(event, AnswerPart):
                if self._stopping:
                    # The signal came before the worker had begun with this answer, and said nothing to it.
                    self._interrupt()
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
            return ChatAnswer(number, "".join(parts), "stopped")
        done = ended[0]
        return ChatAnswer(number, "".join(parts), done.finish, done.tokens, done.left_out)

    @contextlib.contextmanager
    def stoppable(self) -> Iterator[None]:
        """Ctrl-C stops the current answer. A second Ctrl-C kills the worker, and the next message starts another."""

        def stop(_number: int, _frame: object) -> None:
            if self._worker is not None and self._stopping:
                self._worker.kill()
            else:
                self._interrupt()
            self._stopping = True

        before = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
            self._stopping = False

    def _interrupt(self) -> None:
        if self._worker is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._worker.pid, signal.SIGINT)

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
                # It died, or the rest of its events would stay unread.
                self._keep_log |= isinstance(error, WorkerError) and not self._stopping
                self._worker.kill()
                self._worker.close()
                self._worker = None
            raise
