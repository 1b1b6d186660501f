"""Items and histories in words, safe to show. Pure: no terminal is touched here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from minisheep.browse.history import Answered, History
from minisheep.browse.items import Item
from minisheep.records import Example, Rejection, Verdict
from minisheep.ui.sanitise import one_line, sanitise

ID = 8
"""Characters of an id that a list shows: enough to name a record of most runs."""
Section = tuple[str, str]
"""A heading, and a text of any number of lines."""


def line(item: Item) -> str:
    """An item on one line."""
    text = f"{_shortened(item.instruction, item.input, 80)} | {one_line(item.answer, 80)}"
    why = f"{one_line(item.rule)}: " if item.rule else ""
    return f"{index(item)}  {why}{text}"


def index(item: Item) -> str:
    """What a list shows before the texts: id, round, fate and score."""
    score = f"{item.score:8.3g}" if item.score is not None else " " * 8
    return f"{one_line(item.id)[:ID]:{ID}}  round {item.round}  {item.fate:8} {score}"


def row(item: Item, width: int) -> str:
    """An item in a list of `width` columns."""
    why = f"{one_line(item.rule)}: " if item.rule else ""
    return f"{index(item)}  {why}{_shortened(item.instruction, item.input, 0)}"[: max(0, width)]


def item_json(item: Item) -> dict[str, Any]:
    """JSON-ready, the id first."""
    return {"id": item.id, **asdict(item)}


def sections(told: History) -> Iterator[Section]:
    """A history from the seeds to the decisions."""
    for name, seed in told.seeds:
        text = "(no longer among the seed tasks)" if seed is None else _task(seed.instruction, seed.input)
        yield f"seed task {one_line(name)}", sanitise(text)
    if told.draft is not None:
        draft = told.draft
        yield (
            f"draft {draft.index} of round {told.round}, {draft.id}, ended by {one_line(draft.finish)}",
            sanitise(draft.text),
        )
    for instruction in told.instructions:
        heading = f"instruction {instruction.id}, number {instruction.position} of its draft"
        text = _task(instruction.instruction, instruction.input)
        yield f"{heading}, similarity {instruction.similarity:g}", sanitise(text)
    for rejection in told.rejections:
        text = _task(rejection.instruction, rejection.input) if rejection.instruction else rejection.output
        yield _decision(rejection), sanitise(text)
    for answer in told.answers:
        yield from _answer(answer)
    if told.lone is not None:
        yield _decision(told.lone), sanitise(f"{_task(told.lone.instruction, told.lone.input)}\n{told.lone.output}")


def _answer(answer: Answered) -> Iterator[Section]:
    response, verdict, decision = answer.response, answer.verdict, answer.decision
    heading = f"answer {response.sample}, {response.id}, {response.tokens} tokens, ended by {one_line(response.finish)}"
    yield heading, sanitise(response.text)
    if verdict is not None:
        yield _verdict(verdict), sanitise("\n".join(_raw(verdict)))
    if isinstance(decision, Example):
        yield (
            _decision(decision),
            sanitise(decision.output if decision.output != response.text else "as it was written"),
        )
    elif decision is not None:
        yield _decision(decision), sanitise(decision.detail)
    else:
        yield "not decided yet", ""


def _verdict(verdict: Verdict) -> str:
    given = (("score", verdict.score), ("quality", verdict.quality), ("following", verdict.following))
    told = "".join(f", {name} {value:.4g}" for name, value in given if value is not None)
    return f"verdict {verdict.id} by {one_line(verdict.judge)}{told or ', unreadable'}"


def _raw(verdict: Verdict) -> Iterator[str]:
    for name, value in verdict.raw.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield f"{one_line(name)}: {one_line(text)}"


def _decision(decision: Example | Rejection) -> str:
    if isinstance(decision, Example):
        return f"kept, {decision.id}" + (f", cut ({one_line(decision.cut)})" if decision.cut else "")
    detail = f": {one_line(decision.detail)}" if decision.detail else ""
    return f"rejected, {decision.id}, by {one_line(decision.stage)}.{one_line(decision.rule)}{detail}"


def _task(instruction: str, input: str) -> str:
    return f"{instruction}\nInput: {input}" if input else instruction


def _shortened(instruction: str, input: str, width: int) -> str:
    return one_line(f"{instruction} [{input}]" if input else instruction, width)
