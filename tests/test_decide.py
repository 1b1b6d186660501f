"""Which round is the best, and when a run ends: decisions from measurements alone."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from minisheep.run.decision import decide, differences, outcome

ITEMS = 60


def model(kept: float, nll: float, ended: float = 0.5, seed: int = 0, items: int = ITEMS) -> dict[str, Any]:
    """Metrics of a model that keeps about so many constraints; which ones follows from the seed."""
    chance = random.Random(seed)
    return {
        "verifiable_by_item": {
            f"item-{i}": {
                "strict": [chance.random() < kept, chance.random() < kept],
                "loose": [True, True],
                "ended": chance.random() < ended,
            }
            for i in range(items)
        },
        "nll_by_task": {f"task-{i}": nll + chance.gauss(0, 0.02) + i / 50 for i in range(items)},
    }


def measured(*rounds: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Metrics of rounds 0 .. n with the decision that each led to."""
    found: dict[int, dict[str, Any]] = {}
    for number, metrics in enumerate(rounds):
        found[number] = {"model": metrics, "decision": decide(number, metrics, dict(found))}
    return found


def test_the_first_measurement_is_the_best_so_far() -> None:
    assert measured(model(0.3, 2.5))[0]["decision"]["best"] == 0


def test_a_round_that_keeps_many_more_constraints_is_a_gain() -> None:
    decision = measured(model(0.2, 2.5), model(0.8, 2.5))[1]["decision"]
    assert (decision["outcome"], decision["best"], decision["without_gain"]) == ("gain", 1, 0)
    assert decision["measures"]["constraints"]["low"] > 0
    assert "Round 1" in decision["text"]


def test_a_round_that_only_says_instructions_back_is_no_gain() -> None:
    """Its strict verdicts rise since the words that are asked for stand in the instruction."""
    base, echo = model(0.3, 2.5), model(0.8, 2.5)
    for metrics, copies in ((base, False), (echo, True)):
        for verdict in metrics["verifiable_by_item"].values():
            verdict["own"] = [kept and not copies for kept in verdict["strict"]]
    decision = measured(base, echo)[1]["decision"]
    assert (decision["outcome"], decision["best"]) == ("loss", 0)


def test_a_lower_loss_on_held_out_answers_is_a_gain() -> None:
    decision = measured(model(0.3, 2.5), model(0.3, 2.3))[1]["decision"]
    assert decision["outcome"] == "gain"
    assert decision["measures"]["likelihood"]["value"] > 0.15


def test_better_in_one_way_and_worse_in_another_is_no_gain() -> None:
    decision = measured(model(0.2, 2.5), model(0.8, 2.9))[1]["decision"]
    assert (decision["outcome"], decision["best"], decision["without_gain"]) == ("mixed", 0, 1)


def test_a_later_round_is_held_against_the_best_and_not_against_the_last() -> None:
    rounds = measured(model(0.2, 2.5), model(0.7, 2.5), model(0.3, 2.5), model(0.65, 2.5, seed=9))
    assert rounds[2]["decision"]["outcome"] == "loss"
    assert rounds[3]["decision"]["against"] == 1
    assert [rounds[r]["decision"]["best"] for r in rounds] == [0, 1, 1, 1]
    assert [rounds[r]["decision"]["without_gain"] for r in rounds] == [0, 0, 1, 2]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_the_same_model_twice_is_never_a_gain(seed: int) -> None:
    metrics = model(0.4, 2.5, seed=seed)
    assert outcome(differences(metrics, metrics)) == "none"


def test_chance_alone_seldom_makes_a_gain() -> None:
    outcomes = [outcome(differences(model(0.4, 2.5, seed=2 * s), model(0.4, 2.5, seed=2 * s + 1))) for s in range(60)]
    assert outcomes.count("gain") <= 9  # three measures at 2.5 % each, with room for a draw of sixty


def test_rounds_without_common_items_are_told_apart_by_nothing() -> None:
    assert differences({"nll_by_task": {"a": 1.0}}, {"nll_by_task": {"b": 1.0}}) == {}
