"""The harness's interface of a model on our engine: completions, and likelihoods of continuations and whole texts.

The harness hands texts around, and a template's own tokens must not be confused with words of the data. So `chat` marks
a chat with two sequences of private characters; it passes through the harness as text, and is split again before the
engine sees it.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lm_eval.api.model import LM

from minisheep.engines.base import Engine, GenerateRequest, Loglik, LoglikRequest, Sampling
from minisheep.rules.identity import derive_seed, six_decimals
from minisheep.rules.templates import Prompt, Segment, Template
from minisheep.workspace import closing

NEW_TOKENS = 256
"""The longest answer if a task sets no limit, as in the harness's own back-ends."""
LEAST = 16
"""Tokens of a prompt that are kept, however long the answer may be."""
_USER, _START = "\ue0f4minisheep-user\ue0f5", "\ue0f4minisheep-start\ue0f5"
_WORD = re.compile(r"\s*\S+|\s+\Z")

Count = Callable[[str], int]
"""The number of tokens of a text."""
OnProgress = Callable[[int, int, str], None]
"""Done, total, what."""


def chat(history: Sequence[Mapping[str, str]]) -> str:
    """A chat as one marked text: all turns, and the beginning of the answer if the last turn is the assistant's.

    Our templates have a single turn, so earlier answers are part of the user's words, as in the plain prompt.
    """
    turns = list(history)
    start = turns.pop()["content"] if turns and turns[-1]["role"] == "assistant" else ""
    user = "\n\n".join(turn["content"] for turn in turns if turn["content"])
    return f"{_USER}{_clean(user)}{_START}{_clean(start)}"


def prompt(text: str, template: Template | None) -> Prompt:
    """The prompt of a text from the harness; only a marked text gets the template."""
    if template is None or not text.startswith(_USER):
        return (Segment(_clean(text)),) if text else ()
    user, start = _parts(text)
    return template.prompt(user, start)


def shorten(text: str, room: int, count: Count) -> str:
    """The end of `text` with at most `room` tokens; a chat loses the beginning of the user's words.

    The harness does the same for its own back-ends.
    """
    if not text.startswith(_USER):
        return last(text, room, count)
    user, start = _parts(text)
    return f"{_USER}{last(user, room - count(start), count)}{_START}{start}"


def last(text: str, room: int, count: Count) -> str:
    """The longest end of `text` with at most `room` tokens, within a few characters."""
    if count(text) <= room:
        return text
    low, high = 0, len(text)
    while high - low > 1:
        middle = (low + high) // 2
        if count(text[middle:]) <= room:
            high = middle
        else:
            low = middle
    return text[high:]


def move_blank(text: str, continuation: str) -> tuple[str, str]:
    """Move the blanks at the end of a prompt to the continuation, since tokens carry the blank before a word."""
    if text.startswith(_USER):
        return text, continuation
    bare = text.rstrip()
    return bare, text[len(bare) :] + continuation


def overhead(template: Template | None, count: Count) -> int:
    """Tokens that a template adds to a text, including a BOS and what may split differently where texts meet."""
    return 8 + (count(template.before) + count(template.between) if template else 0)


def _parts(text: str) -> tuple[str, str]:
    user, _, start = text.removeprefix(_USER).partition(_START)
    return _clean(user), _clean(start)


def _clean(text: str) -> str:
    return text.replace(_USER, "").replace(_START, "")


