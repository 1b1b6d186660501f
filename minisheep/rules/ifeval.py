"""IFEval's constraints on answers: what decides each kind, and verdicts on a constraint, an item or two models. Pure.

A function decides each kind. It has the kind's name, and its keywords are the kind's arguments, already read. The
docstrings say where the decision is looser or stricter than a reader would expect.

IFEval's own code draws an argument at random where one is missing, zero or out of range. A verdict that depends on a
draw measures nothing, so here such an argument is refused, or taken literally where it has a literal meaning.

The same kinds serve Chinese and Japanese where they have a meaning: words are characters there, sentences end with
。！？, and their commas and quotation marks count as such. For a text without such characters nothing changes.
"""

from __future__ import annotations

import difflib
import json
import re
import reprlib
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minisheep.errors import ConfigError
from minisheep.rules.ifeval_text import as_whole_word, count_sentences, count_words, is_language, words
from minisheep.rules.text_words import unspaced

# Constraints on the form of an answer: lists, sections, titles, JSON, beginnings and endings.
OPTIONS = (
    *("My answer is yes.", "My answer is no.", "My answer is maybe."),
    *("我的回答是肯定的。", "我的回答是否定的。", "我的回答是不确定。"),
)
QUOTES, WIDE_QUOTES = ('""', "«»", "»«", "„“", "„”"), ("“”", "「」", "『』")
"""Around a whole answer. “” is English too, where IFEval does not take it."""
TICKS = ("```json", "```Json", "```JSON", "```")


def number_placeholders(response: str, *, num_placeholders: int) -> bool:
    """At least that many ``[...]``; an empty pair counts, one over two lines does not."""
    return len(re.findall(r"\[.*?\]", response)) >= num_placeholders


def postscript(response: str, *, postscript_marker: str) -> bool:
    """The marker anywhere, in any case; "P.S." and "P.P.S" with or without a blank after a full stop."""
    forms = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return bool(re.search(forms.get(postscript_marker, postscript_marker.lower()), response.lower()))


