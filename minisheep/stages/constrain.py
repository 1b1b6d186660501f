"""What becomes of answers that a program checked: which is kept, what is read off others, what a round counts. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from minisheep.config import Settings
from minisheep.rules.constraints import Catalogue, constrained, hindsight, kind_in_words
from minisheep.rules.heuristics import kept_text
from minisheep.rules.identity import derive_seed
from minisheep.rules.prompts import user_text
from minisheep.rules.text_words import word_count
from minisheep.rules.wording import ENGLISH, Wording
from minisheep.run.records import Asked, Check, Example, Response, Verdict
from minisheep.stages.judge import Pair

TOTAL = "total"
"""Beside the kinds in a round's metrics."""
NOT_KEPT = "constraint_not_kept"
"""The rule that drops an answer that breaks its constraint."""
Dropped = list[tuple[Pair, tuple[str, str]]]
"""Pairs with the rule that drops them and the detail."""


def tally(checks: Iterable[Check]) -> dict[str, tuple[int, int]]:
    """For each kind the answers that were drawn, and those that kept their constraint."""
    draws: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    for check in checks:
        draws[check.kind] += 1
        passed[check.kind] += check.passed
    return {kind: (draws[kind], passed[kind]) for kind in sorted(draws)}


def answers_to_check(
    asked: Iterable[Asked], responses: Iterable[Response], wording: Wording = ENGLISH
) -> list[tuple[Asked, Response, str]]:
    """The answers to instructions with a constraint, each with the text that would be kept (`heuristics.kept_text`).

    Those that a rule drops are among them: a kind that the model cannot answer otherwise counts as one it fails.
    """
    records = {record.id: record for record in asked if record.constraint}
    found = [(records[response.asked], response) for response in responses if response.asked in records]
    return [(a, r, kept_text(r.text, r.finish, user_text(a.instruction, a.input), wording)[0]) for a, r in found]


def one_sided(kept: Sequence[Example], settings: Settings) -> str:
    """A sentence where only one kind of pair, with or without a constraint, is left though both were asked for."""
    checked = sum(example.constraint is not None for example in kept)
    if not checked:
        return "No answer to an instruction with a constraint is kept, so this round trains on the others alone."
    if checked == len(kept) and settings.constraints < 1:
        return (
            "No answer without a constraint is kept, so this round trains only on those that a program passed. A lower"
            " --keep keeps others."
        )
    return ""


def never_kept(counts: Mapping[str, tuple[int, int]]) -> str:
    """A sentence on the kinds that no answer of a round kept; empty where there is none."""
    kinds = [f'"{kind_in_words(kind)}" ({n} answers)' for kind, (n, passed) in counts.items() if n and not passed]
    if not kinds:
        return ""
    return f"No answer kept a constraint of the kind {', '.join(kinds)}. The round goes on without them."


def faulty(checks: Iterable[Check]) -> str:
    """A sentence on checkers that gave no verdict, with the first fault of each kind; empty where all did."""
    faults = [check for check in checks if check.fault]
    if not faults:
        return ""
    first = {check.kind: check.fault for check in reversed(faults)}
    named = "; ".join(f"{kind}: {fault}" for kind, fault in sorted(first.items()))
    return f"{len(faults)} answers could not be checked and count as failing ({named})."


def by_checks(
    pairs: Sequence[Pair], checks: Mapping[str, Check], verdicts: Mapping[str, Verdict], cuts: Mapping[str, str]
) -> tuple[list[Pair], Dropped]:
    """The pairs to keep among those with a constraint, in the order of making, and the others.

    An answer that breaks its constraint is dropped. Of those to one instruction that keep it one is kept: the best by
    the judge's score where there is one, else the shortest of those that ended by themselves, else the shortest. None
    is dropped for a low score: the program knows better.
    """
    dropped: Dropped = []
    passing: dict[str, list[Pair]] = {}
    for pair in pairs:
        check = checks[pair.response.id]
        if check.passed:
            passing.setdefault(pair.instruction.id, []).append(pair)
        else:
            dropped.append((pair, (NOT_KEPT, check.fault or check.kind)))

    def order(pair: Pair) -> tuple[float, bool, int, int]:
        verdict = verdicts.get(pair.response.id)
        score = verdict.score if verdict is not None else None
        unended = bool(cuts[pair.response.id]) or pair.response.finish == "length"
        return -score if score is not None else float("inf"), unended, word_count(pair.answer), pair.response.sample

    kept = []
    for others in passing.values():
        best, *rest = sorted(others, key=order)
        kept.append(best)
        detail = f"answer {best.response.sample} keeps the constraint too"
        dropped += [(pair, ("not_best", detail)) for pair in rest]
    return kept, dropped


