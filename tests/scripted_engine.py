"""An engine whose answers are given by the test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from minisheep.engines.base import (
    Completion,
    Embedding,
    EmbedRequest,
    EngineInfo,
    GenerateRequest,
    Loglik,
    LoglikRequest,
    ScoreRequest,
    Scores,
)
from minisheep.rules.templates import Prompt


class Scripted:
    """An engine whose answers are given by the request's id; gives them back in reverse, as a real one may."""

    info = EngineInfo("fake", "scripted", 1, 512)
    evaluated = 0
    running = 0

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self.answers = answers
        self.asked: list[Any] = []

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[Completion]:
        self.asked += requests
        for request in reversed(requests):
            text = self.answers[request.id]
            yield Completion(request.id, text, "end", len(text.split()))

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[Scores]:
        self.asked += requests
        for request in reversed(requests):
            yield Scores(request.id, tuple(self.answers[request.id]))

    def loglik(self, requests: Sequence[LoglikRequest]) -> Iterator[Loglik]:
        self.asked += requests
        for request in reversed(requests):
            yield Loglik(request.id, tuple(self.answers[request.id]))

    def embed(self, requests: Sequence[EmbedRequest]) -> Iterator[Embedding]:
        self.asked += requests
        for request in reversed(requests):
            yield Embedding(request.id, tuple(self.answers[request.id]))

    def count(self, prompt: Prompt) -> int:
        return len("".join(segment.text for segment in prompt).split())

    def set_adapter(self, adapter: Path | None) -> None: ...

    def close(self) -> None: ...
