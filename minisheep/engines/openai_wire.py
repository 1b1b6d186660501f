"""Bodies for ``/completions`` of a server, its replies read, and a probe of what the server can do. Does no I/O itself.

Two forms of log-probabilities are understood: OpenAI's lists beside ``tokens`` (vLLM, SGLang), and llama.cpp's list of
tokens with ids under ``content`` (server_task_result_cmpl_final::to_json_oaicompat). Functions that read raise
ValueError for anything else.

The probe sends a few tokens before anything long begins. A server needs ``/completions`` with token ids; it may give
log-probabilities of the next token as vLLM, SGLang and llama.cpp's server do. Those of a given text come by ``echo``
(vLLM, SGLang), or where a server has no echo (llama.cpp's), by forcing its tokens one after another with a logit bias:
one request a token, with the prompt in the server's cache. A server that reports log-probabilities after the bias only
has neither.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from minisheep.config import Settings
from minisheep.engines.base import Completion, GenerateRequest
from minisheep.engines.http import RefusedError
from minisheep.engines.sampling import GrowingReply
from minisheep.errors import EndpointError, UsageError
from minisheep.rules.templates import Segment

if TYPE_CHECKING:
    # Loads llama.cpp, which nothing here needs.
    from minisheep.engines.native import Vocabulary

OPTIONAL = ("samplers", "stop_token_ids", "return_tokens_as_token_ids", "repetition_penalty", "top_k", "min_p", "seed")
"""Parameters beyond OpenAI's own that keep a server from sampling in its own way; left out where it refuses them."""
LOWEST = -104.0
"""Log-probabilities end here: below, llama.cpp's 32-bit probabilities are zero, and others use special values."""
FORCED = 10_000.0
"""A logit bias that leaves greedy sampling one choice."""
TEXT = "Water is wet and fire is"
"""Plain words, which every tokenizer gives back unchanged."""
TOPS = (20, 5)
"""How many of the likeliest tokens a server reports: vLLM's limit, and OpenAI's."""

Ids = Sequence[int]


@dataclass(frozen=True, slots=True)
class ServerChoice:
    """The one choice of a reply, and the server's token counts."""

    choice: Mapping[str, Any]
    prompt_tokens: int | None
    new_tokens: int | None

    @property
    def computed(self) -> int:
        return (self.prompt_tokens or 0) + (self.new_tokens or 0)


def to_complete(request: GenerateRequest, ids: Ids, room: int, ends: Ids) -> dict[str, Any]:
    """The body for a completion of at most `room` tokens. `ends` are the tokens that end a text."""
    sampling = request.sampling
    body = {
        "prompt": list(ids),
        "max_tokens": min(sampling.max_tokens, room),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "samplers": ["top_k", "top_p", "temperature"],
        "seed": request.seed,
        "stop_token_ids": list(ends),
    }
    return {**body, "stop": list(sampling.stop)} if sampling.stop else body


def to_see(ids: Ids, tops: int) -> dict[str, Any]:
    """The body that asks for the `tops` most likely next tokens."""
    return {**_greedy(ids), "logprobs": tops, "return_tokens_as_token_ids": True}


def to_echo(ids: Ids) -> dict[str, Any]:
    """The body that asks for the log-probability of each token of a text."""
    return {**_greedy(ids), "echo": True, "logprobs": 1}


def to_force(ids: Ids, token: int) -> dict[str, Any]:
    """The body that makes a server say `token` next, with its log-probability before the bias."""
    return {**to_see(ids, 1), "logit_bias": {str(token): FORCED}}


