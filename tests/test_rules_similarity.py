"""The index decides as rouge_score does, to the last bit."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from minisheep.rules import similarity
from minisheep.rules.similarity import NoveltyIndex, rouge_l, tokens

WORDS = [
    "write",
    "a",
    "poem",
    "about",
    "the",
    "sea",
    "and",
    "list",
    "three",
    "ideas",
    "explain",
    "why",
    "3",
    "4",
    "birds",
]
THRESHOLDS = (0.5, 0.6, 0.7, 2 / 3, 0.75, 0.8)


def reference(first: str, second: str) -> float:
    return float(rouge_scorer.RougeScorer(["rougeL"]).score(first, second)["rougeL"].fmeasure)


def random_pairs(count: int) -> list[tuple[str, str]]:
    draw = random.Random(7)
    pairs = []
    for _ in range(count):
        first = draw.choices(WORDS, k=draw.randint(1, 20))
        second = [w for w in first if draw.random() < 0.8] if draw.random() < 0.7 else []
        second += draw.choices(WORDS, k=draw.randint(0 if second else 1, 8))
        pairs.append((", ".join(first).capitalize() + ".", " ".join(second)))
    return pairs


def tied_pairs() -> list[tuple[str, str]]:
    """Pairs whose exact F is 0.7, 0.5, 0.6, 0.75 or 0.8, at many lengths."""
    pairs = []
    for target in (Fraction(7, 10), Fraction(1, 2), Fraction(3, 5), Fraction(3, 4), Fraction(4, 5)):
        for la in range(1, 60):
            for lb in range(la, 60):
                common = target * (la + lb) / 2
                if common.denominator == 1 and common <= la:
                    n = int(common)
                    first = [f"s{i}" for i in range(n)] + [f"a{i}" for i in range(la - n)]
                    second = [f"s{i}" for i in range(n)] + [f"b{i}" for i in range(lb - n)]
                    pairs.append((" ".join(first), " ".join(second)))
    return pairs


def test_twenty_thousand_random_pairs_score_as_in_rouge_score() -> None:
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    for first, second in random_pairs(20_000):
        expected = scorer.score(first, second)["rougeL"].fmeasure
        index = NoveltyIndex([first])
        for threshold in THRESHOLDS:
            assert index.too_similar(second, threshold)[:2] == (expected > threshold, expected)
        assert rouge_l(first, second) == expected


def test_ties_with_a_threshold_are_decided_as_in_rouge_score() -> None:
    pairs = tied_pairs()
    assert len(pairs) > 700
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    decisions = set()
    for first, second in pairs:
        expected = scorer.score(first, second)["rougeL"].fmeasure
        for query, indexed in ((first, second), (second, first)):
            found = NoveltyIndex([indexed]).too_similar(query, 0.7)
            assert found == (expected > 0.7, expected, 0)
            if abs(expected - 0.7) < 1e-9:
                decisions.add(found[0])
    assert decisions == {True, False}


def test_the_tie_of_7_and_13_tokens_is_above_seven_tenths() -> None:
    assert rouge_l("a b c d e f g", "a b c d e f g h i j k l m") > 0.7
    assert Fraction(2 * 7, 7 + 13) == Fraction(7, 10)


def test_the_nearest_of_many_is_the_first_with_the_highest_score() -> None:
    pairs = random_pairs(600)
    index = NoveltyIndex(first for first, _ in pairs[:300])
    texts = [first for first, _ in pairs[:300]]
    for _, query in pairs[300:]:
        scores = [rouge_l(query, text) for text in texts]
        assert index.nearest(query) == (max(scores), scores.index(max(scores)) if max(scores) else -1)


def test_texts_longer_than_a_machine_word_are_exact() -> None:
    draw = random.Random(3)
    for _ in range(40):
        first, second = (" ".join(draw.choices(WORDS, k=draw.randint(65, 220))) for _ in range(2))
        assert rouge_l(first, second) == NoveltyIndex([first]).nearest(second)[0] == reference(first, second)


ASCII = st.text(st.characters(max_codepoint=127), max_size=40)


@given(ASCII, ASCII)
def test_any_two_english_texts_score_as_in_rouge_score(first: str, second: str) -> None:
    if any(token.startswith(" ") for token in tokens(first) + tokens(second)):
        return
    assert rouge_l(first, second) == reference(first, second)


@given(st.text(min_size=1, max_size=40).filter(str.strip))
def test_any_text_equals_itself(text: str) -> None:
    index = NoveltyIndex(["something else", text])
    f, number = index.nearest(text)
    assert f == 1.0
    assert number == (0 if tokens(text) == ["something", "else"] else 1)


def test_an_empty_index_has_nothing_near() -> None:
    assert NoveltyIndex().nearest("write a poem") == (0.0, -1)


@pytest.mark.parametrize("blank", ["", " \n\t"])
def test_blank_text_is_like_nothing_not_even_itself(blank: str) -> None:
    index = NoveltyIndex([blank, "write a poem"])
    assert index.nearest(blank) == (0.0, -1)
    assert index.nearest("write") == (rouge_l("write", "write a poem"), 1)
    assert rouge_l(blank, blank) == 0.0


def test_texts_without_a_common_token_have_no_nearest() -> None:
    assert NoveltyIndex(["write a poem"]).nearest("name three birds") == (0.0, -1)


def test_exact_duplicates_in_other_scripts_are_caught() -> None:
    index = NoveltyIndex(["write a poem", "写一首关于大海的诗", "Напиши письмо другу"])
    assert index.too_similar("写一首关于大海的诗。", 0.7) == (True, 1.0, 1)
    assert index.too_similar("НАПИШИ ПИСЬМО ДРУГУ", 0.7) == (True, 1.0, 2)
    assert not index.too_similar("列出三种水果", 0.7)[0]


def test_a_character_never_equals_a_word() -> None:
    assert rouge_l("!", "a") == rouge_l("!", "! a") == 0.0
    assert rouge_l("!", "!") == 1.0


def test_adding_returns_the_number_that_nearest_reports() -> None:
    index = NoveltyIndex()
    assert [index.add("write a poem"), index.add("name a bird")] == [0, 1]
    assert len(index) == 2
    assert index.nearest("name a bird") == (1.0, 1)


def test_asking_does_not_index() -> None:
    index = NoveltyIndex(["write a poem"])
    index.nearest("name three birds")
    assert len(index) == 1
    assert index.nearest("name three birds") == (0.0, -1)


def test_codes_skip_surrogates_and_end_with_the_code_points(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = similarity._Codes()
    codes._next = 0xD7FF
    assert [ord(c) for c in codes.learn(["one", "two", "one"])] == [0xD7FF, 0xE000, 0xD7FF]
    monkeypatch.setattr(similarity, "_CODE_POINTS", 0xE001)
    with pytest.raises(OverflowError):
        codes.learn(["three"])
