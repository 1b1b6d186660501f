"""The signs by which a judge is watched, and what is said of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from minisheep.data.seed_tasks import load_prompts
from minisheep.engines.base import Loglik, LoglikRequest, ScoreRequest, Scores
from minisheep.engines.fake_engine import FakeEngine, text_of
from minisheep.rules.prompts import Frame
from minisheep.rules.templates import chatml
from minisheep.rules.wording import ENGLISH
from minisheep.run.records import Instruction, Response, Verdict
from minisheep.stages.judge import Judge, JudgedText, Pair, agreement, findings, judge_health
from minisheep.stages.judge import judge_pairs as judge_items

FRAME = Frame(chatml())
TEXTS = load_prompts()


def pair(number: int) -> Pair:
    instruction = Instruction(1, "draft", number, f"Tell me fact number {number}.", "", 0.1)
    answer = " ".join(["word"] * (number % 7 + 1)) + "."
    return Pair(instruction, Response(instruction.id, 0, answer, "end", 6), answer)


PAIRS = [pair(number) for number in range(120)]


def verdict(pair: Pair, score: float | None, mass: float = 1.0) -> Verdict:
    raw = {criterion: {"mass": mass} for criterion in ("quality", "following")}
    return Verdict(pair.response.id, "logits", score, score, score, raw)


class ByLength(FakeEngine):
    """Grades by the length of what it is asked; `again` turns that round in the plain style."""

    def __init__(self, again: int = 1) -> None:
        super().__init__()
        self.again = again
        self.prompts: list[str] = []

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[Scores]:
        for request in requests:
            text = text_of(request.prompt)
            self.prompts.append(text)
            words = text.count("word")
            high = 0.1 * (words if self.again > 0 or "two measures" in text else 9 - words)
            yield Scores(request.id, (1 - high, *[0.0] * 8, high))

    def loglik(self, requests: Sequence[LoglikRequest]) -> Iterator[Loglik]:
        self.prompts += [text_of(request.prompt) for request in requests]
        return super().loglik(requests)


def health(scores: Sequence[float | None], mass: float = 1.0, engine: FakeEngine | None = None) -> Mapping[str, Any]:
    pairs = PAIRS[: len(scores)]
    verdicts = [verdict(p, score, mass) for p, score in zip(pairs, scores, strict=True)]
    return judge_health(engine or ByLength(), Judge("logits"), FRAME, TEXTS, pairs, verdicts)


def by_length(pairs: Sequence[Pair], sign: int = 1) -> list[float]:
    return [5 + sign * len(p.answer.split()) / 2 for p in pairs]


def test_the_share_of_top_grades_is_counted() -> None:
    found = health([9.5, 10.0, 9.4, None] * 5)
    assert found["saturation"] == pytest.approx(2 / 3, abs=1e-6)
    assert (found["judged"], found["scored"]) == (20, 15)
    assert "67%" in findings(found)[0]


def test_the_mass_on_no_grade_is_counted() -> None:
    found = health(by_length(PAIRS), mass=0.25)
    assert found["invalid"] == 0.75
    assert any("75%" in text for text in findings(found))


def test_replies_that_cannot_be_read_are_counted_for_a_judge_that_writes() -> None:
    verdicts = [
        Verdict(p.response.id, "sample", None, None, s, {}) for p, s in zip(PAIRS, [1.0, None] * 60, strict=True)
    ]
    found = judge_health(FakeEngine(), Judge("sample"), FRAME, TEXTS, PAIRS, verdicts)
    assert found["invalid"] == 0.5


@pytest.mark.parametrize(("sign", "word"), [(1, "longer"), (-1, "shorter")])
def test_a_judge_by_length_is_told_so(sign: int, word: str) -> None:
    found = health(by_length(PAIRS, sign))
    assert found["length"] == sign
    assert any(f"{word} is better" in text for text in findings(found))


def test_a_judge_that_is_the_same_in_other_words_agrees_with_itself() -> None:
    found = health(by_length(PAIRS))
    assert (found["agreement"], found["agreement_pairs"]) == (1.0, 12)
    assert not any("disagrees" in text for text in findings(found))


def test_a_judge_that_turns_round_in_other_words_is_told_so() -> None:
    found = health(by_length(PAIRS), engine=ByLength(again=-1))
    assert found["agreement"] == -1.0
    assert any("disagrees with itself" in text for text in findings(found))


@pytest.mark.parametrize("style", ["simple", "combined", "icl"])
def test_grades_are_asked_again_in_another_style(style: str) -> None:
    items = [JudgedText.of(p) for p in PAIRS[:5]]
    engine = ByLength()
    how = Judge("logits", prompt=style)
    first = {v.response_id: v.score or 0 for v in judge_items(engine, how, FRAME, TEXTS, items)}
    before = set(engine.prompts)
    engine.prompts.clear()
    assert agreement(engine, how, FRAME, TEXTS, items, first)[1] == 5
    assert engine.prompts and not before & set(engine.prompts)


def test_likelihood_is_asked_again_with_a_lead_in() -> None:
    items = [JudgedText.of(p) for p in PAIRS[:5]]
    engine = ByLength()
    agreement(engine, Judge("pmi"), FRAME, TEXTS, items, {item.id: 1.0 for item in items})
    assert sum(ENGLISH.lead_in in prompt for prompt in engine.prompts) == 5


def test_which_pairs_are_judged_again_does_not_depend_on_their_order() -> None:
    items = [JudgedText.of(p) for p in PAIRS]
    first = dict(zip([item.id for item in items], by_length(PAIRS), strict=True))
    asked = []
    for order in (items, items[::-1]):
        engine = ByLength()
        agreement(engine, Judge("logits"), FRAME, TEXTS, order, first)
        asked.append(sorted(engine.prompts))
    assert asked[0] == asked[1]


def test_what_is_undefined_is_none_and_nothing_is_said() -> None:
    for scores in ([], [None], [7.0], [None] * 12):
        found = health(scores)
        assert found["length"] is None is found["agreement"]
        assert findings(found) == []


def test_a_likelihood_judge_has_no_grades_to_saturate() -> None:
    verdicts = [Verdict(p.response.id, "pmi", None, None, s, {}) for p, s in zip(PAIRS, by_length(PAIRS), strict=True)]
    found = judge_health(FakeEngine(), Judge("pmi"), FRAME, TEXTS, PAIRS, verdicts)
    assert found["saturation"] is None is found["invalid"]
    assert found["agreement_pairs"] == 12


def test_nothing_is_said_of_a_handful_of_pairs() -> None:
    assert findings(health([10.0] * 5, mass=0.1)) == []


def test_a_flat_judge_is_told_so() -> None:
    found = health([7.0, 7.01] * 10)
    assert any("nearly the same grade" in text for text in findings(found))
