"""The whole history of one record: seeds, draft, instruction, answers, verdicts, decisions. Pure but for `find`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from minisheep.data.texts import SeedTask
from minisheep.errors import UsageError
from minisheep.records import Draft, Example, Instruction, Rejection, Response, Verdict
from minisheep.run.reading import Round, RoundRecords

SHOWN = 5
"""Ids that are named where a prefix has several."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer and what became of it."""

    response: Response
    verdict: Verdict | None = None
    decision: Example | Rejection | None = None


@dataclass(slots=True)
class History:
    """What a record came from and what came of it; of a draft, all that was found in it."""

    id: str
    round: int
    seeds: list[tuple[str, SeedTask | None]] = field(default_factory=list)
    """The tasks that were shown, with their text where the seed file still has it."""
    draft: Draft | None = None
    instructions: list[Instruction] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)
    """Of the writing: what was found in the draft and not taken."""
    answers: list[Answered] = field(default_factory=list)
    lone: Example | Rejection | None = None
    """A decision whose answer is lost to damage."""

    @property
    def empty(self) -> bool:
        return not (self.draft or self.instructions or self.rejections or self.answers or self.lone)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        seeds = [
            {"id": name} | ({"instruction": s.instruction, "input": s.input, "output": s.output} if s else {})
            for name, s in self.seeds
        ]
        return {
            "id": self.id,
            "round": self.round,
            "seeds": seeds,
            "draft": self.draft.to_dict() if self.draft else None,
            "instructions": [instruction.to_dict() for instruction in self.instructions],
            "rejections": [rejection.to_dict() for rejection in self.rejections],
            "answers": [
                {
                    "response": answer.response.to_dict(),
                    "verdict": answer.verdict.to_dict() if answer.verdict else None,
                    "decision": answer.decision.to_dict() if answer.decision else None,
                }
                for answer in self.answers
            ],
            "decision": self.lone.to_dict() if self.lone else None,
        }


def find(rounds: Sequence[Round], prefix: str) -> tuple[Round, str]:
    """The one record whose id begins with `prefix`, and its round. Raises `errors.UsageError` for none or several."""
    start = prefix.strip().lower()
    matches = {name: found for found in rounds for name in found.ids_with(start)} if start else {}
    if not matches:
        raise UsageError(f"No record's id begins with {prefix!r}.", "Without an id, browse lists them.")
    if len(matches) > 1:
        named = ", ".join(sorted(matches)[:SHOWN]) + (", ..." if len(matches) > SHOWN else "")
        raise UsageError(f"{len(matches)} records' ids begin with {prefix!r}: {named}.", "Give more of it.")
    ((name, found),) = matches.items()
    return found, name


def history(records: RoundRecords, seeds: Sequence[SeedTask], id: str) -> History:
    """Of the record `id` of a round, of whatever kind; empty where the round holds no such record."""
    told = History(id, records.number)
    answers = _answers(records)
    one = next((a for a in answers if id in _ids(a)), None)
    rejection = next((r for r in records.rejected if r.id == id and r.stage != "filter"), None)
    if any(draft.id == id for draft in records.drafts):
        parent = id
        told.instructions = [i for i in records.instructions if i.draft == id]
        told.rejections = [r for r in records.rejected if r.parent == id and r.stage != "filter"]
    elif rejection is not None:
        parent, told.rejections = rejection.parent, [rejection]
    else:
        wanted = one.response.instruction_id if one else id
        told.instructions = [i for i in records.instructions if i.id == wanted]
        told.answers = [one] if one else [a for a in answers if a.response.instruction_id == wanted]
        parent = told.instructions[0].draft if told.instructions else ""
        if one is None and not told.instructions:
            decisions: list[Example | Rejection] = [*records.kept, *records.rejected]
            told.lone = next((decision for decision in decisions if decision.id == id), None)
    told.draft = next((draft for draft in records.drafts if draft.id == parent), None)
    if told.draft is not None:
        by_id = {seed.id: seed for seed in seeds}
        told.seeds = [(name, by_id.get(name)) for name in told.draft.seeds]
    return told


def _answers(records: RoundRecords) -> list[Answered]:
    verdicts = {verdict.response_id: verdict for verdict in records.verdicts}
    decisions: dict[str, Example | Rejection] = {r.parent: r for r in records.rejected if r.stage == "filter"}
    decisions |= {example.parents[1]: example for example in records.kept if len(example.parents) > 1}
    return [Answered(r, verdicts.get(r.id), decisions.get(r.id)) for r in records.responses]


def _ids(answer: Answered) -> set[str]:
    return {record.id for record in (answer.response, answer.verdict, answer.decision) if record is not None}
