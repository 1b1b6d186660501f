"""The judges over a scripted engine: what they ask, and what they make of the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from scripted_engine import Scripted

from minisheep.data.seed_tasks import load_prompts
from minisheep.engines.fake_engine import text_of
from minisheep.rules.evidence import Blend
from minisheep.rules.prompts import LABELS, Frame
from minisheep.rules.templates import chatml
from minisheep.rules.wording import ENGLISH
from minisheep.run.records import Instruction, Response, Verdict
from minisheep.stages.judge import TOGETHER, Judge, JudgedText, Pair, expected_grade, judge_pairs

FRAME = Frame(chatml())
ONE = JudgedText("seed/1/right", "Tell me a fact.", "", "Robins sing before dawn.")
TWO = JudgedText("two", "Tell me another.", "About food.", "Boil the pasta for nine minutes.")


def run_judge(
    how: Judge, answers: Mapping[str, Any], items: Sequence[JudgedText] = (ONE,)
) -> tuple[dict[str, Verdict], Scripted]:
    engine = Scripted(answers)
    return {v.response_id: v for v in judge_pairs(engine, how, FRAME, load_prompts(), items)}, engine


@pytest.mark.parametrize(
    ("probabilities", "grade"),
    [
        ([0] * 9 + [1], 10),
        ([1] + [0] * 9, 1),
        ([0.1] * 10, 5.5),
        ([0] * 7 + [0.2, 0, 0.2], 9),
        ([0] * 7 + [1e-9, 0, 1e-9], 9),
        ([0] * 10, None),
    ],
)
def test_the_expected_grade_is_the_mean_given_that_a_grade_is_said(
    probabilities: list[float], grade: float | None
) -> None:
    found = expected_grade(probabilities)
    assert found is None if grade is None else found == pytest.approx(grade)


def test_a_pair_is_judged_as_it_would_be_kept() -> None:
    instruction = Instruction(1, "draft", 0, "Do.", "this", 0.1)
    response = Response(instruction.id, 0, "Done. And then", "length", 3)
    assert JudgedText.of(Pair(instruction, response, "Done.")) == JudgedText(response.id, "Do.", "this", "Done.")


def test_the_judge_by_distribution_keeps_the_raw_mass() -> None:
    quality, following = [0.0] * 8 + [0.3, 0.3], [0.0] * 6 + [0.4, 0, 0, 0.1]
    verdicts, engine = run_judge(Judge("logits"), {f"{ONE.id}/quality": quality, f"{ONE.id}/following": following})
    verdict = verdicts[ONE.id]
    assert (verdict.quality, verdict.following) == (9.5, 7.6)
    assert verdict.score == 7.6
    assert verdict.raw["quality"] == {"probabilities": quality, "mass": 0.6}
    assert verdict.raw["following"]["mass"] == 0.5
    assert all(request.labels == LABELS and text_of(request.prompt).endswith(ENGLISH.grade) for request in engine.asked)


@pytest.mark.parametrize(("criterion", "other"), [("quality", "following"), ("following", "quality")])
def test_a_single_criterion_is_asked_alone_and_is_the_score(criterion: str, other: str) -> None:
    verdicts, engine = run_judge(
        Judge("logits", criteria=(criterion,)), {f"{ONE.id}/{criterion}": [0.0] * 8 + [0.3, 0.3]}
    )
    verdict = verdicts[ONE.id]
    assert (verdict.score, getattr(verdict, criterion), getattr(verdict, other)) == (9.5, 9.5, None)
    assert len(engine.asked) == 1 and list(verdict.raw) == [criterion]


def test_each_style_asks_in_its_own_words() -> None:
    asked = set()
    for style in ("simple", "combined", "icl"):
        _, engine = run_judge(Judge("logits", ("quality",), style), {f"{ONE.id}/quality": [0.1] * 10})
        asked.add(text_of(engine.asked[0].prompt))
    assert len(asked) == 3


def test_a_judge_without_any_mass_on_grades_gives_no_score() -> None:
    verdicts, _ = run_judge(Judge("logits"), {f"{ONE.id}/quality": [0.0] * 10, f"{ONE.id}/following": [0.1] * 10})
    assert verdicts[ONE.id].score is None
    assert verdicts[ONE.id].following == 5.5


@pytest.mark.parametrize(
    ("quality", "following", "score"),
    [
        ("9 || good", "7 || mostly", 7),
        ("8/10", "8.5", 8),
        ("I cannot grade this.", "9 || yes", None),
        ("9", "", None),
        ("eleven", "11", None),
    ],
)
def test_the_judge_that_writes_is_read_or_gives_no_score(quality: str, following: str, score: float | None) -> None:
    answers = {f"{i.id}/{c}": t for i in (ONE, TWO) for c, t in (("quality", quality), ("following", following))}
    verdicts, engine = run_judge(Judge("sample"), answers, [ONE, TWO])
    assert {v.score for v in verdicts.values()} == {score}
    assert verdicts[ONE.id].raw == {"quality": {"reply": quality}, "following": {"reply": following}}
    assert len({request.seed for request in engine.asked}) == 4


FORWARD = {
    f"{ONE.id}/given": [-1.0, -2.0, -0.5],
    f"{ONE.id}/alone": [-3.0, -2.0],
    f"{TWO.id}/given": [-1.0, -1.0, -1.0, -7.0],
    f"{TWO.id}/alone": [-0.5, -0.5, -0.5],
}
BACKWARD = {f"{ONE.id}/back": [-1.0, -1.5], f"{ONE.id}/back_alone": [-2.0, -2.0]}


def test_forward_likelihood_is_the_difference_of_two_means_without_the_ending() -> None:
    verdicts, engine = run_judge(Judge("pmi"), FORWARD, [ONE, TWO])
    assert verdicts[ONE.id].score == 1.0
    assert verdicts[TWO.id].score == -0.5
    assert verdicts[ONE.id].raw == {"given": -1.5, "alone": -2.5, "tokens": 2}
    assert verdicts[ONE.id].quality is None
    asked = {request.id: request for request in engine.asked}
    given, alone = asked[f"{ONE.id}/given"], asked[f"{ONE.id}/alone"]
    assert given.continuation == (*alone.continuation, *FRAME.ending)
    assert ONE.instruction in text_of(given.prompt)
    assert ONE.instruction not in text_of(alone.prompt)


def test_backward_likelihood_is_what_the_answer_tells_about_the_instruction() -> None:
    verdicts, engine = run_judge(Judge("backward"), BACKWARD)
    assert verdicts[ONE.id].score == 0.75
    asked = {request.id: request for request in engine.asked}
    back, alone = asked[f"{ONE.id}/back"], asked[f"{ONE.id}/back_alone"]
    assert text_of(back.continuation) == text_of(alone.continuation) == ONE.instruction
    assert ONE.answer in text_of(back.prompt)
    assert ONE.answer not in text_of(alone.prompt)


def test_the_blend_weighs_the_evidence_and_keeps_it() -> None:
    blend = Blend(("forward", "backward"), (0.5, 0.25), (0.5, 0.5), (2.0, 1.0), -0.5)
    verdicts, engine = run_judge(Judge("blend", blend=blend), FORWARD | BACKWARD)
    assert verdicts[ONE.id].score == 2.0 * 1 + 1.0 * 1 - 0.5
    assert verdicts[ONE.id].raw["forward"] == 1.0
    assert verdicts[ONE.id].raw["ending"] == -0.5
    assert len(engine.asked) == 4


def test_a_verdict_waits_for_few_others() -> None:
    """An engine may complete the last text of every item at the end of its batch."""
    items = [JudgedText(f"item {n}", f"Do {n}.", "", f"Done {n}.") for n in range(2 * TOGETHER + 1)]
    engine = Scripted({f"{item.id}/{side}": [-1.0, -1.0] for item in items for side in ("given", "alone")})
    verdicts = judge_pairs(engine, Judge("pmi"), FRAME, load_prompts(), items)
    first = next(verdicts)
    assert len(engine.asked) == 2 * TOGETHER
    assert {first.response_id, *(verdict.response_id for verdict in verdicts)} == {item.id for item in items}
    assert len(engine.asked) == 2 * len(items)


def test_what_items_far_apart_share_is_asked_once_too() -> None:
    items = [JudgedText(f"item {n}", f"Do {n % 80}.", "", "Done.") for n in range(160)]
    engine = Scripted({f"{item.id}/{side}": [-1.0, -1.0] for item in items for side in ("given", "alone")})
    found = list(judge_pairs(engine, Judge("pmi"), FRAME, load_prompts(), items))
    assert len(found) == len(items) and len(engine.asked) == 80 + 1


def test_what_several_items_share_is_asked_once() -> None:
    again = JudgedText("again", ONE.instruction, ONE.input, TWO.answer)
    answers = {f"{item.id}/{side}": [-1.0] for item in (ONE, TWO, again) for side in ("back", "back_alone")}
    verdicts, engine = run_judge(Judge("backward"), answers, [ONE, TWO, again])
    assert len(verdicts) == 3
    texts = [(text_of(r.prompt), text_of(r.continuation)) for r in engine.asked]
    assert len(texts) == len(set(texts)) == 5


@pytest.mark.parametrize(("name", "sides"), [("pmi", ("given", "alone")), ("backward", ("back", "back_alone"))])
def test_texts_without_tokens_get_no_score(name: str, sides: tuple[str, str]) -> None:
    verdicts, _ = run_judge(Judge(name), {f"{ONE.id}/{side}": [] for side in sides})
    assert verdicts[ONE.id].score is None
