"""Gives requests that come at any time to one engine, in one thread, and hands on what it writes.

The engine has one adapter at a time. Requests for the model that runs join its batch at once; the first that is for
another waits until those before it are done, and with it all that came later, so that nobody waits for ever.
"""

from __future__ import annotations

import math
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from minisheep.engines.base import Completion, GenerateRequest, OpenBatch, StreamingEngine
from minisheep.errors import MinisheepError
from minisheep.serve.protocol import ApiError

LONGEST_RETRY = 60
"""Seconds that a client is told to wait at most."""
FRESH = 0.2
"""Weight of the newest request in the mean time that one takes."""


@dataclass(frozen=True, slots=True)
class Begun:
    """The request is in the engine's hands."""

    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class NewText:
    """More of a choice."""

    choice: int
    text: str


@dataclass(frozen=True, slots=True)
class ChoiceDone:
    choice: int
    completion: Completion


Hear = Callable[[Begun | NewText | ChoiceDone | ApiError], None]


@dataclass(eq=False, slots=True)
class Ticket:
    """One request for the engine: texts of one model, which may be heard of until the last is done.

    `hear` is called in the engine's thread; after an `ApiError` it hears no more.
    """

    round: int
    requests: tuple[GenerateRequest, ...]
    hear: Hear
    prompts: int = 1
    """How many different prompts there are; the requests of each stand together."""
    since: float = field(default_factory=time.monotonic)


class Desk:
    """Where requests are offered to `engine`, from any thread; `run` is the engine's own thread.

    `put_round` hot-loads the adapter of a round. Beyond what runs, `queue` texts may wait.
    """

    def __init__(self, engine: StreamingEngine, put_round: Callable[[int], None], queue: int) -> None:
        self.slots, self.context, self.queue = engine.info.slots, engine.info.context, queue
        self._engine, self._put_round = engine, put_round
        self._changed = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._open: dict[str, tuple[Ticket, int]] = {}
        """The texts that are not done, by the id of their request, each with its place in its ticket."""
        self._withdrawn: list[Ticket] = []
        self._mean_seconds = 1.0
        self.closing = False

    @property
    def open(self) -> int:
        """Texts that are running or waiting."""
        return len(self._open)

    def offer(self, ticket: Ticket) -> None:
        """Queue a ticket. Raises `ApiError` (503 while closing, 429 where the queue is full)."""
        with self._changed:
            if self.closing:
                raise ApiError(503, "The server is shutting down.", code="shutting_down")
            if self.open + len(ticket.requests) > self.slots + self.queue:
                wait = math.ceil(self._mean_seconds * max(1, self.open - self.slots) / self.slots)
                raise ApiError(
                    429,
                    f"The queue is full: {self.open} texts are running or waiting, of {self.slots} that run at once and"
                    f" {self.queue} that may wait. Try again later.",
                    code="queue_full",
                    retry=min(LONGEST_RETRY, max(1, wait)),
                )
            self._open.update((request.id, (ticket, place)) for place, request in enumerate(ticket.requests))
            self._waiting.append(ticket)
            self._changed.notify()

    def withdraw(self, ticket: Ticket) -> None:
        """Nobody waits for the ticket any more: what is left of it is dropped, and its slots are free."""
        with self._changed:
            if self._forget(ticket) and ticket in self._waiting:
                self._waiting.remove(ticket)

    def close(self) -> None:
        """Take no more requests; those that are here go on."""
        with self._changed:
            self.closing = True
            self._changed.notify()

    def cut(self) -> None:
        """End those that are still here with an error. `run` then returns, if `close` was called."""
        self._fail(
            ApiError(503, "The server was stopped before the answer was whole.", code="shutting_down"), everyone=True
        )

    def run(self) -> None:
        """Answer until `close` was called and nothing is left."""
        while (first := self._first()) is not None:
            try:
                self._put_round(first.round)
                with self._engine.open_batch(self._on_text, self._begun(first)) as batch:
                    while self._let_in(batch, first.round):
                        for completion in batch.step():
                            self._done(completion)
            except MinisheepError as error:
                self._fail(ApiError(500, str(error), code="engine_failed"))
            except Exception as error:
                # A fault of ours must not leave a client waiting, nor end the server.
                traceback.print_exc()
                self._fail(ApiError(500, f"The engine failed: {type(error).__name__}: {error}.", code="engine_failed"))

    def _first(self) -> Ticket | None:
        """The ticket that came first; waits for one. None when the desk is closed."""
        with self._changed:
            self._withdrawn.clear()  # What they asked for is not computed by now.
            while not self._waiting:
                if self.closing:
                    return None
                self._changed.wait()
            return self._waiting.popleft()

    def _let_in(self, batch: OpenBatch, number: int) -> bool:
        """Drop what was withdrawn, and add what may join; False where nothing is left to compute."""
        with self._changed:
            withdrawn, self._withdrawn = self._withdrawn, []
            joining = []
            while self._waiting and self._waiting[0].round == number:
                joining.append(self._waiting.popleft())
        for ticket in withdrawn:
            for request in ticket.requests:
                batch.drop(request.id)
        for ticket in joining:
            batch.add(self._begun(ticket))
        return not batch.idle

    def _begun(self, ticket: Ticket) -> list[GenerateRequest]:
        """The requests of a ticket that begin now; none where its prompts do not fit, or it was withdrawn."""
        each = len(ticket.requests) // ticket.prompts
        sizes = [self._engine.count(request.prompt) for request in ticket.requests[::each]]
        if max(sizes) >= self.context:
            told = f"The prompt has {max(sizes)} tokens with its template, and the model's context holds {self.context}"
            with self._changed:
                self._forget(ticket)
            ticket.hear(ApiError(400, f"{told}, answer included: shorten it.", code="context_length_exceeded"))
            return []
        ticket.hear(Begun(sum(sizes)))
        return [request for request in ticket.requests if request.id in self._open]

    def _on_text(self, id: str, text: str) -> None:
        if text and (known := self._open.get(id)):
            ticket, place = known
            ticket.hear(NewText(place, text))

    def _done(self, completion: Completion) -> None:
        with self._changed:
            known = self._open.pop(completion.id, None)
        if known is not None:
            ticket, place = known
            if not any(request.id in self._open for request in ticket.requests):
                self._mean_seconds += FRESH * (time.monotonic() - ticket.since - self._mean_seconds)
            ticket.hear(ChoiceDone(place, completion))

    def _fail(self, error: ApiError, *, everyone: bool = False) -> None:
        """End every ticket that runs, or of `everyone`, with an error."""
        with self._changed:
            tickets = dict.fromkeys(ticket for ticket, _ in self._open.values())
            ended = [ticket for ticket in tickets if everyone or ticket not in self._waiting]
            for ticket in ended:
                self._forget(ticket)
            if everyone:
                self._waiting.clear()
        for ticket in ended:
            ticket.hear(error)

    def _forget(self, ticket: Ticket) -> bool:
        """Take a ticket off the books; whether anything was open. The batch drops it before its next step."""
        there = [self._open.pop(request.id, None) for request in ticket.requests]
        self._withdrawn.append(ticket)
        self._changed.notify()
        return any(there)
