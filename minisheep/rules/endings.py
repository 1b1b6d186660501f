"""Where an answer should have ended. Pure.

A base model has not learnt to stop: it answers, then invents the next question, repeats itself, or runs into the
token limit. The text before that is often a good answer, so it is cut rather than dropped. Fenced code is never cut
inside, and nothing in a closed fence counts as a label, a sentence or a repetition.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

SHORTEST_REPEATED = 4
"""Words that a sentence must have for its repetition to end the answer; "Yes." may come twice."""

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
_CLOSERS = "\"'”’»)]*_"
_SENTENCE_END = re.compile(rf"[.!?…]+[{re.escape(_CLOSERS)}]*(?=\s|\Z)|[。！？]+[”’」』）]*")
# A full stop that ends no sentence: a list number, an initial, a common abbreviation.
_NO_END = re.compile(
    r"(?:^[ \t]*\(?[0-9]{1,4}|\b[A-Z]|\b(?:e\.g|i\.e|Dr|Mr|Mrs|Ms|Prof|St|vs|cf|approx|No))\.$", re.MULTILINE
)
_LIST_LINE = re.compile(r"[ \t]*(?:(?:[-*+•][ \t]|\(?(?:[0-9]{1,4}|[A-Za-z])[.)][ \t]).*\S.*|\|.*\|[ \t]*)")


def cut_answer(text: str, finish: str) -> tuple[str, str]:
    """The answer without what a rambling model put after it, and why it was cut; the reason is empty if it was not.

    finish: ``end``, ``stop`` or ``length``, as in `engines.base.Completion`.
    Reasons, in the order of the checks; the last that applied is given:
    ``new_turn``: cut at the first label of a speaker or a few-shot field at a line start (not at the very start);
    ``repeated_sentence``: cut at the first sentence of four words or more that stood there before;
    ``last_sentence``: only for ``length`` where nothing else was cut, back to the last whole sentence, list line or
    closed code fence. Where there is none the text stays, and the rule ``never_ends`` drops it.
    """
    text = text.strip()
    cut, reason = text, ""
    turn = next((m.start() for m in _NEW_TURN.finditer(_masked(cut)) if m.start() > 0), None)
    if turn is not None:
        cut, reason = cut[:turn].rstrip(), "new_turn"
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
    return " ".join(re.findall(r"\w+", re.sub(r"^\W*[0-9]{1,4}[.)]\s", "", sentence).casefold()))


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
        if len(key.split()) >= SHORTEST_REPEATED:
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
