"""Rules that an instruction must pass before it is answered, and an answer before it is judged. Pure.

After Self-Instruct (Wang et al. 2023) and the heuristic filter of I-SHEEP. Three rules for answers are new
(`NOT_PAPERS`): a judge by likelihood loves an answer that repeats the instruction or that loops, so those must be gone
before it scores, and an answer without an end teaches to ramble.
Similarity to earlier instructions needs an index of them: see `similarity.NoveltyIndex`.

A rule takes an instruction and its input, or an `AnsweredText`, and returns what it found, or None. Closed code fences
are not searched for speaker turns and loops.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from minisheep.rules import endings, similarity

SHORTEST, LONGEST = 4, 150
"""Words that an instruction may have, both included."""

OUT_OF_REACH = (
    *("image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps", "draw", "plot"),
    *("go to", "video", "videos", "audio", "music", "flowchart", "flowcharts", "diagram", "diagrams"),
)
"""Words for things that a text model can neither see nor make."""

InstructionRule = Callable[[str, str], str | None]

_OUT_OF_REACH = re.compile(rf"\b(?:{'|'.join(OUT_OF_REACH)})\b".replace(" ", r"\s+"), re.IGNORECASE)
_MARKER = re.compile(
    r"<\s*no[\s_-]?input\s*>|[(\[]\s*(?:none|no\s+input)\s*[)\]]|\bnoinput\b|<\s*none\s*>", re.IGNORECASE
)
# A label in the middle of a line is only one when it is written as one: "Input:" is, "the input: a list" is not.
_LABEL = re.compile(r"\b(?:Instruction|Input|Output|Response)[ \t]?[0-9]{0,3}[ \t]?:")
_LABEL_AT_LINE_START = re.compile(
    r"^[ \t#*>_-]{0,8}(?:instruction|input|output|response|answer|question|task|user|human|assistant|system)"
    r"[ \t]?[0-9]{0,3}[ \t*_]{0,3}:",
    re.IGNORECASE | re.MULTILINE,
)
_URL = re.compile(r"\b(?:https?|ftp)://\S*|\bwww\.[\w-]+\.\S*", re.IGNORECASE)


def too_short(instruction: str, input: str) -> str | None:
    count = len(instruction.split())
    return f"{count} words" if count < SHORTEST else None


def too_long(instruction: str, input: str) -> str | None:
    count = len(instruction.split())
    return f"{count} words" if count > LONGEST else None


def not_text_only(instruction: str, input: str) -> str | None:
    return _found(_OUT_OF_REACH, instruction, input)


def starts_with_punctuation(instruction: str, input: str) -> str | None:
    first = instruction.lstrip()[:1]
    return first if first and first in string.punctuation else None


def starts_non_ascii(instruction: str, input: str) -> str | None:
    first = instruction.lstrip()[:1]
    return None if first.isascii() else first


def no_input_marker(instruction: str, input: str) -> str | None:
    return _found(_MARKER, instruction, input)


def stray_label(instruction: str, input: str) -> str | None:
    # "Question: ..." is ordinary text in an input, so there only the labels of our own fields count.
    return _found(_LABEL_AT_LINE_START, instruction) or _found(_LABEL, instruction, input)


def has_url(instruction: str, input: str) -> str | None:
    return _found(_URL, instruction, input)


def input_repeated(instruction: str, input: str) -> str | None:
    """Whole words only: the input "a" does not stand inside "Translate"."""
    needle = _plain(input)
    whole = _plain(instruction)
    # Most inputs do not stand there at all, and finding that out is far cheaper than compiling an expression.
    if not needle or needle not in whole or not re.search(rf"(?<!\w){re.escape(needle)}(?!\w)", whole):
        return None
    return shortened(needle)


INSTRUCTION_RULES: tuple[tuple[str, InstructionRule, str], ...] = (
    ("too_short", too_short, f"has fewer than {SHORTEST} words"),
    ("too_long", too_long, f"has more than {LONGEST} words"),
    ("not_text_only", not_text_only, "names something that a text model can neither see nor make"),
    ("starts_with_punctuation", starts_with_punctuation, "starts with a punctuation mark"),
    ("starts_non_ascii", starts_non_ascii, "starts with a character outside ASCII"),
    ("no_input_marker", no_input_marker, "carries the marker for no input inside a field"),
    ("stray_label", stray_label, "holds the label of a field or of a speaker"),
    ("has_url", has_url, "holds a web address"),
    ("input_repeated", input_repeated, "already holds its input inside the instruction"),
)
"""Name, function, and what a dropped instruction does; in the order of the checks."""


def instruction_fault(instruction: str, input: str) -> tuple[str, str] | None:
    """The first rule that the instruction breaks and what was found, or None where it passes. Never raises."""
    faults = ((name, rule(instruction, input)) for name, rule, _ in INSTRUCTION_RULES)
    return next(((name, detail) for name, detail in faults if detail is not None), None)


def _found(pattern: re.Pattern[str], *texts: str) -> str | None:
    match = next(filter(None, map(pattern.search, texts)), None)
    return shortened(match.group().strip()) if match else None


def _plain(text: str) -> str:
    """Lower case, single spaces, no punctuation around it."""
    return " ".join(text.casefold().split()).strip(string.punctuation + "“”‘’«»… ")


def shortened(text: str, limit: int = 60) -> str:
    """At most `limit` characters, for the detail of a rejection."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


