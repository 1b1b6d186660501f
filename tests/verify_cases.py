"""Answers with the verdict that each kind of constraint gives: (arguments, answer, kept)."""

from __future__ import annotations

from typing import Any

LESS, LEAST = "less than", "at least"
Case = tuple[dict[str, Any], str, bool]


def words(n: int, r: str) -> dict[str, Any]:
    return {"num_words": n, "relation": r}


def sentences(n: int, r: str) -> dict[str, Any]:
    return {"num_sentences": n, "relation": r}


def frequency(word: str, n: int, r: str) -> dict[str, Any]:
    return {"keyword": word, "frequency": n, "relation": r}


def letter(which: str, n: int, r: str) -> dict[str, Any]:
    return {"letter": which, "let_frequency": n, "let_relation": r}


def capitals(n: int, r: str) -> dict[str, Any]:
    return {"capital_frequency": n, "capital_relation": r}


def first(m: int, n: int, word: str) -> dict[str, Any]:
    return {"num_paragraphs": m, "nth_paragraph": n, "first_word": word}


GERMAN = "Der Zug kommt heute leider eine halbe Stunde später an."
FRENCH = "Le train arrive aujourd'hui avec une demi-heure de retard."
ENGLISH = "The children were playing in the garden while their mother was reading."

CASES: dict[str, list[Case]] = {
    "keywords:existence": [
        ({"keywords": ["fox", "hen"]}, "The fox met a hen.", True),
        ({"keywords": ["fox", "hen"]}, "The FOX met a Hen.", True),
        ({"keywords": ["fox", "hen"]}, "The fox slept.", False),
        ({"keywords": ["hen"]}, "Then it rained.", True),
        ({"keywords": ["two words"]}, "These are two  words.", False),
        ({"keywords": ["colou?r"]}, "A color.", True),
        ({"keywords": ["fox"]}, " \n", False),
    ],
    "keywords:frequency": [
        (frequency("fox", 2, LEAST), "fox Fox", True),
        (frequency("fox", 2, LEAST), "fox", False),
        (frequency("fox", 2, LESS), "fox", True),
        (frequency("fox", 2, LESS), "foxes outfox", False),
        (frequency(" fox ", 1, LEAST), "a fox!", True),
        (frequency("fox", 1, LESS), "hens", True),
        (frequency("aa", 2, LEAST), "aaa", False),
    ],
    "keywords:forbidden_words": [
        ({"forbidden_words": ["cat"]}, "A dog.", True),
        ({"forbidden_words": ["cat"]}, "A Cat.", False),
        ({"forbidden_words": ["cat"]}, "A concatenation of cats.", True),
        ({"forbidden_words": ["cat"]}, "A cat's tail.", False),
        ({"forbidden_words": ["cat", "dog"]}, "A hot-dog.", False),
        ({"forbidden_words": ["cat"]}, "cat_food", True),
        ({"forbidden_words": ["cat"]}, "", False),
    ],
    "keywords:letter_frequency": [
        (letter("z", 2, LEAST), "Zigzag", True),
        (letter("z", 3, LEAST), "Zigzag", False),
        (letter("Z", 2, LEAST), "zz", True),
        (letter("q", 1, LESS), "no such letter", True),
        (letter("q", 1, LESS), "quite", False),
        (letter("e", 2, LESS), "E and e", False),
    ],
    "language:response_language": [
        ({"language": "de"}, GERMAN, True),
        ({"language": "fr"}, FRENCH, True),
        ({"language": "en"}, ENGLISH, True),
        ({"language": "de"}, ENGLISH, False),
        ({"language": "en"}, FRENCH, False),
        ({"language": "fr"}, "1234 567", True),
        ({"language": "ru"}, "Сегодня поезд опаздывает на полчаса из-за снега.", True),
        ({"language": "ru"}, "\t", False),
    ],
    "length_constraints:number_sentences": [
        (sentences(3, LEAST), "One. Two! Three?", True),
        (sentences(3, LESS), "One. Two! Three?", False),
        (sentences(2, LESS), "Dr. Smith came at 5 p.m. on Monday", True),
        (sentences(2, LEAST), "It costs 3.50 at www.shop.org and not more.", False),
        (sentences(2, LESS), "Wait... what happened", True),
        (sentences(2, LEAST), '"Go." He went.', True),
        (sentences(2, LEAST), "no full stop here", False),
        (sentences(3, LESS), "Really?! Yes!!! So", False),
        (sentences(3, LEAST), "Really?! Yes!!!", True),
        (sentences(2, LEAST), "first line\nsecond line", False),
        (sentences(4, LEAST), "1. Eggs\n2. Milk\n3. Bread", True),
    ],
    "length_constraints:number_paragraphs": [
        ({"num_paragraphs": 2}, "one\n***\ntwo", True),
        ({"num_paragraphs": 2}, "one\n\ntwo", False),
        ({"num_paragraphs": 1}, "one", True),
        ({"num_paragraphs": 2}, "***\none\n***\ntwo\n***", True),
        ({"num_paragraphs": 2}, "one\n***\n\n***\ntwo", False),
        ({"num_paragraphs": 2}, "one***two", True),
        ({"num_paragraphs": 2}, "one ****** two", False),
        ({"num_paragraphs": 3}, "a\n***\nb", False),
    ],
    "length_constraints:number_words": [
        (words(3, LEAST), "one two three", True),
        (words(3, LESS), "one two three", False),
        (words(3, LESS), "one two", True),
        (words(3, LEAST), "well-known man", True),
        (words(2, LEAST), "don't", True),
        (words(1, LEAST), "... !", False),
        (words(2, LESS), "snake_case", True),
        (words(2, LESS), "...", True),
    ],
    "length_constraints:nth_paragraph_first_word": [
        (first(2, 2, "then"), "Now.\n\nThen it began.", True),
        (first(2, 2, "Then"), "Now.\n\nthen, slowly", True),
        (first(2, 2, "then"), "Now.\n\nAnd then.", False),
        (first(2, 1, "now"), '"Now" it is.\n\nLater.', True),
        (first(2, 2, "then"), "Now.\n\nThen.\n\nLater.", False),
        (first(2, 2, "then"), "Now.", False),
        (first(2, 2, "then"), "Now.\n\n\n\nThen.", False),
        (first(2, 2, "then"), "Now.\nThen.", False),
        (first(1, 1, "it"), "It's here.", True),
        (first(1, 1, "so"), "**So** it is.", False),
    ],
    "detectable_content:number_placeholders": [
        ({"num_placeholders": 2}, "Dear [name], see you in [town].", True),
        ({"num_placeholders": 2}, "Dear [name].", False),
        ({"num_placeholders": 1}, "[]", True),
        ({"num_placeholders": 1}, "[two\nlines]", False),
        ({"num_placeholders": 2}, "[[a]]", False),
        ({"num_placeholders": 1}, "(name)", False),
    ],
    "detectable_content:postscript": [
        ({"postscript_marker": "P.S."}, "Love.\nP.S. Write!", True),
        ({"postscript_marker": "P.S."}, "Love.\np. s. write!", True),
        ({"postscript_marker": "P.S."}, "Love.\nPS: write!", False),
        ({"postscript_marker": "P.P.S"}, "Love.\nP.P.S write!", True),
        ({"postscript_marker": "P.P.S"}, "Love.\nP.S. write!", False),
        ({"postscript_marker": "P.S."}, "Love.\nP.P.S. write!", True),
        ({"postscript_marker": "N.B."}, "n.b. it rains", True),
        ({"postscript_marker": "N.B."}, "it rains", False),
    ],
    "detectable_format:number_bullet_lists": [
        ({"num_bullets": 2}, "* a\n* b", True),
        ({"num_bullets": 2}, "- a\n  - b", True),
        ({"num_bullets": 2}, "* a\n* b\n* c", False),
        ({"num_bullets": 1}, "**bold** words\n* a", True),
        ({"num_bullets": 2}, "1. a\n2. b", False),
        ({"num_bullets": 2}, "* a\n---", True),
        ({"num_bullets": 1}, "a - b", False),
    ],
    "detectable_format:constrained_response": [
        ({}, "My answer is yes.", True),
        ({}, "My answer is no.", True),
        ({}, "Well: My answer is maybe. It depends.", True),
        ({}, "my answer is yes.", False),
        ({}, "My answer is yes", False),
        ({}, "Yes.", False),
    ],
    "detectable_format:number_highlighted_sections": [
        ({"num_highlights": 2}, "*one* and *two*", True),
        ({"num_highlights": 2}, "*one*", False),
        ({"num_highlights": 1}, "**one**", True),
        ({"num_highlights": 1}, "* a\n* b", False),
        ({"num_highlights": 1}, "**", False),
        ({"num_highlights": 1}, "* *", False),
        ({"num_highlights": 2}, "* a *b* c*", True),
        ({"num_highlights": 1}, "*two\nlines*", False),
    ],
    "detectable_format:multiple_sections": [
        ({"section_spliter": "Section", "num_sections": 2}, "Section 1\na\nSection 2\nb", True),
        ({"section_spliter": "Section", "num_sections": 2}, "Section 1\na", False),
        ({"section_spliter": "Section", "num_sections": 2}, "section 1\na\nsection 2\nb", False),
        ({"section_spliter": "SECTION", "num_sections": 1}, "SECTION1", True),
        ({"section_spliter": "Section", "num_sections": 1}, "Section A", False),
        ({"section_spliter": "Day", "num_sections": 2}, "**Day 1** x **Day 2** y", True),
    ],
    "detectable_format:json_format": [
        ({}, '{"a": 1}', True),
        ({}, '```json\n{"a": 1}\n```', True),
        ({}, "```\n[1, 2]\n```", True),
        ({}, 'Here it is: {"a": 1}', False),
        ({}, "{'a': 1}", False),
        ({}, '"a string"', True),
        ({}, "12", True),
        ({}, '{"a": 1', False),
    ],
    "detectable_format:title": [
        ({}, "<<Rain>>\nIt rains.", True),
        ({}, "It rains. <<Rain>>", True),
        ({}, "<Rain>", False),
        ({}, "<<>>", False),
        ({}, "<< >>", False),
        ({}, "<<two\nlines>>", False),
        ({}, "# Rain", False),
    ],
    "combination:two_responses": [
        ({}, "a\n******\nb", True),
        ({}, "a\n******\na", False),
        ({}, "a", False),
        ({}, "a ****** b ****** c", False),
        ({}, "******\na\n******\nb\n******", True),
        ({}, "a\n******\n\n******\nb", False),
        ({}, "a\n***\nb", False),
    ],
    "combination:repeat_prompt": [
        ({"prompt_to_repeat": "Sing a song."}, "Sing a song. La la.", True),
        ({"prompt_to_repeat": "Sing a song."}, "  sing A song.\nLa", True),
        ({"prompt_to_repeat": "Sing a song."}, "Sure! Sing a song. La", False),
        ({"prompt_to_repeat": "Sing a song."}, "Sing a  song.", False),
        ({"prompt_to_repeat": " Sing a song.\n"}, "Sing a song.", True),
        ({"prompt_to_repeat": "Sing a song."}, "La la.", False),
    ],
    "startend:end_checker": [
        ({"end_phrase": "The end."}, "So it was. The end.", True),
        ({"end_phrase": "The end."}, "So it was. THE END. \n", True),
        ({"end_phrase": "The end."}, '"So it was. The end."', True),
        ({"end_phrase": "The end."}, "The end. Or not.", False),
        ({"end_phrase": "The end."}, "So it was. The end", False),
        ({"end_phrase": " The end. "}, "The end.", True),
    ],
    "startend:quotation": [
        ({}, '"Hello."', True),
        ({}, ' "Hello."\n', True),
        ({}, '"Hello.', False),
        ({}, "'Hello.'", False),
        ({}, "“Hello.”", False),
        ({}, '"', False),
        ({}, '""', True),
    ],
    "change_case:capital_word_frequency": [
        (capitals(2, LEAST), "STOP and LOOK", True),
        (capitals(2, LEAST), "Stop and LOOK", False),
        (capitals(2, LESS), "I am here", True),
        (capitals(2, LESS), "A cat and I", False),
        (capitals(1, LEAST), "WELL-KNOWN", True),
        (capitals(2, LEAST), "WELL-KNOWN", False),
        (capitals(2, LEAST), "DON'T", True),
        (capitals(1, LESS), "nothing", True),
        (capitals(3, LEAST), "YES,NO (AND) maybe", True),
    ],
    "change_case:english_capital": [
        ({}, ENGLISH.upper(), True),
        ({}, ENGLISH, False),
        ({}, ENGLISH.upper() + " ok", False),
        ({}, GERMAN.upper(), False),
        ({}, "1234", False),
        ({}, ENGLISH.upper() + " 24!", True),
    ],
    "change_case:english_lowercase": [
        ({}, ENGLISH.lower(), True),
        ({}, ENGLISH, False),
        ({}, ENGLISH.lower() + " OK", False),
        ({}, GERMAN.lower(), False),
        ({}, "1234", False),
        ({}, ENGLISH.lower() + " 24!", True),
    ],
    "punctuation:no_comma": [
        ({}, "No such mark.", True),
        ({}, "Yes, one.", False),
        ({}, "1,000", False),
        ({}, "Semicolons; colons: fine.", True),
        ({}, "Full width，is another mark.", True),
        ({}, "", False),
    ],
}