def read(data: bytes) -> ServerChoice:
    try:
        body = json.loads(data)
        choice = body["choices"][0]
        usage = body.get("usage")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise ValueError("no completion") from error
    if not isinstance(choice, dict) or not isinstance(choice.get("text") or "", str):
        raise ValueError("no text in it")
    usage = usage if isinstance(usage, dict) else {}
    return ServerChoice(choice, _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")))


def completion(request: GenerateRequest, reply: ServerChoice) -> Completion:
    """Where the server does not distinguish a stop string from an end token, both count as ``end``."""
    text = GrowingReply(request.sampling.stop)
    text.feed((reply.choice.get("text") or "").encode("utf-8", "replace"))
    # A filter or a shutdown breaks a text off as a limit does.
    finish = "length" if reply.choice.get("finish_reason") in ("length", "content_filter", "abort") else "end"
    if text.stopped or isinstance(reply.choice.get("stop_reason"), str):
        finish = "stop"
    tokens = reply.new_tokens or 0
    return Completion(request.id, text.text, finish, max(0, tokens - 1) if finish == "end" else tokens)


class Seen:
    """Log-probabilities of the likeliest next tokens."""

    def __init__(self, reply: ServerChoice) -> None:
        logprobs = reply.choice.get("logprobs")
        try:
            assert isinstance(logprobs, dict)
            if "content" in logprobs:
                self._by_id = {t["id"]: _logprob(t["logprob"]) for t in logprobs["content"][0]["top_logprobs"]}
                self._by_text: dict[str, float] = {}
            else:
                self._by_id = {}
                self._by_text = {str(t): _logprob(p) for t, p in logprobs["top_logprobs"][0].items()}
        except (AssertionError, LookupError, TypeError, AttributeError) as error:
            raise ValueError("no log-probabilities") from error
        if not (self._by_id or self._by_text):
            raise ValueError("no log-probabilities")

    def of(self, token: int, piece: bytes) -> float | None:
        """The log-probability of a token whose bytes are `piece`; None if it is not among them."""
        text = piece.decode("utf-8", "replace")
        named = self._by_text.get(f"token_id:{token}", self._by_text.get(text))
        return self._by_id.get(token, named)

    @property
    def values(self) -> tuple[float, ...]:
        """All of them, the likeliest first."""
        return tuple(sorted((*self._by_id.values(), *self._by_text.values()), reverse=True))


def echoed(reply: ServerChoice, start: int, end: int) -> tuple[float, ...]:
    """The log-probabilities of the tokens `start` .. `end` of the text that was echoed; `start` is not 0."""
    try:
        found = reply.choice["logprobs"]["token_logprobs"][start:end]
    except (LookupError, TypeError) as error:
        raise ValueError("no echo") from error
    if len(found) != end - start:
        raise ValueError("a short echo")
    return tuple(map(_logprob, found))


def forced(reply: ServerChoice, token: int, piece: bytes) -> float:
    """The log-probability of a token that was forced."""
    logprobs = reply.choice.get("logprobs")
    try:
        assert isinstance(logprobs, dict)
        if "content" in logprobs:
            first = logprobs["content"][0]
            right, value = first["id"] == token, first["logprob"]
        else:
            named, value = logprobs["tokens"][0], logprobs["token_logprobs"][0]
            right = named in (f"token_id:{token}", piece.decode("utf-8", "replace"))
    except (AssertionError, LookupError, TypeError) as error:
        raise ValueError("no log-probabilities") from error
    if not right:
        raise ValueError("another token than the forced one")
    return _logprob(value)


def _greedy(ids: Ids) -> dict[str, Any]:
    return {"prompt": list(ids), "max_tokens": 1, "temperature": 0, "repetition_penalty": 1.0}


def _logprob(value: Any) -> float:
    # Compared and never converted before: hundreds of digits are no float.
    if not isinstance(value, int | float) or not value <= 0.01:
        raise ValueError(f"{str(value)[:40]} is not a log-probability")
    return min(0.0, float(max(LOWEST, value)))


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


Ask = Callable[[dict[str, Any], bool], ServerChoice]
"""Takes a body, and whether to try only once. Raises `errors.EndpointError`, also for a reply that is none."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """`tops` is how many of the likeliest next tokens the server reports (0: none); `loglik` how it gives the
    likelihood of a given text."""

    tops: int
    loglik: Literal["echo", "forced", ""]

    def __str__(self) -> str:
        likelihoods = {"echo": "by echo", "forced": "token by token", "": "not at all"}[self.loglik]
        return f"it reports the {self.tops or 'no'} likeliest tokens, and likelihoods of given texts {likelihoods}"


def probe(ask: Ask, name: str, tokens: Vocabulary, context: int) -> Abilities:
    """What the server at the address `name` can do. Raises `errors.EndpointError` for one that does not reply, and
    `errors.UsageError` for one that cannot be used: other token ids, too short a context."""
    ids = tokens.encode((Segment(TEXT),), bos=True)
    try:
        reply = ask({"prompt": ids, "max_tokens": 1, "temperature": 0}, False)
    except RefusedError as error:
        raise UsageError(
            f"{error.message} The request was to continue {len(ids)} token ids.",
            "--engine openai needs /completions with token ids; vLLM, SGLang and llama.cpp's server have it.",
        ) from None
    if reply.prompt_tokens not in (None, len(ids)):
        raise _another_model(name, f"it counts {reply.prompt_tokens} tokens where {len(ids)} were sent")
    abilities = Abilities(_tops(ask, ids), _loglik(ask, name, tokens, ids))
    long = (ids * (context // len(ids) + 1))[: context - 1]
    try:
        ask({"prompt": long, "max_tokens": 1, "temperature": 0}, False)
    except RefusedError as error:
        raise UsageError(
            f"{error.message} The request had {len(long)} tokens, as --context {context} allows.",
            "Give the server a longer context for each sequence, or set a smaller --context.",
        ) from None
    return abilities


def refusal(settings: Settings, abilities: Abilities, name: str) -> UsageError | None:
    """The error for a server that can do less than the run needs, with what to set instead; else None."""
    judge = f"--judge {settings.judge}"
    measured = settings.filter in ("ppl", "density+ppl")
    likelihoods = measured or (settings.judges and settings.judge in ("auto", "pmi")) or bool(settings.engine_hook)
    if likelihoods and not abilities.loglik:
        user = f"--filter {settings.filter}" if measured else judge
        if not measured and settings.judge not in ("auto", "pmi"):
            user = "measuring each round on it (--engine-hook)"
        instead = "--judge logits" if abilities.tops else "--judge sample"
        fix = "Leave out --engine-hook: rounds are then measured here." if settings.engine_hook else f"Set {instead}."
        return UsageError(f"{name} gives no likelihood of a given text, which {user} needs.", fix)
    if settings.judges and settings.judge in ("auto", "logits") and not abilities.tops and not abilities.loglik:
        return UsageError(f"{name} gives no probabilities, which {judge} reads.", "Set --judge sample.")
    return None


def _tops(ask: Ask, ids: Ids) -> int:
    for tops in TOPS:
        try:
            Seen(ask(to_see(ids, tops), True))
        except (EndpointError, ValueError):
            continue
        return tops
    return 0


def _loglik(ask: Ask, name: str, tokens: Vocabulary, ids: list[int]) -> Literal["echo", "forced", ""]:
    try:
        reply = ask(to_echo(ids), True)
        echoed(reply, 1, len(ids))
    except (EndpointError, ValueError):
        pass
    else:
        if TEXT not in (reply.choice.get("text") or ""):
            raise _another_model(name, "it reads other words in them")
        return "echo"
    try:
        both = [forced(ask(to_force(ids[:-1], token), True), token, tokens.piece(token)) for token in (ids[-1], ids[1])]
    except (EndpointError, ValueError):
        return ""
    # Two tokens cannot both be nearly certain, unless the bias is in the numbers.
    return "forced" if math.fsum(map(math.exp, both)) < 1.001 else ""


def _another_model(name: str, why: str) -> UsageError:
    return UsageError(
        f"{name} runs another model than this run's, or changes the token ids: {why}.",
        "Serve the model that --model names, with nothing added before its prompts.",
    )
