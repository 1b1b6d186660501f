"""Whether a round was a gain: paired differences of measures, and the decision from them. Pure.

A round is a gain over the best one before it if at least one measure is better beyond chance and none is worse beyond
chance: constraints kept in verifiable instructions (paired bootstrap by prompt), likelihood of held-out answers (paired
by task) and answers that end by themselves. Beyond chance means that the 95 % interval of the paired difference lies on
one side of zero. The paper's finding for small models is that rounds help, then harm: so the best is kept, and the run
ends when it was not beaten for `patience` measured rounds.

A run that trains on constraints has two measures in place of the first: constraints of the kinds that it trains on, and
of those that it never does. So a model that learns its own kinds at the price of the others is no gain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from minisheep.metrics.stats import change, paired_difference
from minisheep.rules.identity import six_decimals
from minisheep.rules.ifeval import HALVES, half, paired
from minisheep.rules.plain_text import round_name

NORMAL_95 = 1.96
IN_WORDS = {
    "constraints": "following constraints",
    "constraints_trained": "following trained kinds of constraint",
    "constraints_unseen": "following unseen kinds of constraint",
    "likelihood": "the likelihood of right answers",
    "ended": "ending its answers",
}
"""What each measure is about, to complete "it is better in ..."."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A measure of one round less that of another over the same items, with its 95 % interval; above 0 is better."""

    value: float
    low: float
    high: float
    items: int

    @property
    def verdict(self) -> int:
        """1 better and -1 worse beyond chance, else 0."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


def differences(now: Mapping[str, Any], before: Mapping[str, Any], *, halves: bool = False) -> dict[str, Difference]:
    """Every measure that both rounds have, from the ``model`` part of their metrics.

    halves: count constraints by halves, as far as the kinds that are trained on are marked.
    """
    by_measure: dict[str, Difference] = {}
    ours, theirs = now.get("verifiable_by_item", {}), before.get("verifiable_by_item", {})
    parts = {f"constraints_{name}": paired(half(ours, name), half(theirs, name, ours)) for name in HALVES if halves}
    whole = paired(ours, theirs)
    for name, rows in (parts if any(parts.values()) else {"constraints": whole}).items():
        if rows:
            # Rounds that an earlier version measured have strict alone.
            first, second = rows["own" if "own" in rows else "strict"]
            by_measure[name] = Difference(*change(first, second).instruction, len(first))
    now_nll, before_nll = now.get("nll_by_task", {}), before.get("nll_by_task", {})
    tasks = sorted(set(now_nll) & set(before_nll))
    if len(tasks) > 1:
        mean, error, count = paired_difference([before_nll[t] for t in tasks], [now_nll[t] for t in tasks])
        by_measure["likelihood"] = Difference(mean, mean - NORMAL_95 * error, mean + NORMAL_95 * error, count)
    if whole:
        first, second = whole["ended"]
        by_measure["ended"] = Difference(*change(first, second).prompt, len(first))
    return by_measure


def outcome(found: Mapping[str, Difference]) -> str:
    """``gain``, ``loss``, ``mixed`` (some better, some worse) or ``none`` (nothing beyond chance)."""
    verdicts = {difference.verdict for difference in found.values()}
    if {1, -1} <= verdicts:
        return "mixed"
    return "gain" if 1 in verdicts else "loss" if -1 in verdicts else "none"


def decide(
    round: int, now: Mapping[str, Any], measured: Mapping[int, Mapping[str, Any]], *, halves: bool = False
) -> dict[str, Any]:
    """The decision after measuring `round`, JSON-ready, for its metrics.

    `measured` holds the metrics of the rounds measured before, in order; the base is 0. ``best`` is the round to use
    from now on, ``without_gain`` how many rounds were measured since it. `halves`: whether the run trains on
    constraints (see `differences`).
    """
    if not measured:
        return {"best": round, "without_gain": 0, "outcome": "first", "text": ""}
    last = measured[max(measured)]["decision"]
    best = int(last["best"])
    found = differences(now, measured[best]["model"], halves=halves)
    result = outcome(found)
    gained = result == "gain"
    return {
        "against": best,
        "measures": {
            name: {key: six_decimals(getattr(d, key)) for key in ("value", "low", "high")} | {"items": d.items}
            for name, d in found.items()
        },
        "outcome": result,
        "best": round if gained else best,
        "without_gain": 0 if gained else int(last["without_gain"]) + 1,
        "text": sentence(round, best, found, result)
        + (lengths(now, measured[best]["model"]) if gained and halves else ""),
    }


def sentence(round: int, best: int, found: Mapping[str, Difference], result: str) -> str:
    """The decision in words, with the numbers that made it: ``Following constraints: no clear change (0 points, 95 % CI
    -17 to +17)``."""
    rival = round_name(best, "the base model")
    verdict = {
        "gain": f"Round {round} is better than {rival}",
        "loss": f"Round {round} is worse than {rival}, which stays the best",
        "mixed": f"Round {round} is better than {rival} in one way and worse in another, so {rival} stays the best",
        "none": f"Round {round} is not better than {rival} beyond chance, so {rival} stays the best",
    }[result]
    figures = (figure(name, difference) for name, difference in found.items())
    return " ".join([f"{verdict}.", *(f"{text[0].upper()}{text[1:]}." for text in figures)])


def figure(measure: str, found: Difference) -> str:
    """A measure in words: ``following constraints: no clear change (0 points, 95 % CI -17 to +17)``."""
    value, low, high = (signed(measure, number) for number in (found.value, found.low, found.high))
    unit = "nats a token" if measure == "likelihood" else "points"
    verdict = ("no clear change", "better", "worse")[found.verdict]
    return f"{IN_WORDS[measure].removeprefix('the ')}: {verdict} ({value} {unit}, 95 % CI {low} to {high})"


def signed(measure: str, value: float) -> str:
    """A difference with its sign, in percentage points or nats a token; ``0`` where it rounds to that."""
    digits, scaled = (2, value) if measure == "likelihood" else (0, 100 * value)
    rounded = round(scaled, digits)
    return f"{rounded:+.{digits}f}" if rounded else f"{0:.{digits}f}"


def stored(decision: Mapping[str, Any]) -> dict[str, Difference]:
    """The differences that a decision of `decide` holds, in the order of `IN_WORDS`."""
    measures = decision.get("measures", {})
    found = {name: measures[name] for name in IN_WORDS if name in measures}
    return {name: Difference(d["value"], d["low"], d["high"], d.get("items", 0)) for name, d in found.items()}


def told(round: int, decision: Mapping[str, Any]) -> str:
    """A decision of `decide` in today's words, whatever the version that stored it; empty for the first model."""
    if "against" not in decision:
        return str(decision.get("text", ""))
    return sentence(round, int(decision["against"]), stored(decision), decision["outcome"])


def lengths(now: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    """A sentence on the length of answers, which belongs beside every gain; empty where it was not measured."""
    ours, theirs = now.get("answer_words"), before.get("answer_words")
    if not isinstance(ours, int | float) or not isinstance(theirs, int | float):
        return ""
    return f" Its answers have {ours:.0f} words on average, {theirs:.0f} before."
