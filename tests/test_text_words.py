"""One tokeniser: English as before, every other script in words, and characters where it has no blanks."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisheep.data.languages import language_code
from minisheep.metrics import diversity
from minisheep.rules.ifeval import end_checker, verify
from minisheep.rules.ifeval_text import count_sentences, count_words
from minisheep.rules.text_words import per_word, pieces, scaled, spans, unspaced, whole, word_count, words

LATIN = st.text(st.characters(max_codepoint=0x2FF))


@given(st.text(st.characters(max_codepoint=127)))
def test_words_of_ascii_are_those_of_rouge_score(text: str) -> None:
    assert words(text) == re.findall("[a-z0-9]+", text.lower())
    assert words(text, letters="_") == re.findall(r"\w+", text.casefold())
    assert diversity.words(text) == re.findall(r"\w+(?:['’]\w+)*", text.casefold())


@given(LATIN)
def test_pieces_of_a_script_with_blanks_are_what_split_gives(text: str) -> None:
    assert pieces(text) == text.split() and word_count(text) == len(text.split())
    assert [text[start:end] for start, end in spans(text)] == pieces(text)
    assert (per_word(text), scaled(7, text)) == (1.0, 7)
    assert count_words(text) == len(re.findall(r"\w+", text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Объясни, почему!", ["объясни", "почему"]),
        ("Überlege dir’s.", ["überlege", "dir", "s"]),
        ("e\u0301te\u0301 été", ["été", "été"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("مَرْحَبًا بِكُمْ", ["مرحبا", "بکم"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("用Python写3个。", ["用", "python", "写", "3", "个"]),
        ("東京タワー、高い", ["東", "京", "タ", "ワ", "ー", "高", "い"]),
        ("สวัสดี", ["ส", "วั", "ส", "ดี"]),
        ("snake_case", ["snake", "case"]),
        ("!?…", []),
    ],
)
def test_words_of_any_script(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_pieces_hold_the_marks_around_a_character() -> None:
    assert pieces("“我爱Python，” 他说。") == ["“我", "爱", "Python，”", "他", "说。"]


@given(st.text())
def test_pieces_are_the_text_without_its_blanks(text: str) -> None:
    assert "".join(pieces(text)) == "".join(text.split())


@pytest.mark.parametrize(
    ("text", "each"),
    [("羊吃草", 1.4), ("ひつじ", 1.4), ("แกะกินหญ้า", 4.0), ("one two", 1.0), ("Python 的 list", 1.0), ("", 1.0)],
)
def test_a_word_is_worth_some_characters(text: str, each: float) -> None:
    assert per_word(text) == each and unspaced(text) == (each > 1)


@pytest.mark.parametrize(
    ("word", "text", "found"),
    [
        ("cat", "a cat.", True),
        ("cat", "concat", False),
        ("cat", "我的cat叫豆豆", True),
        ("羊", "山羊吃草", True),
        ("3", "有3个", True),
        ("60", "한 시간은 60분이다", True),
        ("60", "160분", False),
        ("60", "60km", False),
    ],
)
def test_a_whole_word_stands_alone_where_there_are_blanks(word: str, text: str, found: bool) -> None:
    assert bool(re.search(whole(word), text)) == found


def test_sentences_end_with_the_marks_of_their_script() -> None:
    assert count_sentences("羊吃草。它们晚上睡觉！真的吗？“真的。”好") == 5
    assert count_sentences("It is so. 是的。Really?") == 3


@pytest.mark.parametrize(
    ("kind", "arguments", "kept", "broken"),
    [
        ("length_constraints:number_words", {"num_words": 5, "relation": "less than"}, "羊吃草。", "羊在山上吃青草。"),
        ("keywords:forbidden_words", {"forbidden_words": ["草"]}, "羊吃叶子。", "羊吃青草。"),
        ("keywords:forbidden_words", {"forbidden_words": ["Python"]}, "用别的语言写。", "用Python写。"),
        ("punctuation:no_comma", {}, "羊吃草。牛也吃草。", "羊吃草，牛也吃草。"),
        ("startend:quotation", {}, "“羊吃草。”", "羊吃“草”。"),
        ("startend:end_checker", {"end_phrase": "就是这样。"}, "“羊吃草。就是这样。”", "就是这样。羊吃草。"),
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "总之"},
            "羊吃草。\n\n总之，它们很乖。",
            "总之，它们很乖。\n\n羊吃草。",
        ),
        ("detectable_format:constrained_response", {}, "我的回答是否定的。", "不是。"),
    ],
)
def test_kinds_of_constraint_have_a_meaning_in_chinese(
    kind: str, arguments: dict[str, object], kept: str, broken: str
) -> None:
    assert verify(kind, arguments, "", kept)
    assert not verify(kind, arguments, "", broken)


def test_curly_quotation_marks_and_wide_commas_in_english_are_read_as_ifeval_does() -> None:
    assert not verify("startend:quotation", {}, "", "“Sheep eat grass.”")
    assert verify("punctuation:no_comma", {}, "", "Sheep， grass.")


def test_a_greek_symbol_before_a_semicolon_and_curly_quotation_marks_change_nothing_in_english() -> None:
    assert count_sentences("Let α; then β; go") == 1 and count_sentences("Τι είναι αυτό; Ένα σπίτι.") == 2
    assert not end_checker("“Is there anything else?”", end_phrase="Is there anything else?")
    assert end_checker("He said “Bye.”", end_phrase="“Bye.”")
    assert [language_code(tag) for tag in ("Norwegian_Nynorsk", "pt br")] == ["nn", "pt"]
