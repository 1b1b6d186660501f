"""Both sides on llama.cpp: the run's base with its adapter hot-loaded, and an exported GGUF. For a worker."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from minisheep.engines.base import Completion, GenerateRequest, LoglikRequest, Sampling
from minisheep.engines.llamacpp import LlamaCppEngine
from minisheep.engines.vocabulary import Vocabulary
from minisheep.errors import ExportError
from minisheep.export import check
from minisheep.export.check import Asked, Check
from minisheep.rules.templates import Prompt, Segment, Template

SLACK = 2
"""The export may take so many times the run's tokens to end."""
CONTEXT = 2048
TOP_K = Sampling().top_k
"""With which the run draws its answers."""
_WORDS = 1

Tell = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the run answers to one prompt, greedily."""

    user: str
    prompt: list[int]
    """Token ids."""
    continuation: list[int]
    """Those of the answer, and of its end where it ended."""
    text: str
    ended: bool
    nll: float
    """Summed over the continuation, nats."""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        return cls(**data)


def answers(
    model: Path,
    adapter: Path,
    template: Template,
    users: Sequence[str],
    tokens: int,
    machine: Mapping[str, Any],
    tell: Tell,
) -> list[Answer]:
    """The run's answers of at most so many `tokens`; `tell` hears how many steps of how many are done.

    Raises what the engine raises.
    """
    engine = LlamaCppEngine(model, adapter=adapter, context=CONTEXT, **machine)
    try:
        asked = [template.prompt(user) for user in users]
        said = _generate(engine, asked, template, tokens, tell)
        follow = [_continuation(template, answer) for answer in said]
        nlls = _nlls(engine, asked, follow)
        vocabulary = engine.vocabulary
        found = []
        for user, prompt, answer, more, nll in zip(users, asked, said, follow, nlls, strict=True):
            ids = vocabulary.encode(prompt, bos=True)
            found.append(
                Answer(
                    user,
                    ids,
                    vocabulary.encode(more, bos=False, after=ids[-1]),
                    answer.text,
                    answer.finish == "end",
                    nll,
                )
            )
        return found
    finally:
        engine.close()


def compare(
    model: Path,
    adapter: Path | None,
    rendered: Sequence[str],
    run: Sequence[Answer],
    template: Template,
    tokens: int,
    machine: Mapping[str, Any],
    tell: Tell,
) -> list[Asked]:
    """The export on the same prompts, each as its own template puts it and tokenised as a whole, as servers do."""
    engine = LlamaCppEngine(model, adapter=adapter, context=CONTEXT, **machine)
    try:
        asked: list[Prompt] = [(Segment(text, True),) for text in rendered]
        said = _generate(engine, asked, template, SLACK * tokens, tell)
        follow = [template.completion(answer.text) if answer.ended else (Segment(answer.text),) for answer in run]
        nlls = _nlls(engine, asked, follow)
        return [
            Asked(
                len(answer.continuation),
                answer.nll,
                nll,
                answer.ended,
                mine.finish == "end",
                _begin(mine.text) == _begin(answer.text),
            )
            for answer, mine, nll in zip(run, said, nlls, strict=True)
        ]
    finally:
        engine.close()


def prompt_checks(
    model: Path, rendered: Sequence[str], run: Sequence[Answer], template: Template, *, words: bool
) -> list[Check]:
    """Whether a GGUF's tokenizer gives the run's ids for rendered prompts, and whether the file ends as it should."""
    with Vocabulary.from_file(model) as vocabulary:
        pairs = [
            (answer.prompt, vocabulary.encode((Segment(text, True),), bos=True))
            for answer, text in zip(run, rendered, strict=True)
        ]
        ids = vocabulary.encode((Segment(template.end, True),), bos=False)
        return [
            check.prompts(pairs, words=words, piece=vocabulary.piece),
            check.end(ids, all(vocabulary.is_end(token) for token in ids), template.end),
        ]


def end_token(vocabulary: Vocabulary, template: Template) -> int:
    """The token that ends an answer. Raises `errors.ExportError` where that is not one token."""
    tokens = vocabulary.encode((Segment(template.end, True),), bos=False)
    if len(tokens) != 1:
        raise ExportError(
            f"The template ends answers with {template.end!r}, which is no token of the model. Nothing was exported.",
            "Export --to adapter, and end answers there yourself.",
        )
    return tokens[0]


def _generate(
    engine: LlamaCppEngine, prompts: Sequence[Prompt], template: Template, tokens: int, tell: Tell
) -> list[Completion]:
    sampling = Sampling(temperature=0.0, max_tokens=tokens, stop=template.stop)
    requests = [GenerateRequest(str(place), prompt, sampling) for place, prompt in enumerate(prompts)]
    found: dict[str, Completion] = {}
    for completion in engine.generate(requests):
        found[completion.id] = completion
        tell(len(found), len(requests))
    return [found[request.id] for request in requests]


def _nlls(engine: LlamaCppEngine, prompts: Sequence[Prompt], follow: Sequence[Prompt]) -> list[float]:
    requests = [
        LoglikRequest(str(place), prompt, more)
        for place, (prompt, more) in enumerate(zip(prompts, follow, strict=True))
    ]
    found = {loglik.id: -sum(loglik.logprobs) for loglik in engine.loglik(requests)}
    return [found[request.id] for request in requests]


def _continuation(template: Template, answer: Completion) -> Prompt:
    return template.completion(answer.text) if answer.finish == "end" else (Segment(answer.text),)


def _begin(text: str) -> list[str]:
    return text.split()[:_WORDS]
