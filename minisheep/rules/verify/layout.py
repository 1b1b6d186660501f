"""Constraints on the form of an answer: lists, sections, titles, JSON, beginnings and endings.

As in `content`: one function for each of IFEval's kinds, under its name and with its arguments.
"""

from __future__ import annotations

import json
import re

OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")

TICKS = ("```json", "```Json", "```JSON", "```")


def number_placeholders(response: str, *, num_placeholders: int) -> bool:
    """At least so many ``[...]``; an empty pair counts, one over two lines does not."""
    return len(re.findall(r"\[.*?\]", response)) >= num_placeholders


def postscript(response: str, *, postscript_marker: str) -> bool:
    """The marker anywhere, in any case; "P.S." and "P.P.S" with or without a blank after a full stop."""
    forms = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return bool(re.search(forms.get(postscript_marker, postscript_marker.lower()), response.lower()))


def number_bullet_lists(response: str, *, num_bullets: int) -> bool:
    """Exactly so many lines that begin with ``*`` (one, and something after it) or ``-`` (any, rules included)."""
    stars = re.findall(r"^\s*\*[^\*].*$", response, re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", response, re.MULTILINE)
    return len(stars) + len(dashes) == num_bullets


def constrained_response(response: str) -> bool:
    """One of the three answers somewhere, word for word; text around it is allowed."""
    return any(option in response for option in OPTIONS)


def number_highlighted_sections(response: str, *, num_highlights: int) -> bool:
    """At least so many ``*...*`` on one line; ``**...**`` counts too, one of several beside each other mostly once."""
    single = [found.strip("*") for found in re.findall(r"\*[^\n\*]*\*", response)]
    double = [found[2:-2] for found in re.findall(r"\*\*[^\n\*]*\*\*", response)]
    return sum(bool(found.strip()) for found in single + double) >= num_highlights


def multiple_sections(response: str, *, section_spliter: str, num_sections: int) -> bool:
    """At least so many times the word and a number, in the word's own case."""
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
    return response.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def quotation(response: str) -> bool:
    found = response.strip()
    return len(found) > 1 and found[0] == found[-1] == '"'


def no_comma(response: str) -> bool:
    return "," not in response
