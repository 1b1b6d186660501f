"""The model judges its own pairs (the paper's self-assessment), in one of three ways.

logits   reads the distribution over the grades 1 .. 10 after one prefill, and takes its mean: what a judge that writes
         ``grade||explanation`` would say first, without the noise of sampling and the cost of the explanation.
sample   asks and parses, as the paper's code does.
pmi      mean log-probability per token of the answer given the instruction, less the same without the instruction:
         evidence that the answer belongs to the instruction. Needs no grades, so it works on models too small to give
         them; it does not see whether the answer is true or complete.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from minisheep.config import Settings
from minisheep.engines.base import Engine, GenerateRequest, LoglikRequest, Prompt, Sampling, ScoreRequest, Segment
from minisheep.records import Instruction, Response, Verdict, derive_seed
from minisheep.rules.prompts import LABELS, Frame, answer_prompt, judge_prompt, parse_grade

CRITERIA = ("quality", "following")
SAMPLE_TOKENS = 60
"""Enough for a grade and a sentence."""


@dataclass(frozen=True, slots=True)
class Pair:
    """An instruction and the answer as it would be kept (cut at its natural end)."""

    instruction: Instruction
    response: Response
    answer: str


def judge(
    engine: Engine, settings: Settings, frame: Frame, texts: Mapping[str, str], round: int, pairs: Sequence[Pair]
) -> Iterator[Verdict]:
    """A verdict for each pair, as they finish. Raw numbers are kept in the verdict."""
    if settings.judge == "pmi":
        yield from _by_likelihood(engine, frame, pairs)
    elif settings.judge == "logits":
        yield from _by_distribution(engine, frame, texts, pairs)
    else:
        yield from _by_sample(engine, settings, frame, texts, round, pairs)


def _by_distribution(
    engine: Engine, frame: Frame, texts: Mapping[str, str], pairs: Sequence[Pair]
) -> Iterator[Verdict]:
    requests = [
        ScoreRequest(f"{pair.response.id}/{criterion}", _ask(frame, texts, criterion, pair), LABELS)
        for pair in pairs
        for criterion in CRITERIA
    ]
    waiting: dict[str, dict[str, tuple[float, ...]]] = {}
    for scores in engine.score(requests):
        response, _, criterion = scores.id.partition("/")
        found = waiting.setdefault(response, {})
        found[criterion] = scores.probabilities
        if len(found) == len(CRITERIA):
            del waiting[response]
            yield _verdict(
                response,
                "logits",
                {c: expected_grade(found[c]) for c in CRITERIA},
                {c: {"probabilities": [_tidy(p) for p in found[c]], "mass": _tidy(sum(found[c]))} for c in CRITERIA},
            )


def _by_sample(
    engine: Engine, settings: Settings, frame: Frame, texts: Mapping[str, str], round: int, pairs: Sequence[Pair]
) -> Iterator[Verdict]:
    sampling = Sampling(temperature=1.0, top_p=0.95, max_tokens=SAMPLE_TOKENS, stop=("\n", *frame.stop))
    requests = [
        GenerateRequest(
            f"{pair.response.id}/{criterion}",
            _ask(frame, texts, criterion, pair, explain=True),
            sampling,
            derive_seed(settings.seed, round, "judge", pair.response.id, criterion),
        )
        for pair in pairs
        for criterion in CRITERIA
    ]
    waiting: dict[str, dict[str, str]] = {}
    for completion in engine.generate(requests):
        response, _, criterion = completion.id.partition("/")
        found = waiting.setdefault(response, {})
        found[criterion] = completion.text
        if len(found) == len(CRITERIA):
            del waiting[response]
            yield _verdict(
                response,
                "sample",
                {c: parse_grade(found[c]) for c in CRITERIA},
                {c: {"reply": found[c]} for c in CRITERIA},
            )


def _by_likelihood(engine: Engine, frame: Frame, pairs: Sequence[Pair]) -> Iterator[Verdict]:
    requests = []
    for pair in pairs:
        answer = (Segment(pair.answer),)
        asked = answer_prompt(frame, pair.instruction.instruction, pair.instruction.input)
        requests.append(LoglikRequest(f"{pair.response.id}/given", asked, answer))
        requests.append(LoglikRequest(f"{pair.response.id}/alone", answer_prompt(frame, "", ""), answer))
    waiting: dict[str, dict[str, tuple[float, ...]]] = {}
    for loglik in engine.loglik(requests):
        response, _, side = loglik.id.partition("/")
        found = waiting.setdefault(response, {})
        found[side] = loglik.logprobs
        if len(found) == 2:
            del waiting[response]
            given, alone = (sum(found[s]) / len(found[s]) for s in ("given", "alone"))
            raw = {"given": _tidy(given), "alone": _tidy(alone), "tokens": len(found["given"])}
            score = _tidy(given - alone)
            yield Verdict(response, "pmi", None, None, score, raw)


def _ask(frame: Frame, texts: Mapping[str, str], criterion: str, pair: Pair, explain: bool = False) -> Prompt:
    return judge_prompt(
        frame, texts[criterion], pair.instruction.instruction, pair.instruction.input, pair.answer, explain=explain
    )


def _verdict(response: str, judge: str, grades: dict[str, float | None], raw: dict[str, object]) -> Verdict:
    quality, following = (None if g is None else _tidy(g) for g in (grades["quality"], grades["following"]))
    score = None if quality is None or following is None else min(quality, following)
    return Verdict(response, judge, quality, following, score, raw)


def expected_grade(probabilities: Sequence[float]) -> float | None:
    """The mean grade over the labels 1 .. 10, given that one of them is said; None without any mass on them."""
    mass = sum(probabilities)
    if mass <= 0:
        return None
    return sum(grade * p for grade, p in enumerate(probabilities, 1)) / mass


def _tidy(number: float) -> float:
    """Six significant digits: more is noise, and would make equal runs differ in their last bit."""
    return float(f"{number:.6g}")
