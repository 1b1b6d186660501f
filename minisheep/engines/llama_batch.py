"""Completions on llama.cpp that run together: those of one call, or those that come one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from minisheep.engines import base
from minisheep.engines.sampling import GrowingReply, Sampler
from minisheep.engines.scheduler import Scheduler, SequenceJob

if TYPE_CHECKING:
    from minisheep.engines.llamacpp import LlamaCppEngine


@dataclass(slots=True)
class SampledStream:
    request: base.GenerateRequest
    reply: GrowingReply
    sampler: Sampler
    ends: frozenset[int]
    """Tokens that end this completion beside those that end any."""
    drawn: list[int] = field(default_factory=list)
    """Its tokens so far."""
    passed_on: int = 0
    """Characters that `OnText` has had."""

    def new_text(self, *, ended: bool) -> str:
        """The text that became certain since the last call; the whole rest where the completion has `ended`."""
        text = self.reply.text if ended else self.reply.settled
        new, self.passed_on = text[self.passed_on :], len(text)
        return new


STOPS_KEPT = 64
"""Sets of stop strings whose end tokens are remembered."""


class LlamaBatch:
    """`engines.base.OpenBatch` on the engine's scheduler, which holds the `jobs` of `requests` already."""

    def __init__(
        self,
        engine: LlamaCppEngine,
        scheduler: Scheduler,
        requests: Sequence[base.GenerateRequest],
        jobs: Sequence[SequenceJob],
        on_text: base.OnText | None,
    ) -> None:
        self._engine, self._scheduler, self._on_text = engine, scheduler, on_text
        self._asked = {job.key: (request, job) for request, job in zip(requests, jobs, strict=True)}
        """What is not done."""
        self._next_key = len(jobs)
        self._streams: dict[int, SampledStream] = {}
        # Bounded, since a batch may stay open as long as a server runs.
        self._ends = lru_cache(STOPS_KEPT)(engine.vocabulary.ends)
        self._alone: tuple[SequenceJob, SampledStream] | None = None

    @property
    def alone(self) -> tuple[int, ...]:
        """The tokens of the only text that the last step worked on, where sequence 1 holds them."""
        return (*self._alone[0].tokens, *self._alone[1].drawn) if self._alone else ()

    @property
    def idle(self) -> bool:
        return self._scheduler.idle

    def add(self, requests: Sequence[base.GenerateRequest]) -> None:
        jobs = self._engine.sampling_jobs(requests, self._next_key)
        self._next_key += len(jobs)
        for job, request in zip(jobs, requests, strict=True):
            self._asked[job.key] = request, job
            self._scheduler.submit(job)

    def drop(self, id: str) -> None:
        for key in [key for key, (request, _) in self._asked.items() if request.id == id]:
            self._scheduler.cancel(key)
            del self._asked[key]
            self._streams.pop(key, None)

    def step(self) -> list[base.Completion]:
        finished = []
        self._alone = None
        single = len(self._asked) == 1
        for key, stream, token in self._engine.draw(self._scheduler, self._stream):
            if single and self._scheduler.running[key] == 1:
                self._alone = self._asked[key][1], stream
            finish = self._advance(key, stream, token)
            if self._on_text is not None:
                self._on_text(stream.request.id, stream.new_text(ended=bool(finish)))
            if finish:
                del self._streams[key], self._asked[key]
                finished.append(base.Completion(stream.request.id, stream.reply.text, finish, len(stream.drawn)))
        return finished

    def _stream(self, key: int) -> SampledStream:
        if key not in self._streams:
            request, _ = self._asked[key]
            stops = request.sampling.stop
            sampler = Sampler(request.sampling, request.seed)
            self._streams[key] = SampledStream(request, GrowingReply(stops), sampler, self._ends(stops))
        return self._streams[key]

    def _advance(self, key: int, stream: SampledStream, token: int) -> str:
        """Add the drawn token to a completion and report it to the scheduler; the reason to finish, or ""."""
        vocabulary = self._engine.vocabulary
        if vocabulary.is_end(token) or token in stream.ends:
            self._scheduler.finish(key)
            return "end"
        stream.drawn.append(token)
        if stream.reply.feed(vocabulary.piece(token)):
            self._scheduler.finish(key)
            return "stop"
        return "" if self._scheduler.accept(key, token) else "length"
