"""The model judges pairs (the paper's self-assessment): by grades that it says, or by how likely it finds the texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from minisheep.engines.base import Completion, Engine, GenerateRequest, Sampling, ScoreRequest, Scores
from minisheep.records import Verdict, derive_seed
from minisheep.rules.evidence import Likelihoods, evidence
from minisheep.rules.prompts import LABELS, Frame, judge_prompt, parse_grade
from minisheep.rules.statistics import six_digits
from minisheep.rules.templates import Prompt
from minisheep.stages.asked import Asked, Judge
from minisheep.stages.likelihood import BACKWARD, FORWARD, likelihoods

SAMPLE_TOKENS = 60
"""Enough for a grade and a sentence."""
SIDES = {"pmi": FORWARD, "backward": BACKWARD, "blend": FORWARD + BACKWARD}
"""The likelihoods that each judge without grades needs."""

Result = TypeVar("Result", Scores, Completion)
Grade = tuple[float | None, dict[str, Any]]
"""A grade, None where none can be read, and the raw numbers or words behind it."""


def judge(
    engine: Engine, judge: Judge, frame: Frame, texts: Mapping[str, str], items: Sequence[Asked]
) -> Iterator[Verdict]:
    """A verdict for each item, as they finish. Raw numbers are kept in the verdict."""
    if judge.name == "logits":
        requests = [
            ScoreRequest(f"{item.id}/{criterion}", _ask(judge, frame, texts, criterion, item), LABELS)
            for item in items
            for criterion in judge.criteria
        ]
        yield from _graded(judge, engine.score(requests), _read_distribution)
    elif judge.name == "sample":
        yield from _graded(judge, engine.generate(_sampled(judge, frame, texts, items)), _read_reply)
    else:
        for item, found in likelihoods(engine, frame, items, SIDES[judge.name]):
            yield verdict_by_likelihood(judge, item, found)


def verdict_by_likelihood(judge: Judge, item: Asked, found: Likelihoods) -> Verdict:
    """The verdict of a judge without grades. The score is None for texts without tokens."""
    score: float | None
    if judge.name == "blend":
        assert judge.blend is not None
        signs = evidence(item.instruction, item.input, item.answer, found)
        raw: dict[str, Any] = {name: six_digits(value) for name, value in (signs or {}).items()}
        score = judge.blend.score(signs) if signs else None
    else:
        forward = judge.name == "pmi"
        score = found.forward if forward else found.backward
        given, alone = (found.answer, found.alone) if forward else (found.back, found.back_alone)
        raw = {"given": _mean(given), "alone": _mean(alone), "tokens": len(given)}
    return Verdict(item.id, judge.name, None, None, None if score is None else six_digits(score), raw)


def _graded(judge: Judge, results: Iterator[Result], read: Callable[[Result], Grade]) -> Iterator[Verdict]:
    """Verdicts from results whose ids end in a criterion, each when all of its criteria are there."""
    waiting: dict[str, dict[str, Grade]] = {}
    for result in results:
        item, _, criterion = result.id.rpartition("/")
        found = waiting.setdefault(item, {})
        found[criterion] = read(result)
        if len(found) == len(judge.criteria):
            del waiting[item]
            yield _verdict(item, judge, found)


def _verdict(item: str, judge: Judge, found: Mapping[str, Grade]) -> Verdict:
    grades = {c: None if (grade := found[c][0]) is None else six_digits(grade) for c in judge.criteria}
    known = [grade for grade in grades.values() if grade is not None]
    score = min(known) if len(known) == len(grades) else None
    raw = {c: found[c][1] for c in judge.criteria}
    return Verdict(item, judge.name, grades.get("quality"), grades.get("following"), score, raw)


def _sampled(judge: Judge, frame: Frame, texts: Mapping[str, str], items: Sequence[Asked]) -> list[GenerateRequest]:
    sampling = Sampling(temperature=1.0, top_p=0.95, max_tokens=SAMPLE_TOKENS, stop=("\n", *frame.stop))
    return [
        GenerateRequest(
            f"{item.id}/{criterion}",
            _ask(judge, frame, texts, criterion, item, explain=True),
            sampling,
            derive_seed(judge.seed, judge.round, "judge", item.id, criterion),
        )
        for item in items
        for criterion in judge.criteria
    ]


def _ask(
    judge: Judge, frame: Frame, texts: Mapping[str, str], criterion: str, item: Asked, explain: bool = False
) -> Prompt:
    return judge_prompt(
        frame, texts, judge.prompt, criterion, item.instruction, item.input, item.answer, explain=explain
    )


def _read_distribution(scores: Scores) -> Grade:
    raw = {
        "probabilities": [six_digits(p) for p in scores.probabilities],
        "mass": six_digits(sum(scores.probabilities)),
    }
    return expected_grade(scores.probabilities), raw


def _read_reply(completion: Completion) -> Grade:
    return parse_grade(completion.text), {"reply": completion.text}


def expected_grade(probabilities: Sequence[float]) -> float | None:
    """The mean grade over the labels 1 .. 10, given that one of them is said; None without any mass on them."""
    mass = sum(probabilities)
    if mass <= 0:
        return None
    return sum(grade * p for grade, p in enumerate(probabilities, 1)) / mass


def _mean(values: Sequence[float]) -> float | None:
    return six_digits(sum(values) / len(values)) if values else None
