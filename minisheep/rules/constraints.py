"""Constraints that a program decides, as the judge of a round: what is drawn, shown, read off and made harder. Pure.

A constraint is one sentence behind an instruction ("Use less than 40 words."), of which a function can tell whether an
answer kept it. Its verdict costs nothing, and is as right in the fifth round as in the first. Only some kinds are ever
trained on; the others show whether a model has learnt to follow, or only what it was drilled in.

`data.constraint_kinds` reads a `Catalogue` from a file, `stages.checking` decides kinds of plug-ins in a process of
their own. What is drawn follows from identity (`rules.identity`), so a run that goes on draws as an unbroken one does.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from minisheep.rules.constraint_edits import AT_ODDS, READINGS, content_words
from minisheep.rules.identity import derive_seed
from minisheep.rules.ifeval import KINDS
from minisheep.rules.task_list import Task
from minisheep.rules.text_words import full_stop, ideographic

Arguments = dict[str, Any]
SOLVED, FAILED = 0.9, 0.1
"""A kind gets harder above the one share of answers that kept it, and easier below the other."""
ENOUGH = 8
"""Answers on which a verdict on a kind stands; fewer wait for those of the next round."""
LEAST_WEIGHT = 1 / 8
"""Never 0: a kind that is solved or out of reach is still asked now and then, since a later round may differ."""
TELLING = 0.2
"""Share of a round's other answers that a constraint read off an answer must be broken by."""
COMPARED = 200
"""Other answers that a reading is held against, drawn from all."""

IN_WORDS = {
    "change_case:english_capital": "capital letters alone", "change_case:english_lowercase": "small letters alone",
    "combination:repeat_prompt": "the instruction first", "detectable_format:constrained_response": "a set answer",
    "detectable_format:json_format": "JSON alone", "detectable_format:number_highlighted_sections": "highlighted parts",
    "keywords:existence": "words that must come", "keywords:forbidden_words": "words that may not come",
    "keywords:frequency": "how often a word comes", "keywords:letter_frequency": "how often a letter comes",
    "language:response_language": "in another language", "startend:end_checker": "a given end",
    "startend:quotation": "in quotation marks",
}  # fmt: skip
"""IFEval's kinds of which the name does not say what they are about."""


def kind_in_words(kind: str) -> str:
    """``number of words`` for ``length_constraints:number_words``; a plug-in's kind has only its own name."""
    plain = kind.partition(":")[2].replace("_", " ") if kind in KINDS else kind
    return IN_WORDS.get(kind, plain.replace("number ", "number of "))


@dataclass(frozen=True, slots=True)
class WordedConstraint:
    """One constraint as the model reads it. `wording` is the finished sentence, `kind` the id of what decides it."""

    kind: str
    arguments: Arguments
    wording: str

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "arguments": self.arguments, "wording": self.wording}

    @staticmethod
    def from_dict(row: Mapping[str, Any]) -> WordedConstraint:
        return WordedConstraint(row["kind"], dict(row["arguments"]), row["wording"])


