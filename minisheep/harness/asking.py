"""Asks an engine what the harness wants to know: completions, likelihoods of continuations and of whole texts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from minisheep.engines.base import Engine, GenerateRequest, Loglik, LoglikRequest, Sampling
from minisheep.harness import frames
from minisheep.harness.options import sampling
from minisheep.harness.windows import windows
from minisheep.records import derive_seed
from minisheep.resume import closing
from minisheep.rules.templates import Prompt, Segment, Template

Tell = Callable[[int, int, str], None]
"""Done, total, what."""

LEAST = 16
"""Tokens of a prompt that are kept, however long the answer may be."""


@dataclass(slots=True)
class Stats:
    """What was asked so far."""

    tokens: int = 0
    """New tokens of completions."""
    completions: int = 0
    ended: int = 0
    """Completions that ended by themselves or at a stop string."""
    seconds: float = 0.0
    """Time that completions took."""
    cut: int = 0
    """Prompts that lost their beginning, since they did not fit the context."""


@dataclass(frozen=True, slots=True)
class Asker:
    """`engine` behind the harness's three questions. `template` None means plain text.

    `most` above 0 limits the new tokens of every answer. What is sampled follows from `seed` and the request's
    identity. Raises `errors.UsageError` for a continuation that cannot fit the context.
    """

    engine: Engine
    template: Template | None
    most: int = 0
    seed: int = 1
    tell: Tell = lambda done, total, what: None
    stats: Stats = field(default_factory=Stats)

    def generate(self, asked: Sequence[tuple[str, Mapping[str, Any], tuple[object, ...]]]) -> list[str]:
        """The completion of each ``(text, options, identity)``, in their order, from one batch.

        The same text, options and identity may come several times; each time is drawn anew.
        """
        requests = []
        times: Counter[tuple[object, ...]] = Counter()
        stop = self.template.stop if self.template else ()
        for number, (text, options, identity) in enumerate(asked):
            drawn = sampling(options, stop, self.most)
            times[identity] += 1
            seed = derive_seed(self.seed, "harness", *identity, times[identity])
            reserved = min(drawn.max_tokens, self.engine.info.context // 2)
            requests.append(GenerateRequest(str(number), self._prompt(text, reserved), drawn, seed))
        found = [""] * len(requests)
        with self._timed(), closing(self.engine.generate(requests)) as completions:
            for done, completion in enumerate(completions, 1):
                found[int(completion.id)] = completion.text
                self.stats.tokens += completion.tokens
                self.stats.completions += 1
                self.stats.ended += completion.finish != "length"
                self.tell(done, len(requests), "answers")
        return found

    def loglik(self, pairs: Sequence[tuple[str, str]], *, greedy: bool) -> list[tuple[float, bool]]:
        """For each ``(text, continuation)`` the continuation's log-probability (nats) and whether it is greedy.

        The engine does not tell the most likely token. With `greedy` the text is continued greedily for as many tokens
        and compared, unless every token has more than half of the probability; without, the answer is always False.
        Both texts are tokenised by themselves, after the blanks between them have gone to the continuation.
        """
        moved = [frames.move_blank(text, continuation) for text, continuation in pairs]
        requests = [
            LoglikRequest(str(n), self._prompt(text, self._count(follows)), (Segment(follows),))
            for n, (text, follows) in enumerate(moved)
        ]
        found = self._logliks(requests)
        certain = [all(logprob > -0.69 for logprob in one.logprobs) for one in found]
        same = dict(enumerate(certain)) if greedy else {}
        if greedy:
            same |= self._greedy(
                [(n, requests[n], len(found[n].logprobs)) for n, sure in enumerate(certain) if not sure]
            )
        return [(sum(one.logprobs), same.get(n, False)) for n, one in enumerate(found)]

    def rolling(self, texts: Sequence[str]) -> list[float]:
        """The log-probability (nats) of each text from its start; a long one goes through `windows`."""
        room = self.engine.info.context - frames.overhead(None, self._count)
        requests: list[LoglikRequest] = []
        owners = []
        for number, text in enumerate(texts):
            for before, piece in windows(text, room, self._count):
                prompt: Prompt = (Segment(before),) if before else ()
                requests.append(LoglikRequest(str(len(requests)), prompt, (Segment(piece),)))
                owners.append(number)
        sums = [0.0] * len(texts)
        for owner, one in zip(owners, self._logliks(requests), strict=True):
            sums[owner] += sum(one.logprobs)
        return sums

    def _greedy(self, asked: Sequence[tuple[int, LoglikRequest, int]]) -> dict[int, bool]:
        requests = [
            GenerateRequest(str(n), request.prompt, Sampling(temperature=0.0, max_tokens=max(1, tokens)))
            for n, request, tokens in asked
        ]
        wanted = {n: "".join(part.text for part in request.continuation) for n, request, _ in asked}
        with closing(self.engine.generate(requests)) as completions:
            return {int(one.id): one.text == wanted[int(one.id)] for one in completions}

    def _logliks(self, requests: Sequence[LoglikRequest]) -> list[Loglik]:
        found: dict[int, Loglik] = {}
        with closing(self.engine.loglik(requests)) as results:
            for one in results:
                found[int(one.id)] = one
                self.tell(len(found), len(requests), "likelihoods")
        return [found[number] for number in range(len(requests))]

    def _prompt(self, text: str, reserved: int) -> Prompt:
        """The prompt of a text, cut so far that `reserved` tokens are left of the context."""
        room = max(LEAST, self.engine.info.context - reserved - frames.overhead(self.template, self._count))
        fitting = frames.shorten(text, room, self._count)
        self.stats.cut += fitting != text
        return frames.prompt(fitting, self.template)

    def _count(self, text: str) -> int:
        vocabulary = getattr(self.engine, "vocabulary", None)
        return len(text.split()) if vocabulary is None else len(vocabulary.encode((Segment(text),), bos=False))

    @contextmanager
    def _timed(self) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.stats.seconds += time.monotonic() - begun
