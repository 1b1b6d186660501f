"""Bootstrap intervals: known values, coverage, pairing, and numbers that are the same every time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from minisheep.metrics.stats import Interval, accuracy, change

rows = st.lists(st.lists(st.booleans(), min_size=1, max_size=3), min_size=1, max_size=30)


def test_levels_of_a_known_table() -> None:
    found = accuracy([[True, True], [True, False], [False]])
    assert found.prompt.value == pytest.approx(1 / 3)
    assert found.instruction.value == pytest.approx(3 / 5)


@hypothesis_settings(max_examples=40, deadline=None)
@given(rows)
def test_the_interval_holds_the_value_and_stays_in_its_limits(table: list[list[bool]]) -> None:
    for interval in accuracy(table, draws=300):
        assert 0 <= interval.low <= interval.high <= 1
        assert interval.low - 0.35 <= interval.value <= interval.high + 0.35


@hypothesis_settings(max_examples=30, deadline=None)
@given(rows)
def test_a_model_does_not_differ_from_itself(table: list[list[bool]]) -> None:
    assert change(table, table, draws=200) == (Interval(0, 0, 0), Interval(0, 0, 0))


def test_all_or_nothing_has_no_width() -> None:
    assert accuracy([[True]] * 9) == (Interval(1, 1, 1), Interval(1, 1, 1))
    assert accuracy([[False, False]] * 9) == (Interval(0, 0, 0), Interval(0, 0, 0))


def test_the_same_verdicts_give_the_same_numbers_and_another_seed_others() -> None:
    table = [[i % 3 == 0, i % 2 == 0] for i in range(50)]
    assert accuracy(table) == accuracy(table)
    assert accuracy(table, draws=50, seed=2) != accuracy(table, draws=50)


def test_the_interval_is_that_of_a_share() -> None:
    """Prompts with one constraint: the normal approximation is good at 400 of them."""
    table = [[i % 4 == 0] for i in range(400)]
    low, high = accuracy(table).prompt[1:]
    error = (0.25 * 0.75 / 400) ** 0.5
    assert low == pytest.approx(0.25 - 1.96 * error, abs=0.006)
    assert high == pytest.approx(0.25 + 1.96 * error, abs=0.006)


def test_constraints_of_one_prompt_are_drawn_together() -> None:
    """Ten copies of a verdict in one prompt are no more evidence than one."""
    table = [[i % 2 == 0] for i in range(60)]
    tenfold = [row * 10 for row in table]
    assert accuracy(tenfold).instruction == pytest.approx(accuracy(table).instruction)


def test_pairing_narrows_the_interval() -> None:
    chance = np.random.default_rng(0)
    base = [[bool(v)] for v in chance.random(200) < 0.5]
    better = [[True] if i % 20 == 0 else row for i, row in enumerate(base)]
    found, alone = change(better, base).prompt, accuracy(better).prompt
    assert found.value == pytest.approx(sum(b[0] - a[0] for a, b in zip(base, better, strict=True)) / 200)
    assert found.low > -1e-9
    assert found.high - found.low < (alone.high - alone.low) / 2


def test_about_95_of_100_intervals_hold_the_truth() -> None:
    chance = np.random.default_rng(3)
    held = 0
    for trial in range(200):
        found = accuracy([[bool(v)] for v in chance.random(120) < 0.4], draws=400, seed=trial).prompt
        held += found.low <= 0.4 <= found.high
    assert 178 <= held <= 199


@pytest.mark.parametrize("table", [[], [[]], [[True], []]])
def test_nothing_to_measure_raises(table: list[list[bool]]) -> None:
    with pytest.raises(ValueError):
        accuracy(table)


def test_only_the_same_constraints_can_be_paired() -> None:
    for base in ([[True]], [[True], [True, True]]):
        with pytest.raises(ValueError):
            change([[True], [False]], base)
