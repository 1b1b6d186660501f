"""Answers made to keep a constraint, and constraints read off an answer: for the kinds that can be trained. Pure.

An edit takes a good answer and the arguments of a constraint, and returns the answer made to keep it, or None where
that would spoil it: code stays code, and a letter is no list. It changes as little as it can, since the model is shown
the outcome as a good answer. The check decides whether it has kept the constraint, not the edit.

In a script without blanks nothing tells where a word ends, so there the parts between marks stand for words.

A reading returns sets of arguments that may be true of an answer, the most telling first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from minisheep.rules.ifeval import AT_LEAST, LESS_THAN
from minisheep.rules.ifeval_text import count_words, sentences
from minisheep.rules.text_words import MARKS, STOPS, full_stop, ideographic, unspaced, word_count

Edit = Callable[..., str | None]
Reading = Callable[[str], list[dict[str, Any]]]

_CODE = re.compile(r"[{}<>;=\\`|^$]|\w\(|\b(?:def|import|return|SELECT|print)\b|^\s{2,}\S", re.MULTILINE)
_ITEM = re.compile(r"\s*(?:(?:[-*+•]|\(?\d{1,2}[.)])\s+|\d{1,2}[、．])(?P<item>\S.*)")
_FIELD = re.compile(r"\s*(?:[-*•]\s+)?(?P<name>\w[\w '-]{0,30})(?::\s+|：)(?P<value>\S.*)")
_THEN = r"and (?:then )?(?=(?:the|an?|it|they|he|she|we|you|I|this|that|these|there)\b)"
_CLAUSE = re.compile(rf";\s+|,\s+(?:{_THEN}|(?=(?:but|so|yet)\b))")
_LISTED = re.compile(r"\d,|,\s*\d|,\s+(?:[\w'-]+\s+){1,4}(?:and|or)\s|,[^,.]{1,20},")
_WORD = re.compile(rf"[^\W\d_][\w{MARKS}'-]*")
_NO_LETTERS = re.compile(rf"(?:[^\w{MARKS}]|_)+")
_PLAIN = """
a about after again all also although an and another any are as at away be because been before being between both but
by came can come could did do does down each either else even every few first for from get give given go gone had has
have he her here him his how i if in into is it its just keep kind know last less let like long made make makes many may
me might more most much must my need never new next no not nothing now of off often on once one only or other our out
over own part put quite rather said same say see seem set she should since so some something soon still such take than
that the their them then there these they thing things this those though three through to too turn two under until up
upon use used very was way we well went were what when where which while who whole why will with within without would
yes yet you your
"""
PLAIN_WORDS = frozenset(_PLAIN.split())
"""Words of little content, which make no keyword, no title's end and no highlight."""
_LITTLE = """
a an and as at but by for from in nor of on or the to with
"""
_SMALL = frozenset(_LITTLE.split())
"""Words that stay small inside a title."""
ENDS = (".", "!", "?", "。", "！", "？", *STOPS)
LONGEST_PART = 6
"""Characters between two marks that may stand for a word, in a script without blanks."""
LIMITS = (15, 20, 25, 30, 40, 50, 60, 80, 100, 150, 200)
"""Numbers of words that a constraint read off an answer may name."""


def content_words(text: str) -> list[str]:
    """The different words of four letters or more that say something, in lower case, the longest first."""
    if unspaced(text):
        parts = dict.fromkeys(part for part in _NO_LETTERS.split(text) if 2 <= len(part) <= LONGEST_PART)
        return sorted(parts, key=lambda part: (-len(part), part))
    found = dict.fromkeys(word.lower() for word in _WORD.findall(text) if "'" not in word and "-" not in word)
    return sorted((word for word in found if len(word) >= 4 and word not in PLAIN_WORDS), key=lambda w: (-len(w), w))


def no_comma(answer: str) -> str | None:
    """Commas are left out, but not those of figures, columns and lists, whose parts would run into each other."""
    if "\n" in answer or _LISTED.search(answer):
        return None
    return re.sub(r"\s*[,，،፣՝]\s*" if unspaced(answer) else r"\s*[,،፣՝]\s*", " ", answer)


def number_bullet_lists(answer: str, *, num_bullets: int) -> str | None:
    """Items of a list, else sentences (several in a bullet where there are more), else clauses or parts of a list."""
    items = _items(answer)
    if items is None:
        if "\n" in answer:
            return None
        items = next((parts for parts in _splits(answer) if len(parts) >= num_bullets), [])
        if len(items) > num_bullets and not all(part.endswith(ENDS) for part in items):
            return None
        items = _grouped(items, num_bullets)
    return "\n".join(f"* {item}" for item in items) if len(items) == num_bullets else None


