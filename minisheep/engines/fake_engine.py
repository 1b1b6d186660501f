"""An engine without a model: plausible text and numbers from hashes, for tests, demonstrations and screens.

Its results mean nothing, and its `info` says so. Each is a function of the request and of the adapter's name, the same
on every machine.

Its likelihoods depend on overlap, repetition and word order, so that a judge has something to see. It knows minisheep's
own seed tasks by heart: with one side of a task in the prompt, the words of the other side are likely. So a judge by
likelihood passes its exam, as on a real model. Its embeddings put texts that share words near each other. It knows
minisheep's own wordings of constraints too: an answer that is drawn keeps one now and then, the more
often the later the adapter's round.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from minisheep.data.constraint_kinds import load_catalogue
from minisheep.data.seed_tasks import load_seeds
from minisheep.engines import base
from minisheep.engines.fake_text import answer, graded, task_list
from minisheep.engines.sampling import GrowingReply
from minisheep.rules.constraints import ConstraintKind
from minisheep.rules.identity import derive_seed
from minisheep.rules.prompts import user_text
from minisheep.rules.templates import Prompt

KNOWN, REPEATED, MISPLACED = 0.5, 0.3, 1.7
"""Factors on a word's cost: the prompt holds it; it has followed the same word before; it is capitalised where no
sentence begins, or not where one does."""
ENDED, BROKEN_OFF = 0.4, 4.0
"""The cost of ending after a closed sentence, and elsewhere."""

_PLAIN = re.compile(r"[^\w]+")


def costs(prompt: str, continuation: Prompt) -> list[float]:
    """Negative log-probabilities, one for each word of the continuation and each segment of markup or blanks; at least
    one. Words cost 0.6 to 3 nats by their spelling alone."""
    known = _bare_words(prompt)
    for side, other_words in _by_heart():
        if side in prompt:
            known = known | other_words
    found: list[float] = []
    text = ""
    for segment in continuation:
        if segment.special or (segment.text and not segment.text.strip()):
            found.append(ENDED if text.rstrip().endswith((".", "!", "?")) else BROKEN_OFF)
        else:
            text += segment.text
            found += _words(segment.text.split(), known)
    return found or [BROKEN_OFF]


def _words(words: list[str], known: frozenset[str]) -> Iterator[float]:
    seen: set[tuple[str, str]] = set()
    before = "."
    for word in words:
        bare = _bare(word)
        cost = 0.6 + 2.4 * zlib.crc32(bare.encode("utf-8", "replace")) / 2**32
        if bare in known:
            cost *= KNOWN
        if (_bare(before), bare) in seen:
            cost *= REPEATED
        if word[:1].isalpha() and word[0].isupper() != before.endswith((".", "!", "?", ":")):
            cost *= MISPLACED
        seen.add((_bare(before), bare))
        before = word
        yield cost


@cache
def _by_heart() -> list[tuple[str, frozenset[str]]]:
    """Each side of each seed task, with the words of the other side."""
    pairs = []
    for seed in load_seeds():
        task = user_text(seed.instruction, seed.input)
        pairs += [(task, _bare_words(seed.output)), (seed.output, _bare_words(task))]
    # Short answers occur in many prompts by chance.
    return [(side, other_words) for side, other_words in pairs if len(side.split()) > 3]


def _bare_words(text: str) -> frozenset[str]:
    return frozenset(_bare(word) for word in text.split())


def _bare(word: str) -> str:
    return _PLAIN.sub("", word).casefold()


WIDTH = 32
"""Numbers of an embedding."""
TURN = 0.3
"""How far an adapter moves the vector of a word, where 1 is the length of that vector."""


def mean_vector(text: str, adapter: str) -> tuple[float, ...]:
    """The mean of a vector for each word of the text: a digest of the word, in lower case and without punctuation at
    its ends, plus a little of a digest of the word and the adapter's name where there is an adapter."""
    words = [word.strip(".,;:!?\"'()").lower() for word in text.split()] or [""]
    total = [0.0] * WIDTH
    for word in words:
        for i, value in enumerate(_signs(word)):
            total[i] += value
        if adapter:
            for i, value in enumerate(_signs(f"{adapter}\x1f{word}")):
                total[i] += TURN * value
    return tuple(value / len(words) for value in total)


