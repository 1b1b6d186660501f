"""Whose answers are compared: two models of a run on the same tasks, as the evaluation stored them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from minisheep.errors import UsageError
from minisheep.rules.prompts import user_text
from minisheep.run.reading import Run, resolve_round

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


def choose_rounds(
    run: Run, round: str, against: str, tell: Callable[[str], None] = lambda text: None
) -> tuple[int, int]:
    """The two models by round number, 0 being the base: each a number, ``last``, ``best`` or ``base``.

    `tell` hears where the best is the base. Raises `errors.UsageError` for a round that was not measured, and where
    both are the same.
    """
    measured = [found.number for found in run.measured]
    trained = [number for number in measured if number]
    if not trained:
        raise UsageError(
            f"{run.path} has no trained model yet: no round has been measured.",
            f"`minisheep align --run {run.path}` goes on.",
        )
    ours = resolve_round(run, round, trained, "measured", tell=tell)
    theirs = resolve_round(run, against, trained, "measured", flag="--against", tell=tell)
    if 0 in (ours, theirs) and 0 not in measured:
        raise UsageError(f"The base of {run.path} has not been measured.", f"`minisheep align --run {run.path}`.")
    if ours == theirs:
        raise UsageError(f"--round {round} and --against {against} are the same model.", "Give --round N.")
    return ours, theirs


def stored_contests(run: Run, ours: int, theirs: int) -> list[Contest]:
    """The held-out tasks that both models answered when they were measured, in the order of their ids.

    Raises `errors.UsageError` where there are none, and `errors.CorruptRunError`.
    """
    first, second = ({row["task"]: row for row in run.round(number).answers} for number in (ours, theirs))
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


def _request(row: Mapping[str, Any]) -> str:
    return user_text(row["instruction"], row["input"])
