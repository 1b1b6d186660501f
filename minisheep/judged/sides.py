"""Whose answers are compared: two models of a run on the same tasks, as the evaluation stored them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from minisheep import api
from minisheep.errors import CorruptRunError, UsageError
from minisheep.rules.prompts import user_text
from minisheep.store import RunFolder

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Contest:
    """One task with the answers of both models."""

    task: str
    request: str
    """The user's turn: instruction and input."""
    ours: str
    theirs: str


def model_name(round: int) -> str:
    return f"round {round}" if round else "the base"


def choose_rounds(run: api.Run, round: str, against: str) -> tuple[int, int]:
    """The two models by round number, 0 being the base. `round` is a number, ``last`` or ``best``; `against` is
    ``base`` or a number.

    Raises `errors.UsageError` for a round that was not measured, and where both are the same.
    """
    measured = [int(metrics["round"]) for metrics in run.metrics]
    trained = [number for number in measured if number]
    if not trained:
        raise UsageError(
            f"{run.path} has no trained model yet: no round has been measured.",
            f"`minisheep align --run {run.path}` goes on.",
        )
    if round == "last":
        ours = trained[-1]
    else:
        ours = _best(run) if round == "best" else _number(round, trained, run, "--round")
    theirs = 0 if against in ("base", "0") else _number(against, trained, run, "--against")
    if theirs not in measured:
        raise UsageError(f"The base of {run.path} has not been measured.", f"`minisheep align --run {run.path}`.")
    if ours == theirs:
        raise UsageError(f"--round {round} and --against {against} are the same model.", "Nothing was judged.")
    return ours, theirs


def stored_contests(run: api.Run, ours: int, theirs: int) -> list[Contest]:
    """The held-out tasks that both models answered when they were measured, in the order of their ids.

    Raises `errors.UsageError` where there are none, and `errors.CorruptRunError`.
    """
    folder = RunFolder(run.path)
    first, second = (_answers(folder.round(number).answers) for number in (ours, theirs))
    both = [task for task in sorted(first) if task in second and _request(first[task]) == _request(second[task])]
    if not both:
        raise UsageError(
            f"{run.path} holds no held-out task that both {model_name(ours)} and {model_name(theirs)} answered.",
            "Give --prompts FILE with what they should be asked.",
        )
    return [Contest(t, _request(first[t]), first[t]["answer"].strip(), second[t]["answer"].strip()) for t in both]


def spread(items: Sequence[T], limit: int) -> list[T]:
    """At most `limit` of them (0: all), spread over the list, whose neighbours are alike."""
    if not limit or limit >= len(items):
        return list(items)
    return [items[i * len(items) // limit] for i in range(limit)]


def _answers(path: Path) -> dict[str, Mapping[str, Any]]:
    """By task. Without ids of their own in the file, the fields are checked here."""
    found: dict[str, Mapping[str, Any]] = {}
    if not path.exists():
        return found
    # Lines end at a newline alone: an answer may hold other separators.
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line:
            continue
        try:
            row = json.loads(line)
            if not all(isinstance(row[name], str) for name in ("task", "instruction", "input", "answer")):
                raise TypeError("an answer's fields are texts")
        except (ValueError, LookupError, TypeError) as error:
            raise CorruptRunError(f"{path}, line {number}, is damaged ({error}).", "Restore it from a copy.") from None
        found[row["task"]] = row
    return found


def _request(row: Mapping[str, Any]) -> str:
    return user_text(row["instruction"], row["input"])


def _best(run: api.Run) -> int:
    if not run.best:
        raise UsageError(
            f"The best model of {run.path} is its base: no round was better beyond chance.",
            "Give --round last or a round's number.",
        )
    return run.best


def _number(told: str, trained: Sequence[int], run: api.Run, option: str) -> int:
    if told.isascii() and told.isdigit() and int(told) in trained:
        return int(told)
    there = ", ".join(map(str, trained))
    words = "base" if option == "--against" else "last, best"
    raise UsageError(f"{option} {told}: {run.path} has measured round {there}.", f"Give {words} or one of them.")
