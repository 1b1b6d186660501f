"""Small statistics against known values and against their definitions."""

from __future__ import annotations

import math
import statistics as reference
from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from minisheep.metrics import stats as own

numbers = st.floats(min_value=-1e6, max_value=1e6)
few = st.lists(numbers, min_size=2, max_size=20)


@given(few)
def test_the_spread_agrees_with_the_standard_library(values: list[float]) -> None:
    assert own.standard_deviation(values) == pytest.approx(reference.stdev(values), abs=1e-5)


def test_the_standard_error_of_known_values() -> None:
    assert own.standard_error([1, 2, 3, 4]) == pytest.approx(math.sqrt(5 / 3) / 2)


def test_a_constant_difference_has_no_error() -> None:
    assert own.paired_difference([3, 5, 9], [1, 3, 7]) == (2, 0, 3)


def test_pairing_takes_out_the_spread_between_items() -> None:
    first, second = [1.0, 50.0, 900.0], [0.5, 49.4, 899.6]
    difference, error, n = own.paired_difference(first, second)
    assert difference == pytest.approx(0.5)
    assert n == 3
    assert error < 0.1 < own.standard_error(first)


def test_distinct_n_counts_over_all_texts() -> None:
    assert own.distinct_n(["a b a b", "A b"], 1) == pytest.approx(2 / 6)
    assert own.distinct_n(["a b a b", "a b"], 2) == pytest.approx(2 / 4)
    assert own.distinct_n(["x", "a b c"], 3) == 1


def test_auc_is_the_share_of_pairs_in_order() -> None:
    assert own.auc([3, 4], [1, 2]) == 1
    assert own.auc([1, 2], [3, 4]) == 0
    assert own.auc([1, 1], [1]) == 0.5


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_auc_equals_the_count_over_all_pairs(positive: list[int], negative: list[int]) -> None:
    wins = sum((p > n) + (p == n) / 2 for p in positive for n in negative)
    assert own.auc(positive, negative) == pytest.approx(wins / len(positive) / len(negative))


@given(few, st.floats(0, 1))
def test_a_quantile_lies_between_the_extremes(values: list[float], share: float) -> None:
    assert min(values) <= own.quantile(values, share) <= max(values)


def test_quantiles_of_known_values() -> None:
    assert [own.quantile([4, 1, 3, 2], q) for q in (0, 0.25, 0.5, 1)] == [1, 1.75, 2.5, 4]
    assert own.quantile([7], 0.9) == 7


def test_describe_names_each_number() -> None:
    assert own.describe([1, 2, 6])._asdict() == {
        "n": 3, "min": 1, "median": 2, "mean": 3, "max": 6, "sd": pytest.approx(math.sqrt(7))
    }  # fmt: skip
    assert own.describe([5]).sd == 0


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=20))
def test_spearman_agrees_with_scipy(pairs: list[tuple[int, int]]) -> None:
    first, second = zip(*pairs, strict=True)
    assume(len(set(first)) > 1 < len(set(second)))
    assert own.spearman(first, second) == pytest.approx(spearmanr(first, second).statistic, abs=1e-12)


def test_spearman_sees_order_only() -> None:
    assert own.spearman([1, 2, 3, 4], [1, 10, 100, 1000]) == pytest.approx(1)
    assert own.spearman([1, 2, 3], [9, 5, 1]) == pytest.approx(-1)
    assert own.spearman([1, 2, 2, 3], [1, 2, 2, 3]) == pytest.approx(1)


@pytest.mark.parametrize(
    "undefined",
    [
        lambda: own.standard_deviation([1]),
        lambda: own.standard_error([]),
        lambda: own.paired_difference([1, 2], [1]),
        lambda: own.paired_difference([1], [1]),
        lambda: own.distinct_n(["a"], 2),
        lambda: own.distinct_n(["a"], 0),
        lambda: own.distinct_n([], 1),
        lambda: own.auc([], [1]),
        lambda: own.auc([1], []),
        lambda: own.quantile([], 0.5),
        lambda: own.quantile([1], 1.5),
        lambda: own.describe([]),
        lambda: own.spearman([1, 1], [1, 2]),
        lambda: own.spearman([1, 2], [1, 1]),
        lambda: own.spearman([], []),
        lambda: own.spearman([1], [1, 2]),
    ],
)
def test_what_is_undefined_raises(undefined: Callable[[], object]) -> None:
    with pytest.raises(ValueError):
        undefined()
