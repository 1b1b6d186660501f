"""What became of each text of the model: items to list and select, and the whole history of one record.

An item is an answer, or an instruction without one. Pure, but for `find`, which reads ids from disk.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from minisheep.data.seed_tasks import SeedTask
from minisheep.errors import UsageError
from minisheep.rules.heuristics import INSTRUCTION_RULES, RESPONSE_RULES
from minisheep.rules.text_words import word_count
from minisheep.run.reading import Round, RoundRecords
from minisheep.run.records import Asked, Check, Draft, Example, Instruction, Rejection, Response, Verdict

KEPT, REJECTED, OPEN = "kept", "rejected", "open"
MEANINGS = {
    **{f"generate.{name}": what for name, _, what in INSTRUCTION_RULES},
    **{f"filter.{name}": what for name, _, what in RESPONSE_RULES},
    "generate.too_similar": "is too similar to a seed task or an earlier instruction (ROUGE-L)",
    "generate.no_task": "is a draft that holds no readable task",
    "filter.constraint_not_kept": "does not keep its constraint, as a program decided",
    "filter.no_score": "has a verdict without a score",
    "filter.not_best": "is not the best judged answer to its instruction",
    "filter.low_score": "has too low a score",
    "filter.high_perplexity": "has too high a perplexity under the model itself",
    "filter.crowded": "is in a cluster of which another answer was drawn",
    "filter.not_lowest": "is in a cluster of which another answer has a lower perplexity",
}
"""Completes the sentence "the rule drops what ..."."""


@dataclass(frozen=True, slots=True)
class RecordFate:
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


def items(records: RoundRecords) -> list[RecordFate]:
    """Everything that a round made, in the order of its drafts."""
    order = {draft.id: draft.index for draft in records.drafts}
    last = len(order)
    placed = sorted(_placed(records), key=lambda pair: (order.get(pair[1].draft, last), pair[0]))
    return [item for _, item in placed]


def _placed(records: RoundRecords) -> Iterator[tuple[int, RecordFate]]:
    """Each item with its place in its draft."""
    responses: dict[str, list[Response]] = defaultdict(list)
    for response in records.responses:
        responses[response.instruction_id].append(response)
    verdicts = {verdict.response_id: verdict for verdict in records.verdicts}
    asked = {record.id: record for record in records.asked}
    kept = {example.parents[1]: example for example in records.kept if len(example.parents) > 1}
    dropped = {r.parent: r for r in records.rejected if r.stage == "filter"}
    for instruction in records.instructions:
        answers = sorted(responses.pop(instruction.id, ()), key=lambda response: response.sample)
        if not answers:
            yield instruction.position, _unanswered(instruction)
        for response in answers:
            decision = kept.pop(response.id, None) or dropped.pop(response.id, None)
            item = _answered(instruction, response, verdicts.get(response.id), decision)
            if response.asked in asked:
                item = replace(item, instruction=asked[response.asked].instruction)
            if isinstance(decision, Example):
                # Its constraint may have been read off the answer.
                item = replace(item, instruction=decision.instruction)
            yield instruction.position, item
    for rejection in records.rejected:
        if rejection.stage != "filter":
            yield rejection.position, _rejected(records.number, rejection, draft=rejection.parent)
    # The rest has lost its parents to damage.
    lost: list[Example | Rejection] = [*kept.values(), *dropped.values()]
    graded = {verdict.id for verdict in verdicts.values()}
    yield from ((0, _orphan(records.number, decision, graded)) for decision in lost)


def rules_of(items: Iterable[RecordFate]) -> dict[str, int]:
    """How many items each rule dropped, as ``stage.rule``, the most first."""
    counts: dict[str, int] = defaultdict(int)
    for item in items:
        if item.rule:
            counts[f"{item.stage}.{item.rule}"] += 1
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def legend(items: Iterable[RecordFate]) -> list[str]:
    """What each rule that dropped one of the items drops, a line each, in the order of `MEANINGS`."""
    did = rules_of(items)
    return [f"{rule.partition('.')[2]}: {what}" for rule, what in MEANINGS.items() if rule in did]


def _unanswered(instruction: Instruction) -> RecordFate:
    return RecordFate(
        instruction.round, OPEN, instruction.instruction, instruction.input, "",
        detail="not answered yet", similarity=instruction.similarity,
        draft=instruction.draft, instruction_id=instruction.id,
    )  # fmt: skip


def _answered(
    instruction: Instruction, response: Response, verdict: Verdict | None, decision: Example | Rejection | None
) -> RecordFate:
    fate, stage, rule, detail = OPEN, "", "", "not decided yet" if verdict else "not judged yet"
    if isinstance(decision, Example):
        fate, detail = KEPT, f"cut: {decision.cut}" if decision.cut else ""
    elif decision is not None:
        fate, stage, rule, detail = REJECTED, decision.stage, decision.rule, decision.detail
    return RecordFate(
        instruction.round, fate, instruction.instruction, instruction.input,
        decision.output if isinstance(decision, Example) else response.text,
        stage=stage, rule=rule, detail=detail,
        judge=verdict.judge if verdict else "", score=verdict.score if verdict else None,
        quality=verdict.quality if verdict else None, following=verdict.following if verdict else None,
        similarity=instruction.similarity, draft=instruction.draft, instruction_id=instruction.id,
        response_id=response.id, verdict_id=verdict.id if verdict else "", decision_id=decision.id if decision else "",
    )  # fmt: skip


def _rejected(number: int, rejection: Rejection, *, draft: str = "", response_id: str = "") -> RecordFate:
    return RecordFate(
        number, REJECTED, rejection.instruction, rejection.input, rejection.output,
        stage=rejection.stage, rule=rejection.rule, detail=rejection.detail, decision_id=rejection.id,
        draft=draft, response_id=response_id,
    )  # fmt: skip


def _orphan(number: int, decision: Example | Rejection, graded: Container[str]) -> RecordFate:
    if isinstance(decision, Rejection):
        return _rejected(number, decision, response_id=decision.parent)
    instruction, response, *others = decision.parents
    return RecordFate(
        number, KEPT, decision.instruction, decision.input, decision.output,
        score=decision.score, quality=decision.quality, following=decision.following,
        instruction_id=instruction, response_id=response, decision_id=decision.id,
        verdict_id=next((id_ for id_ in others if id_ in graded), ""),
    )  # fmt: skip


SHOWN = 5
"""Ids that are named where a prefix has several."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer and what became of it."""

    response: Response
    verdict: Verdict | None = None
    decision: Example | Rejection | None = None
    asked: Asked | None = None
    """How the instruction was put, where it was not asked as it stands."""
    check: Check | None = None


