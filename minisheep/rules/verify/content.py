"""Constraints on words, letters, lengths and the language of an answer.

Each function decides one of IFEval's kinds; its name is the kind's, its keywords are the kind's arguments, already
read by `arguments`. The docstrings say where the decision is looser or stricter than a reader would expect.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from minisheep.rules.verify.arguments import LESS_THAN
from minisheep.rules.verify.language import is_language
from minisheep.rules.verify.sentences import count_sentences
from minisheep.rules.verify.words import words


def holds(number: int, relation: str, limit: int) -> bool:
    return number < limit if relation == LESS_THAN else number >= limit


def existence(response: str, *, keywords: Sequence[str]) -> bool:
    """Every keyword somewhere, in any case, also inside a longer word."""
    return all(re.search(keyword, response, re.IGNORECASE) for keyword in keywords)


def frequency(response: str, *, keyword: str, frequency: int, relation: str) -> bool:
    """Occurrences in any case, those inside longer words included."""
    return holds(len(re.findall(keyword, response, re.IGNORECASE)), relation, frequency)


def forbidden_words(response: str, *, forbidden_words: Sequence[str]) -> bool:
    """None of them as a whole word, in any case."""
    return not any(re.search(rf"\b{word}\b", response, re.IGNORECASE) for word in forbidden_words)


def letter_frequency(response: str, *, letter: str, let_frequency: int, let_relation: str) -> bool:
    return holds(response.lower().count(letter), let_relation, let_frequency)


def response_language(response: str, *, language: str) -> bool:
    return is_language(response, language)


def number_sentences(response: str, *, num_sentences: int, relation: str) -> bool:
    return holds(count_sentences(response), relation, num_sentences)


def number_words(response: str, *, num_words: int, relation: str) -> bool:
    r"""Words are runs of ``\w``: "don't" and "well-known" are two each."""
    return holds(len(re.findall(r"\w+", response)), relation, num_words)


def number_paragraphs(response: str, *, num_paragraphs: int) -> bool:
    """Exactly so many parts between dividers ``***``, none empty but before the first or after the last divider."""
    parts = [bool(part.strip()) for part in re.split(r"\s?\*\*\*\s?", response)]
    return all(parts[1:-1]) and sum(parts) == num_paragraphs


def nth_paragraph_first_word(response: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Exactly so many paragraphs between empty lines, the n-th beginning with the word, in any case.

    Places are counted with empty paragraphs, their number without. A word ends at ``. , ? ! ' "``.
    """
    paragraphs = response.split("\n\n")
    filled = sum(bool(paragraph.strip()) for paragraph in paragraphs)
    if nth_paragraph > filled:
        return False
    beginning = paragraphs[nth_paragraph - 1].split()
    if not beginning:
        return False
    found = re.split("[.,?!'\"]", beginning[0].lstrip("'").lstrip('"'), maxsplit=1)[0]
    return filled == num_paragraphs and found.lower() == first_word.lower()


def capital_word_frequency(response: str, *, capital_frequency: int, capital_relation: str) -> bool:
    """Words in capitals alone, "I", "A" and both halves of "DON'T" included."""
    return holds(sum(word.isupper() for word in words(response)), capital_relation, capital_frequency)


def english_capital(response: str) -> bool:
    return response.isupper() and is_language(response, "en")


def english_lowercase(response: str) -> bool:
    return response.islower() and is_language(response, "en")
