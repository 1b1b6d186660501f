"""Measures of variety: known values, exact expectations, independence of size, and errors that chance explains."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from minisheep.metrics.diversity import (
    FEWEST_GROUPS,
    GROUPS,
    LONGEST,
    Text,
    crowding,
    distinct_at,
    estimate,
    estimate_share,
    normalised_entropy,
    opening,
    read,
    repeated_share,
    seen_share,
    self_overlap,
    typical_length,
    within,
    words,
)
from minisheep.metrics.stats import standard_error

FIVE = ["a b c d", "a b x y", "p q r s", "a b c d", "x y a b"]
"""Four words each, so that eight words are two texts."""


def texts(given: Sequence[str], n: int = 2) -> list[Text]:
    return [read(text, n) for text in given]


def sample(seed: int, count: int) -> list[str]:
    """Texts of a model that never changes: five to fifteen words, few of them frequent."""
    chance = random.Random(seed)
    ranks = range(1, 400)
    weights = [1 / rank for rank in ranks]
    return [
        " ".join(f"w{rank}" for rank in chance.choices(ranks, weights, k=chance.randint(5, 15))) for _ in range(count)
    ]


def test_words_have_no_case_or_punctuation_and_characters_of_other_scripts_are_words() -> None:
    assert words("Don't stop, O'Neill! (ÉTÉ) 42") == ["don't", "stop", "o'neill", "été", "42"]
    assert words("日本のabc") == ["日", "本", "の", "abc"]
    assert words("…!") == []


def test_an_opening_is_two_words() -> None:
    assert opening("What's the capital?") == opening("what's THE name") == "what's the"
    assert opening("Explain.") == "explain"


def test_only_the_beginning_of_a_long_text_is_read() -> None:
    text = read(" ".join(f"w{i}" for i in range(500)), 2)
    assert (text.length, len(text.grams)) == (500, LONGEST - 1)


def test_distinct_at_is_the_mean_over_all_choices_of_texts() -> None:
    expected = fmean(
        [
            len({gram for text in chosen for gram in text.grams}) / sum(len(text.grams) for text in chosen)
            for chosen in itertools.combinations(texts(FIVE), 2)
        ]
    )
    assert distinct_at(texts(FIVE), 8) == pytest.approx(expected)


def test_self_overlap_is_the_mean_over_all_choices_of_others() -> None:
    read_ = texts(FIVE)
    shares = []
    for i, text in enumerate(read_):
        others = read_[:i] + read_[i + 1 :]
        for chosen in itertools.combinations(others, 2):
            held = {gram for other in chosen for gram in other.grams}
            shares.append(sum(gram in held for gram in text.grams) / len(text.grams))
    assert self_overlap(read_, 8) == pytest.approx(fmean(shares))


def test_seen_share_is_the_mean_over_texts() -> None:
    earlier = {gram for text in texts(FIVE) for gram in text.grams}
    now = texts(["a b c q", "x y z", "none of these", "one"])
    assert seen_share(now, earlier) == pytest.approx((2 / 3 + 1 / 2) / 3)
    assert seen_share(texts(["one", ""]), earlier) is None


@pytest.mark.parametrize("measure", [distinct_at, self_overlap])
def test_too_little_text_has_no_value(measure: object) -> None:
    assert callable(measure)
    assert measure(texts(FIVE), 20) is None
    assert measure([], 1) is None
    assert measure(texts(["one", "two", "three"]), 1) is None


@pytest.mark.parametrize("size", [200, 2000])
def test_more_text_of_the_same_kind_looks_no_less_varied(size: int) -> None:
    many = texts(sample(0, 2 * size))
    fews = [texts(sample(seed, size // 8)) for seed in range(1, 13)]
    for measure in (distinct_at, self_overlap):
        found = [value for few in fews if (value := measure(few, size)) is not None]
        assert len(found) == len(fews)
        assert fmean(found) == pytest.approx(measure(many, size), abs=4 * standard_error(found))
        assert standard_error(found) < 0.02
    plain = [len({g for t in some for g in t.grams}) / sum(len(t.grams) for t in some) for some in (fews[0], many)]
    assert plain[0] - plain[1] > 0.1


@hypothesis_settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from("abcdef"), max_size=12).map(" ".join), max_size=12),
    st.integers(1, 60),
    st.integers(1, 4),
)
def test_shares_stay_between_none_and_all(given: list[str], size: int, n: int) -> None:
    read_ = texts(given, n)
    for share in (distinct_at(read_, size), self_overlap(read_, size), repeated_share(given)):
        assert share is None or -1e-9 <= share <= 1 + 1e-9


def test_texts_without_a_word_in_common_are_wholly_distinct() -> None:
    assert distinct_at(texts([f"a{i} b{i} c{i}" for i in range(9)]), 10) == pytest.approx(1)
    assert self_overlap(texts([f"a{i} b{i} c{i}" for i in range(9)]), 10) == pytest.approx(0)


def test_copies_of_one_text_overlap_wholly() -> None:
    assert self_overlap(texts(["a b c d"] * 9), 8) == pytest.approx(1)
    assert distinct_at(texts(["a b c d"] * 9), 8) == pytest.approx(1 / 2)


def test_crowding_is_the_root_of_the_share_of_equal_pairs() -> None:
    labels = list("aabccc")
    pairs = list(itertools.combinations(labels, 2))
    assert crowding(labels) == pytest.approx(math.sqrt(sum(a == b for a, b in pairs) / len(pairs)))
    assert crowding(["a"]) is None


def test_crowding_is_about_the_share_of_the_one_label_that_comes_again() -> None:
    assert crowding([*["the same"] * 60, *map(str, range(40))]) == pytest.approx(0.6, abs=0.01)
    assert crowding(list(map(str, range(9)))) == 0
    assert crowding(["a"] * 9) == 1


def test_entropy_is_one_for_even_labels_and_none_for_nothing() -> None:
    assert normalised_entropy(list("abcd" * 3), 4) == pytest.approx(1)
    assert normalised_entropy(list("abab"), 4) == pytest.approx(1 / 2)
    assert normalised_entropy(["a"] * 5, 4) == 0
    assert normalised_entropy([], 4) is None
    assert normalised_entropy(["a"], 1) is None


def test_what_is_repeated_was_there_before() -> None:
    assert repeated_share(["yes", "yes", "no", "yes"]) == pytest.approx(2 / 4)
    assert repeated_share([]) is None


def test_one_long_text_hardly_moves_the_typical_length() -> None:
    assert typical_length(texts(["a b", "a b c d e f g h"])) == pytest.approx(4)
    assert typical_length(texts(["", "a"])) == 1
    assert typical_length([]) is None


def test_the_error_of_a_mean_is_its_standard_error() -> None:
    values = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0]
    found = estimate([[value] for value in values], fmean)
    assert found is not None
    assert found == pytest.approx((fmean(values), standard_error(values), len(values)))


def test_what_came_of_one_draft_is_one_piece_of_evidence() -> None:
    values = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0]
    assert estimate([[value] * 7 for value in values], fmean) == pytest.approx(estimate([[v] for v in values], fmean))


def test_a_share_of_none_or_all_is_not_held_for_certain() -> None:
    """The rule of three: none of 30 leaves a tenth possible."""
    found = estimate_share([[False, False, False]] * 10)
    assert found is not None and found.error is not None
    assert found.value == 0 and 0.03 < found.error < 0.06
    alike = [[True] * 5, [False] * 5] * 10
    assert estimate_share(alike) == estimate(alike, lambda some: sum(some) / len(some))
    assert estimate_share([]) is None


def test_too_few_drafts_have_no_error() -> None:
    few = [[float(i)] for i in range(FEWEST_GROUPS - 1)]
    found = estimate(few, fmean)
    assert found is not None and found.error is None
    assert estimate([], lambda some: fmean(some) if some else None) is None


def test_many_drafts_are_left_out_in_groups() -> None:
    calls: list[int] = []

    def counted(values: Sequence[float]) -> float:
        calls.append(len(values))
        return fmean(values)

    chance = random.Random(1)
    clusters = [[chance.gauss(0, 1) for _ in range(chance.randint(1, 5))] for _ in range(1000)]
    found = estimate(clusters, counted)
    assert len(calls) == 1 + GROUPS
    assert found is not None and found.error == pytest.approx(1 / math.sqrt(3000), rel=0.5)


@pytest.mark.parametrize("drafts", [10, 60])
def test_the_interval_of_variety_holds_the_true_value(drafts: int) -> None:
    """Two standard errors, over many small samples: about 95 %, a little less where drafts are few."""
    truth = distinct_at(texts(sample(0, 3000)), 200)
    assert truth is not None
    held = 0
    for seed in range(1, 81):
        read_ = texts(sample(seed, drafts * 3))
        found = estimate([read_[i : i + 3] for i in range(0, len(read_), 3)], lambda some: distinct_at(some, 200))
        assert found is not None and found.error is not None
        held += abs(found.value - truth) <= 2 * found.error
    assert held / 80 > 0.85


def test_a_sample_is_of_whole_drafts_and_does_not_depend_on_their_order() -> None:
    clusters = {f"{i * 7 % 11}": ["x"] * 3 for i in range(11)}
    chosen = within(clusters, len, 8)
    assert chosen == within(dict(reversed(clusters.items())), len, 8)
    assert list(chosen) == sorted(clusters)[:3]
    assert within(clusters, len, 10_000) == clusters