def spread(first: Sequence[Example], second: Sequence[Example]) -> list[Example]:
    """Both lists as one in which any beginning holds about the same share of each, so that a limit spares neither."""
    placed = [
        ((place + 0.5) / len(examples), number, example)
        for number, examples in enumerate((first, second))
        for place, example in enumerate(examples)
    ]
    return [example for _, _, example in sorted(placed, key=lambda item: item[:2])]


def read_off(
    settings: Settings, round: int, catalogue: Catalogue, kept: Sequence[Example], answers: Mapping[str, str]
) -> list[Example]:
    """The kept examples; at most `Settings.hindsight` of them now demand what their answer happens to keep.

    answers: the round's answers by response id, which a constraint must tell this one from.
    """
    most = int(settings.hindsight * len(kept))
    chosen: dict[str, Example] = {}
    order = sorted(kept, key=lambda example: derive_seed(settings.seed, round, "hindsight", example.parents[1]))
    for example in order:
        if len(chosen) == most:
            break
        response = example.parents[1]
        others = [answer for id_, answer in answers.items() if id_ != response]
        found = hindsight(catalogue, example.output, others, settings.seed, round, response)
        if found is not None:
            chosen[example.id] = demanding(example, constrained(example.instruction, found.wording), found.to_dict())
    return [chosen.get(example.id, example) for example in kept]


def exchanged(settings: Settings, round: int, kept: Sequence[tuple[Pair, Example]]) -> list[Example]:
    """The kept examples with a constraint, each with the constraint of another, of another kind where the kinds allow
    it: the control that has the same answers to the same instructions, and no link from a constraint to its answer."""

    def order(item: tuple[Pair, Example]) -> tuple[str, int]:
        _, example = item
        return str((example.constraint or {})["kind"]), derive_seed(settings.seed, round, "exchanged", example.id)

    ordered = sorted(kept, key=order)
    # Neighbours are of one kind; a step as long as the longest row of one kind leaves it.
    counts = Counter(order(item)[0] for item in ordered)
    step = max(counts.values(), default=0)
    new: dict[str, Example] = {}
    for place, (pair, example) in enumerate(ordered):
        other = ordered[(place + (step if step < len(ordered) else 1)) % len(ordered)][1].constraint or {}
        text = constrained(pair.instruction.instruction, other["wording"])
        new[example.id] = demanding(example, text, other)
    return [new[example.id] for _, example in kept]


def demanding(example: Example, instruction: str, constraint: dict[str, Any]) -> Example:
    """The example with an instruction that holds a constraint."""
    user = {"role": "user", "content": user_text(instruction, example.input)}
    return replace(
        example, id="", instruction=instruction, messages=[user, *example.messages[1:]], constraint=constraint
    )


def constraint_metrics(asked: Iterable[Asked], checks: Iterable[Check], kept: Iterable[Example]) -> dict[str, Any]:
    """For each kind, and in `TOTAL`: ``draws`` (answers drawn), ``passed`` (of them, those that kept the constraint),
    ``instructions`` that carried it, and ``kept`` examples that were asked for it. The total has ``hindsight`` too:
    examples whose constraint was read off the answer."""
    records = {record.id: record for record in asked if record.constraint}
    instructions = Counter(record.constraint["kind"] for record in records.values())
    examples: Counter[str] = Counter()
    read = 0
    for example in kept:
        if example.constraint is not None:
            was_asked = any(parent in records for parent in example.parents)
            examples[example.constraint["kind"]] += was_asked
            read += not was_asked
    counts = tally(checks)
    rows = {
        kind: {
            "draws": counts.get(kind, (0, 0))[0],
            "passed": counts.get(kind, (0, 0))[1],
            "instructions": instructions[kind],
            "kept": examples[kind],
        }
        for kind in sorted(set(instructions) | set(counts))
    }
    total = {name: sum(row[name] for row in rows.values()) for name in ("draws", "passed", "instructions", "kept")}
    return {**rows, TOTAL: {**total, "hindsight": read}}
