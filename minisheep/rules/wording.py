"""The words of a run's language in prompts, in what is read back, and in rules. Pure.

English words are the defaults of `Wording`. Another language has a table of the same names, ``labels.toml`` beside its
prompt files; what it leaves out stays English where a prompt needs a word, and is unknown where a rule would need it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

ENGLISH_ALONE = frozenset({"starts_non_ascii", "chinese"})
"""The rules that hold for English and for no other language."""
BY_WORDS = {"not_text_only": "out_of_reach", "asks_back": "wants_questions"}
"""The rules that need words of the run's language, and the field of `Wording` that holds them; without those the rule
drops nothing."""


@dataclass(frozen=True, slots=True)
class Wording:
    """Every word that is not in a prompt file. Lists are of words as they stand in a text, in any case."""

    language: str = "en"
    colon: str = ": "
    """What follows a label; a full-width one has no blank after it."""
    instruction: str = "Instruction"
    input: str = "Input"
    answer: str = "Answer"
    """The labels of a task and of a solved one."""
    no_input: str = "(none)"
    """Stands in the list of tasks where one has no input."""
    grade: str = "Grade: "
    """The beginning of the judge's reply, so that the next token is the grade. After its blank, digits are bare
    tokens."""
    grade_alone: str = "Reply with the grade alone."
    grade_and_why: str = "Reply with the grade, then ||, then one sentence that explains it."
    backward: str = "Which instruction does this text answer?"
    """Asks for the instruction that an answer belongs to."""
    lead_in: str = "Please do the following for me."
    """Changes an instruction without changing what it asks."""
    turns: tuple[str, ...] = ("Question", "User")
    """Labels with which a model begins another turn by itself; the first two stop a model that reads plain text."""
    tasks: tuple[str, ...] = ()
    """Other words for a task where a list is read."""
    outputs: tuple[str, ...] = ()
    """Labels of an output. An answer that goes on with one is cut there, as with those of a turn."""
    answers: tuple[str, ...] = ()
    """Other labels of an answer where a list is read: what follows one is no part of the task."""
    no_inputs: tuple[str, ...] = ()
    """Other words that say that there is no input."""
    out_of_reach: tuple[str, ...] = (
        *("image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps", "draw", "plot"),
        *("go to", "video", "videos", "audio", "music", "flowchart", "flowcharts", "diagram", "diagrams"),
    )
    """Words for things that a text model can neither see nor make."""
    wants_questions: tuple[str, ...] = (
        *("question", "questions", "ask", "asks", "asked", "asking", "quiz", "quizzes", "interview", "interviews"),
        *("survey", "surveys", "riddle", "riddles", "joke", "jokes", "dialogue", "dialogues", "conversation"),
        "conversations",
    )
    """Words of an instruction whose answer may end with a question, or be set out as question and answer."""
    choices: tuple[str, ...] = ()
    """Headings of a list of lettered options."""
    counterparts: tuple[str, ...] = ()
    """Groups of words, blanks between them, each of which is plausible and wrong in the place of another."""

    @property
    def english(self) -> bool:
        return self.language == "en"

    def label(self, name: str, rest: str) -> str:
        """``Input: rest``, without a blank at the end where there is no rest."""
        return f"{name}{self.colon}{rest}" if rest else f"{name}{self.colon.rstrip()}"

    @property
    def stops(self) -> tuple[str, ...]:
        """Strings with which a model that reads plain text begins another turn."""
        return tuple(f"\n{self.label(name, '')}" for name in (self.instruction, self.input, *self.turns[:2]))


ENGLISH = Wording()


def wording_of(language: str, table: Mapping[str, Any] | None = None) -> Wording:
    """The words of a language, from its table where it has one.

    Raises ValueError that names the first entry that is unknown or of the wrong form.
    """
    if language == "en" and not table:
        return ENGLISH
    known = {field.name: getattr(ENGLISH, field.name) for field in fields(Wording) if field.name != "language"}
    # A rule that looked for English words would drop another language's texts by chance.
    chosen = dict(known) if language == "en" else {**known, **dict.fromkeys(BY_WORDS.values(), ())}
    for name, value in (table or {}).items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ValueError(f"there is no entry {name!r}" + (f" (nearest: {near[0]})" if near else ""))
        if isinstance(known[name], tuple):
            if not isinstance(value, list) or not all(isinstance(word, str) and word.strip() for word in value):
                raise ValueError(f"{name} is not a list of words")
            chosen[name] = tuple(value)
        else:
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"{name} is not a text")
            chosen[name] = value
    if any(len(group.split()) < 2 for group in chosen["counterparts"]):
        raise ValueError("a group of counterparts has fewer than two words")
    if chosen["colon"].strip()[-1] not in ":：":
        raise ValueError("colon ends in no colon, by which labels are known again")
    if len(chosen["turns"]) < 2:
        raise ValueError("turns has fewer than two labels")
    return Wording(language=language, **chosen)
