"""Right answers made wrong in known ways, so that a judge can be examined on them. Pure; chance comes from a seed.

    shuffled    the answer to another task: does the judge see that answer and instruction belong together?
    truncated   ends in the middle of a sentence, about half way: does it see that something is missing?
    looped      says a sentence over and over
    scrambled   its words in random order
    copied      says the instruction and input back
    echoed      says a good part of the instruction back, then the answer to another task
    wrong       one number, name or telling word changed to a plausible other one (`alter`)

Likelihood alone is blind to some of these and loves others, an echo above all, so an exam needs every kind.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from minisheep.rules import endings
from minisheep.rules.alter import altered
from minisheep.rules.prompts import user_text
from minisheep.rules.similarity import tokens

LEAST_TO_CUT, LEAST_TO_SCRAMBLE = 8, 6
"""Words below which half an answer, or its words in another order, may still be right."""
LEAST_TO_ECHO = 4
"""Words of an instruction below which a part of it is no echo."""
NEAREST = 4
"""A shuffled answer is drawn from so many that are nearest in length, so that length tells nothing."""


@dataclass(frozen=True, slots=True)
class Task:
    """A task with its right answer."""

    instruction: str
    input: str
    answer: str


def spoiled(kind: str, task: Task, others: Sequence[Task], seed: int) -> str | None:
    """The answer of `task` spoiled in one way of `KINDS`; None where that would leave it unchanged or still right.

    `others` are tasks whose answers may stand in and whose names may be borrowed. Equal arguments give equal texts.
    """
    found = _WAYS[kind](task, others, random.Random(seed))  # noqa: S311
    return None if found is None or tokens(found) == tokens(task.answer) else found


def _shuffled(task: Task, others: Sequence[Task], chance: random.Random) -> str | None:
    own = tokens(task.answer)
    foreign = [other.answer for other in others if tokens(other.answer) != own]
    if not foreign:
        return None
    foreign.sort(key=lambda text: (abs(len(text.split()) - len(task.answer.split())), text))
    return chance.choice(foreign[:NEAREST])


def _truncated(task: Task, others: Sequence[Task], chance: random.Random) -> str | None:
    words = list(re.finditer(r"\S+", task.answer))
    if len(words) < LEAST_TO_CUT:
        return None
    for kept in sorted(range(len(words) // 3, len(words) * 2 // 3 + 1), key=lambda n: abs(2 * n - len(words))):
        part = task.answer[: words[kept - 1].end()]
        # A cut between sentences or lines leaves a whole, shorter answer.
        if "\n" not in task.answer[len(part) : words[kept].start()] and not endings.ends_naturally(part):
            return part
    return None


def _looped(task: Task, others: Sequence[Task], chance: random.Random) -> str | None:
    answer = task.answer.strip()
    start, sentence = chance.choice(list(endings.sentences(answer)) or [(0, answer)])
    between = "\n" if "\n" in answer else " "
    return between.join([answer[: start + len(sentence)], *[sentence] * chance.randint(2, 4)])


def _scrambled(task: Task, others: Sequence[Task], chance: random.Random) -> str | None:
    words = task.answer.split()
    # In a list of single words the order says little, so it stays a right answer.
    if len(words) < LEAST_TO_SCRAMBLE or len(re.split(r"[,;\n]+", task.answer)) * 2 > len(words):
        return None
    gaps = re.findall(r"\s+", task.answer.strip())
    chance.shuffle(words)
    return "".join(word + gap for word, gap in zip(words, [*gaps, ""], strict=True))


def _copied(task: Task, others: Sequence[Task], chance: random.Random) -> str | None:
    return user_text(task.instruction, task.input)


def _echoed(task: Task, others: Sequence[Task], chance: random.Random) -> str | None:
    words = task.instruction.split()
    foreign = _shuffled(task, others, chance)
    if len(words) < LEAST_TO_ECHO or foreign is None:
        return None
    part = " ".join(words[: chance.randint((len(words) + 1) // 2, len(words) - 1)])
    return f"{part}\n{foreign}"


def _wrong(task: Task, others: Sequence[Task], chance: random.Random) -> str | None:
    return altered(task.answer, user_text(task.instruction, task.input), [other.answer for other in others], chance)


_WAYS: dict[str, Callable[[Task, Sequence[Task], random.Random], str | None]] = {
    "shuffled": _shuffled,
    "truncated": _truncated,
    "looped": _looped,
    "scrambled": _scrambled,
    "copied": _copied,
    "echoed": _echoed,
    "wrong": _wrong,
}
KINDS = tuple(_WAYS)
