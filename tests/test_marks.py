"""Marks: AUC over all and by kind, who passes, who is chosen."""

from __future__ import annotations

import json
import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisheep.metrics.stats import auc
from minisheep.stages.exam import Mark, auc_error, choose_judge, mark, sentence


def made(value: float, worst: float, passes: bool) -> Mark:
    return Mark(value, 0.05, {"copied": worst, "looped": 0.99}, {"copied": 0.1, "looped": 0.01}, passes)


def test_each_kind_is_marked_alone_and_all_together() -> None:
    found = mark([3.0, 2.0], {"low": [1.0, 0.0], "high": [4.0, 2.5], "none": []})
    assert found.kinds == {"low": 1.0, "high": 0.25}
    assert found.auc == 0.625
    assert found.worst == "high"


def test_an_answer_without_a_score_is_the_lowest() -> None:
    assert mark([None, 1.0], {"a": [0.0]}).auc == 0.5
    assert mark([1.0], {"a": [None]}).auc == 1.0


@pytest.mark.parametrize(
    ("least", "least_kind", "passes"),
    [(0.6, 0.25, True), (0.625, 0.52, True), (0.63, 0.2, False), (0.6, 0.53, False)],
)
def test_a_judge_passes_over_all_and_within_an_error_in_every_kind(
    least: float, least_kind: float, passes: bool
) -> None:
    found = mark([3.0, 2.0], {"low": [1.0, 0.0], "high": [4.0, 2.5]}, least, least_kind)
    assert found.kinds["high"] + found.kinds_se["high"] == pytest.approx(0.526, abs=1e-3)
    assert found.passes == passes


def test_a_kind_that_is_liked_better_than_right_answers_fails() -> None:
    right, others = [float(n) for n in range(20)], [n - 100.0 for n in range(80)]
    assert mark(right, {"other": others, "even": right}, 0.8, 0.5).passes
    assert not mark(right, {"other": others, "liked": [n + 5.0 for n in right]}, 0.5, 0.5).passes


@given(st.lists(st.floats(-5, 5), min_size=1), st.lists(st.floats(-5, 5), min_size=1))
def test_an_echo_lover_turned_round_has_the_opposite_mark(right: list[float], spoiled: list[float]) -> None:
    there, back = mark(right, {"a": spoiled}), mark(spoiled, {"a": right})
    assert there.auc + back.auc == pytest.approx(1, abs=2e-6)


def test_the_error_of_an_auc_is_its_spread_over_exams() -> None:
    chance = random.Random(1)
    drawn = [auc([chance.gauss(1, 1) for _ in range(20)], [chance.gauss(0, 1) for _ in range(60)]) for _ in range(800)]
    assert auc_error(statistics.mean(drawn), 20, 60) == pytest.approx(statistics.stdev(drawn), rel=0.1)


def test_a_perfect_mark_has_no_error_and_nothing_has_no_mark() -> None:
    assert auc_error(1.0, 5, 5) == 0
    for right, spoiled in (([], {"a": [1.0]}), ([1.0], {}), ([1.0], {"a": []})):
        with pytest.raises(ValueError):
            mark(right, spoiled)
    with pytest.raises(ValueError):
        auc_error(0.5, 0, 3)


def test_the_best_that_passes_is_chosen_before_a_better_one_that_fails() -> None:
    marks = {"pmi": made(0.95, 0.04, False), "blend": made(0.9, 0.7, True), "logits": made(0.85, 0.6, True)}
    assert choose_judge(marks) == "blend"


def test_without_any_that_passes_it_is_the_best_of_all_and_ties_go_to_the_first() -> None:
    assert choose_judge({"logits": made(0.6, 0.1, False), "pmi": made(0.7, 0.1, False)}) == "pmi"
    assert choose_judge({"logits": made(0.9, 0.8, True), "pmi": made(0.9, 0.8, True)}) == "logits"


def test_the_marks_in_words() -> None:
    marks = {"logits": made(0.52, 0.4, False), "pmi": made(0.85, 0.04, False), "blend": made(0.93, 0.61, True)}
    assert sentence(marks, 0.8) == (
        "blend passes with AUC 0.93 (worst kind: copied 0.61);"
        " pmi fails with AUC 0.85 since it does not see every kind (copied 0.04); logits fails with AUC 0.52"
    )


def test_a_kind_below_its_limit_that_passes_is_told_with_its_error() -> None:
    assert sentence({"blend": made(0.93, 0.44, True)}, 0.8, 0.5) == (
        "blend passes with AUC 0.93 (worst kind: copied 0.44 ± 0.10, so 0.5 is within its error)"
    )


def test_a_stored_mark_is_the_same() -> None:
    found = mark([3.0, 2.0, None], {"low": [1.0, 0.0], "high": [4.0, 2.5]}, 0.5, 0.1)
    assert Mark.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert not math.isnan(found.se)