# Rules for answers.
LOOP_NGRAM, LOOP_SHARE, LOOP_WORDS = 4, 0.3, 24
"""An answer of at least 24 words loops where more than 0.3 of its 4-grams were there before."""
LOOP_LINES, LOOP_SENTENCES, LOOP_RUN = 3, 2, 5
"""It also loops where a line of two words or more comes three times, a sentence of five words or more twice, or one
word five times in a row."""
COPY_PRECISION, COPY_WORDS, COPY_RUN = 0.8, 5, 0.5
"""An answer of at least five words is a copy where more than 0.8 of them stand in order in the instruction, or in the
instruction and input together with more than half of the answer in one piece. The piece spares right answers that
are made of the input: names extracted from a passage, a sentence edited in several places, a list put in order."""


@dataclass(frozen=True, slots=True)
class AnsweredText:
    """A question and its answer. `finish` belongs to `output` as it stands here, see `response_fault`."""

    instruction: str
    input: str
    output: str
    finish: str
    language: str = "en"


ResponseRule = Callable[[AnsweredText], str | None]

_TURN = re.compile(
    r"^[ \t#*>_-]{0,8}(?:assistant|system|human|question|output|user|instruction)[ \t]?[0-9]{0,3}[*_]{0,3}[ \t]?:.*"
    r"|^(?:assistant|system|human|user)[ \t]*(?=\n)|<\|[a-z_]{1,20}\|>|\[/?INST\]",
    re.IGNORECASE | re.MULTILINE,
)
_LINE_OPTION = re.compile(r"^[ \t>*-]{0,6}\(?([A-Ea-e])[.)][ \t]*\S", re.MULTILINE)
_INLINE_OPTIONS = re.compile(r"(?<!\w)\(?A[.)][ \t][^\n]{1,200}?(?<!\w)\(?B[.)][ \t][^\n]{1,200}?(?<!\w)\(?C[.)][ \t]")
_NAMED_OPTIONS = re.compile(
    r"\banswer choices\b|^[ \t#*]{0,6}(?:options|choices)[*_]{0,3}:", re.IGNORECASE | re.MULTILINE
)
_QUESTION_END = re.compile(r"[?？][\"'”’)\]*_]*\Z")
_LIST_ITEM = re.compile(r"\s*(?:[-*+•]\s|\(?[0-9]{1,4}[.)])")
_WANTS_QUESTIONS = re.compile(
    r"\b(?:questions?|ask(?:s|ed|ing)?|quiz(?:zes)?|interviews?|surveys?|riddles?|jokes?|dialogues?|conversations?)\b",
    re.IGNORECASE,
)
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
# Scripts without spaces are counted by the character, so that the measures of repetition hold for them.
_UNIT = re.compile(
    "[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\\W\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+"
)


def empty(pair: AnsweredText) -> str | None:
    return None if pair.output.strip() else "no text"


def new_turn(pair: AnsweredText) -> str | None:
    match = _TURN.search(endings.without_code(pair.output))
    return shortened(match.group().strip()) if match else None


def answer_choices(pair: AnsweredText) -> str | None:
    """A line opened by the letter A and a later one by B, three letters within a line, or a heading for options."""
    named = _NAMED_OPTIONS.search(pair.output)
    if named:
        return named.group().strip()
    letters = [letter.lower() for letter in _LINE_OPTION.findall(pair.output)]
    if "a" in letters and "b" in letters[letters.index("a") :]:
        return "lines A, B"
    return "A, B, C in a line" if _INLINE_OPTIONS.search(pair.output) else None


def asks_back(pair: AnsweredText) -> str | None:
    """A question as the last thing after a blank line, unless it is a list item or the instruction wants questions."""
    _, blank, last = pair.output.strip().rpartition("\n\n")
    line = last.strip().rpartition("\n")[2]
    if (
        not blank
        or not _QUESTION_END.search(line)
        or _LIST_ITEM.match(line)
        or _WANTS_QUESTIONS.search(pair.instruction)
    ):
        return None
    return shortened(line)


def chinese(pair: AnsweredText) -> str | None:
    match = _HAN.search(pair.output) if pair.language == "en" else None
    return match.group() if match else None


