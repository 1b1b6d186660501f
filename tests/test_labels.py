from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisheep.engines.sampling import LabelTree

ONE, ZERO = 10, 11


def test_labels_of_one_token_need_nothing_fed() -> None:
    tree = LabelTree([(1,), (2,)])
    assert tree.paths == [()]
    assert tree.probabilities({(): {1: 0.5, 2: 0.25}}) == (0.5, 0.25)


def test_a_label_that_another_continues_counts_only_where_it_ends() -> None:
    tree = LabelTree([(ONE,), (ONE, ZERO)])
    assert tree.paths == [(ONE,)]
    one, ten = tree.probabilities({(): {ONE: 0.8}, (ONE,): {ZERO: 0.25}})
    assert (one, ten) == pytest.approx((0.6, 0.2))


def test_branches_that_part_late_are_fed_one_by_one() -> None:
    tree = LabelTree([(1, 2), (3, 4, 5)])
    assert sorted(tree.paths) == [(1,), (3, 4)]


def test_a_label_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="label"):
        LabelTree([(1,), ()])


@given(
    labels=st.lists(
        st.lists(st.integers(0, 2), min_size=1, max_size=4).map(tuple), min_size=1, max_size=8, unique=True
    ),
    draw=st.randoms(use_true_random=False),
)
def test_different_labels_share_at_most_all_of_the_probability(labels: list[tuple[int, ...]], draw: object) -> None:
    tree = LabelTree(labels)
    following = {}
    for path, children in tree.children.items():
        weights = [draw.random() + 0.01 for _ in range(4)]  # type: ignore[attr-defined]
        following[path] = {child: weights[child] / sum(weights) for child in children}
    found = tree.probabilities(following)
    assert all(0 <= p <= 1 for p in found)
    assert math.fsum(found) <= 1 + 1e-9


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4).map(tuple), min_size=1, max_size=8))
def test_the_fed_paths_pass_through_every_branch_and_none_is_redundant(labels: list[tuple[int, ...]]) -> None:
    tree = LabelTree(labels)
    passed = {path[:n] for path in tree.paths for n in range(len(path) + 1)}
    assert passed == tree.children.keys()
    assert not any(a != b and b[: len(a)] == a for a in tree.paths for b in tree.paths)