@dataclass(frozen=True, slots=True)
class ConstraintKind:
    """A kind of constraint: how it is worded, how hard it can be, and what decides it.

    `levels`, easy to hard, are sets of arguments to draw from. `wordings` name each argument as ``{argument}``.
    `check` gets the answer and the arguments by name; so does `edit`, which returns the answer made to keep them, or
    None where it cannot. A `plugin` kind's functions are a user's: call them through `stages.checking.Checker`.
    """

    name: str
    trained: bool
    levels: tuple[tuple[Arguments, ...], ...]
    wordings: tuple[str, ...]
    check: Callable[..., bool] = field(compare=False, repr=False)
    edit: Callable[..., str | None] | None = field(default=None, compare=False, repr=False)
    plugin: bool = False
    words: Mapping[str, str] = field(default_factory=dict)
    """How arguments that are English words are said in the wordings' language."""

    def worded(self, arguments: Arguments, chance: random.Random) -> WordedConstraint:
        wording = chance.choice(self.wordings).format(
            **{name: _spoken(value, self.words) for name, value in arguments.items()}
        )
        return WordedConstraint(self.name, arguments, wording)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Every kind that a run knows: those it draws (`trained`) and those it never trains on."""

    kinds: Mapping[str, ConstraintKind]
    language: str = "en"
    words: Mapping[str, str] = field(default_factory=dict)
    """As in each of the kinds."""

    @property
    def trained(self) -> frozenset[str]:
        return frozenset(name for name, kind in self.kinds.items() if kind.trained)

    def to_dict(self) -> dict[str, Any]:
        """What a run stores; `data.constraint_kinds.stored_catalogue` reads it."""
        kinds = {
            name: {
                "trained": kind.trained,
                "levels": [list(level) for level in kind.levels],
                "wordings": list(kind.wordings),
                **({"plugin": True, "edits": kind.edit is not None} if kind.plugin else {}),
            }
            for name, kind in sorted(self.kinds.items())
        }
        words = {"words": dict(self.words)} if self.words else {}
        return {"language": self.language, **words, "kinds": kinds}


@dataclass(frozen=True, slots=True)
class KindStanding:
    """Where a kind stands in a run: its level, from 0, and its weight in the draw, 1/8 .. 1."""

    level: int = 0
    weight: float = 1.0


class SolvedTask(Protocol):
    """A seed task, see `data.seed_tasks.SeedTask`."""

    @property
    def id(self) -> str: ...
    @property
    def instruction(self) -> str: ...
    @property
    def input(self) -> str: ...
    @property
    def output(self) -> str: ...
    @property
    def held_out(self) -> bool: ...


def curriculum(catalogue: Catalogue, history: Sequence[Mapping[str, tuple[int, int]]]) -> dict[str, KindStanding]:
    """The standing of every trained kind after the earlier rounds.

    history: for each earlier round, oldest first, kind -> (answers drawn, answers that kept the constraint).
    Where the answers since the last verdict are `ENOUGH`, their share decides: above `SOLVED` the kind goes up a level,
    below `FAILED` down one; where there is no such level its weight is halved; else its weight is 1 again.
    """
    standings = {}
    for name in sorted(catalogue.trained):
        top = len(catalogue.kinds[name].levels) - 1
        level, weight, draws, passed = 0, 1.0, 0, 0
        for earlier in history:
            more, kept = earlier.get(name, (0, 0))
            draws, passed = draws + more, passed + kept
            if draws < ENOUGH:
                continue
            step = (passed > SOLVED * draws) - (passed < FAILED * draws)
            if step and not 0 <= level + step <= top:
                weight = max(LEAST_WEIGHT, weight / 2)
            else:
                level, weight = level + step, 1.0
            draws = passed = 0
        standings[name] = KindStanding(level, weight)
    return standings


def draw(catalogue: Catalogue, standings: Mapping[str, KindStanding], *identity: object) -> WordedConstraint:
    """One constraint of a trained kind, by the kinds' weights and at their levels."""
    chance = _chance("constraint", *identity)
    names = sorted(catalogue.trained)
    weights = [standings.get(name, KindStanding()).weight for name in names]
    kind = catalogue.kinds[chance.choices(names, weights)[0]]
    return kind.worded(chance.choice(_levels(kind, standings)[0]), chance)


def is_constrained(share: float, *identity: object) -> bool:
    """Whether an instruction is one of the `share` (0 .. 1) that get a constraint."""
    return _chance("constrained", *identity).random() < share


def constrained(instruction: str, wording: str) -> str:
    """The instruction with the constraint behind it, in a sentence of its own."""
    text, wide = instruction.rstrip(), ideographic(instruction)
    text += full_stop(text, "\"')]”’»")
    return f"{text}{chr(10) if chr(10) in text else '' if wide else ' '}{wording}".lstrip()


