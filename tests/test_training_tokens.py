"""The decisions of training that need no tensors."""

from __future__ import annotations

import pytest

from minisheep.trainers.base import (
    TokenPair,
    cut,
    join_pairs,
    learning_rate,
    plan_epoch,
    split,
    steps_per_epoch,
    usable_warmup,
)


def test_a_pair_is_prompt_then_completion_and_only_the_completion_counts() -> None:
    (pair,) = join_pairs([([1, 2, 3], [4, 5])], 100).pairs
    assert pair == TokenPair((1, 2, 3, 4, 5), 3)
    assert pair.supervised == 2


def test_the_first_token_of_all_has_no_loss() -> None:
    (pair,) = join_pairs([([], [4, 5, 6])], 100).pairs
    assert (pair.first, pair.supervised) == (1, 2)


def test_a_long_completion_is_cut_and_counted() -> None:
    data = join_pairs([([1, 2], [3, 4, 5]), ([1], [2])], 4)
    assert [pair.ids for pair in data.pairs] == [(1, 2, 3, 4), (1, 2)]
    assert (data.truncated, data.left_out) == (1, 0)


@pytest.mark.parametrize(("prompt", "completion"), [(range(4), [9]), (range(9), [9]), (range(2), []), ([], [9])])
def test_a_pair_with_nothing_to_learn_is_left_out(prompt: range, completion: list[int]) -> None:
    data = join_pairs([(list(prompt), completion)], 4)
    assert (data.pairs, data.truncated, data.left_out) == ((), 0, 1)


@pytest.mark.parametrize(("count", "held"), [(1, 0), (9, 0), (10, 1), (14, 1), (100, 10), (229, 23)])
def test_a_tenth_is_held_back_from_ten_examples_on(count: int, held: int) -> None:
    training, validation = split(count, 0.1, 1)
    assert len(validation) == held
    assert sorted(training + validation) == list(range(count))


def test_no_share_holds_nothing_back_and_the_whole_share_leaves_one() -> None:
    assert split(50, 0.0, 1)[1] == []
    assert len(split(50, 1.0, 1)[0]) == 1


def test_the_split_is_the_seeds() -> None:
    assert split(100, 0.1, 1) == split(100, 0.1, 1) != split(100, 0.1, 2)


def test_an_epoch_sees_every_example_once() -> None:
    batches = plan_epoch([5] * 37, 16, 1, 0)
    assert sorted(index for batch in batches for index in batch) == list(range(37))
    assert [len(batch) for batch in batches] == [16, 16, 5]
    assert len(batches) == steps_per_epoch(37, 16)


def test_epochs_and_seeds_differ_in_their_order() -> None:
    lengths = list(range(40))
    plans = [plan_epoch(lengths, 8, seed, epoch) for seed, epoch in ((1, 0), (1, 1), (2, 0))]
    assert plans[0] != plans[1] != plans[2] != plans[0]
    assert plans[0] == plan_epoch(lengths, 8, 1, 0)


def test_a_batch_is_sorted_by_length() -> None:
    lengths = [(index * 7) % 11 for index in range(30)]
    for batch in plan_epoch(lengths, 8, 1, 0):
        assert [lengths[index] for index in batch] == sorted(lengths[index] for index in batch)


def test_cut_keeps_order_and_loses_nothing() -> None:
    assert cut(range(7), 3) == [(0, 1, 2), (3, 4, 5), (6,)]


def test_a_short_run_warms_up_for_a_tenth_at_most() -> None:
    assert [usable_warmup(20, total) for total in (5, 26, 100, 199, 200, 1000)] == [0, 2, 10, 19, 20, 20]


def test_a_long_run_keeps_the_warm_up_that_was_asked_for() -> None:
    assert usable_warmup(300, 1000) == 300


def test_the_rate_rises_to_the_peak_and_falls_towards_zero() -> None:
    rates = [learning_rate(step, 100, 10, 1.0) for step in range(100)]
    assert rates[:10] == sorted(rates[:10]) and rates[9] == 1.0 == rates[10]
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[99] < 0.001
    assert rates[0] > 0


def test_the_rate_without_warm_up_begins_at_the_peak() -> None:
    assert learning_rate(0, 1, 0, 5e-5) == 5e-5
