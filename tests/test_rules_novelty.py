"""The pruned search finds what comparing with every text finds, and compares few."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from minisheep.engines.fake_text import _task
from minisheep.rules import similarity
from minisheep.rules.similarity import NoveltyIndex, OverlapIndex, Search, rouge_l, symbols, tokens

LATIN = ["a", "b", "c", "the", "sea", "of", "7"]
OTHER = ["海", "письмо", "ñ", "ſ", "", "—"]
TEXTS = st.lists(st.lists(st.sampled_from(LATIN), max_size=9).map(" ".join), max_size=14)
MIXED = st.lists(st.lists(st.sampled_from([*LATIN[:3], *OTHER]), max_size=7).map(" ".join), max_size=14)
TIED = st.lists(st.lists(st.sampled_from("abcdefghijklmnopqrst"), min_size=5, max_size=16).map(" ".join), max_size=12)
SCORER = rouge_scorer.RougeScorer(["rougeL"])


@contextmanager
def every_step_at_once() -> Iterator[None]:
    """Limits so low that a handful of texts goes through every step of a search that thousands do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity, "FREQUENT_LEAST", 2)
        patch.setattr(similarity, "PROBES", 1)
        patch.setattr(similarity, "FIRST_POSTINGS", 1)
        patch.setattr(similarity, "GROWTH", 1)
        yield


def by_rouge_score(query: str, texts: list[str]) -> tuple[float, int]:
    return best(float(SCORER.score(text, query)["rougeL"].fmeasure) for text in texts)


def by_pairs(query: str, texts: list[str]) -> tuple[float, int]:
    return best(rouge_l(query, text) for text in texts)


def best(scores: Iterator[float]) -> tuple[float, int]:
    found = list(scores)
    highest = max(found, default=0.0)
    return (highest, found.index(highest)) if highest > 0 else (0.0, -1)


def one_by_one(texts: list[str]) -> Iterator[tuple[str, list[str], tuple[float, int]]]:
    """Each text, those before it, and the nearest of them that the index found."""
    index = NoveltyIndex()
    for number, text in enumerate(texts):
        yield text, texts[:number], index.nearest(text)
        index.add(text)


@given(TEXTS)
def test_the_nearest_is_that_of_rouge_score(texts: list[str]) -> None:
    with every_step_at_once():
        for text, earlier, found in one_by_one(texts):
            assert found == by_rouge_score(text, earlier)


@given(TIED)
def test_decisions_at_seven_tenths_are_those_of_rouge_score(texts: list[str]) -> None:
    with every_step_at_once():
        for text, earlier, (f, _) in one_by_one(texts):
            assert (f > 0.7) == (by_rouge_score(text, earlier)[0] > 0.7)


@given(MIXED)
def test_other_scripts_blank_texts_and_mixtures_are_exact(texts: list[str]) -> None:
    with every_step_at_once():
        for text, earlier, found in one_by_one(texts):
            assert found == by_pairs(text, earlier)


def test_ties_among_thousands_are_exact_in_value_and_place() -> None:
    """Seven words of thirteen, in a crowd: an F that is 0.7 but for the last bit, at many places."""
    draw = random.Random(5)
    words = [f"w{i}" for i in range(40)]
    texts = [" ".join(draw.sample(words, draw.choice((7, 10, 13)))) for _ in range(1500)]
    index = NoveltyIndex(texts)
    for _ in range(25):
        text = texts[draw.randrange(len(texts))].split()
        query = " ".join([*text, *(f"new{i}" for i in range(20 - 2 * len(text) if len(text) == 7 else 3))])
        assert index.nearest(query) == by_pairs(query, texts)
    query = " ".join([*texts[3].split()[:7], *(f"new{i}" for i in range(6))])
    assert index.nearest(query) == by_pairs(query, texts)


def test_the_usual_limits_are_exact_on_thousands_of_tasks() -> None:
    draw = random.Random(11)
    texts = [" ".join(_task(draw)) for _ in range(2000)]
    index = NoveltyIndex(texts)
    for _ in range(15):
        query = " ".join(_task(draw))
        assert index.nearest(query) == by_pairs(query, texts)


def test_asking_between_adding_changes_nothing() -> None:
    draw = random.Random(2)
    texts = [" ".join(_task(draw)) for _ in range(400)]
    asked = NoveltyIndex()
    for text in texts:
        asked.nearest(text)
        asked.add(text)
    never_asked = NoveltyIndex(texts)
    queries = [" ".join(_task(draw)) for _ in range(50)]
    assert [asked.nearest(query) for query in queries] == [never_asked.nearest(query) for query in queries]


@given(TEXTS, st.lists(st.sampled_from(LATIN), min_size=1, max_size=9))
def test_no_text_shares_more_than_the_bound_says(texts: list[str], query: list[str]) -> None:
    with every_step_at_once():
        codes = similarity._Codes()
        index = OverlapIndex()
        learnt = [codes.learn(tokens(text)) for text in texts]
        for code in learnt:
            index.add(symbols(code))
        wanted = symbols(codes.look_up(query))
        search = Search(index, wanted)
        for prefix in range(1, len(search.sizes) + 1):
            numbers, bounds = search.candidates(prefix)
            shared = [len(set(wanted) & set(symbols(learnt[number]))) for number in numbers.tolist()]
            assert all(np.array(shared) <= bounds)
            # What is missing shares none of the first `prefix` symbols.
            missing = set(range(len(texts))) - set(numbers.tolist())
            assert all(
                len(set(wanted) & set(symbols(learnt[number]))) <= len(search.sizes) - prefix for number in missing
            )
        if search.sizes:
            assert numbers.tolist() == [n for n, code in enumerate(learnt) if set(wanted) & set(symbols(code))]
            assert bounds.tolist() == shared


def test_a_repeated_token_is_as_many_symbols() -> None:
    assert symbols("abca") == [ord("a"), ord("b"), ord("c"), "aa"]
    assert symbols("aaa") == [ord("a"), "aa", "aaa"]
    assert symbols("") == []


def test_few_of_ten_thousand_texts_are_compared() -> None:
    """Counts, not seconds: some forty a query here. The bound leaves room for other words, not for comparing all."""
    draw = random.Random(1)
    index = NoveltyIndex(" ".join(_task(draw)) for _ in range(10_000))
    assert index.compared == 0
    for _ in range(50):
        index.nearest(" ".join(_task(draw)))
    assert index.compared < 50 * 200


def test_comparisons_hardly_grow_with_the_index() -> None:
    draw = random.Random(1)
    index = NoveltyIndex()
    counts = []
    for size in (1000, 8000):
        while len(index) < size:
            index.add(" ".join(_task(draw)))
        index.compared = 0
        asked = random.Random(9)
        for _ in range(50):
            index.nearest(" ".join(_task(asked)))
        counts.append(index.compared)
    assert counts[1] < 3 * counts[0]