def windows(text: str, room: int, count: Count) -> Iterator[tuple[str, str]]:
    """The pieces of a `text`, each as ``(text before it, piece)``, for a text that the context cannot hold.

    Both together have at most `room` tokens. A text that fits is one piece. Otherwise a piece takes up to half of the
    room and the text before it fills the rest, so every word is scored once, and with context except for the first.
    """
    if count(text) <= room:
        if text:
            yield "", text
        return
    done = 0
    for piece in _pieces(text, room // 2, count):
        yield last(text[:done], room - room // 2, count), piece
        done += len(piece)


def _pieces(text: str, room: int, count: Count) -> Iterator[str]:
    piece, used = "", 0
    for word in _WORD.findall(text):
        for part in _window_parts(word, room, count):
            needed = count(part)
            if piece and used + needed > room:
                yield piece
                piece, used = "", 0
            piece += part
            used += needed
    if piece:
        yield piece


def _window_parts(word: str, room: int, count: Count) -> Iterator[str]:
    """A word, or its halves if it is too long, as in a script without blanks."""
    if count(word) <= room or len(word) < 2:
        yield word
        return
    middle = len(word) // 2
    yield from _window_parts(word[:middle], room, count)
    yield from _window_parts(word[middle:], room, count)


def sampling(options: Mapping[str, Any], stop: tuple[str, ...] = (), most: int = 0) -> Sampling:
    """The harness's options as ours. `stop` are the template's stop strings; `most` above 0 limits the new tokens.

    Without ``do_sample`` a temperature above 0 means sampling; ``do_sample: false`` is greedy at any temperature.
    """
    until = options.get("until") or ()
    until = (until,) if isinstance(until, str) else tuple(until)
    temperature = options.get("temperature")
    sampled = options.get("do_sample", bool(temperature))
    limits = ("max_gen_toks", "max_new_tokens", "max_tokens")
    tokens = int(next((options[name] for name in limits if options.get(name)), NEW_TOKENS))
    return Sampling(
        temperature=(1.0 if temperature is None else float(temperature)) if sampled else 0.0,
        top_p=float(options.get("top_p") or 1.0),
        top_k=int(options.get("top_k") or Sampling().top_k),
        max_tokens=min(tokens, most) if most else tokens,
        stop=tuple(dict.fromkeys(text for text in (*until, *stop) if text)),
    )


@dataclass(slots=True)
class Stats:
    """Counts over all requests so far."""

    tokens: int = 0
    """New tokens of completions."""
    completions: int = 0
    ended: int = 0
    """Completions that ended by themselves or at a stop string."""
    seconds: float = 0.0
    """Time that completions took."""
    cut: int = 0
    """Prompts that lost their beginning because they did not fit the context."""

    def to_dict(self) -> dict[str, float]:
        """As stored with a result; empty for a task that asks only for likelihoods."""
        if not self.completions:
            return {}
        return {
            "count": self.completions,
            "ended": six_decimals(self.ended / self.completions),
            "new_tokens": self.tokens,
            "tokens_per_second": six_decimals(self.tokens / self.seconds) if self.seconds else 0.0,
            "prompts_cut": self.cut,
        }


@dataclass(frozen=True, slots=True)
class Asker:
    """Answers the harness's three kinds of request with `engine`. `template` None means plain text.

    `most` above 0 limits the new tokens of every answer. `seed` and a request's identity decide what is sampled.
    Raises `errors.UsageError` for a continuation that cannot fit the context.
    """

    engine: Engine
    template: Template | None
    most: int = 0
    seed: int = 1
    on_progress: OnProgress = lambda done, total, what: None
    stats: Stats = field(default_factory=Stats)

    def generate(self, items: Sequence[tuple[str, Mapping[str, Any], tuple[object, ...]]]) -> list[str]:
        """The completion of each ``(text, options, identity)``, in order, from one batch.

        The same item may occur several times; each time it is sampled again.
        """
        requests = []
        times: Counter[tuple[object, ...]] = Counter()
        stop = self.template.stop if self.template else ()
        for number, (text, options, identity) in enumerate(items):
            how = sampling(options, stop, self.most)
            times[identity] += 1
            seed = derive_seed(self.seed, "harness", *identity, times[identity])
            reserved = min(how.max_tokens, self.engine.info.context // 2)
            requests.append(GenerateRequest(str(number), self._prompt(text, reserved), how, seed))
        texts = [""] * len(requests)
        begun = time.monotonic()
        with closing(self.engine.generate(requests)) as completions:
            for done, completion in enumerate(completions, 1):
                texts[int(completion.id)] = completion.text
                self.stats.tokens += completion.tokens
                self.stats.completions += 1
                self.stats.ended += completion.finish != "length"
                self.on_progress(done, len(requests), "answers")
        self.stats.seconds += time.monotonic() - begun
        return texts

    def loglik(self, pairs: Sequence[tuple[str, str]], *, greedy: bool) -> list[tuple[float, bool]]:
        """For each ``(text, continuation)`` the continuation's log-probability (nats) and whether it is the greedy one.

        The engine does not report the most likely token. So with `greedy` the text is continued greedily and compared,
        unless every token has more than half of the probability; without `greedy` the second value is always False.
        The two texts are tokenised separately, after `move_blank`.
        """
        moved = [move_blank(text, continuation) for text, continuation in pairs]
        requests = [
            LoglikRequest(str(n), self._prompt(text, self._count(follows)), (Segment(follows),))
            for n, (text, follows) in enumerate(moved)
        ]
        logliks = self._logliks(requests)
        same: dict[int, bool] = {}
        if greedy:
            same = {n: all(logprob > -0.69 for logprob in one.logprobs) for n, one in enumerate(logliks)}
            same |= self._greedy([(n, requests[n], len(logliks[n].logprobs)) for n, sure in same.items() if not sure])
        return [(sum(one.logprobs), same.get(n, False)) for n, one in enumerate(logliks)]

    def rolling(self, texts: Sequence[str]) -> list[float]:
        """The log-probability (nats) of each whole text; a long one goes through `windows`."""
        room = self.engine.info.context - overhead(None, self._count)
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

    def _greedy(self, uncertain: Sequence[tuple[int, LoglikRequest, int]]) -> dict[int, bool]:
        requests = [
            GenerateRequest(str(n), request.prompt, Sampling(temperature=0.0, max_tokens=max(1, tokens)))
            for n, request, tokens in uncertain
        ]
        expected = {n: "".join(part.text for part in request.continuation) for n, request, _ in uncertain}
        with closing(self.engine.generate(requests)) as completions:
            return {int(one.id): one.text == expected[int(one.id)] for one in completions}

    def _logliks(self, requests: Sequence[LoglikRequest]) -> list[Loglik]:
        logliks: dict[int, Loglik] = {}
        with closing(self.engine.loglik(requests)) as results:
            for one in results:
                logliks[int(one.id)] = one
                self.on_progress(len(logliks), len(requests), "likelihoods")
        return [logliks[number] for number in range(len(requests))]

    def _prompt(self, text: str, reserved: int) -> Prompt:
        """The prompt of a text, shortened so that `reserved` tokens of the context are left."""
        room = max(LEAST, self.engine.info.context - reserved - overhead(self.template, self._count))
        fitting = shorten(text, room, self._count)
        self.stats.cut += fitting != text
        return prompt(fitting, self.template)

    def _count(self, text: str) -> int:
        vocabulary = getattr(self.engine, "vocabulary", None)
        return len(text.split()) if vocabulary is None else len(vocabulary.encode((Segment(text),), bos=False))


class EngineLM(LM):  # type: ignore[misc]
    """`lm_eval.api.model.LM` that hands whole batches to an engine.

    `greedy` says that the task needs to know whether a continuation is the greedy one, which costs one generation for
    each. It never gets the harness's response cache (SQLite with pickled values).
    """

    def __init__(self, asker: Asker, *, greedy: bool) -> None:
        super().__init__()
        self._asker = asker
        self._greedy = greedy

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        return self._asker.generate([(*r.args[:2], (r.task_name, r.doc_id, r.idx)) for r in requests])

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return self._asker.loglik([r.args[:2] for r in requests], greedy=self._greedy)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        return self._asker.rolling([r.args[0] for r in requests])

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """See `chat`; an answer that has a beginning gets no generation prompt."""
        return chat(chat_history)

    @property
    def tokenizer_name(self) -> str:
        return "minisheep"
