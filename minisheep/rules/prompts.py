"""Prompts: the wording (files that a user may replace) and the frame around it (plain text or chat template). Pure."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from minisheep.rules.identity import derive_seed
from minisheep.rules.task_list import Task
from minisheep.rules.templates import Conversation, Prompt, Segment, Template
from minisheep.rules.text_words import NUMBER_END
from minisheep.rules.wording import ENGLISH, Wording

CRITERIA = ("quality", "following")
"""The criteria of a judge that gives grades (the paper's two)."""
STYLES = ("simple", "combined", "icl")
"""How it is asked: one plain question; both criteria explained and one asked; three scored examples as well."""


def judge_text_name(style: str, criterion: str) -> str:
    """The prompt file of a criterion in a style; ``combined`` is the plain name."""
    return criterion if style == "combined" else f"{criterion}_{style}"


PLACEHOLDERS: dict[str, frozenset[str]] = {
    "instructions": frozenset(),
    **{
        judge_text_name(style, criterion): frozenset({"instruction", "response", "format"})
        for style in STYLES
        for criterion in CRITERIA
    },
}
"""The prompt files, and the placeholders that each must have."""

LABELS = tuple(str(number) for number in range(1, 11))
"""The scores, as the judge would write them."""

TASKS_A_LIST = 10
"""A list is stopped after this many new tasks; small models degrade long before."""


def fill(text: str, values: Mapping[str, str]) -> str:
    """`text` with each ``{name}`` replaced, in one pass: braces in a value are left as they are."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), text)


def user_text(instruction: str, input: str) -> str:
    """The user's turn, for answering, judging and training alike."""
    return f"{instruction}\n{input}" if input else instruction


@dataclass(frozen=True, slots=True)
class Frame:
    """How a model is addressed: a base model in plain text (`template` None, the paper's round 0), else by template."""

    template: Template | None
    words: Wording = ENGLISH
    """Of the run's language."""

    def ask(self, user: str, answer_start: str = "") -> Prompt:
        if self.template is None:
            return (Segment(f"{user}\n{answer_start}"),)
        return self.template.prompt(user, answer_start)

    @property
    def ending(self) -> Prompt:
        """What follows a finished answer: the template's end token, or a line break where there is no template."""
        return (Segment("\n"),) if self.template is None else (Segment(self.template.end, True),)

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings with which the model begins another turn by itself."""
        if self.template is None:
            return self.words.stops
        return self.template.stop


Shot = TypeVar("Shot")


def pick_shots(seeds: Sequence[tuple[str, Shot]], shots: int, *identity: object) -> list[tuple[str, Shot]]:
    """`shots` different seed tasks (id, task), chosen by identity alone and not by the order of `seeds`."""
    chance = random.Random(derive_seed(*identity))  # noqa: S311
    return chance.sample(sorted(seeds, key=lambda seed: seed[0]), min(shots, len(seeds)))


def task_list_prompt(frame: Frame, texts: Mapping[str, str], shots: Sequence[Task]) -> Prompt:
    """The few-shot prompt (the paper's meta-prompt): the model continues a numbered list of tasks."""
    words = frame.words
    tasks = [
        f"{n}. {words.label(words.instruction, shot.instruction)}\n"
        f"{words.label(words.input, shot.input or words.no_input)}"
        for n, shot in enumerate(shots, 1)
    ]
    begun = "\n\n".join([*tasks, f"{len(shots) + 1}. {words.label(words.instruction, '')}"])
    # By template the seed tasks stand as the beginning of the model's own list: tiny models that find them in the
    # user's turn tend to answer them.
    return frame.ask(f"{texts['instructions'].strip()}\n", begun)


def task_list_stop(shots: int) -> tuple[str, ...]:
    return (f"\n{shots + 1 + TASKS_A_LIST}.",)


def answer_prompt(frame: Frame, instruction: str, input: str) -> Prompt:
    """Zero-shot: the instruction and its input, nothing else (the paper's section 3)."""
    return frame.ask(user_text(instruction, input))


def shown_answer_prompt(
    solved: Sequence[tuple[Task, str]],
    instruction: str,
    input: str,
    turns: Conversation | None = None,
    words: Wording = ENGLISH,
) -> Prompt:
    """After solved tasks: as the earlier turns of a conversation where the model has `turns`, else in plain text, where
    `Frame.stop` ends the answer if the model goes on with another task.

    Raises ValueError where the template takes a single turn.
    """
    asked = user_text(instruction, input)
    if turns is not None:
        earlier = [(user_text(task.instruction, task.input), answer) for task, answer in solved]
        messages = [
            {"role": role, "content": text}
            for pair in earlier
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
        return turns.prompt([*messages, {"role": "user", "content": asked}])
    tasks = [*((user_text(task.instruction, task.input), answer) for task, answer in solved), (asked, "")]
    lines = (
        f"{words.label(words.instruction, question)}\n{words.label(words.answer, answer)}" for question, answer in tasks
    )
    return (Segment("\n\n".join(lines)),)


def backward_prompt(frame: Frame, answer: str) -> Prompt:
    """Asks for the instruction that `answer` was written for; without an answer, for any instruction."""
    return frame.ask(f"{answer}\n\n{frame.words.backward}".lstrip("\n"))


def judge_prompt(
    frame: Frame,
    texts: Mapping[str, str],
    style: str,
    criterion: str,
    instruction: str,
    input: str,
    response: str,
    *,
    explain: bool = False,
) -> Prompt:
    """Asks for a grade of one pair by one criterion in one of `STYLES`; the continuation begins with the grade."""
    values = {
        "instruction": user_text(instruction, input),
        "response": response,
        "format": frame.words.grade_and_why if explain else frame.words.grade_alone,
    }
    return frame.ask(fill(texts[judge_text_name(style, criterion)], values).strip(), frame.words.grade)


def parse_grade(text: str) -> float | None:
    """The grade that a reply begins with, or None.

    ``8 || clear and right``, ``8.``, ``8/10``, ``8점`` and ``8分`` are 8; ``ten``, ``11``, ``8/100``, ``80%`` and
    ``1-10`` are None.
    """
    match = re.match(r"\s*(\d+(?:\.\d+)?)(?:\s*/\s*10)?(?![.,]\d|\s*[/%]|\s*[-–]\s*\d)" + NUMBER_END, text)
    if match is None:
        return None
    grade = float(match[1])
    return grade if 1 <= grade <= 10 else None
