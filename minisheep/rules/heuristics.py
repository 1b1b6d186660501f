"""Rules that an instruction must pass before it is answered, and an answer before it is judged. Pure.

After Self-Instruct (Wang et al. 2023) and the heuristic filter of I-SHEEP. Three rules for answers are new
(`NOT_PAPERS`): a judge by likelihood loves an answer that repeats the instruction or that loops, so those must be gone
before it scores, and an answer without an end teaches to ramble.
Similarity to earlier instructions needs an index of them: see `similarity.NoveltyIndex`.

A rule takes an `AskedText` or an `AnsweredText` and returns what it found, or None. Closed code fences are not searched
for speaker turns and loops. Lengths are in words, and by `rules.text_words` in characters where a script has no blanks;
`rules.wording` says which rules are for English alone.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache

from minisheep.rules import endings, similarity
from minisheep.rules.prompts import user_text
from minisheep.rules.text_words import BLANK, END, START, folded, scaled, unspaced, whole, word_count, words
from minisheep.rules.wording import ENGLISH, ENGLISH_ALONE, Wording

SHORTEST, LONGEST = 4, 150
"""Words that an instruction may have, both included. Four characters are the fewest too, since they can ask for
something, and three words outside English (Korean says with one what takes English several); the most are `scaled`."""


@dataclass(frozen=True, slots=True)
class AskedText:
    """An instruction and its input."""

    instruction: str
    input: str
    wording: Wording = ENGLISH


InstructionRule = Callable[[AskedText], str | None]

_MARKER = rf"<\s*no[\s_-]?input\s*>|[(\[]\s*(?:none|no\s+input)\s*[)\]]|{START}noinput{END}|<\s*none\s*>"
# A label in the middle of a line is only one when it is written as one: "Input:" is, "the input: a list" is not.
_LABEL = re.compile(r"\b(?:Instruction|Input|Output|Response)[ \t]?[0-9]{0,3}[ \t]?:")
_LABEL_AT_LINE_START = re.compile(
    r"^[ \t#*>_-]{0,8}(?:instruction|input|output|response|answer|question|task|user|human|assistant|system)"
    r"[ \t]?[0-9]{0,3}[ \t*_]{0,3}:",
    re.IGNORECASE | re.MULTILINE,
)
_URL = re.compile(rf"{START}(?:(?:https?|ftp)://|www\.[\w-]+\.)\S*", re.IGNORECASE)


def too_short(asked: AskedText) -> str | None:
    least = SHORTEST - (not asked.wording.english and not unspaced(asked.instruction))
    return _length(asked.instruction) if word_count(asked.instruction) < least else None


def too_long(asked: AskedText) -> str | None:
    text = asked.instruction
    return _length(text) if word_count(text) > scaled(LONGEST, text) else None


def not_text_only(asked: AskedText) -> str | None:
    found = _any_of(asked.wording.out_of_reach)
    return _found(found, asked.instruction, asked.input) if found else None


def starts_with_punctuation(asked: AskedText) -> str | None:
    first = asked.instruction.lstrip()[:1]
    return first if first and first in string.punctuation else None


def starts_non_ascii(asked: AskedText) -> str | None:
    first = asked.instruction.lstrip()[:1]
    return None if first.isascii() else first


def no_input_marker(asked: AskedText) -> str | None:
    return _found(_markers(asked.wording), asked.instruction, asked.input)


def stray_label(asked: AskedText) -> str | None:
    # "Question: ..." is ordinary text in an input, so there only the labels of our own fields count.
    at_line_start, anywhere = _stray_labels(asked.wording)
    return _found(at_line_start, asked.instruction) or _found(anywhere, asked.instruction, asked.input)


def has_url(asked: AskedText) -> str | None:
    return _found(_URL, asked.instruction, asked.input)


def input_repeated(asked: AskedText) -> str | None:
    """Whole words only: the input "a" does not stand inside "Translate"; nor one character inside a Chinese word."""
    needle = _plain(asked.input)
    text = _plain(asked.instruction)
    # Most inputs do not stand there at all, and finding that out is far cheaper than compiling an expression.
    if not needle or needle not in text:
        return None
    single = len(needle) == 1 and unspaced(needle)
    return None if single or not re.search(whole(needle), text) else shortened(needle)


def _length(text: str) -> str:
    return f"{word_count(text)} {'characters' if unspaced(text) else 'words'}"


@cache
def _any_of(some: tuple[str, ...]) -> re.Pattern[str] | None:
    """Any of some words, in any case; None for no words."""
    if not some:
        return None
    either = "|".join(re.escape(word) for word in some).replace(r"\ ", r"\s+")
    return re.compile(f"{START}(?:{either}){END}", re.IGNORECASE)


@cache
def _markers(wording: Wording) -> re.Pattern[str]:
    own = "" if wording.english else f"|{re.escape(wording.no_input)}"
    return re.compile(_MARKER + own, re.IGNORECASE)


@cache
def _stray_labels(wording: Wording) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Labels at a line start in an instruction, and labels anywhere in a field."""
    if wording.english:
        return _LABEL_AT_LINE_START, _LABEL
    fields = "|".join(map(re.escape, (wording.instruction, wording.input, *wording.outputs)))
    either = "|".join(
        map(re.escape, (wording.instruction, wording.input, wording.answer, *wording.outputs, *wording.turns))
    )
    # In a script without blanks a label in the middle of a line looks like any other word before a colon.
    return (
        re.compile(
            rf"{_LABEL_AT_LINE_START.pattern}|^[ \t#*>_-]{{0,8}}(?:{either}){BLANK}?\d{{0,3}}[*_]{{0,3}}{BLANK}?[:：]",
            _LABEL_AT_LINE_START.flags,
        ),
        re.compile(rf"{_LABEL.pattern}|^[ \t#*>_-]{{0,8}}(?:{fields}){BLANK}?\d{{0,3}}{BLANK}?[:：]", re.MULTILINE),
    )


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