def loops(pair: AnsweredText) -> str | None:
    text = endings.without_code(pair.output)
    words = [word.casefold() for word in _UNIT.findall(text)]
    for i in range(len(words) - LOOP_RUN + 1):
        if words[i].isalpha() and len(set(words[i : i + LOOP_RUN])) == 1:
            return f"{words[i]} {LOOP_RUN} times in a row"
    lines = [line for line in map(endings.normalised, text.split("\n")) if len(line.split()) >= 2]
    if line := _repeated(lines, LOOP_LINES):
        return f"a line {LOOP_LINES} times: {shortened(line)}"
    sentences = [endings.normalised(part) for _, part in endings.sentences(text)]
    if sentence := _repeated([some for some in sentences if len(some.split()) >= 5], LOOP_SENTENCES):
        return f"a sentence twice: {shortened(sentence)}"
    share = repeated_share(words, LOOP_NGRAM)
    looping = len(words) >= LOOP_WORDS and share > LOOP_SHARE
    return f"{share:.2f} of the {LOOP_NGRAM}-grams repeated" if looping else None


def copies_instruction(pair: AnsweredText) -> str | None:
    """The answer repeats the instruction or input, in whole or for the most part, or begins with it.

    An answer of fewer than three words that equals the input passes: it may be the right word.
    """
    answer, asked, given = (similarity.tokens(text) for text in (pair.output, pair.instruction, pair.input))
    if not answer or not asked:
        return None
    if answer == asked or answer == asked + given or (answer == given and len(given) >= 3):
        return "equals the instruction or input"
    if answer[: len(asked)] == asked and len(asked) >= 3:
        return "begins with the whole instruction"
    if len(answer) < COPY_WORDS:
        return None
    of_instruction = similarity.common_length(answer, asked) / len(answer)
    if of_instruction > COPY_PRECISION:
        return f"{of_instruction:.2f} of it is the instruction"
    both = asked + given
    of_both = similarity.common_length(answer, both) / len(answer)
    if of_both <= COPY_PRECISION:
        return None
    run = SequenceMatcher(None, answer, both, autojunk=False).find_longest_match().size / len(answer)
    return f"{of_both:.2f} of it is the instruction and input" if run > COPY_RUN else None


def never_ends(pair: AnsweredText) -> str | None:
    if pair.finish != "length" or endings.ends_naturally(pair.output) or endings.ends_with_list_line(pair.output):
        return None
    return "cut off at the token limit"


RESPONSE_RULES: tuple[tuple[str, ResponseRule, str], ...] = (
    ("empty", empty, "has no text"),
    ("new_turn", new_turn, "starts another speaker's turn at a line start"),
    ("answer_choices", answer_choices, "holds a list of lettered options"),
    ("asks_back", asks_back, "asks a question back after a blank line"),
    ("chinese", chinese, "holds Chinese characters in an English run"),
    ("loops", loops, "repeats itself"),
    ("copies_instruction", copies_instruction, "repeats the instruction or input"),
    ("never_ends", never_ends, "was cut off at the token limit without a natural end"),
)
"""Name, function, and what a dropped answer does; in the order of the checks."""


NOT_PAPERS = frozenset({"loops", "copies_instruction", "never_ends"})
"""Rules for answers that the paper lacks."""
RULE_SETS: dict[str, frozenset[str]] = {
    "on": frozenset(name for name, _, _ in RESPONSE_RULES),
    "paper": frozenset(name for name, _, _ in RESPONSE_RULES) - NOT_PAPERS,
    "off": frozenset({"empty"}),
}
"""The rules for answers that each value of ``--rules`` means."""


def response_fault(
    instruction: str, input: str, output: str, finish: str, *, language: str = "en", rules: str = "on"
) -> tuple[str, str] | None:
    """The first rule that the answer breaks and what was found, or None where it passes. Never raises.

    output: the answer after `endings.cut_answer`.
    finish: how `output` ended: the completion's own finish, or ``stop`` where `cut_answer` shortened it.
    language: ``en`` drops Chinese characters; any other code lets them pass.
    rules: which of `RULE_SETS` apply.
    """
    pair = AnsweredText(instruction, input, output, finish, language)
    faults = ((name, rule(pair)) for name, rule, _ in RESPONSE_RULES if name in RULE_SETS[rules])
    return next(((name, detail) for name, detail in faults if detail is not None), None)


def repeated_share(words: Sequence[str], n: int) -> float:
    """Share of n-grams that stood in `words` before, 0 .. 1; 0 for fewer than n words."""
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _repeated(items: Sequence[str], times: int) -> str:
    """The first item that comes `times` times, or an empty string."""
    counts: dict[str, int] = {}
    for item in items:
        counts[item] = counts.get(item, 0) + 1
        if counts[item] >= times:
            return item
    return ""