def number_bullet_lists(response: str, *, num_bullets: int) -> bool:
    """Exactly that many lines that begin with ``*`` (one, and something after it) or ``-`` (any, rules included)."""
    stars = re.findall(r"^\s*\*[^\*].*$", response, re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", response, re.MULTILINE)
    return len(stars) + len(dashes) == num_bullets


def constrained_response(response: str) -> bool:
    """One of the three answers somewhere, word for word; text around it is allowed."""
    return any(option in response for option in OPTIONS)


def number_highlighted_sections(response: str, *, num_highlights: int) -> bool:
    """At least that many ``*...*`` on one line; ``**...**`` counts too, several beside each other mostly once."""
    single = [found.strip("*") for found in re.findall(r"\*[^\n\*]*\*", response)]
    double = [found[2:-2] for found in re.findall(r"\*\*[^\n\*]*\*\*", response)]
    return sum(bool(found.strip()) for found in single + double) >= num_highlights


def multiple_sections(response: str, *, section_spliter: str, num_sections: int) -> bool:
    """At least that many times the word and a number, in the word's own case."""
    return len(re.split(rf"\s?{section_spliter}\s?\d+\s?", response)) - 1 >= num_sections


def json_format(response: str) -> bool:
    """JSON and nothing else, a bare number or string included; a fence of ticks around it may say ``json``."""
    found = response.strip()
    for tick in TICKS:
        found = found.removeprefix(tick)
    try:
        json.loads(found.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def title(response: str) -> bool:
    """``<<...>>`` on one line with something in it."""
    return any(found.lstrip("<").rstrip(">").strip() for found in re.findall(r"<<[^\n]+>>", response))


def two_responses(response: str) -> bool:
    """Two different parts between ``******``, none empty but before the first or after the last divider."""
    parts = [part.strip() for part in response.split("******")]
    filled = [part for part in parts if part]
    return all(parts[1:-1]) and len(filled) == 2 and filled[0] != filled[1]


def repeat_prompt(response: str, *, prompt_to_repeat: str) -> bool:
    return response.strip().lower().startswith(prompt_to_repeat.strip().lower())


def end_checker(response: str, *, end_phrase: str) -> bool:
    """The phrase at the very end, in any case; quotation marks around the answer are taken off first."""
    english = "".join(filter(str.isalpha, end_phrase)).isascii()  # as IFEval
    marks = '"' if english else "".join(QUOTES + WIDE_QUOTES)
    return response.strip().strip(marks).lower().endswith(end_phrase.strip().lower())


def quotation(response: str) -> bool:
    found = response.strip()
    pairs = QUOTES + WIDE_QUOTES if unspaced(found) else QUOTES
    return len(found) > 1 and found[0] + found[-1] in pairs


def no_comma(response: str) -> bool:
    return not re.search("[,،፣՝]", response) and not ("，" in response and unspaced(response))


# What the arguments of a constraint may be. Each reader returns the value as it is used, or raises ValueError.
Reader = Callable[[Any], Any]

LESS_THAN, AT_LEAST = "less than", "at least"
_LANGUAGES = """
af ar bg bn ca cs cy da de el en es et fa fi fr gu he hi hr hu id it ja kn ko lt lv mk ml mr ne nl no pa pl pt
ro ru sk sl so sq sv sw ta te th tl tr uk ur vi zh-cn zh-tw
"""
LANGUAGES = frozenset(_LANGUAGES.split())
"""The codes that the detector can return."""


def count(value: Any) -> int:
    """A whole number, at least 0. Tables of numbers often hold 3.0 for 3."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("must be a whole number, 0 or more")
    return value


def place(value: Any) -> int:
    """A number that counts from 1."""
    number = count(value)
    if number < 1:
        raise ValueError("must be 1 or more")
    return number


def relation(value: Any) -> str:
    if value not in (LESS_THAN, AT_LEAST):
        raise ValueError(f'must be "{LESS_THAN}" or "{AT_LEAST}"')
    return str(value)


def text(value: Any) -> str:
    """Some text, without the blanks around it."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a text that is not blank")
    return unicodedata.normalize("NFC", value.strip())


def letter(value: Any) -> str:
    """One character, in lower case. IFEval's data asks for ``#`` and ``!`` too."""
    character = text(value).lower()
    if len(character) != 1:
        raise ValueError("must be a single character")
    return character


def pattern(value: Any) -> str:
    """A word, which IFEval uses as a regular expression."""
    word = text(value)
    try:
        re.compile(word)
        re.compile(f"(?:{word})")  # as a part of a longer one, where flags may not stand
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    return word


def patterns(value: Any) -> tuple[str, ...]:
    """Words, each used as a regular expression, blanks around them included."""
    if not isinstance(value, list | tuple) or not value:
        raise ValueError("must be a list of words")
    for word in value:
        pattern(word)
    return tuple(unicodedata.normalize("NFC", word) for word in value)


def language(value: Any) -> str:
    """A code of ISO 639-1, as the detector writes it."""
    if not isinstance(value, str) or value not in LANGUAGES:
        raise ValueError(f"must be one of {', '.join(sorted(LANGUAGES))}")
    return str(value)


# Constraints on words, letters, lengths and the language of an answer.
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
    return not any(re.search(as_whole_word(word), response, re.IGNORECASE) for word in forbidden_words)


def letter_frequency(response: str, *, letter: str, let_frequency: int, let_relation: str) -> bool:
    return holds(response.lower().count(letter), let_relation, let_frequency)


def response_language(response: str, *, language: str) -> bool:
    return is_language(response, language)


def number_sentences(response: str, *, num_sentences: int, relation: str) -> bool:
    return holds(count_sentences(response), relation, num_sentences)


def number_words(response: str, *, num_words: int, relation: str) -> bool:
    r"""Words are runs of ``\w``: "don't" and "well-known" are two each."""
    return holds(count_words(response), relation, num_words)


def number_paragraphs(response: str, *, num_paragraphs: int) -> bool:
    """Exactly that many parts between dividers ``***``, none empty but before the first or after the last divider."""
    parts = [bool(part.strip()) for part in re.split(r"\s?\*\*\*\s?", response)]
    return all(parts[1:-1]) and sum(parts) == num_paragraphs


def nth_paragraph_first_word(response: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Exactly that many paragraphs between empty lines, the n-th beginning with the word, in any case.

    Places are counted with empty paragraphs, their number without. A word ends at ``. , ? ! ' "``.
    """
    paragraphs = response.split("\n\n")
    filled = sum(bool(paragraph.strip()) for paragraph in paragraphs)
    if nth_paragraph > filled:
        return False
    if unspaced(first_word):
        return filled == num_paragraphs and paragraphs[nth_paragraph - 1].strip(" \n“「『").startswith(first_word)
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


Decision = tuple[Callable[..., bool], Mapping[str, Reader]]
KINDS: dict[str, Decision] = {
    "keywords:existence": (existence, {"keywords": patterns}),
    "keywords:frequency": (frequency, {"keyword": pattern, "frequency": count, "relation": relation}),
    "keywords:forbidden_words": (forbidden_words, {"forbidden_words": patterns}),
    "keywords:letter_frequency": (
        letter_frequency,
        {"letter": letter, "let_frequency": count, "let_relation": relation},
    ),
    "language:response_language": (response_language, {"language": language}),
    "length_constraints:number_sentences": (number_sentences, {"num_sentences": count, "relation": relation}),
    "length_constraints:number_paragraphs": (number_paragraphs, {"num_paragraphs": place}),
    "length_constraints:number_words": (number_words, {"num_words": count, "relation": relation}),
    "length_constraints:nth_paragraph_first_word": (
        nth_paragraph_first_word,
        {"num_paragraphs": place, "nth_paragraph": place, "first_word": text},
    ),
    "detectable_content:number_placeholders": (number_placeholders, {"num_placeholders": count}),
    "detectable_content:postscript": (postscript, {"postscript_marker": pattern}),
    "detectable_format:number_bullet_lists": (number_bullet_lists, {"num_bullets": count}),
    "detectable_format:constrained_response": (constrained_response, {}),
    "detectable_format:number_highlighted_sections": (number_highlighted_sections, {"num_highlights": count}),
    "detectable_format:multiple_sections": (multiple_sections, {"section_spliter": pattern, "num_sections": count}),
    "detectable_format:json_format": (json_format, {}),
    "detectable_format:title": (title, {}),
    "combination:two_responses": (two_responses, {}),
    "combination:repeat_prompt": (repeat_prompt, {"prompt_to_repeat": text}),
    "startend:end_checker": (end_checker, {"end_phrase": text}),
    "startend:quotation": (quotation, {}),
    "change_case:capital_word_frequency": (
        capital_word_frequency,
        {"capital_frequency": count, "capital_relation": relation},
    ),
    "change_case:english_capital": (english_capital, {}),
    "change_case:english_lowercase": (english_lowercase, {}),
    "punctuation:no_comma": (no_comma, {}),
}
"""IFEval's 25 kinds of instruction: what decides each, and a reader for each argument. The decision gets the answer and
the arguments as their readers returned them."""
REPEATS = "combination:repeat_prompt"
"""The one kind that asks for the instruction itself; its argument is the whole prompt where it is not given."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """One constraint. `kind` is IFEval's instruction id, ``length_constraints:number_words`` for example."""

    kind: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class VerifiableItem:
    id: str
    prompt: str
    checks: tuple[Constraint, ...]


Rows = list[list[bool]]
READINGS = ("strict", "loose", "own")
"""How an answer is read: as it is, leniently, and as it is unless it repeats its instruction."""


def verify(kind: str, arguments: Mapping[str, Any], prompt: str, response: str) -> bool:
    """Whether `response` keeps one constraint; a blank one keeps none.

    `prompt` is what ``combination:repeat_prompt`` wants repeated where its arguments do not say. Raises
    `errors.ConfigError` for an unknown kind or malformed arguments.
    """
    read = resolve(Constraint(kind, arguments), prompt, "A constraint")
    return bool(response.strip()) and KINDS[kind][0](unicodedata.normalize("NFC", response), **read)


def strict(item: VerifiableItem, response: str) -> tuple[bool, ...]:
    """A verdict on each constraint of the item. Raises `errors.ConfigError` naming the item."""
    return _verdicts(item, (response,))


def loose(item: VerifiableItem, response: str) -> tuple[bool, ...]:
    """A verdict on each constraint, kept if any variant of the answer keeps it (IFEval's upper bound)."""
    return _verdicts(item, variants(response))


def paired(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, tuple[Rows, Rows]]:
    """By reading, and for `ended` and `copied`: two models' verdicts on the items that both answered, a row an item.

    ours, theirs: the ``verifiable_by_item`` of their metrics. Empty where they share no item; what an earlier version
    did not measure is left out.
    """
    common = [name for name in ours if name in theirs and len(ours[name]["strict"]) == len(theirs[name]["strict"])]
    if not common:
        return {}
    first, second = (verdict_rows({name: verdicts[name] for name in common}) for verdicts in (ours, theirs))
    return {name: (rows, second[name]) for name, rows in first.items() if name in second}


def verdict_rows(verdicts: Mapping[str, Any]) -> dict[str, Rows]:
    """By reading, one row of verdicts an item; the end of an answer and whether it is a copy as rows of one verdict.

    What not all of them hold, since an earlier version did not measure it, is left out.
    """

    def row(verdict: Any) -> list[bool]:
        return verdict if isinstance(verdict, list) else [verdict]

    names = [name for name in (*READINGS, "ended", "copied") if all(name in v for v in verdicts.values())]
    return {name: [row(verdict[name]) for verdict in verdicts.values()] for name in names}


HALVES = ("trained", "unseen")
"""Constraints of the kinds that a run trains on, and of the others."""


def half(
    verdicts: Mapping[str, Any], name: str, marked: Mapping[str, Any] | None = None
) -> dict[str, dict[str, list[bool]]]:
    """By item and reading, the verdicts on the constraints of one of `HALVES`; items without any are left out.

    An item's ``trained`` says of each of its constraints whether its kind is trained on; `marked` are the verdicts that
    say it, if not these themselves. Empty where they do not, as in what an earlier version measured.
    """
    found = {}
    for item, verdict in verdicts.items():
        marks = (verdicts if marked is None else marked).get(item, {}).get("trained", ())
        places = [place for place, mark in enumerate(marks) if mark is (name == "trained")]
        if places and len(marks) == len(verdict["strict"]):
            found[item] = {r: [verdict[r][place] for place in places] for r in READINGS if r in verdict}
    return found


def variants(response: str) -> tuple[str, ...]:
    """The answer without its first line, last line or both, each also without asterisks: 8 with the answer itself."""
    lines = response.split("\n")
    cut = [response, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return (*cut, *(text.replace("*", "") for text in cut))


def resolve(check: Constraint, prompt: str, name: str) -> dict[str, Any]:
    """The arguments of a constraint as its decision takes them; None counts as not given.

    Raises `errors.ConfigError` that begins with `name`.
    """
    if check.kind not in KINDS:
        near = difflib.get_close_matches(check.kind, KINDS, n=1)
        raise ConfigError(
            f"{name}: there is no constraint {check.kind!r}{f' (nearest: {near[0]})' if near else ''}.",
            f"There are {', '.join(KINDS)}.",
        )
    readers = KINDS[check.kind][1]
    given = {key: value for key, value in check.arguments.items() if value is not None}
    if check.kind == REPEATS:
        given.setdefault("prompt_to_repeat", prompt)
    fix = f"{check.kind} takes {', '.join(readers) or 'no arguments'}."
    wrong = [f"has no argument {key!r}" for key in given if key not in readers]
    wrong += [f"needs the argument {key!r}" for key in readers if key not in given]
    if wrong:
        raise ConfigError(f"{name}: {check.kind} {wrong[0]}.", fix)
    read = {}
    for key, reader in readers.items():
        try:
            read[key] = reader(given[key])
        except ValueError as error:
            raise ConfigError(f"{name}: {check.kind}: {key} {reprlib.repr(given[key])} {error}.", fix) from None
    if read.get("nth_paragraph", 0) > read.get("num_paragraphs", 0):
        raise ConfigError(f"{name}: {check.kind}: nth_paragraph lies beyond num_paragraphs.", fix)
    return read


def _verdicts(item: VerifiableItem, responses: tuple[str, ...]) -> tuple[bool, ...]:
    verdicts = []
    texts = [unicodedata.normalize("NFC", text) for text in responses if text.strip()]
    for check in item.checks:
        arguments = resolve(check, item.prompt, f"Item {item.id}")
        decide = KINDS[check.kind][0]
        verdicts.append(any(decide(text, **arguments) for text in texts))
    return tuple(verdicts)
