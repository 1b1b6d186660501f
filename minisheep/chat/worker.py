"""The worker's part of a chat. One conversation, one sequence, one model load.

SIGINT stops the answer under way and nothing else: it is ignored between answers, so one that comes too late does no
harm.
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
from minisheep.errors import MinisheepError, ModelFileError, UsageError, WorkerError
from minisheep.machine.worker import WorkerProcess
from minisheep.models.prepared import PreparedModel
from minisheep.rules.identity import derive_seed
from minisheep.rules.templates import Conversation, Message, conversation
from minisheep.run.events import AnswerDone, AnswerPart, Emit, EngineReady, Event, Note
from minisheep.workspace import Workspace, open_engine

OPEN = "open"
"""A job that loads the model."""
ANSWER = "answer"
"""A job that answers once."""
WINDOW = 4
"""At least one token in so many of the context is left for an answer before old turns are left out."""


class StoppedError(Exception):
    """The answer was stopped; what was told of it stands."""


class ChatDesk:
    """Does the jobs of `chat.worker.Speaker`. For a worker, and for a process of one's own with the fake engine."""

    def __init__(self) -> None:
        self._talker: Talker | None = None

    def do(self, job: dict[str, Any], emit: Emit, should_stop: Any) -> None:
        """``{"run": folder, "phase": "open", "system": text}``, or ``"answer"`` with what `session.Session.job` gives.

        Raises `errors.MinisheepError`; after that the next job may be tried all the same.
        """
        if self._talker is None:
            self._talker = Talker(Path(job["run"]), emit)
        self._talker.check(job["system"])
        if job["phase"] == ANSWER:
            with _interruptible() as interrupted:
                self._talker.answer(job, emit, interrupted)

    def close(self) -> None:
        if self._talker is not None:
            self._talker.close()
            self._talker = None


class Talker:
    """A run's model, ready to answer. Raises `errors.MinisheepError` where it cannot be had."""

    def __init__(self, run: Path, emit: Emit) -> None:
        from minisheep import prepare

        self._work = Workspace(run)
        settings = self._work.settings
        if not self._work.folder.model.exists():
            raise UsageError(f"{run} has no model yet.", f"`minisheep align --run {run}` fetches it.")
        model = prepare.ensure_files(self._work.model, settings, emit, "inference_gguf")
        self._conversation = _conversation(model)
        # One person talks: more sequences would only take memory.
        self._engine: StreamingEngine = open_engine(settings.model_copy(update={"slots": 1}), model.inference_gguf)
        self._adapter: Path | None = None
        emit(EngineReady(self._engine.info.backend, self._engine.info.description))
        if self._conversation.again is None:
            emit(Note("The model's template takes one turn: every message is answered by itself.", "warning"))

    def check(self, system: str) -> None:
        """Raises `errors.UsageError` where a system message has no place."""
        if system and self._conversation.system is None:
            raise UsageError("The model's template has no place for a system message.", "Leave out --system.")

    def answer(self, job: dict[str, Any], emit: Emit, interrupted: list[int]) -> None:
        """Tell an answer in parts, then how it ended. `interrupted` fills when it is to stop."""
        number, system = job["round"], job["system"]
        self._set_adapter(number)
        messages: list[Message] = job["messages"]
        context = self._engine.info.context
        room = min(job["max_tokens"], context // WINDOW)
        gone = (
            (len(messages) - 1) // 2
            if self._conversation.again is None
            else left_out(messages, lambda shown: self._size(shown, system), context, room)
        )
        shown = messages[2 * gone :]
        self._fits(shown, system, context)
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
        told = 0

        def on_progress(_name: str, part: str) -> None:
            nonlocal told
            if interrupted:
                raise StoppedError
            told += 1
            if part:
                emit(AnswerPart(number, part))

        # Turns that the template cannot show were never shown: that is said once, not for every answer.
        dropped = 0 if self._conversation.again is None else gone
        try:
            (completion,) = self._engine.generate([request], on_progress)
        except StoppedError:
            emit(AnswerDone(number, "stopped", told, dropped))
        else:
            emit(AnswerDone(number, completion.finish, completion.tokens, dropped))

    def close(self) -> None:
        self._engine.close()

    def _set_adapter(self, number: int) -> None:
        """Hot-load the adapter of a round, unless it is on already."""
        adapter = self._work.folder.round(number).adapter_gguf if number else None
        if adapter == self._adapter:
            return
        if adapter is not None and not adapter.exists():
            raise ModelFileError(f"{adapter} is missing, so round {number} cannot answer.", "Choose another round.")
        self._engine.set_adapter(adapter)
        self._adapter = adapter

    def _size(self, messages: Sequence[Message], system: str) -> int:
        return self._engine.count(self._conversation.prompt(messages, system))

    def _fits(self, shown: Sequence[Message], system: str, context: int) -> None:
        needed = self._size(shown, system)
        if needed >= context:
            raise UsageError(
                f"The message takes {needed} tokens with its template, and the run's context is {context}.",
                "Send a shorter one.",
            )


def _conversation(model: PreparedModel) -> Conversation:
    """How the run's template frames several turns; its own template is read from the model's file."""
    if model.template.name != "model":
        return conversation(model.template, "", {})
    from minisheep.formats.gguf_header import read_header
    from minisheep.formats.model_facts import bos_text, chat_template, eos_text

    header = read_header(model.inference_gguf)
    special = {"bos_token": bos_text(header), "eos_token": eos_text(header)}
    return conversation(model.template, chat_template(header), special)


@contextlib.contextmanager
def _interruptible() -> Iterator[list[int]]:
    """A list that gets the number of each SIGINT that comes meanwhile."""
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: came.append(number))
    try:
        yield came
    finally:
        signal.signal(signal.SIGINT, before)


# The parent's part of a chat: a worker process that owns the model, started when it is needed and again if it died.
WORKER = "minisheep.chat.worker:ChatDesk"


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

    def answer(self, job: dict[str, object], on_part: Callable[[str], None]) -> ChatAnswer:
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
            return ChatAnswer(number, "".join(parts), "stopped")
        done = ended[0]
        return ChatAnswer(number, "".join(parts), done.finish, done.tokens, done.left_out)

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