@dataclass(slots=True)
class History:
    """What a record was made from and what became of it; for a draft, all that was found in it."""

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
                    "asked": answer.asked.to_dict() if answer.asked else None,
                    "response": answer.response.to_dict(),
                    "check": answer.check.to_dict() if answer.check else None,
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
    matches = {name: round for round in rounds for name in round.ids_with(start)} if start else {}
    if not matches:
        raise UsageError(f"No record's id begins with {prefix!r}.", "`minisheep browse RUN` lists them.")
    if len(matches) > 1:
        named = ", ".join(sorted(matches)[:SHOWN]) + (", ..." if len(matches) > SHOWN else "")
        raise UsageError(
            f"{len(matches)} records' ids begin with {prefix!r}: {named}.", "Give more characters of the id."
        )
    ((name, round),) = matches.items()
    return round, name


def history(records: RoundRecords, seeds: Sequence[SeedTask], id: str) -> History:
    """The history of record `id`, of any kind; empty if the round holds no such record."""
    result = History(id, records.number)
    answers = _answers(records)
    one = next((a for a in answers if id in _ids(a)), None)
    rejection = next((r for r in records.rejected if r.id == id and r.stage != "filter"), None)
    if any(draft.id == id for draft in records.drafts):
        parent = id
        result.instructions = [i for i in records.instructions if i.draft == id]
        result.rejections = [r for r in records.rejected if r.parent == id and r.stage != "filter"]
    elif rejection is not None:
        parent, result.rejections = rejection.parent, [rejection]
    else:
        instruction_id = one.response.instruction_id if one else id
        result.instructions = [i for i in records.instructions if i.id == instruction_id]
        result.answers = [one] if one else [a for a in answers if a.response.instruction_id == instruction_id]
        parent = result.instructions[0].draft if result.instructions else ""
        if one is None and not result.instructions:
            decisions: list[Example | Rejection] = [*records.kept, *records.rejected]
            result.lone = next((decision for decision in decisions if decision.id == id), None)
    result.draft = next((draft for draft in records.drafts if draft.id == parent), None)
    if result.draft is not None:
        by_id = {seed.id: seed for seed in seeds}
        result.seeds = [(name, by_id.get(name)) for name in result.draft.seeds]
    return result


