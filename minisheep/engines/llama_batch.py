"""Completions on llama.cpp that run together: those of one call, or those that come one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from minisheep.engines import base
from minisheep.engines.sampling import GrowingReply, Sampler
from minisheep.engines.scheduler import Scheduler

if TYPE_CHECKING:
    from minisheep.engines.llamacpp import LlamaCppEngine


@dataclass(slots=True)
class SampledStream:
    request: base.GenerateRequest
    reply: GrowingReply
    sampler: Sampler
    ends: frozenset[int]
    """Tokens that end this completion beside those that end any."""
    tokens: int = 0
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
    """`engines.base.OpenBatch` on the engine's scheduler, which holds `requests` already, keyed by their places."""

    def __init__(
        self,
        engine: LlamaCppEngine,
        scheduler: Scheduler,
        requests: Sequence[base.GenerateRequest],
        on_text: base.OnText | None,
    ) -> None:
        self._engine, self._scheduler, self._on_text = engine, scheduler, on_text
        self._requests = dict(enumerate(requests))
        self._next_key = len(requests)
        self._streams: dict[int, SampledStream] = {}
        # Bounded, since a batch may stay open as long as a server runs.
        self._ends = lru_cache(STOPS_KEPT)(engine.vocabulary.ends)

    @property
    def idle(self) -> bool:
        return self._scheduler.idle

    def add(self, requests: Sequence[base.GenerateRequest]) -> None:
        jobs = self._engine.sampling_jobs(requests, self._next_key)
        self._next_key += len(jobs)
        for job, request in zip(jobs, requests, strict=True):
            self._requests[job.key] = request
            self._scheduler.submit(job)

    def drop(self, id: str) -> None:
        for key in [key for key, request in self._requests.items() if request.id == id]:
            self._scheduler.cancel(key)
            del self._requests[key]
            self._streams.pop(key, None)

    def step(self) -> list[base.Completion]:
        finished = []
        for key, stream, token in self._engine.draw(self._scheduler, self._stream):
            finish = self._advance(key, stream, token)
            if self._on_text is not None:
                self._on_text(stream.request.id, stream.new_text(ended=bool(finish)))
            if finish:
                del self._streams[key], self._requests[key]
                finished.append(base.Completion(stream.request.id, stream.reply.text, finish, stream.tokens))
        return finished

    def _stream(self, key: int) -> SampledStream:
        if key not in self._streams:
            request = self._requests[key]
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
        stream.tokens += 1
        if stream.reply.feed(vocabulary.piece(token)):
            self._scheduler.finish(key)
            return "stop"
        return "" if self._scheduler.accept(key, token) else "length"
