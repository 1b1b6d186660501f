"""What a server can do, found out by asking it for a few tokens before anything long begins.

All that is needed is ``/completions`` with token ids. Log-probabilities of the next token are asked for as vLLM,
SGLang and llama.cpp's server give them. Those of a given text come by ``echo`` (vLLM, SGLang), or where a server has no
echo (llama.cpp's), by forcing its tokens one after another with a logit bias: one request a token, of which the prompt
is in the server's cache. A server that gives log-probabilities only after the bias has neither.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from minisheep.config import Settings
from minisheep.endpoint.post import RefusedError
from minisheep.engines.remote_reading import Ids, Said, Seen, echoed, forced, to_echo, to_force, to_see
from minisheep.errors import EndpointError, UsageError
from minisheep.rules.templates import Segment

TEXT = "Water is wet and fire is"
"""Plain words, which every tokenizer gives back as they are."""
TOPS = (20, 5)
"""How many of the likeliest tokens a server tells: vLLM's limit, and OpenAI's."""

Ask = Callable[[dict[str, Any], bool], Said]
"""A body, and whether to try once only. Raises `errors.EndpointError`, also for a reply that is none."""


class Tokens(Protocol):
    """What is needed of `vocabulary.Vocabulary`, so that this module needs no llama.cpp."""

    size: int

    @property
    def start(self) -> int: ...

    def encode(self, prompt: tuple[Segment, ...], *, bos: bool, after: int | None = None) -> list[int]: ...

    def piece(self, token: int) -> bytes: ...

    def is_end(self, token: int) -> bool: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Abilities:
    """`tops` is how many of the likeliest next tokens the server tells (0: none); `loglik` how it tells the likelihood
    of a given text."""

    tops: int
    loglik: Literal["echo", "forced", ""]

    def __str__(self) -> str:
        likelihoods = {"echo": "by echo", "forced": "token by token", "": "not told"}[self.loglik]
        return f"the {self.tops or 'no'} likeliest tokens are told, likelihoods of given texts {likelihoods}"


def probe(ask: Ask, name: str, tokens: Tokens, context: int) -> Abilities:
    """Raises `errors.EndpointError` for a server that does not answer, and `errors.UsageError` for one that cannot be
    used: other token ids, too short a context. `name` is its address."""
    ids = tokens.encode((Segment(TEXT),), bos=True)
    try:
        said = ask({"prompt": ids, "max_tokens": 1, "temperature": 0}, False)
    except RefusedError as error:
        raise UsageError(
            f"{error.message} It was asked to continue {len(ids)} token ids.",
            "--engine openai needs /completions with token ids, as vLLM, SGLang and llama.cpp's server have it.",
        ) from None
    if said.prompt_tokens not in (None, len(ids)):
        raise _another_model(name, f"it counts {said.prompt_tokens} tokens where {len(ids)} were sent")
    found = Abilities(_tops(ask, ids), _loglik(ask, name, tokens, ids))
    long = (ids * (context // len(ids) + 1))[: context - 1]
    try:
        ask({"prompt": long, "max_tokens": 1, "temperature": 0}, False)
    except RefusedError as error:
        raise UsageError(
            f"{error.message} It was asked to read {len(long)} tokens, as --context {context} promises.",
            "Give the server a longer context for each sequence, or set a smaller --context.",
        ) from None
    return found


def refusal(settings: Settings, found: Abilities, name: str) -> UsageError | None:
    """Why a server is not enough for a run, if it is not, and what to set instead."""
    judge = f"--judge {settings.judge}"
    measured = settings.filter in ("ppl", "density+ppl")
    likelihoods = measured or (settings.judges and settings.judge in ("auto", "pmi")) or bool(settings.engine_hook)
    if likelihoods and not found.loglik:
        wanted = f"--filter {settings.filter}" if measured else judge
        if not measured and settings.judge not in ("auto", "pmi"):
            wanted = "measuring each round on it (--engine-hook)"
        instead = "--judge logits" if found.tops else "--judge sample"
        fix = "Leave out --engine-hook: rounds are then measured here." if settings.engine_hook else f"Set {instead}."
        return UsageError(f"{name} tells no likelihood of a given text, which {wanted} needs.", fix)
    if settings.judges and settings.judge in ("auto", "logits") and not found.tops and not found.loglik:
        return UsageError(f"{name} tells no probabilities, which {judge} reads.", "Set --judge sample.")
    return None


def _tops(ask: Ask, ids: Ids) -> int:
    for tops in TOPS:
        try:
            Seen(ask(to_see(ids, tops), True))
        except (EndpointError, ValueError):
            continue
        return tops
    return 0


def _loglik(ask: Ask, name: str, tokens: Tokens, ids: list[int]) -> Literal["echo", "forced", ""]:
    try:
        said = ask(to_echo(ids), True)
        echoed(said, 1, len(ids))
    except (EndpointError, ValueError):
        pass
    else:
        if TEXT not in (said.choice.get("text") or ""):
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
        f"{name} runs another model than this run's, or reads token ids in a way of its own: {why}.",
        "Serve the model that --model names, without anything before its prompts.",
    )
