"""Which language a run is in, and its words in prompts, in what is read back, and in rules. Pure, but for a table.

A language is known by the primary subtag of BCP 47: two letters of ISO 639-1 where there are any, so that EN, en-US,
en_GB and english are all ``en``; three letters for some of the languages without.

English words are the defaults of `Wording`. Another language has a table of the same names, ``labels.toml`` beside its
prompt files; what it leaves out stays English where a prompt needs a word, and is unknown where a rule would need it.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import resources
from typing import Any

_LINES = resources.files("minisheep.data").joinpath("languages.csv").read_text(encoding="utf-8").splitlines()
_ROWS = [line.split(",") for line in _LINES if not line.startswith("#")]
NAMES = {code: name for code, name, *_ in _ROWS}
"""English names by code."""
BY_CHARACTERS = frozenset({"zh", "ja", "th", "lo", "km", "my", "ii"})
"""Languages without blanks between words, whose characters are counted in the place of words."""
_CODES = {said.casefold(): code for code, *names in _ROWS for said in names} | {code: code for code in NAMES}

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


def language_code(written: object) -> str:
    """The code of a language from its tag or its English name; ValueError that names the nearest for an unknown one."""
    whole = unicodedata.normalize("NFKC", str(written)).strip("\ufeff\u200b \t\n").casefold().replace("_", "-")
    primary = re.split("[-.@(]", re.sub(r"^([a-z]{2,3}) (?=[a-z]{2}$)", r"\1-", whole))[0].strip()
    # A name may hold a hyphen or a word before it, as in "simplified chinese"; the last word of "pt br" is no language.
    last = whole.split()[-1] if " " in whole else ""
    code = _CODES.get(whole) or (_CODES.get(last) if len(last) > 3 else None) or _CODES.get(primary)
    if code is not None:
        return code
    # What is as short as a code is near to nothing: any two letters have one in common.
    near = [*difflib.get_close_matches(whole, _CODES, 1), *difflib.get_close_matches(primary, _CODES, 1)]
    code = _CODES[near[0]] if near and (len(primary) > 3 or primary.startswith(_CODES[near[0]])) else ""
    hint = f"nearest: {code}, {NAMES[code]}" if code else "a code such as en, zh or pt-BR, or a name such as german"
    raise ValueError(f"is no language that minisheep knows ({hint})")
