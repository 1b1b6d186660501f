"""What became of each thing that the model wrote: one item an answer, or an instruction that got none. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from minisheep.records import Example, Instruction, Rejection, Response, Verdict
from minisheep.run.reading import RoundRecords

KEPT, REJECTED, OPEN = "kept", "rejected", "open"


@dataclass(frozen=True, slots=True)
class Item:
    """One fate. `score` and its criteria are on the scale of the round's judge; `similarity` is ROUGE-L F, 0 .. 1."""

    round: int
    fate: str
    """``kept``, ``rejected``, or ``open`` where the round is not decided yet."""
    instruction: str
    input: str
    answer: str
    stage: str = ""
    rule: str = ""
    detail: str = ""
    judge: str = ""
    score: float | None = None
    quality: float | None = None
    following: float | None = None
    similarity: float | None = None
    draft: str = ""
    instruction_id: str = ""
    response_id: str = ""
    verdict_id: str = ""
    decision_id: str = ""
    """Of the example or the rejection."""

    @property
    def id(self) -> str:
        """Of the newest record: what decided, else the verdict, the answer, the instruction."""
        return self.decision_id or self.verdict_id or self.response_id or self.instruction_id or self.draft


def items(records: RoundRecords) -> list[Item]:
    """Everything that a round made, in the order of its drafts."""
    order = {draft.id: draft.index for draft in records.drafts}
    last = len(order)
    placed = sorted(_placed(records), key=lambda pair: (order.get(pair[1].draft, last), pair[0]))
    return [item for _, item in placed]


def _placed(records: RoundRecords) -> Iterator[tuple[int, Item]]:
    """Each item with its place in its draft."""
    responses: dict[str, list[Response]] = defaultdict(list)
    for response in records.responses:
        responses[response.instruction_id].append(response)
    verdicts = {verdict.response_id: verdict for verdict in records.verdicts}
    kept = {example.parents[1]: example for example in records.kept if len(example.parents) > 1}
    dropped = {r.parent: r for r in records.rejected if r.stage == "filter"}
    for instruction in records.instructions:
        answers = sorted(responses.pop(instruction.id, ()), key=lambda response: response.sample)
        if not answers:
            yield instruction.position, _unanswered(instruction)
        for response in answers:
            decision = kept.pop(response.id, None) or dropped.pop(response.id, None)
            yield instruction.position, _answered(instruction, response, verdicts.get(response.id), decision)
    for rejection in records.rejected:
        if rejection.stage != "filter":
            yield rejection.position, _rejected(records.number, rejection)
    # What is left has lost its parents to damage.
    lost: list[Example | Rejection] = [*kept.values(), *dropped.values()]
    yield from ((0, _orphan(records.number, decision)) for decision in lost)


def rules_of(found: Iterable[Item]) -> dict[str, int]:
    """How many items each rule dropped, as ``stage.rule``, the most first."""
    counts: dict[str, int] = defaultdict(int)
    for item in found:
        if item.rule:
            counts[f"{item.stage}.{item.rule}"] += 1
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _unanswered(instruction: Instruction) -> Item:
    return Item(
        instruction.round, OPEN, instruction.instruction, instruction.input, "",
        detail="not answered yet", similarity=instruction.similarity,
        draft=instruction.draft, instruction_id=instruction.id,
    )  # fmt: skip


def _answered(
    instruction: Instruction, response: Response, verdict: Verdict | None, decision: Example | Rejection | None
) -> Item:
    fate, stage, rule, detail = OPEN, "", "", "not decided yet" if verdict else "not judged yet"
    if isinstance(decision, Example):
        fate, detail = KEPT, f"cut: {decision.cut}" if decision.cut else ""
    elif decision is not None:
        fate, stage, rule, detail = REJECTED, decision.stage, decision.rule, decision.detail
    return Item(
        instruction.round, fate, instruction.instruction, instruction.input,
        decision.output if isinstance(decision, Example) else response.text,
        stage=stage, rule=rule, detail=detail,
        judge=verdict.judge if verdict else "", score=verdict.score if verdict else None,
        quality=verdict.quality if verdict else None, following=verdict.following if verdict else None,
        similarity=instruction.similarity, draft=instruction.draft, instruction_id=instruction.id,
        response_id=response.id, verdict_id=verdict.id if verdict else "", decision_id=decision.id if decision else "",
    )  # fmt: skip


def _rejected(number: int, rejection: Rejection) -> Item:
    return Item(
        number, REJECTED, rejection.instruction, rejection.input, rejection.output,
        stage=rejection.stage, rule=rejection.rule, detail=rejection.detail,
        draft=rejection.parent, decision_id=rejection.id,
    )  # fmt: skip


def _orphan(number: int, decision: Example | Rejection) -> Item:
    if isinstance(decision, Rejection):
        return Item(
            number, REJECTED, decision.instruction, decision.input, decision.output,
            stage=decision.stage, rule=decision.rule, detail=decision.detail,
            response_id=decision.parent, decision_id=decision.id,
        )  # fmt: skip
    instruction, response, *verdict = decision.parents
    return Item(
        number, KEPT, decision.instruction, decision.input, decision.output,
        score=decision.score, quality=decision.quality, following=decision.following,
        instruction_id=instruction, response_id=response, verdict_id="".join(verdict), decision_id=decision.id,
    )  # fmt: skip
