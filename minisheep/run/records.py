r"""The records that a run is made of, with content ids.

A record's id is a digest of its content and of its parents' ids. So the same work is never stored twice, a flipped
byte on disk is noticed when a record is read, and the lineage of a training example is a walk along ids. Records carry
no clock times: a run that was killed and continued ends with the same records as one that was left alone.

    Draft -> Instruction (-> Asked) -> Response (-> Check) -> Verdict -> Example
       \-> Rejection                      \-> Rejection           \-> Rejection, PreferencePair
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, cast

from minisheep.rules.identity import digest
from minisheep.run.typed import check_fields


@dataclass(frozen=True, slots=True)
class Record:
    """What all records share. `id` is computed when it is not given and checked when it is."""

    KIND: ClassVar[str] = "record"
    TUPLES: ClassVar[frozenset[str]] = frozenset()
    """Fields that are tuples, where JSON has lists."""
    LATER: ClassVar[frozenset[str]] = frozenset()
    """Fields that older records lack. While such a field is empty it is no part of the content, so that a record has
    the id that it always had."""

    id: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        right = digest(self.KIND, self.content())
        if self.id and self.id != right:
            raise ValueError(f"{self.KIND} {self.id}: the content does not match its id")
        object.__setattr__(self, "id", right)

    def content(self) -> dict[str, Any]:
        """Everything but the id."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "id"}
        return {name: value for name, value in values.items() if value or name not in self.LATER}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, the id first."""
        return {"id": self.id, **self.content()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The record that `to_dict` wrote.

        Raises ValueError where a field is missing, unknown or of another type, or the content does not match the id.
        """
        names = {f.name for f in dataclasses.fields(cls)}
        if odd := sorted((names ^ set(data)) - (cls.LATER - set(data))):
            raise ValueError(f"not a {cls.KIND}: fields {', '.join(odd)}")
        check_fields(cls, data)
        values = {k: tuple(v) if isinstance(v, list) and k in cls.TUPLES else v for k, v in data.items()}
        return cls(**cast("dict[str, Any]", values))


@dataclass(frozen=True, slots=True)
class Draft(Record):
    """One raw completion of a few-shot prompt, before it is split into instructions."""

    KIND: ClassVar[str] = "draft"
    TUPLES: ClassVar[frozenset[str]] = frozenset({"seeds"})

    round: int
    index: int
    """Which few-shot prompt of the round, from 0."""
    seeds: tuple[str, ...]
    """Ids of the seed tasks that were shown, in order."""
    text: str
    finish: str
    """``end`` (the model ended), ``stop`` (a stop string) or ``length`` (it was cut off)."""


@dataclass(frozen=True, slots=True)
class Instruction(Record):
    """An instruction that the model wrote and that passed the rules."""

    KIND: ClassVar[str] = "instruction"

    round: int
    draft: str
    """Id of the draft that holds it."""
    position: int
    """Its place within the draft, from 0."""
    instruction: str
    input: str
    similarity: float
    """Highest ROUGE-L F with any seed or earlier kept instruction, 0 .. 1."""


@dataclass(frozen=True, slots=True)
class Asked(Record):
    """How an instruction was put to a model, where that was not the instruction alone to the round's own model."""

    KIND: ClassVar[str] = "asked"
    TUPLES: ClassVar[frozenset[str]] = frozenset({"shown"})

    instruction_id: str
    instruction: str
    """As it was asked: with the constraint appended, if it carries one."""
    input: str
    constraint: dict[str, Any]
    """``kind``, ``arguments`` and ``wording``; empty where it carries none."""
    shown: tuple[str, ...]
    """Ids of the seed tasks that stood solved before it, in order; each carries a constraint of the same kind."""
    by: str
    """``current`` (the round's model answered) or ``base``."""


@dataclass(frozen=True, slots=True)
class Response(Record):
    """The model's own answer to an instruction."""

    KIND: ClassVar[str] = "response"
    LATER: ClassVar[frozenset[str]] = frozenset({"asked"})

    instruction_id: str
    sample: int
    text: str
    """The whole completion, as the model wrote it."""
    finish: str
    tokens: int
    asked: str = ""
    """Id of the `Asked` that it answers; empty where the instruction was asked as it stands."""


@dataclass(frozen=True, slots=True)
class Check(Record):
    """A program's verdict on one answer: whether it keeps the constraint that its instruction carries."""

    KIND: ClassVar[str] = "check"

    response_id: str
    kind: str
    passed: bool
    fault: str
    """Why the program gave no verdict (it raised, or took too long); the answer then counts as one that fails."""


@dataclass(frozen=True, slots=True)
class Verdict(Record):
    """What the judge measured for one response. All raw numbers are kept in `raw`."""

    KIND: ClassVar[str] = "verdict"

    response_id: str
    judge: str
    quality: float | None
    """1 .. 10; None where this judge has no such criterion or its reply could not be read."""
    following: float | None
    score: float | None
    """What keeping is decided by: the lower of the two criteria, or the judge's own scale (pmi: nats per token)."""
    raw: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Example(Record):
    """A kept pair, ready for training; `messages` opens in every trainer."""

    KIND: ClassVar[str] = "example"
    TUPLES: ClassVar[frozenset[str]] = frozenset({"parents"})
    LATER: ClassVar[frozenset[str]] = frozenset({"constraint"})

    instruction: str
    input: str
    output: str
    messages: list[dict[str, str]]
    score: float | None
    quality: float | None
    following: float | None
    cut: str
    """Why the answer was shortened (the name of the rule), or empty."""
    parents: tuple[str, ...]
    """Ids of the instruction, the response, the verdict (if a judge gave one) and the `Asked` (if there is one)."""
    constraint: dict[str, Any] | None = None
    """What the instruction demands and a program found kept: ``kind``, ``arguments``, ``wording``. It was either asked
    for, or (where the `Asked` names none) read off the finished answer."""


@dataclass(frozen=True, slots=True)
class PreferencePair(Record):
    """A kept answer and a worse one to the same prompt, as trainers of preferences read them."""

    KIND: ClassVar[str] = "pair"
    TUPLES: ClassVar[frozenset[str]] = frozenset({"parents"})

    prompt: list[dict[str, str]]
    chosen: list[dict[str, str]]
    rejected: list[dict[str, str]]
    by: str
    """``checked``, ``judged`` or ``shown``: how the two differ."""
    rejected_ended: bool
    """Whether the worse answer ended by itself; one that was cut off has no end to learn."""
    parents: tuple[str, ...]
    """Ids of the kept example, of its response and of the worse one."""


@dataclass(frozen=True, slots=True)
class Rejection(Record):
    """A dropped task or answer, with the rule that dropped it."""

    KIND: ClassVar[str] = "rejection"

    stage: str
    """``generate`` or ``filter``."""
    rule: str
    """Name of the rule, as in the tables of the report."""
    detail: str
    parent: str
    """Id of the draft or response that it came from."""
    position: int
    instruction: str
    input: str
    output: str