def solved_with(
    catalogue: Catalogue,
    kind: str,
    standings: Mapping[str, KindStanding],
    seeds: Iterable[SolvedTask],
    count: int,
    *identity: object,
) -> list[tuple[str, Task, str, WordedConstraint]]:
    """At most `count` solved tasks that carry a constraint of `kind`: (seed id, task, answer, constraint).

    Made of seed tasks that are not held out, by the kind's edit of their answers, and only where its check passes: an
    answer that keeps the constraint by itself serves a kind without an edit. At the kind's level where the seeds allow
    it, else the levels below and above. For kinds of plug-ins, pass `stages.checking.Checker.catalogue`.
    """
    chance = _chance("solved with", kind, *identity)
    waiting = sorted((seed for seed in seeds if not seed.held_out), key=lambda seed: seed.id)
    chance.shuffle(waiting)
    found: list[tuple[str, Task, str, WordedConstraint]] = []
    for level in _levels(catalogue.kinds[kind], standings):
        # Each set of arguments in turn, so that they vary.
        sets = chance.sample(level, len(level))
        for seed in list(waiting):
            if len(found) == count:
                return found
            made = _solved(catalogue.kinds[kind], sets, seed)
            if made is not None:
                arguments, answer = made
                constraint = catalogue.kinds[kind].worded(arguments, chance)
                found.append(
                    (seed.id, Task(constrained(seed.instruction, constraint.wording), seed.input), answer, constraint)
                )
                waiting.remove(seed)
                sets = sets[1:] + sets[:1]
    return found


def hindsight(catalogue: Catalogue, answer: str, others: Sequence[str], *identity: object) -> WordedConstraint | None:
    """A constraint that `answer` happens to keep, or None where nothing about it is telling.

    others: the round's other answers; at least `TELLING` of them break the constraint. Only trained kinds, and none of
    plug-ins.
    """
    chance = _chance("hindsight", *identity)
    compared = chance.sample(list(others), min(len(others), COMPARED))
    names = sorted(name for name in catalogue.trained if not catalogue.kinds[name].plugin)
    chance.shuffle(names)
    for name in names:
        kind = catalogue.kinds[name]
        read = READINGS.get(name)
        sets = read(answer) if read else [arguments for level in kind.levels for arguments in level]
        for arguments in sets:
            if kind.check(answer, **arguments):
                broken = sum(not kind.check(other, **arguments) for other in compared)
                if compared and broken >= TELLING * len(compared):
                    return kind.worded(arguments, chance)
    return None


def _solved(kind: ConstraintKind, sets: Sequence[Arguments], seed: SolvedTask) -> tuple[Arguments, str] | None:
    """The first arguments that the seed's answer can be made to keep, and that answer."""
    if kind.name in AT_ODDS and AT_ODDS[kind.name].search(seed.instruction):
        return None
    if kind.name == "keywords:existence":
        sets = [_own_words(arguments, seed) for arguments in sets]
    for arguments in sets:
        edited = kind.edit(seed.output, **arguments) if kind.edit is not None else seed.output
        if edited is not None and kind.check(edited, **arguments):
            return arguments, edited
    return None


def _own_words(arguments: Arguments, seed: SolvedTask) -> Arguments:
    """As many words of the answer as the level asks for, none from the task: saying it back must not keep it."""
    told = (seed.instruction + " " + seed.input).lower()
    words = [word for word in content_words(seed.output) if word not in told]
    wanted = len(arguments["keywords"])
    return {"keywords": words[:wanted] if len(words) >= wanted else arguments["keywords"]}


def _levels(kind: ConstraintKind, standings: Mapping[str, KindStanding]) -> list[tuple[Arguments, ...]]:
    """The kind's own level first, then the easier and then the harder ones, the nearest first."""
    level = min(standings.get(kind.name, KindStanding()).level, len(kind.levels) - 1)
    return [kind.levels[level], *reversed(kind.levels[:level]), *kind.levels[level + 1 :]]


def _chance(*identity: object) -> random.Random:
    return random.Random(derive_seed(*identity))  # noqa: S311


def _spoken(value: Any, words: Mapping[str, str]) -> str:
    """An argument inside a sentence; words of a list in quotation marks."""
    if not isinstance(value, list | tuple):
        return words.get(value, value) if isinstance(value, str) else str(value)
    wide = any(ideographic(str(part)) for part in value)
    return "、".join(f"“{part}”" for part in value) if wide else ", ".join(f'"{part}"' for part in value)
