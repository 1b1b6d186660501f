"""Where an answer should have ended. Pure.

A base model has not learnt to stop: it answers, then invents the next question, repeats itself, or runs into the
token limit. The text before that is often a good answer, so it is cut rather than dropped. Fenced code is never cut
inside, and nothing in a closed fence counts as a label, a sentence or a repetition.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from minisheep.rules.templates import end_as_text
from minisheep.rules.text_words import BLANK, END, GREEK_QUESTION, START, STOPS, scaled, words
from minisheep.rules.wording import ENGLISH, Wording

SHORTEST_REPEATED = 4
"""Words that a sentence must have for its repetition to end the answer (`rules.text_words.scaled`); "Yes." may come
twice."""

# "Answer:" and "Response:" in plain text may open the conclusion of an answer; after "###" they open a new one.
_NEW_TURN = re.compile(
    r"^[ \t>*_]{0,8}(?:"
    r"(?:[0-9]{1,4}[.)][ \t]*[*_]{0,3}|\#{1,6}[ \t]*[*_]{0,3})?"
    r"(?:instruction|input|output|question|user|human|assistant|system|task|q)[ \t]?\#?[0-9]{0,4}[*_]{0,3}[ \t]?:"
    r"|(?:[0-9]{1,4}[.)]|\#{1,6})[ \t]*[*_]{0,3}(?:instruction|question|task)[ \t]?[0-9]{0,4}[*_]{0,3}[ \t]*$"
    r"|\#{1,6}[ \t]*[*_]{0,3}(?:response|answer|input|output)[*_]{0,3}[ \t]*:?[*_]{0,3}[ \t]*$"
    r"|<\|[a-z_]{1,20}\|>"
    r")",
    re.IGNORECASE | re.MULTILINE,
)
_FENCE = re.compile(r"^[ \t]*(```|~~~).*$", re.MULTILINE)
# « and “ close what » and „ open; French has a blank before ».
_CLOSED = r"(?:[\"'”’»)\]*_›“‘«‹]|[ \u00a0\u202f]»)*"
QUESTION = rf"(?:[?？؟፧]|{GREEK_QUESTION})"
_SENTENCE_END = re.compile(
    rf"[.!?…{STOPS}]+{_CLOSED}(?=\s|\Z)|[{STOPS}]+{_CLOSED}|{GREEK_QUESTION}{_CLOSED}|[。！？｡]+[”’」』）》]*"
)
# A full stop that ends no sentence: a list number, an initial, a common abbreviation.
_NO_END = re.compile(
    r"(?:^[ \t]*\(?\d{1,4}|\b[A-Z]|\b(?:e\.g|i\.e|Dr|Mr|Mrs|Ms|Prof|St|vs|cf|approx|No))\.$", re.MULTILINE
)
LIST_ITEM = r"(?:[-–*+•◦‣▪●][ \t]|・|[①-⑳]|[(（]?\d{1,4}(?:[.)-][ \t]|[.)](?=[^\x00-\x7f])|[、．）]))"
"""An expression for how an item of a list begins: a bullet or a number."""
_LIST_LINE = re.compile(
    rf"[ \t]*(?:(?:{LIST_ITEM}|\(?[^\W\d_][.)][ \t]|[(（]?[0-9一二三四五六七八九十]{{1,4}}[、．）]).*\S.*|\|.*\|[ \t]*)"
)
_LIST_NUMBER = re.compile(r"^[ \t]*[(（]?(\d{1,4})(?:[.)、．）]|-[ \t])")
LONGEST_LIST = 20
"""A list that an answer numbers seldom goes further."""
_ASKED_FOR = {
    "question": ("faqs?", "q ?& ?a", "flashcards?", "trivia"),
    "user": ("chats?", "scripts?", "transcripts?"),
    "input": ("examples?", "test cases?"),
    "output": ("examples?", "test cases?"),
}
"""Expressions for words of an instruction that ask for labels of a kind, besides the label itself."""


@cache
def _turns(wording: Wording) -> re.Pattern[str]:
    """The labels that begin another turn, in English and in the run's language."""
    if wording.english:
        return _NEW_TURN
    own = "|".join(map(re.escape, (wording.instruction, wording.input, *wording.turns, *wording.tasks)))
    return re.compile(
        rf"{_NEW_TURN.pattern}|^[ \t>*_#]{{0,8}}(?:\d{{1,4}}[.)、．][ \t]*)?[*_]{{0,3}}(?:{own})"
        rf"{BLANK}?\d{{0,4}}[*_]{{0,3}}{BLANK}?[:：]",
        _NEW_TURN.flags,
    )