def instruction_fault(instruction: str, input: str, wording: Wording = ENGLISH) -> tuple[str, str] | None:
    """The first rule that the instruction breaks and what was found, or None where it passes. Never raises."""
    asked = AskedText(instruction, input, wording)
    faults = ((name, rule(asked)) for name, rule, _ in INSTRUCTION_RULES if _holds(name, wording))
    return next(((name, detail) for name, detail in faults if detail is not None), None)


def _holds(rule: str, wording: Wording) -> bool:
    return wording.english or rule not in ENGLISH_ALONE


def _found(pattern: re.Pattern[str], *texts: str) -> str | None:
    match = next(filter(None, map(pattern.search, texts)), None)
    return shortened(match.group().strip()) if match else None


def _plain(text: str) -> str:
    """As texts are compared, single spaces, no punctuation around it."""
    return " ".join(folded(text).split()).strip(string.punctuation + "“”‘’„«»「」…。！？؟،। ")


def shortened(text: str, limit: int = 60) -> str:
    """At most `limit` characters, for the detail of a rejection."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


# Rules for answers.
# All in words, `rules.text_words.scaled`.
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
    wording: Wording = ENGLISH

    @property
    def question(self) -> str:
        return user_text(self.instruction, self.input)


ResponseRule = Callable[[AnsweredText], str | None]

_TURN = re.compile(
    r"^[ \t#*>_-]{0,8}(?:assistant|system|human|question|output|user|instruction)[ \t]?[0-9]{0,3}[*_]{0,3}[ \t]?:.*"
    r"|^(?:assistant|system|human|user)[ \t]*(?=\n)|<\|[a-z_]{1,20}\|>|\[/?INST\]",
    re.IGNORECASE | re.MULTILINE,
)
_LINE_OPTION = re.compile(r"^[ \t>*-]{0,6}[(（]?([^\W\d_])[.)、．）][ \t]*\S", re.MULTILINE)
_FIRST_LETTERS = ("ab", "аб", "αβ", "אב", "أب", "가나", "กข", "कख", "アイ", "甲乙")
_INLINE_OPTIONS = re.compile(r"(?<!\w)\(?A[.)][ \t][^\n]{1,200}?(?<!\w)\(?B[.)][ \t][^\n]{1,200}?(?<!\w)\(?C[.)][ \t]")
_NAMED_OPTIONS = re.compile(
    r"\banswer choices\b|^[ \t#*]{0,6}(?:options|choices)[*_]{0,3}:", re.IGNORECASE | re.MULTILINE
)
_QUESTION_END = re.compile(rf"{endings.QUESTION}[\"'”’“«»」』)\]*_]*\Z")
_LIST_ITEM = re.compile(rf"\s*(?:{endings.LIST_ITEM}|[(（]?\d{{1,4}}[.)])")
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")


@cache
def _turns(wording: Wording) -> re.Pattern[str]:
    if wording.english:
        return _TURN
    own = "|".join(map(re.escape, (wording.instruction, *wording.turns, *wording.outputs)))
    return re.compile(
        rf"{_TURN.pattern}|^[ \t#*>_-]{{0,8}}(?:{own}){BLANK}?\d{{0,3}}[*_]{{0,3}}{BLANK}?[:：].*", _TURN.flags
    )


@cache
def _headings(names: tuple[str, ...]) -> re.Pattern[str]:
    either = "|".join(map(re.escape, names)) or r"(?!)"
    return re.compile(rf"^[ \t#*]{{0,6}}(?:{either})[*_]{{0,3}}{BLANK}?[:：]", re.IGNORECASE | re.MULTILINE)


def empty(pair: AnsweredText) -> str | None:
    return None if pair.output.strip() else "no text"


def new_turn(pair: AnsweredText) -> str | None:
    text = endings.without_code(pair.output)
    labels = _turns(pair.wording).finditer(text)
    match = next(endings.unexplained(labels, text, pair.finish, pair.question, pair.wording), None)
    return shortened(match.group().strip()) if match else None


def answer_choices(pair: AnsweredText) -> str | None:
    """A line opened by the letter A and a later one by B, three letters within a line, or a heading for options."""
    named = _NAMED_OPTIONS.search(pair.output) or _headings(pair.wording.choices).search(pair.output)
    if named:
        return named.group().strip()
    letters = folded("".join(_LINE_OPTION.findall(pair.output)))
    for two in _FIRST_LETTERS:
        if two[1] in letters.partition(two[0])[2]:
            return f"lines {', '.join(two.upper())}"
    return "A, B, C in a line" if _INLINE_OPTIONS.search(pair.output) else None


def asks_back(pair: AnsweredText) -> str | None:
    """A question as the last thing after a blank line, unless it is a list item or the instruction wants questions."""
    _, blank, last = pair.output.strip().rpartition("\n\n")
    line = last.strip().rpartition("\n")[2]
    wanted = _any_of(pair.wording.wants_questions)
    if (
        not blank
        or not _QUESTION_END.search(line)
        or _LIST_ITEM.match(line)
        or wanted is None
        or wanted.search(pair.instruction)
    ):
        return None
    return shortened(line)


def chinese(pair: AnsweredText) -> str | None:
    match = _HAN.search(pair.output)
    return match.group() if match else None


def loops(pair: AnsweredText) -> str | None:
    text = endings.without_code(pair.output)
    found = words(text, letters="_")
    run, ngram = scaled(LOOP_RUN, text), scaled(LOOP_NGRAM, text)
    for i in range(len(found) - run + 1):
        if not re.search(r"[\d_]", found[i]) and len(set(found[i : i + run])) == 1:
            return f"{found[i]} {run} times in a row"
    lines = [line for line in map(endings.normalised, text.split("\n")) if len(line.split()) >= scaled(2, line)]
    if line := _repeated(lines, LOOP_LINES):
        return f"a line {LOOP_LINES} times: {shortened(line)}"
    sentences = [endings.normalised(part) for _, part in endings.sentences(text)]
    if sentence := _repeated([some for some in sentences if len(some.split()) >= scaled(5, some)], LOOP_SENTENCES):
        return f"a sentence twice: {shortened(sentence)}"
    share = repeated_share(found, ngram)
    looping = len(found) >= scaled(LOOP_WORDS, text) and share > LOOP_SHARE
    return f"{share:.2f} of the {ngram}-grams repeated" if looping else None


def copies_instruction(pair: AnsweredText) -> str | None:
    """The answer repeats the instruction or input, in whole or for the most part, or begins with it.

    An answer of fewer than three words that equals the input passes: it may be the right word.
    """
    answer, asked, given = (similarity.tokens(text) for text in (pair.output, pair.instruction, pair.input))
    if not answer or not asked:
        return None
    if answer == asked or answer == asked + given or (answer == given and len(given) >= scaled(3, pair.input)):
        return "equals the instruction or input"
    if answer[: len(asked)] == asked and len(asked) >= scaled(3, pair.instruction):
        return "begins with the whole instruction"
    if len(answer) < scaled(COPY_WORDS, pair.output):
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


def kept_text(text: str, finish: str, question: str, wording: Wording = ENGLISH, rules: str = "on") -> tuple[str, str]:
    """A model's answer as it is kept, and why it was cut (`endings.cut_answer`); the paper's rules leave it whole.

    question: the instruction as it was put, with its input.
    """
    return (text.strip(), "") if rules == "paper" else endings.cut_answer(text, finish, question, wording)


def response_fault(
    instruction: str, input: str, output: str, finish: str, *, wording: Wording = ENGLISH, rules: str = "on"
) -> tuple[str, str] | None:
    """The first rule that the answer breaks and what was found, or None where it passes. Never raises.

    output: the answer after `kept_text`.
    finish: how `output` ended: the completion's own finish, or ``stop`` where `kept_text` shortened it.
    wording: of the run's language.
    rules: which of `RULE_SETS` apply.
    """
    pair = AnsweredText(instruction, input, output, finish, wording)
    apply = RULE_SETS[rules]
    faults = ((name, rule(pair)) for name, rule, _ in RESPONSE_RULES if name in apply and _holds(name, wording))
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
