"""Right answers made wrong in known ways, so that a judge can be examined on them. Pure; chance comes from a seed.

    shuffled    the answer to another task: does the judge see that answer and instruction belong together?
    truncated   ends in the middle of a sentence, about half way: does it see that something is missing?
    looped      repeats a sentence over and over
    scrambled   its words in random order
    copied      repeats the instruction and input
    echoed      repeats a good part of the instruction, then the answer to another task
    wrong       one number, name or word with a counterpart changed to a plausible other one (`change_fact`)

Likelihood alone is blind to some of these and loves others, an echo above all, so an exam needs every kind.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from minisheep.rules import endings
from minisheep.rules.prompts import user_text
from minisheep.rules.similarity import tokens
from minisheep.rules.text_words import END, NUMBER, START, UNSPACED, ideographic, scaled, spans, whole, word_count

Change = tuple[str, str]
"""A whole word and what takes its place, wherever the word stands."""

_NUMBER = re.compile(rf"(?<![.,]){NUMBER}")
_LIST_NUMBER = re.compile(r"^[ \t]*[(（]?(\d+)(?:[.)-](?=\s)|[.)](?=[^\x00-\x7f])|[、．）])", re.MULTILINE)
_NAME = re.compile(rf"(?<!['’]){START}[^\W\d_{UNSPACED}]{{3,}}{END}(?!['’])")
_OPENERS = (":", '"', "“", "‘", "'", "(", "-", "*", "•", ")", ".")
_GROUPS = (
    "two three four five six seven eight nine ten eleven twelve, "
    "twenty thirty forty fifty sixty seventy eighty ninety, "
    "Monday Tuesday Wednesday Thursday Friday Saturday Sunday, "
    "January February April June July August September October November December, "
    "red blue green yellow purple orange brown black white grey, north south east west, "
    "spring summer autumn winter, morning afternoon evening, mother father sister brother, true false, "
    "positive negative, always never, before after, more fewer, hot cold, longer shorter, larger smaller, "
    "higher lower, older younger, increase decrease, safe dangerous, easy difficult, first last, singular plural"
)
_COUNTERPARTS = tuple(tuple(group.split()) for group in _GROUPS.split(", "))


def change_fact(
    answer: str, question: str, elsewhere: Sequence[str], chance: random.Random, groups: Sequence[str] = ()
) -> str | None:
    """`answer` with one number, name or word with a counterpart changed, everywhere it stands; None where it has none.

    A name is replaced by one of `question` (the instruction and input) that the answer does not hold, or, where there
    is none, by one from the texts `elsewhere`. List numbers are never changed. groups: further counterparts
    (`rules.wording.Wording.counterparts`).
    """
    ways = [
        list(_numbers(answer, chance)),
        list(_counterparts(answer, [*_COUNTERPARTS, *(tuple(group.split()) for group in groups)], chance)),
        list(_names(answer, question, elsewhere)),
    ]
    possible = [changes for changes in ways if changes]
    if not possible:
        return None
    old, new = chance.choice(chance.choice(possible))
    return re.sub(rf"(?<![.,]){whole(old)}", lambda _: new, answer)


def _numbers(answer: str, chance: random.Random) -> Iterator[Change]:
    listed = {match.start(1) for match in _LIST_NUMBER.finditer(answer)}
    for match in _NUMBER.finditer(answer):
        if match.start() not in listed:
            yield match.group(), _other_number(match.group(), chance)


def _other_number(number: str, chance: random.Random) -> str:
    """As many digits, one of them another: of a long number the last but one, so that it stays of the same size."""
    digits = [place for place, character in enumerate(number) if character.isdigit()]
    place = digits[0] if len(digits) < 3 else digits[-2]
    # Never a leading zero, and never 1, which changes the grammar of what follows; digits of the same script.
    zero = ord(number[place]) - int(number[place])
    others = [chr(zero + digit) for digit in range(2, 10) if digit != int(number[place])]
    return number[:place] + chance.choice(others) + number[place + 1 :]


def _counterparts(answer: str, groups: Sequence[Sequence[str]], chance: random.Random) -> Iterator[Change]:
    for group in groups:
        for word in group:
            for form in dict.fromkeys((word, word.capitalize())):
                if re.search(whole(form), answer):
                    other = chance.choice([w for w in group if w != word])
                    yield form, other.capitalize() if form[0].isupper() else other


def _names(answer: str, question: str, elsewhere: Sequence[str]) -> Iterator[Change]:
    near = [name for name in names(question) if name not in answer]
    far = [name for text in elsewhere for name in names(text) if name not in answer]
    for name in names(answer):
        for other in near or far:
            yield name, other


def names(text: str) -> list[str]:
    """Capitalised words that open no sentence, line or quotation, each once; none of a text that is mostly these."""
    opening = {start for start, _ in endings.sentences(text)}
    found = [
        match.group()
        for match in _NAME.finditer(text)
        if match.group().istitle()
        and match.start() not in opening
        and not text[: match.start()].rstrip(" ").endswith(_OPENERS)
    ]
    return list(dict.fromkeys(found)) if len(found) * 2 <= word_count(text) else []


LEAST_TO_CUT, LEAST_TO_SCRAMBLE = 8, 6
"""Words below which half an answer, or its words in another order, may still be right (`rules.text_words.scaled`)."""
LEAST_TO_ECHO = 4
"""Words of an instruction below which a part of it is no echo."""
NEAREST = 4
"""A shuffled answer is drawn from the ones nearest in length, so that length gives nothing away."""


@dataclass(frozen=True, slots=True)
class ExamTask:
    """A task with its right answer."""

    instruction: str
    input: str
    answer: str


def corrupted(
    kind: str, task: ExamTask, others: Sequence[ExamTask], seed: int, groups: Sequence[str] = ()
) -> str | None:
    """The answer of `task` spoiled in one way of `KINDS`; None where that would leave it unchanged or still right.

    `others` are tasks whose answers may stand in and whose names may be borrowed; `groups` as for `change_fact`. Equal
    arguments give equal texts.
    """
    chance = random.Random(seed)  # noqa: S311
    found = _wrong(task, others, chance, groups) if kind == WRONG else _WAYS[kind](task, others, chance)
    return None if found is None or tokens(found) == tokens(task.answer) else found


def _shuffled(task: ExamTask, others: Sequence[ExamTask], chance: random.Random) -> str | None:
    own = tokens(task.answer)
    foreign = [other.answer for other in others if tokens(other.answer) != own]
    if not foreign:
        return None
    foreign.sort(key=lambda text: (abs(word_count(text) - word_count(task.answer)), text))
    return chance.choice(foreign[:NEAREST])


def _truncated(task: ExamTask, others: Sequence[ExamTask], chance: random.Random) -> str | None:
    words = spans(task.answer)
    if len(words) < scaled(LEAST_TO_CUT, task.answer):
        return None
    for kept in sorted(range(len(words) // 3, len(words) * 2 // 3 + 1), key=lambda n: abs(2 * n - len(words))):
        part = task.answer[: words[kept - 1][1]]
        # A cut between sentences or lines leaves a whole, shorter answer.
        if "\n" not in task.answer[len(part) : words[kept][0]] and not endings.ends_naturally(part):
            return part
    return None


def _looped(task: ExamTask, others: Sequence[ExamTask], chance: random.Random) -> str | None:
    answer = task.answer.strip()
    start, sentence = chance.choice(list(endings.sentences(answer)) or [(0, answer)])
    between = "\n" if "\n" in answer else "" if ideographic(answer) else " "
    return between.join([answer[: start + len(sentence)], *[sentence] * chance.randint(2, 4)])


def _scrambled(task: ExamTask, others: Sequence[ExamTask], chance: random.Random) -> str | None:
    places = spans(task.answer)
    words = [task.answer[start:end] for start, end in places]
    # In a list of single words the order says little, so it stays a right answer.
    clauses = re.split(r"[,;،，、；؛\n]+", task.answer)
    if len(words) < scaled(LEAST_TO_SCRAMBLE, task.answer) or len(clauses) * 2 > len(words):
        return None
    gaps = [task.answer[end:start] for (_, end), (start, _) in pairwise(places)]
    chance.shuffle(words)
    return "".join(word + gap for word, gap in zip(words, [*gaps, ""], strict=True))


def _copied(task: ExamTask, others: Sequence[ExamTask], chance: random.Random) -> str | None:
    return user_text(task.instruction, task.input)


def _echoed(task: ExamTask, others: Sequence[ExamTask], chance: random.Random) -> str | None:
    words = spans(task.instruction)
    foreign = _shuffled(task, others, chance)
    if len(words) < scaled(LEAST_TO_ECHO, task.instruction) or foreign is None:
        return None
    end = words[chance.randint((len(words) + 1) // 2, len(words) - 1) - 1][1]
    return f"{task.instruction[:end]}\n{foreign}"


def _wrong(task: ExamTask, others: Sequence[ExamTask], chance: random.Random, groups: Sequence[str] = ()) -> str | None:
    asked, elsewhere = user_text(task.instruction, task.input), [other.answer for other in others]
    return change_fact(task.answer, asked, elsewhere, chance, groups)


_WAYS: dict[str, Callable[[ExamTask, Sequence[ExamTask], random.Random], str | None]] = {
    "shuffled": _shuffled,
    "truncated": _truncated,
    "looped": _looped,
    "scrambled": _scrambled,
    "copied": _copied,
    "echoed": _echoed,
    "wrong": _wrong,
}
WRONG = "wrong"
KINDS = tuple(_WAYS)
