"""Asks an engine what the harness wants to know: completions, likelihoods of continuations and of whole texts."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from lm_eval.api.model import LM

from minisheep.engines.base import Engine, GenerateRequest, Loglik, LoglikRequest, Sampling
from minisheep.rules.identity import derive_seed
from minisheep.rules.templates import Prompt, Segment, Template
from minisheep.workspace import closing

# How the harness's text becomes a prompt: as it is, or as the user's turn of a chat template.
#
# The harness hands texts around, and a template's own tokens must not be confused with words of the data. So a chat is
# marked with two sequences of private characters here, passes through the harness as text, and is split again before
# the engine sees it.
_USER, _START = "\ue0f4minisheep-user\ue0f5", "\ue0f4minisheep-start\ue0f5"

Count = Callable[[str], int]
"""How many tokens a text has."""


def chat(history: Sequence[Mapping[str, str]]) -> str:
    """A chat as one marked text: what system and users say, and the beginning of the answer if the last turn is one.

    Templates here have a single turn, so earlier answers stand among the words of the user, as in the plain prompt.
    """
    start = ""
    turns = list(history)
    if turns and turns[-1]["role"] == "assistant":
        start = turns.pop()["content"]
    asked = "\n\n".join(turn["content"] for turn in turns if turn["content"])
    return f"{_USER}{_clean(asked)}{_START}{_clean(start)}"


def prompt(text: str, template: Template | None) -> Prompt:
    """The prompt of a text from the harness; an unmarked one is never framed."""
    if template is None or not text.startswith(_USER):
        return (Segment(_clean(text)),) if text else ()
    user, start = _parts(text)
    return template.prompt(user, start)


def shorten(text: str, room: int, count: Count) -> str:
    """`text` without so much of its beginning that it has at most `room` tokens; of a chat, the user's words lose it.

    The same as the harness does for its own back-ends.
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
    """The blanks that end a prompt begin the continuation instead, since tokens carry the blank before a word."""
    if text.startswith(_USER):
        return text, continuation
    bare = text.rstrip()
    return bare, text[len(bare) :] + continuation


def overhead(template: Template | None, count: Count) -> int:
    """Tokens that a frame adds to a text, a BOS and what may part differently at the seams included."""
    return 8 + (count(template.before) + count(template.between) if template else 0)


def _parts(text: str) -> tuple[str, str]:
    user, _, start = text.removeprefix(_USER).partition(_START)
    return _clean(user), _clean(start)


def _clean(text: str) -> str:
    return text.replace(_USER, "").replace(_START, "")


# Long texts in pieces, for the likelihood of a text that the context cannot hold.
_WORD = re.compile(r"\s*\S+|\s+\Z")


def windows(text: str, room: int, count: Count) -> Iterator[tuple[str, str]]:
    """``(before, piece)``: pieces that make up `text`, each with what stands before it, within `room` tokens together.

    A text that fits is one piece with nothing before it. Else a piece takes up to half of the room and the text before
    it fills the rest, so that every word is scored once and none of them without context but the first.
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
    """A word, or its halves where a script without blanks makes it too long."""
    if count(word) <= room or len(word) < 2:
        yield word
        return
    middle = len(word) // 2
    yield from _window_parts(word[:middle], room, count)
    yield from _window_parts(word[middle:], room, count)


# The harness's generation options as our `Sampling`.
NEW_TOKENS = 256
"""Where a task does not say how long an answer may be, as in the harness's own back-ends."""


def sampling(options: Mapping[str, Any], stop: tuple[str, ...] = (), most: int = 0) -> Sampling:
    """How a request is drawn. `stop` are the frame's own stop strings; `most` above 0 limits the new tokens.

    Without ``do_sample`` a temperature above 0 means sampling; ``do_sample: false`` is greedy at any temperature.
    """
    until = options.get("until") or ()
    until = (until,) if isinstance(until, str) else tuple(until)
    temperature = options.get("temperature")
    drawn = options.get("do_sample", bool(temperature))
    wanted = next((options[n] for n in ("max_gen_toks", "max_new_tokens", "max_tokens") if options.get(n)), NEW_TOKENS)
    tokens = min(int(wanted), most) if most else int(wanted)
    return Sampling(
        temperature=(1.0 if temperature is None else float(temperature)) if drawn else 0.0,
        top_p=float(options.get("top_p") or 1.0),
        top_k=int(options.get("top_k") or Sampling().top_k),
        max_tokens=tokens,
        stop=tuple(dict.fromkeys(text for text in (*until, *stop) if text)),
    )


OnProgress = Callable[[int, int, str], None]
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
    on_progress: OnProgress = lambda done, total, what: None
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
                self.on_progress(done, len(requests), "answers")
        return found

    def loglik(self, pairs: Sequence[tuple[str, str]], *, greedy: bool) -> list[tuple[float, bool]]:
        """For each ``(text, continuation)`` the continuation's log-probability (nats) and whether it is greedy.

        The engine does not tell the most likely token. With `greedy` the text is continued greedily for as many tokens
        and compared, unless every token has more than half of the probability; without, the answer is always False.
        Both texts are tokenised by themselves, after the blanks between them have gone to the continuation.
        """
        moved = [move_blank(text, continuation) for text, continuation in pairs]
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
                self.on_progress(len(found), len(requests), "likelihoods")
        return [found[number] for number in range(len(requests))]

    def _prompt(self, text: str, reserved: int) -> Prompt:
        """The prompt of a text, cut so far that `reserved` tokens are left of the context."""
        room = max(LEAST, self.engine.info.context - reserved - overhead(self.template, self._count))
        fitting = shorten(text, room, self._count)
        self.stats.cut += fitting != text
        return prompt(fitting, self.template)

    def _count(self, text: str) -> int:
        vocabulary = getattr(self.engine, "vocabulary", None)
        return len(text.split()) if vocabulary is None else len(vocabulary.encode((Segment(text),), bos=False))

    @contextmanager
    def _timed(self) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.stats.seconds += time.monotonic() - begun


# The harness's interface of a model, on our engine.
class EngineLM(LM):  # type: ignore[misc]
    """`lm_eval.api.model.LM` that hands whole batches to an engine.

    `greedy` says that the task asks whether a continuation is the greedy one, which costs a generation each. The
    harness's response cache (SQLite with pickled values) is never given to it.
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
        """The chat as `evals.engine_lm.chat` marks it; an answer that was begun needs no generation prompt and gets none."""
        return chat(chat_history)

    @property
    def tokenizer_name(self) -> str:
        return "minisheep"