def _answers(records: RoundRecords) -> list[Answered]:
    verdicts = {verdict.response_id: verdict for verdict in records.verdicts}
    decisions: dict[str, Example | Rejection] = {r.parent: r for r in records.rejected if r.stage == "filter"}
    decisions |= {example.parents[1]: example for example in records.kept if len(example.parents) > 1}
    asked = {record.id: record for record in records.asked}
    checks = {check.response_id: check for check in records.checks}
    return [
        Answered(r, verdicts.get(r.id), decisions.get(r.id), asked.get(r.asked), checks.get(r.id))
        for r in records.responses
    ]


def _ids(answer: Answered) -> set[str]:
    made = (answer.asked, answer.response, answer.check, answer.verdict, answer.decision)
    return {record.id for record in made if record is not None}


ORDERS: dict[str, Callable[[RecordFate], float | None]] = {
    "made": lambda item: 0,
    "score": lambda item: item.score,
    "similarity": lambda item: item.similarity,
    "words": lambda item: word_count(item.answer),
}
"""By name, the value to sort by; the highest comes first."""


@dataclass(frozen=True, slots=True)
class RecordFilter:
    """Which items to select; an empty field selects all."""

    fates: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    """``low_score``, or ``filter.low_score`` with its stage."""
    score_min: float | None = None
    score_max: float | None = None
    text: str = ""
    """In instruction, input or answer, in any case."""

    def accepts(self, item: RecordFate) -> bool:
        if self.fates and item.fate not in self.fates:
            return False
        if self.rules and not {item.rule, f"{item.stage}.{item.rule}"} & set(self.rules):
            return False
        if self.score_min is not None and (item.score is None or item.score < self.score_min):
            return False
        if self.score_max is not None and (item.score is None or item.score > self.score_max):
            return False
        sought = self.text.casefold()
        return not sought or any(sought in text.casefold() for text in (item.instruction, item.input, item.answer))


def select(
    items: Iterable[RecordFate], filter: RecordFilter, *, order: str = "made", reverse: bool = False, limit: int = 0
) -> list[RecordFate]:
    """The items that `filter` accepts, at most `limit` of them (0: all); those without the compared value come last."""
    key = ORDERS[order]
    chosen = [item for item in items if filter.accepts(item)]
    known = [(value, item) for item in chosen if (value := key(item)) is not None]
    if order == "made":
        ordered = chosen[::-1] if reverse else chosen
    else:
        # Sorting twice is stable: equals stay in the order in which they were made.
        known.sort(key=lambda pair: pair[0], reverse=not reverse)
        ordered = [item for _, item in known] + [item for item in chosen if key(item) is None]
    return ordered[:limit] if limit else ordered


def check_rules(rules: Sequence[str], items: Sequence[RecordFate]) -> None:
    """Raises `errors.UsageError` for a rule that dropped nothing, naming those that did."""
    did = rules_of(items)
    known = {*did, *(name.partition(".")[2] for name in did)}
    for rule in rules:
        if rule not in known:
            counts = ", ".join(f"{name} {count}" for name, count in did.items()) or "nothing"
            raise UsageError(f"--rule {rule} dropped nothing here.", f"Rules dropped: {counts}.")