def title(answer: str) -> str | None:
    """A line above the answer: how it begins, up to the last word of content among the first six."""
    first = (_items(answer) or [answer.split("\n")[0]])[0]
    if unspaced(answer):
        begin = _NO_LETTERS.split(first.lstrip("“「《"))[0]
        return f"<<{begin}>>\n{answer}" if 2 <= len(begin) <= 2 * LONGEST_PART else None
    begins = [word.strip(".,:;!?\"'()*") for word in re.split(r"[.!?:;]\s", first)[0].split()[:6]]
    while begins and (begins[-1].lower() in PLAIN_WORDS or not begins[-1]):
        begins.pop()
    if len(begins) < 1 + ("\n" in answer) or begins[0][:1].isdigit():
        return None
    words = [w if n and w in _SMALL else w[:1].upper() + w[1:] for n, w in enumerate(begins)]
    return f"<<{' '.join(words)}>>\n{answer}"


def quotation(answer: str) -> str | None:
    """Double marks inside it become single ones."""
    if unspaced(answer):
        return "“" + answer.replace("“", "‘").replace("”", "’").replace('"', "’") + "”"
    return '"' + answer.replace('"', "'") + '"'


def end_checker(answer: str, *, end_phrase: str) -> str | None:
    return f"{_finished(answer)}{_gap(answer)}{end_phrase}"


def number_words(answer: str, *, num_words: int, relation: str) -> str | None:
    """A long answer loses whole sentences at its end. One that is far below the limit shows nothing."""
    words = count_words(answer)
    if relation == AT_LEAST:
        return answer if words >= num_words else None
    if words < num_words:
        return answer if words * 4 >= num_words else None
    kept = ""
    for sentence in [] if "\n" in answer else sentences(answer):
        longer = f"{kept}{_blank(answer)}{sentence}".strip()
        if count_words(longer) >= num_words:
            break
        kept = longer
    return kept or None


def number_highlighted_sections(answer: str, *, num_highlights: int) -> str | None:
    """Its longest words of content stand between asterisks, each where it comes first."""
    if "*" in answer:
        return None
    chosen = content_words(answer)[:num_highlights]
    beside = rf"[\w{MARKS}*'-]"
    for word in chosen:
        answer = re.sub(rf"(?<!{beside}){word}(?!{beside})", r"*\g<0>*", answer, count=1, flags=re.IGNORECASE)
    return answer if len(chosen) == num_highlights else None


def json_format(answer: str) -> str | None:
    """Lines such as ``Name: value`` become its fields, a list or lines of verse a list, other text one field."""
    if "\n\n" in answer:
        return None
    lines = answer.split("\n")
    fields = [_FIELD.fullmatch(line) for line in lines]
    items = _items(answer)
    made: dict[str, Any]
    names = ("要点", "各行", "回答") if ideographic(answer) else ("items", "lines", "answer")
    if len(lines) > 1 and all(fields):
        made = {match["name"].strip().lower(): match["value"] for match in fields if match}
        if len(made) < len(lines):
            return None
    elif items is not None:
        made = {names[0]: items}
    else:
        made = {names[1]: lines} if len(lines) > 1 else {names[2]: answer}
    return json.dumps(made, ensure_ascii=False)


def postscript(answer: str, *, postscript_marker: str) -> str | None:
    """The last sentence of two or more becomes the postscript."""
    if "\n" in answer:
        return None
    *before, last = sentences(answer) or [""]
    if not before or word_count(last) < 3 or not last.endswith(ENDS):
        return None
    blank = _blank(answer)
    return f"{blank.join(before)}\n\n{postscript_marker}{blank}{last}"


def read_words(answer: str) -> list[dict[str, Any]]:
    """The tightest limits above and below its number of words."""
    words = count_words(answer)
    found = [{"num_words": limit, "relation": LESS_THAN} for limit in LIMITS if words < limit][:1]
    return found + [{"num_words": limit, "relation": AT_LEAST} for limit in LIMITS if words >= limit][-1:]


def read_bullets(answer: str) -> list[dict[str, Any]]:
    number = len(re.findall(r"^\s*(?:\*[^*]|-)", answer, re.MULTILINE))
    return [{"num_bullets": number}] if 2 <= number <= 10 else []


def read_highlights(answer: str) -> list[dict[str, Any]]:
    number = len(re.findall(r"(?<!\*)\*[^\n*]+\*(?!\*)", answer))
    return [{"num_highlights": number}] if 1 <= number <= 10 else []