def unexplained(
    labels: Iterator[re.Match[str]], text: str, finish: str, instruction: str, wording: Wording = ENGLISH
) -> Iterator[re.Match[str]]:
    """Of `labels`, matches in `text`, those that do not belong to an answer.

    What did not end by itself is a model that went on, so there every label is foreign. In an answer that ended, labels
    belong to it where the instruction asks for them, and where its own form explains them: an item that goes on
    counting a list, an example's input with its output, a list of questions that the answer begins with.
    """
    for match in labels:
        if finish != "end" or not _explained(match, text, instruction, wording):
            yield match


def _explained(match: re.Match[str], text: str, instruction: str, wording: Wording) -> bool:
    label = re.split("[:：]", match.group())[0]
    name = [word for word in words(label) if not word.isdigit()]
    if not name:
        return False
    kind = next((kind for other, kind in _kinds(wording).items() if words(other) == name), " ".join(name))
    asked = [r"\s*".join(map(re.escape, name)) + "(?:e?s)?"]
    if kind in ("question", "user"):
        asked += map(re.escape, wording.wants_questions)
    asked += _ASKED_FOR.get(kind, ())
    if re.search(f"{START}(?:{'|'.join(asked)}){END}", instruction, re.IGNORECASE):
        return True
    before, line = text[: match.start()].rstrip(), text[match.start() :].partition("\n")[0]
    number, last = _LIST_NUMBER.match(line), _LIST_NUMBER.match(before.rpartition("\n")[2])
    if number and last and int(number[1]) == int(last[1]) + 1 <= LONGEST_LIST:
        return True
    same = "|".join(re.escape(other) for other, its in _kinds(wording).items() if its == kind) or re.escape(kind)
    at_line_start = rf"[ \t>*_#]*(?:{same}){BLANK}?\d{{0,4}}[*_]{{0,3}}{BLANK}?[:：.]"
    if kind == "question":  # The answer is a list of these from its beginning.
        return bool(re.match(rf"{at_line_start}[\s\S]*\n{at_line_start}", text.lstrip(), re.IGNORECASE))
    if kind in ("input", "output"):
        paragraph = text[text.rfind("\n\n", 0, match.start()) + 1 :].lstrip("\n").partition("\n\n")[0]
        return all(
            re.search(rf"^[ \t>*_-]*(?:{'|'.join(map(re.escape, some))})[*_]*{BLANK}?[:：]", paragraph, re.I | re.M)
            for some in (("Input", wording.input), ("Output", *wording.outputs))
        )
    return False


@cache
def _kinds(wording: Wording) -> dict[str, str]:
    """What kind of label each one is."""
    own = {wording.input: "input", wording.turns[0]: "question", wording.turns[1]: "user"}
    kinds = {"q": "question", "question": "question", "input": "input", "output": "output"}
    kinds |= dict.fromkeys(("user", "human", "assistant", "system"), "user")
    return kinds | own | dict.fromkeys(wording.outputs, "output")


def cut_answer(text: str, finish: str, instruction: str = "", wording: Wording = ENGLISH) -> tuple[str, str]:
    """The answer without what a rambling model put after it, and why it was cut; the reason is empty if it was not.

    finish: ``end``, ``stop`` or ``length``, as in `engines.base.Completion`.
    instruction: with its input; an answer that ended by itself keeps the labels that it was asked for (`unexplained`).
    Reasons, in the order of the checks; the last that applied is given:
    ``new_turn``: cut at the first label of a speaker or a few-shot field at a line start (not at the very start), or
    before an end of answers that was spelt out;
    ``repeated_sentence``: cut at the first sentence of four words or more that stood there before;
    ``last_sentence``: only for ``length`` where nothing else was cut, back to the last whole sentence, list line or
    closed code fence. Where there is none the text stays, and the rule ``never_ends`` drops it.
    """
    text = text.strip()
    cut, reason = text, ""
    masked = _masked(cut)
    labels = (match for match in _turns(wording).finditer(masked) if match.start() > 0)
    turn = next((match.start() for match in unexplained(labels, masked, finish, instruction, wording)), None)
    if turn is not None:
        cut, reason = cut[:turn].rstrip(), "new_turn"
    while spelt := end_as_text(cut, instruction):
        cut, reason = cut.removesuffix(spelt).rstrip(), "new_turn"
    repeat = _first_repetition(cut)
    if repeat is not None:
        cut, reason = cut[:repeat].rstrip(), "repeated_sentence"
    if finish == "length" and not reason and not ends_naturally(cut):
        end = _last_end(cut)
        if end:
            cut, reason = cut[:end].rstrip(), "last_sentence"
    return cut, reason


