"""Evidence and the blend that weighs it."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisheep.metrics.stats import auc
from minisheep.rules.evidence import Blend, Likelihoods, evidence, fit, later, longest_run, shared_share, weakest

LOGS = Likelihoods((-1.0, -3.0, -0.5), (-2.0, -4.0), (-1.0,), (-2.5,))


def test_the_ending_is_what_the_answer_alone_does_not_have() -> None:
    assert LOGS.answer == (-1.0, -3.0)
    assert LOGS.ending == -0.5
    assert Likelihoods((-1.0,), (-2.0,)).ending == 0


def test_information_is_the_gain_per_token() -> None:
    assert (LOGS.forward, LOGS.backward) == (1.0, 1.5)
    assert Likelihoods().forward is None and Likelihoods().backward is None


def test_a_pair_without_tokens_has_no_evidence() -> None:
    assert evidence("I.", "", "", Likelihoods((-1.0,), (), (-1.0,), (-1.0,))) is None


def test_loops_and_echoes_show_in_the_words() -> None:
    asked = "Why does bread rise?"
    right = "Yeast in the dough makes gas. The gas is held by the dough, which swells."
    right_, looped, copied = (
        evidence(asked, "", answer, LOGS) or {} for answer in (right, f"{right} {right} {right}", asked)
    )
    assert looped["repeated"] > right_["repeated"] + 0.5
    assert looped["variety"] < right_["variety"]
    assert copied["run"] == copied["shared"] == 1 > right_["run"]


def test_an_echo_is_no_information() -> None:
    copied = evidence("Why does bread rise?", "", "Why does bread rise?", LOGS) or {}
    other = evidence("Why does bread rise?", "", "Yeast makes gas.", LOGS) or {}
    assert (copied["forward"], copied["backward"]) == (0, 0)
    assert (other["forward"], other["backward"]) == (LOGS.forward, LOGS.backward)


def test_a_second_half_that_is_likelier_shows() -> None:
    assert later([-3.0, -3.0, -1.0, -0.0]) == 2.5
    assert later([-3.0]) == 0


def test_the_weakest_tokens_are_the_lowest_tenth_and_at_least_one() -> None:
    assert weakest([-1.0, -5.0, -2.0]) == -5.0
    assert weakest([-float(n) for n in range(20)]) == -18.5


def test_overlap_is_counted_in_words_and_in_runs() -> None:
    assert shared_share(["a", "b", "a", "c"], ["a", "z"]) == 0.5
    assert longest_run(["x", "b", "c", "y"], ["a", "b", "c"]) == 2
    assert shared_share([], ["a"]) == 0 == longest_run([], ["a"])


def rows(count: int, centre: float, chance: random.Random) -> list[dict[str, float]]:
    return [{"told": chance.gauss(centre, 1), "noise": chance.gauss(5, 3), "same": 4.0} for _ in range(count)]


def fitted() -> Blend:
    chance = random.Random(1)
    return fit(rows(20, 2, chance), {"one": rows(20, 0, chance), "two": rows(3, 0, chance)})


def test_a_blend_weighs_what_tells_and_not_what_does_not() -> None:
    blend = fitted()
    weights = dict(zip(blend.names, blend.weights, strict=True))
    assert weights["told"] > 3 * abs(weights["noise"])
    assert weights["same"] == 0


def test_a_blend_tells_new_answers_apart() -> None:
    blend, chance = fitted(), random.Random(2)
    right, spoiled = rows(200, 2, chance), rows(200, 0, chance)
    assert auc([blend.score(row) for row in right], [blend.score(row) for row in spoiled]) > 0.85


def test_a_rare_kind_counts_as_much_as_a_frequent_one() -> None:
    right, frequent, rare = {"a": 1.0, "b": 1.0}, {"a": 0.0, "b": 1.0}, {"a": 1.0, "b": 0.0}
    blend = fit([right] * 20, {"frequent": [frequent] * 200, "rare": [rare]})
    assert blend.score(right) > 0 > max(blend.score(frequent), blend.score(rare))


def test_a_blend_is_fitted_on_both_sides_only() -> None:
    for right, spoiled in (([], {"one": [{"a": 1.0}]}), ([{"a": 1.0}], {"one": []}), ([{"a": 1.0}], {})):
        with pytest.raises(ValueError):
            fit(right, spoiled)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=4), st.floats(-9, 9))
def test_a_stored_blend_scores_the_same(values: list[float], intercept: float) -> None:
    names = tuple("abcd"[: len(values)])
    blend = Blend(names, tuple(values), tuple(abs(v) + 1 for v in values), tuple(reversed(values)), intercept)
    again = Blend.from_dict(json.loads(json.dumps(blend.to_dict())))
    assert again == blend
    assert again.score(dict.fromkeys(names, 1.5)) == blend.score(dict.fromkeys(names, 1.5))