def read_keywords(answer: str) -> list[dict[str, Any]]:
    return [{"keywords": [word]} for word in content_words(answer)[:5]]


def _sparing_code(edit: Edit) -> Edit:
    def edited(answer: str, **arguments: Any) -> str | None:
        return None if _CODE.search(answer) else edit(answer, **arguments)

    return edited


_OF_PROSE: Mapping[str, Edit] = {
    "punctuation:no_comma": no_comma,
    "change_case:english_lowercase": str.lower,
    "change_case:english_capital": str.upper,
    "detectable_format:number_bullet_lists": number_bullet_lists,
    "detectable_format:title": title,
    "startend:quotation": quotation,
    "startend:end_checker": end_checker,
    "length_constraints:number_words": number_words,
    "detectable_format:number_highlighted_sections": number_highlighted_sections,
    "detectable_format:json_format": json_format,
    "detectable_content:postscript": postscript,
    "keywords:existence": lambda answer, keywords: answer,  # its own words: nothing is put in
}
EDITS: Mapping[str, Edit] = {kind: _sparing_code(edit) for kind, edit in _OF_PROSE.items()}
AT_ODDS: Mapping[str, re.Pattern[str]] = {
    kind: re.compile(words, re.IGNORECASE)
    for kind, words in {
        "punctuation:no_comma": r"punctuat|comma|grammar|correct|标点|逗号|语病|错别字|改正",
        "change_case:english_lowercase": r"capital|punctuat|correct|abbreviat|letters",
        "change_case:english_capital": r"capital|punctuat|correct|abbreviat|letters",
        "detectable_format:number_bullet_lists": r"sentence|paragraph|headline|poem|verse|title"
        r"|[一两几]句|句话|段|诗|标题|口号",
        "detectable_format:json_format": r"poem|verse|haiku|诗",
        "startend:quotation": r"quot|speech|引号|反问",
    }.items()
}
"""What an instruction asks for that a constraint of the kind would be at odds with."""
READINGS: Mapping[str, Reading] = {
    "length_constraints:number_words": read_words,
    "detectable_format:number_bullet_lists": read_bullets,
    "detectable_format:number_highlighted_sections": read_highlights,
    "keywords:existence": read_keywords,
}
"""The kinds whose arguments are read off an answer; of others those of their levels are tried."""


def _items(answer: str) -> list[str] | None:
    """The items of an answer that is a list and nothing else."""
    matches = [_ITEM.fullmatch(line) for line in answer.split("\n") if line.strip()]
    return [match["item"] for match in matches if match] if len(matches) > 1 and all(matches) else None


def _splits(answer: str) -> list[list[str]]:
    """A line of text in parts: sentences; else clauses, if each says something; else the parts of a bare list."""
    whole = sentences(answer)
    clauses = [part.strip() for sentence in whole for part in _clauses(sentence)]
    clauses = [part[:1].upper() + part[1:] + ("" if part.endswith(ENDS) else ".") for part in clauses]
    parts = [part.strip(" .。") for part in re.split(r",\s+|\s+and\s+|、", answer)]
    found = [whole]
    if ideographic(answer):
        found.append([part + ("" if part.endswith(ENDS) else "。") for part in re.split("；|(?<=。)", answer) if part])
        return [*found, parts] if len(parts) > 2 and all(0 < len(part) <= LONGEST_PART for part in parts) else found
    if all(len(part.split()) >= 4 for part in clauses):
        found.append(clauses)
    if len(parts) > 2 and all(0 < len(part.split()) <= 4 for part in parts):
        found.append(parts)
    return found


def _clauses(sentence: str) -> list[str]:
    """A sentence whose commas stand between parts of a list is left whole."""
    parts = _CLAUSE.split(sentence)
    return [sentence] if any("," in part for part in parts) else parts


def _grouped(parts: Sequence[str], groups: int) -> list[str]:
    """Neighbours joined, so that there are at most that many, of about the same number."""
    if not parts:
        return []
    groups = min(groups, len(parts))
    ends = [round(len(parts) * n / groups) for n in range(groups + 1)]
    return [_blank(parts[0]).join(parts[a:b]) for a, b in pairwise(ends)]


def _finished(answer: str) -> str:
    """With a full stop where the last line ends in a word."""
    return answer if "\n" in answer else answer + full_stop(answer)


def _gap(answer: str) -> str:
    return "\n" if "\n" in answer else _blank(answer)


def _blank(text: str) -> str:
    """What stands between two sentences."""
    return "" if ideographic(text) else " "
