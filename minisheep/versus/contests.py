"""The answers of two models to the same tasks, and verdicts on them as a win rate or as mean grades."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypeVar

from minisheep.api import Run, resolve_round
from minisheep.errors import UsageError
from minisheep.metrics.stats import accuracy, paired_difference, standard_error
from minisheep.rules.identity import six_decimals
from minisheep.rules.plain_text import round_name, shell
from minisheep.rules.prompts import user_text
from minisheep.rules.text_words import word_count

T = TypeVar("T")
BASE = "the base"


@dataclass(frozen=True, slots=True)
class Contest:
    """One task with the answers of both models."""

    task: str
    request: str
    """The user's turn: instruction and input."""
    ours: str
    theirs: str


def choose_rounds(
    run: Run, round: str, against: str, on_progress: Callable[[str], None] = lambda text: None
) -> tuple[int, int]:
    """The two models by round number, 0 being the base: each a number, ``last``, ``best`` or ``base``.

    `on_progress` gets a line where ``best`` is the base. Raises `errors.UsageError` for a round that was not measured,
    and where both are the same.
    """
    measured = [round.number for round in run.measured]
    trained = [number for number in measured if number]
    if not trained:
        run.check_whole("evaluate")
        raise UsageError(
            f"{run.path} has no trained model yet: no round has been measured.",
            f"Continue with `minisheep align --run {shell(run.path)}`.",
        )
    ours = resolve_round(run, round, trained, "measured", on_progress=on_progress)
    theirs = resolve_round(run, against, trained, "measured", flag="--against", on_progress=on_progress)
    if 0 in (ours, theirs) and 0 not in measured:
        raise UsageError(
            f"The base of {run.path} has not been measured.",
            f"Measure it with `minisheep align --run {shell(run.path)}`.",
        )
    for phase in ("train", "evaluate"):
        run.check_whole(phase, (ours, theirs))
    if ours == theirs:
        raise UsageError(
            f"--round {round} and --against {against} are the same model.", "Choose another with --round N."
        )
    return ours, theirs


def stored_contests(run: Run, ours: int, theirs: int) -> list[Contest]:
    """The held-out tasks that both models answered when they were measured, in the order of their ids.

    Raises `errors.UsageError` where there are none, and `errors.CorruptRunError`.
    """
    first, second = ({row["task"]: row for row in run.round(number).answers} for number in (ours, theirs))
    both = [task for task in sorted(first) if task in second and _request(first[task]) == _request(second[task])]
    if not both:
        raise UsageError(
            f"{run.path} has no held-out task that both {round_name(ours, BASE)} and {round_name(theirs, BASE)}"
            " answered.",
            "Give prompts for both with --prompts FILE.",
        )
    return [Contest(t, _request(first[t]), first[t]["answer"].strip(), second[t]["answer"].strip()) for t in both]


def spread(items: Sequence[T], limit: int) -> list[T]:
    """At most `limit` items (0: all), spread evenly, because neighbours in the list are alike."""
    if not limit or limit >= len(items):
        return list(items)
    return [items[i * len(items) // limit] for i in range(limit)]


def _request(row: Mapping[str, Any]) -> str:
    return user_text(row["instruction"], row["input"])


Orders = tuple[str | None, str | None]
"""The verdict with our answer first, and with theirs first: ``A``, ``B``, ``tie`` or None (unreadable)."""


def settled(orders: Orders) -> str | None:
    """``ours`` or ``theirs`` where both orders agree on it, else ``tie``; None where a reply could not be read."""
    if None in orders:
        return None
    return {("A", "B"): "ours", ("B", "A"): "theirs"}.get((str(orders[0]), str(orders[1])), "tie")


def pair_outcome(contests: Sequence[Contest], verdicts: Mapping[str, Orders]) -> dict[str, Any]:
    """Win rate of ours with a 95 % bootstrap interval, with ties as halves; the judge's biases; lengths. JSON-ready.

    `verdicts` is by task. Two answers of the same text are a tie without a verdict. Pairs with an unreadable reply are
    counted and left out of the win rate; if no other pair is left, there is no win rate.
    """
    same = [c for c in contests if c.ours == c.theirs]
    different = [c for c in contests if c.ours != c.theirs]
    winners = {c.task: settled(verdicts[c.task]) for c in different}
    results = [*("tie" for _ in same), *(winner for winner in winners.values() if winner is not None)]
    read = [verdicts[task] for task, winner in winners.items() if winner is not None]
    decided = [
        c for c in different if winners[c.task] in ("ours", "theirs") and word_count(c.ours) != word_count(c.theirs)
    ]
    longer = sum((winners[c.task] == "ours") == (word_count(c.ours) > word_count(c.theirs)) for c in decided)
    outcome: dict[str, Any] = {
        "pairs": len(contests),
        "won": results.count("ours"),
        "tied": results.count("tie"),
        "lost": results.count("theirs"),
        "same_answer": len(same),
        "unreadable": sum(winner is None for winner in winners.values()),
        # The same place won twice: the order decided, not the answers.
        "first_place_twice": sum(orders == ("A", "A") for orders in read),
        "second_place_twice": sum(orders == ("B", "B") for orders in read),
        "judged_pairs": len(read),
        "decided_of_different_length": len(decided),
        "longer_won": longer,
        **_lengths(contests),
    }
    if results:
        # Two verdicts a pair, and a tie is one of each: their share is the win rate with ties as halves.
        rows = {"ours": [True, True], "tie": [True, False], "theirs": [False, False]}
        outcome["win_rate"] = accuracy([rows[winner] for winner in results]).instruction.to_dict()
    return outcome


def grade_outcome(
    contests: Sequence[Contest], grades: Mapping[str, tuple[float | None, float | None]]
) -> dict[str, Any]:
    """Mean grades of both models, and their difference paired by task with its standard error. JSON-ready.

    `grades` is by task: ours, theirs; None where the reply could not be read. Only tasks with both grades count.
    """
    both = [(a, b) for c in contests if (a := grades[c.task][0]) is not None and (b := grades[c.task][1]) is not None]
    unreadable = sum(grade is None for c in contests for grade in grades[c.task])
    outcome: dict[str, Any] = {"tasks": len(contests), "graded": len(both), "unreadable": unreadable}
    if both:
        for name, values in zip(("ours", "theirs"), zip(*both, strict=True), strict=True):
            error = {"error": standard_error(values)} if len(both) > 1 else {}
            outcome[f"{name}_grade"] = _rounded({"mean": fmean(values)} | error)
    if len(both) > 1:
        mean, paired_error, _ = paired_difference([a for a, _ in both], [b for _, b in both])
        outcome["difference"] = _rounded({"mean": mean, "error": paired_error})
    return outcome | _lengths(contests)


def _lengths(contests: Sequence[Contest]) -> dict[str, float]:
    return {
        "words_ours": round(fmean([word_count(c.ours) for c in contests]), 3),
        "words_theirs": round(fmean([word_count(c.theirs) for c in contests]), 3),
    }


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: six_decimals(value) for name, value in values.items()}