def _signs(word: str) -> list[float]:
    """A vector of length 1 whose numbers differ only in sign."""
    bits = int.from_bytes(hashlib.sha256(word.encode("utf-8", "surrogatepass")).digest()[: WIDTH // 8], "big")
    return [(1 if bits >> i & 1 else -1) / math.sqrt(WIDTH) for i in range(WIDTH)]


OBEYS = 0.4
"""How often the base keeps a constraint that it was asked to keep; a tenth more for each round of its adapter."""


def _demanded(prompt: str) -> tuple[ConstraintKind, dict[str, Any]] | None:
    """The constraint of minisheep's own that the prompt's last instruction holds."""
    question = prompt.rpartition("Instruction:")[2]
    for wording, kind, arguments in _own_wordings():
        if wording in question:
            return kind, arguments
    return None


@cache
def _own_wordings() -> list[tuple[str, ConstraintKind, dict[str, Any]]]:
    """Every sentence that minisheep's own constraints may be worded as."""
    kinds = load_catalogue(plugins=False).kinds.values()
    return [
        (replace(kind, wordings=(wording,)).worded(arguments, random.Random(0)).wording, kind, arguments)  # noqa: S311
        for kind in kinds
        if kind.trained
        for level in kind.levels
        for arguments in level
        for wording in kind.wordings
    ]


MASS = 0.97
"""Probability of all valid labels together, about."""

_TOKENS = re.compile(r"\s*\S+|\s+")
_TASK_LIST = re.compile(r"(\d+)\.\s*(Instruction:)?\s*\Z")
_GRADE = re.compile(r"\b(?:grade|score|rating)\s*:\s*\Z", re.IGNORECASE)
_NUMBER = re.compile(r"(\d+)(?!.*\d)")


class FakeEngine:
    """`engines.base.Engine` that runs no model; results come in the order of the requests.

    `delay` is in seconds for each completion, or for each step of an open batch, which alone has `slots`. `reply`
    writes the completions in place of the built-in texts (a numbered list of tasks where the prompt ends in a list
    number, a grade where it asks for one, else an answer); they finish
    with ``end``, or with ``stop`` where they hold a stop string of the request.
    """

    evaluated = running = 0

    def __init__(
        self, *, delay: float = 0.0, reply: Callable[[base.GenerateRequest], str] | None = None, slots: int = 1
    ) -> None:
        self._delay = delay
        self._slots = slots
        self._reply = reply
        self.adapter: Path | None = None
        """The adapter that was set last."""

    @property
    def info(self) -> base.EngineInfo:
        return base.EngineInfo(
            "fake", "fake engine: no model runs, all text and numbers are made up", self._slots, 2048
        )

    def count(self, prompt: Prompt) -> int:
        return len(text_of(prompt).split())

    def generate(
        self, requests: Sequence[base.GenerateRequest], on_text: base.OnText | None = None, *, keep: bool = False
    ) -> Iterator[base.Completion]:
        for request in requests:
            if self._delay:
                time.sleep(self._delay)
            completion = self.whole(request)
            if on_text is not None:
                for part in _TOKENS.findall(completion.text):
                    on_text(request.id, part)
            yield completion

    @contextmanager
    def open_batch(self, on_text: base.OnText, requests: Sequence[base.GenerateRequest] = ()) -> Iterator[FakeBatch]:
        """Every step has a word of each that runs, and takes `delay`."""
        batch = FakeBatch(self, self._delay, on_text)
        batch.add(requests)
        yield batch

    def whole(self, request: base.GenerateRequest) -> base.Completion:
        text, finish = (self._reply(request), "end") if self._reply else self._write(request)
        growing = GrowingReply(request.sampling.stop)
        growing.feed(text.encode("utf-8", "replace"))
        text, finish = growing.text, "stop" if growing.stopped else finish
        if len(words := re.findall(r"\s*\S+", text)) > request.sampling.max_tokens:
            text, finish = "".join(words[: request.sampling.max_tokens]), "length"
        return base.Completion(request.id, text, finish, len(text.split()))

    def score(self, requests: Sequence[base.ScoreRequest]) -> Iterator[base.Scores]:
        """In eight of ten requests the peak is at a high label, in the others anywhere."""
        for request in requests:
            draw = self._random("score", request.id, text_of(request.prompt), *request.labels)
            n = len(request.labels)
            peak = n - 1 - draw.choice((0, 1, 1, 2, 2)) * n / 10 if draw.random() < 0.8 else draw.randrange(n)
            width = draw.uniform(0.6, 1.6)
            weights = [2.718281828 ** (-(((i - peak) / width) ** 2) / 2) + 1e-4 for i in range(n)]
            mass = MASS + draw.uniform(-0.02, 0.02)
            yield base.Scores(request.id, tuple(mass * weight / sum(weights) for weight in weights))

    def loglik(self, requests: Sequence[base.LoglikRequest]) -> Iterator[base.Loglik]:
        """As `costs` says; higher after a prompt, and a little higher with the adapter of each later round."""
        for request in requests:
            prompt = text_of(request.prompt)
            luck = self._random("loglik", text_of(request.continuation)).uniform(0.85, 1.15)
            level = luck * (1 - min(len(prompt.split()), 20) / 200) * (1 - 0.15 * (1 - 0.5 ** self._round()))
            yield base.Loglik(request.id, tuple(-level * cost for cost in costs(prompt, request.continuation)))

    def embed(self, requests: Sequence[base.EmbedRequest]) -> Iterator[base.Embedding]:
        for request in requests:
            yield base.Embedding(request.id, mean_vector(text_of(request.text), self._adapter_name()))

    def set_adapter(self, adapter: Path | None) -> None:
        self.adapter = adapter

    def close(self) -> None:
        pass

    def _write(self, request: base.GenerateRequest) -> tuple[str, str]:
        prompt = text_of(request.prompt)
        draw = self._random("generate", request.id, request.seed, prompt)
        if number := _TASK_LIST.search(prompt):
            return task_list(draw, int(number[1]), labelled=bool(number[2])), "length"
        if _GRADE.search(prompt):
            return graded(draw), "end"
        text, finish = answer(draw)
        return self._obeying(prompt, text, request), finish

    def _obeying(self, prompt: str, text: str, request: base.GenerateRequest) -> str:
        """The answer, made to keep the constraint that it is drawn for, if it knows it and happens to."""
        found = _demanded(prompt) if request.sampling.temperature else None
        if found is None or self._random("obey", request.id, request.seed).random() > OBEYS + 0.1 * self._round():
            return text
        kind, arguments = found
        edited = kind.edit(text, **arguments) if kind.edit is not None else None
        return text if edited is None else edited

    def _random(self, *identity: object) -> random.Random:
        return random.Random(derive_seed("fake", self._adapter_name(), *identity))  # noqa: S311

    def _adapter_name(self) -> str:
        return f"{self.adapter.parent.name}/{self.adapter.name}" if self.adapter else ""

    def _round(self) -> int:
        if self.adapter is None:
            return 0
        number = _NUMBER.search(self._adapter_name())
        return int(number[1]) if number else 1


class FakeBatch:
    """`engines.base.OpenBatch` of the fake engine: as many run as it has slots, in the order of their coming."""

    def __init__(self, engine: FakeEngine, delay: float, on_text: base.OnText) -> None:
        self._engine, self._delay, self._on_text = engine, delay, on_text
        self._completions: dict[str, tuple[base.Completion, Iterator[str]]] = {}

    @property
    def idle(self) -> bool:
        return not self._completions

    def add(self, requests: Sequence[base.GenerateRequest]) -> None:
        for request in requests:
            completion = self._engine.whole(request)
            self._completions[request.id] = (completion, iter(_TOKENS.findall(completion.text)))

    def drop(self, id: str) -> None:
        self._completions.pop(id, None)

    def step(self) -> list[base.Completion]:
        if self._delay:
            time.sleep(self._delay)
        ended = []
        for id, (completion, parts) in list(self._completions.items())[: self._engine.info.slots]:
            part = next(parts, None)
            self._on_text(id, part or "")
            if part is None:
                ended.append(completion)
                del self._completions[id]
        return ended


def text_of(prompt: Prompt) -> str:
    return "".join(segment.text for segment in prompt)
