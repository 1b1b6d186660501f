"""An engine without a model: plausible text and numbers from hashes, for tests, demonstrations and screens.

Nothing that it says means anything, and it says so in its `info`. Every result is a function of the request and of the
adapter's name, the same on every machine.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from minisheep.engines.base import (
    Completion,
    Embedding,
    EmbedRequest,
    EngineInfo,
    GenerateRequest,
    Loglik,
    LoglikRequest,
    OnText,
    ScoreRequest,
    Scores,
)
from minisheep.engines.fake_likelihood import costs
from minisheep.engines.fake_text import answer, graded, task_list
from minisheep.engines.fake_vector import mean_vector
from minisheep.engines.text import Reply
from minisheep.records import derive_seed
from minisheep.rules.templates import Prompt

MASS = 0.97
"""Probability on valid labels, about."""

_TASK_LIST = re.compile(r"(\d+)\.\s*(Instruction:)?\s*\Z")
_GRADE = re.compile(r"\b(?:grade|score|rating)\s*:\s*\Z", re.IGNORECASE)
_NUMBER = re.compile(r"(\d+)(?!.*\d)")


class FakeEngine:
    """`engines.base.Engine` that runs no model; results come in the order of the requests.

    `delay` is in seconds for each completion. `reply` writes the completions in place of the built-in texts: a numbered
    list of tasks where the prompt ends in a list number, a grade where it asks for one, else an answer. What it returns
    ends with ``end``, or with ``stop`` where it holds a stop string of the request.
    """

    evaluated = 0
    """It computes no tokens."""
    running = 0

    def __init__(self, *, delay: float = 0.0, reply: Callable[[GenerateRequest], str] | None = None) -> None:
        self._delay = delay
        self._reply = reply
        self.adapter: Path | None = None
        """The adapter that was set last."""

    @property
    def info(self) -> EngineInfo:
        return EngineInfo("fake", "fake engine: no model runs, all text and numbers are made up", 1, 2048)

    def count(self, prompt: Prompt) -> int:
        """Words."""
        return len(text_of(prompt).split())

    def generate(self, requests: Sequence[GenerateRequest], on_text: OnText | None = None) -> Iterator[Completion]:
        for request in requests:
            if self._delay:
                time.sleep(self._delay)
            text, finish = (self._reply(request), "end") if self._reply else self._write(request)
            found = Reply(request.sampling.stop)
            found.feed(text.encode("utf-8", "replace"))
            text, finish = found.text, "stop" if found.stopped else finish
            if len(words := re.findall(r"\s*\S+", text)) > request.sampling.max_tokens:
                text, finish = "".join(words[: request.sampling.max_tokens]), "length"
            if on_text is not None:
                for part in re.findall(r"\s*\S+|\s+", text):
                    on_text(request.id, part)
            yield Completion(request.id, text, finish, len(text.split()))

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[Scores]:
        """The peak is at a high label of eight in ten requests, anywhere in the others."""
        for request in requests:
            draw = self._random("score", request.id, text_of(request.prompt), *request.labels)
            n = len(request.labels)
            peak = n - 1 - draw.choice((0, 1, 1, 2, 2)) * n / 10 if draw.random() < 0.8 else draw.randrange(n)
            width = draw.uniform(0.6, 1.6)
            weights = [2.718281828 ** (-(((i - peak) / width) ** 2) / 2) + 1e-4 for i in range(n)]
            mass = MASS + draw.uniform(-0.02, 0.02)
            yield Scores(request.id, tuple(mass * weight / sum(weights) for weight in weights))

    def loglik(self, requests: Sequence[LoglikRequest]) -> Iterator[Loglik]:
        """One number for each word and each special segment, at least one (`fake_likelihood`); higher after a prompt,
        and a little higher with the adapter of each later round."""
        for request in requests:
            prompt = text_of(request.prompt)
            luck = self._random("loglik", text_of(request.continuation)).uniform(0.85, 1.15)
            level = luck * (1 - min(len(prompt.split()), 20) / 200) * (1 - 0.15 * (1 - 0.5 ** self._round()))
            yield Loglik(request.id, tuple(-level * cost for cost in costs(prompt, request.continuation)))

    def embed(self, requests: Sequence[EmbedRequest]) -> Iterator[Embedding]:
        """The mean of the words' vectors; see `fake_vector`."""
        for request in requests:
            yield Embedding(request.id, mean_vector(text_of(request.text), self._adapter_name()))

    def set_adapter(self, adapter: Path | None) -> None:
        self.adapter = adapter

    def close(self) -> None:
        pass

    def _write(self, request: GenerateRequest) -> tuple[str, str]:
        prompt = text_of(request.prompt)
        draw = self._random("generate", request.id, request.seed, prompt)
        if number := _TASK_LIST.search(prompt):
            return task_list(draw, int(number[1]), labelled=bool(number[2])), "length"
        if _GRADE.search(prompt):
            return graded(draw), "end"
        return answer(draw)

    def _random(self, *identity: object) -> random.Random:
        return random.Random(derive_seed("fake", self._adapter_name(), *identity))  # noqa: S311

    def _adapter_name(self) -> str:
        return f"{self.adapter.parent.name}/{self.adapter.name}" if self.adapter else ""

    def _round(self) -> int:
        if self.adapter is None:
            return 0
        number = _NUMBER.search(f"{self.adapter.parent.name}/{self.adapter.name}")
        return int(number[1]) if number else 1


def text_of(prompt: Prompt) -> str:
    return "".join(segment.text for segment in prompt)
