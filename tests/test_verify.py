"""Verifiable constraints: every kind on answers that keep it, break it and stand at its edge; items; readings."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from verify_cases import CASES, ENGLISH, LEAST, LESS

from minisheep.errors import ConfigError
from minisheep.rules.ifeval import KINDS, LANGUAGES, Constraint, VerifiableItem, loose, strict, variants, verify
from minisheep.rules.ifeval_text import _detectors, count_sentences, sentences, words

FLAT = [(kind, *case) for kind, cases in CASES.items() for case in cases]
CHEAP = [kind for kind in KINDS if kind.partition(":")[0] not in ("language", "change_case")]
texts = st.text(st.sampled_from("ab AB.,!?*-\n\"'[]<>{}1#") | st.characters(codec="utf-8"), max_size=60)


def one(kind: str, arguments: dict[str, Any], prompt: str = "Ask.") -> VerifiableItem:
    return VerifiableItem("it", prompt, (Constraint(kind, arguments),))


# Each kind


def test_every_kind_of_ifeval_has_at_least_six_cases() -> None:
    assert set(CASES) == set(KINDS) and len(KINDS) == 25
    for kind, cases in CASES.items():
        assert len(cases) >= 6, kind
        assert {kept for *_, kept in cases} == {True, False}, kind


@pytest.mark.parametrize(("kind", "arguments", "answer", "kept"), FLAT, ids=[f"{f[0]}-{i}" for i, f in enumerate(FLAT)])
def test_a_kind_decides(kind: str, arguments: dict[str, Any], answer: str, kept: bool) -> None:
    assert verify(kind, arguments, "Ask.", answer) is kept
    assert strict(one(kind, arguments), answer) == (kept,)


@given(st.sampled_from([f for f in FLAT if f[0] in CHEAP]), texts)
def test_any_text_has_a_verdict_that_is_kept_in_the_loose_reading(case: Any, answer: str) -> None:
    item = one(case[0], case[1])
    for text in (answer, case[2] + answer):
        (kept,), (loosely,) = strict(item, text), loose(item, text)
        assert isinstance(kept, bool) and isinstance(loosely, bool)
        assert loosely or not kept


@given(texts, st.integers(0, 8))
def test_at_least_and_less_than_exclude_each_other(answer: str, n: int) -> None:
    if not answer.strip():
        return
    for kind, of in [
        ("length_constraints:number_words", {"num_words": n}),
        ("length_constraints:number_sentences", {"num_sentences": n}),
    ]:
        assert verify(kind, {**of, "relation": LESS}, "", answer) != verify(kind, {**of, "relation": LEAST}, "", answer)


@pytest.mark.parametrize("character", ["#", "!", "é"])
def test_a_character_that_is_no_letter_is_counted_too(character: str) -> None:
    arguments = {"letter": character, "let_frequency": 2, "let_relation": LEAST}
    assert verify("keywords:letter_frequency", arguments, "", f"{character} {character}")
    assert not verify("keywords:letter_frequency", arguments, "", f"{character} a")


def test_a_very_deep_json_answer_is_refused_and_not_fatal() -> None:
    assert not verify("detectable_format:json_format", {}, "", "[" * 200_000)


def test_the_prompt_is_what_is_repeated_where_nothing_else_is_given() -> None:
    assert strict(one("combination:repeat_prompt", {}, "Say hi."), "Say hi. Hi!") == (True,)
    assert strict(one("combination:repeat_prompt", {"prompt_to_repeat": None}, "Say hi."), "Hi!") == (False,)


# Sentences and words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        (" \n ", []),
        ("One. Two.", ["One.", "Two."]),
        ("Mr. Low and Mrs. High met. They spoke.", ["Mr. Low and Mrs. High met.", "They spoke."]),
        ("J. S. Bach wrote it. Yes.", ["J. S. Bach wrote it.", "Yes."]),
        ("Plan A. We go.", ["Plan A.", "We go."]),
        ('He said "Go." Then he left.', ['He said "Go."', "Then he left."]),
        ("(It rained.) We stayed.", ["(It rained.)", "We stayed."]),
        ("Well... then no. It was... However it was.", ["Well... then no.", "It was...", "However it was."]),
        ("Fruit, e.g. apples.", ["Fruit, e.g.", "apples."]),
        ("At 5 p.m. on Monday. At 5 p.m. However late.", ["At 5 p.m. on Monday.", "At 5 p.m.", "However late."]),
        ("Pi is 3.14. One is 1. two", ["Pi is 3.14.", "One is 1. two"]),
        ("What?! No!!! Why", ["What?!", "No!!!", "Why"]),
    ],
)
def test_sentences(text: str, found: list[str]) -> None:
    assert sentences(text) == found


@given(texts)
def test_sentences_lie_in_the_text_in_order(text: str) -> None:
    at = 0
    for sentence in sentences(text):
        assert sentence.strip()
        at = text.index(sentence, at) + len(sentence)
    assert count_sentences(text) == len(sentences(text))


@given(st.lists(st.sampled_from(["Dogs bark.", "Do they?", "They do!"]), max_size=12))
def test_plain_sentences_are_counted_one_by_one(parts: list[str]) -> None:
    assert count_sentences(" ".join(parts)) == count_sentences("\n\n".join(parts)) == len(parts)


@given(texts)
def test_words_keep_every_letter(text: str) -> None:
    kept = "".join(words(text))
    assert re.sub(r"[\W_]", "", kept) == re.sub(r"[\W_]", "", text)


# Language


def test_the_same_text_has_the_same_language_every_time() -> None:
    short = "no mas"
    assert len({verify("language:response_language", {"language": "es"}, "", short) for _ in range(10)}) == 1


def test_the_codes_are_those_that_the_detector_knows() -> None:
    assert set(_detectors().get_lang_list()) == LANGUAGES


# Strict and loose


def test_the_loose_reading_tries_eight_variants() -> None:
    assert variants("Sure:\n*a*\nBye") == (
        "Sure:\n*a*\nBye", "*a*\nBye", "Sure:\n*a*", "*a*",
        "Sure:\na\nBye", "a\nBye", "Sure:\na", "a",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "arguments", "answer"),
    [
        ("punctuation:no_comma", {}, "Sure, here you are:\nIt rains."),
        ("startend:end_checker", {"end_phrase": "The end."}, "The end.\nDid you like it?"),
        ("startend:quotation", {}, 'Here:\n"Hello."\nDone'),
        ("startend:end_checker", {"end_phrase": "The end."}, "**The end.**"),
    ],
)
def test_the_loose_reading_forgives_a_first_line_a_last_line_and_asterisks(
    kind: str, arguments: dict[str, Any], answer: str
) -> None:
    assert strict(one(kind, arguments), answer) == (False,)
    assert loose(one(kind, arguments), answer) == (True,)


def test_each_constraint_of_an_item_has_its_own_verdict() -> None:
    item = VerifiableItem(
        "it", "Ask.", (Constraint("punctuation:no_comma", {}), Constraint("detectable_format:title", {}))
    )
    assert strict(item, "<<A>> b, c") == (False, True)
    assert loose(item, "<<A>> b, c\nd") == (True, True)


@pytest.mark.parametrize("blank", ["", " \n\t"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_blank_answer_keeps_nothing(kind: str, blank: str) -> None:
    item = one(kind, CASES[kind][0][0])
    assert strict(item, blank) == loose(item, blank) == (False,)


# Faults


MALFORMED: list[tuple[str, dict[str, Any], str]] = [
    ("length_constraints:number_wrods", {}, "length_constraints:number_words"),
    ("punctuation:no_comma", {"n": 1}, "'n'"),
    ("keywords:existence", {}, "'keywords'"),
    ("keywords:existence", {"keywords": None}, "'keywords'"),
    ("keywords:existence", {"keywords": "fox"}, "keywords"),
    ("keywords:existence", {"keywords": []}, "keywords"),
    ("keywords:existence", {"keywords": ["fox", ""]}, "keywords"),
    ("keywords:existence", {"keywords": ["("]}, "keywords"),
    ("keywords:forbidden_words", {"forbidden_words": [3]}, "forbidden_words"),
    ("keywords:frequency", {"keyword": "a", "frequency": -1, "relation": LESS}, "frequency"),
    ("keywords:frequency", {"keyword": "a", "frequency": 1, "relation": "at most"}, '"less than"'),
    ("keywords:letter_frequency", {"letter": "ab", "let_frequency": 1, "let_relation": LESS}, "letter"),
    ("language:response_language", {"language": "english"}, "english"),
    ("length_constraints:number_words", {"num_words": True, "relation": LESS}, "num_words"),
    ("length_constraints:number_words", {"num_words": 2.5, "relation": LESS}, "num_words"),
    ("length_constraints:number_words", {"num_words": "9", "relation": LESS}, "num_words"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 0}, "num_paragraphs"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "a"},
        "nth_paragraph",
    ),
    ("startend:end_checker", {"end_phrase": " "}, "end_phrase"),
    ("detectable_content:postscript", {"postscript_marker": "*"}, "postscript_marker"),
]


@pytest.mark.parametrize(("kind", "arguments", "told"), MALFORMED)
def test_a_malformed_constraint_is_told_with_its_item(kind: str, arguments: dict[str, Any], told: str) -> None:
    for read in (strict, loose):
        with pytest.raises(ConfigError) as refused:
            read(one(kind, arguments), "Hello.")
        assert re.search(r"\bit\b", refused.value.message) and told in refused.value.message
        assert refused.value.fix
    with pytest.raises(ConfigError):
        verify(kind, arguments, "Ask.", "Hello.")


def test_numbers_may_come_as_whole_floats_and_absent_arguments_as_null() -> None:
    arguments = {"num_words": 3.0, "relation": LESS, "num_bullets": None}
    assert verify("length_constraints:number_words", arguments, "", "one two")


def test_a_missing_detector_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from minisheep.errors import UsageError

    monkeypatch.setitem(sys.modules, "langdetect", None)
    _detectors.cache_clear()
    with pytest.raises(UsageError, match="langdetect"):
        verify("language:response_language", {"language": "en"}, "", ENGLISH)
