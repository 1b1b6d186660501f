"""A stand-in for a completion server, on loopback: letters are tokens, and probabilities come from hashes. No model is
behind it; it speaks as vLLM does, or as llama.cpp's server does."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from judge_stand_in import Answer, Asked, fails

from minisheep.engines.http import Post
from minisheep.engines.openai import NAMES, RemoteEngine
from minisheep.engines.openai_wire import OPTIONAL
from minisheep.rules.identity import derive_seed
from minisheep.rules.templates import Prompt

START, END = 2, 3
Behave = Callable[[Asked, int], Answer]


class Letters:
    """A vocabulary whose tokens are letters; any special text is the end token."""

    size = 128
    start = START

    def encode(self, prompt: Prompt, *, bos: bool, after: int | None = None) -> list[int]:
        return [token for s in prompt for token in ([END] if s.special else map(ord, s.text))]

    def piece(self, token: int) -> bytes:
        return bytes([token])

    def is_end(self, token: int) -> bool:
        return token == END

    def close(self) -> None:
        pass


def logprobs(ids: Sequence[int], adapter: str = "") -> list[float]:
    """Of each next token, the same in every process."""
    draw = random.Random(derive_seed("stand-in", adapter, *ids))
    weights = [math.exp(draw.gauss(0, 2)) for _ in range(Letters.size)]
    return [math.log(weight / sum(weights)) for weight in weights]


def reply(body: dict[str, Any]) -> str:
    return f"seed {body.get('seed')} after {len(body['prompt'])}\nmore"


def vllm(asked: Asked, _number: int = 0) -> Answer:
    """Lists beside each other, tokens by the names of their ids, and an echo."""
    body = asked.body
    ids, tops = body["prompt"], body.get("logprobs")
    if tops is None:
        return done(body, reply(body), None)
    if tops > 20:
        return fails(400, "logprobs must be at most 20")
    places = range(0 if body.get("echo") else len(ids), len(ids) + 1)
    table = {place: logprobs(ids[:place], body["model"]) for place in places}
    best = {place: max(range(Letters.size), key=found.__getitem__) for place, found in table.items()}
    said = [*ids, best[len(ids)]]
    told = {
        "tokens": [f"token_id:{said[place]}" for place in places],
        "token_logprobs": [table[place][said[place]] if place else None for place in places],
        "top_logprobs": [
            {f"token_id:{t}": p for t, p in sorted(enumerate(table[place]), key=lambda x: -x[1])[:tops]}
            for place in places
        ],
    }
    return done(body, "".join(map(chr, said[places[0] :])), told)


def llama(asked: Asked, _number: int = 0, *, biased: bool = False) -> Answer:
    """No echo; tokens by id under ``content``, before any bias (or after it, which other servers do)."""
    body = asked.body
    if body.get("echo"):
        return fails(500, "Only no echo is supported")
    if not body.get("logprobs"):
        return done(body, reply(body), None)
    found = logprobs(body["prompt"], body["model"])
    bias = {int(token): value for token, value in body.get("logit_bias", {}).items()}
    chosen = max(range(Letters.size), key=lambda token: found[token] + bias.get(token, 0))
    tops = sorted(range(Letters.size), key=lambda token: -found[token])[: body["logprobs"]]
    told = {
        "id": chosen,
        "token": chr(chosen),
        "logprob": 0.0 if biased and bias else found[chosen],
        "top_logprobs": [{"id": token, "token": chr(token), "logprob": found[token]} for token in tops],
    }
    return done(body, chr(chosen), {"content": [told]})


def bare(asked: Asked, _number: int = 0) -> Answer:
    """Texts, and nothing about their probabilities; what it does not know it refuses by name."""
    for name in OPTIONAL:
        if name in asked.body:
            return fails(400, f"Unrecognized request argument supplied: {name}")
    return done(asked.body, reply(asked.body), None)


def remote(url: str, *, model: str = "base", hook: str = "", slots: int = 4, timeout: float = 5.0) -> RemoteEngine:
    """An engine on a stand-in; its pauses are short. `set_adapter` is left to the test."""
    post = Post(url, "/completions", NAMES, "", timeout, (0.01, 0.02), OPTIONAL)
    return RemoteEngine(Letters(), post, model, slots=slots, context=256, hook=hook)


def done(body: dict[str, Any], text: str, told: dict[str, Any] | None) -> Answer:
    for stop in body.get("stop", []):
        text = text.partition(stop)[0]
    usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": len(text)}
    choice = {"index": 0, "text": text, "logprobs": told, "finish_reason": "stop"}
    return Answer(json.dumps({"choices": [choice], "usage": usage}).encode())