def ends_naturally(text: str) -> bool:
    """Whether the text ends in sentence punctuation (closing quotes and brackets allowed) or with a closed fence."""
    text = text.rstrip()
    closed, opened = _fences(text)
    if not text or opened is not None:
        return False
    return max(_sentence_ends(text), default=0) == len(text) or any(end == len(text) for _, end in closed)


def ends_with_list_line(text: str) -> bool:
    """Whether the last line is an item of a list or a row of a table."""
    return _LIST_LINE.fullmatch(text.rstrip().rpartition("\n")[2]) is not None


def closed_fences(text: str) -> list[tuple[int, int]]:
    """Start and end of every closed fenced code block, fence lines included."""
    return _fences(text)[0]


def without_code(text: str) -> str:
    """The text without its closed fenced code blocks."""
    for start, end in reversed(closed_fences(text)):
        text = text[:start] + text[end:]
    return text


def sentences(text: str) -> Iterator[tuple[int, str]]:
    """Start and text of each sentence or line, none of them blank; closed fences are skipped."""
    masked = _masked(text)
    breaks = {m.start() for m in re.finditer("\n", masked)} | set(_sentence_ends(masked)) | {len(masked)}
    start = 0
    for end in sorted(breaks):
        sentence = masked[start:end]
        if sentence.strip():
            yield start + len(sentence) - len(sentence.lstrip()), sentence.strip()
        start = end


def normalised(sentence: str) -> str:
    """Lower case, words only, without a list number: two sentences that differ in less are the same."""
    return " ".join(words(re.sub(r"^\W*\d{1,4}(?:[.)-]\s|[.)](?=[^\x00-\x7f])|[、．）])", "", sentence), letters="_"))


def _fences(text: str) -> tuple[list[tuple[int, int]], int | None]:
    """The closed blocks, and where a block opens that is never closed."""
    closed: list[tuple[int, int]] = []
    opened: re.Match[str] | None = None
    for line in _FENCE.finditer(text):
        if opened is None:
            opened = line
        elif line[1] == opened[1] and line.group().strip() == line[1]:
            closed.append((opened.start(), line.end()))
            opened = None
    return closed, opened.start() if opened else None


def _masked(text: str) -> str:
    """The same text, same length, with blanks where closed fences are."""
    for start, end in closed_fences(text):
        text = text[:start] + " " * (end - start) + text[end:]
    return text


def _first_repetition(text: str) -> int | None:
    seen: set[str] = set()
    for start, sentence in sentences(text):
        key = normalised(sentence)
        if key in seen:
            return start
        if len(key.split()) >= scaled(SHORTEST_REPEATED, sentence):
            seen.add(key)
    return None


def _sentence_ends(text: str) -> Iterator[int]:
    for match in _SENTENCE_END.finditer(text):
        line_start = text.rfind("\n", 0, match.start()) + 1
        # Eleven characters hold the longest of these, its left border and the stop.
        window = text[max(line_start, match.start() - 10) : match.end()]
        if not (match.group() == "." and match.end() < len(text) and _NO_END.search(window)):
            yield match.end()


def _last_end(text: str) -> int:
    """Where the last whole sentence, list line or closed fence ends; 0 where there is none."""
    opened = _fences(text)[1]
    if opened is not None:
        text = text[:opened].rstrip()
    ends = [0, *_sentence_ends(_masked(text)), *(end for _, end in closed_fences(text))]
    position = 0
    # The very last line may be cut off, unless a fence began below it.
    lines = text.split("\n") if opened is not None else text.split("\n")[:-1]
    for line in lines:
        position += len(line)
        if _LIST_LINE.fullmatch(line):
            ends.append(position)
        position += 1
    return max(ends)
