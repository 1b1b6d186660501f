"""Differences of two models over the same items, and where there are none to tell.

Pairing by item takes out the spread between items, which is mostly far larger than the difference of two adapters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from minisheep.compare.metrics import Estimate
from minisheep.compare.results import Measured, Result
from minisheep.rules.bootstrap import change
from minisheep.rules.statistics import paired_difference
from minisheep.stages.verifiable import READINGS, paired


@dataclass(frozen=True, slots=True)
class Difference:
    """`first` minus `second`; `values` holds what their items allow."""

    first: tuple[Result, Measured]
    second: tuple[Result, Measured]
    values: dict[str, Estimate]
    """The four verifiable shares and ``nll``."""
    not_comparable: tuple[str, ...]
    """Why there is nothing, or not everything, to tell."""


def best(result: Result) -> Measured | None:
    """The round that the run itself calls its best; where that is the base, the last one. None where there is none.

    A best round was chosen by the numbers that are then shown, so they look a little better than they are.
    """
    return next((m for m in result.rounds if m.round == result.best), result.rounds[-1] if result.rounds else None)


def differences(results: Sequence[Result]) -> list[Difference]:
    """Of several runs: the best round of each against that of the first. Of one run: each round against the last one
    before it."""
    if len(results) == 1:
        (run,) = results
        return [difference((run, later), (run, earlier)) for earlier, later in pairwise(run.rounds)]
    chosen = [(result, found) for result in results if (found := best(result)) is not None]
    return [difference(other, chosen[0]) for other in chosen[1:]]


def difference(first: tuple[Result, Measured], second: tuple[Result, Measured]) -> Difference:
    """The paired differences of two measured models."""
    (run_a, a), (run_b, b) = first, second
    if run_a.gguf != run_b.gguf:
        return Difference(first, second, {}, ("different models",))
    values: dict[str, Estimate] = {}
    why: list[str] = []
    limit = "eval_verifiable_max_tokens"
    if run_a.settings[limit] != run_b.settings[limit]:
        why.append("verifiable instructions: answers of different length were allowed")
    elif not (found := _verifiable(a.model, b.model)):
        why.append("verifiable instructions: none in common")
    else:
        values |= found
    if run_a.seeds != run_b.seeds:
        why.append("held-out tasks: the runs have different seed tasks")
    elif (nll := _likelihood(a.model, b.model)) is None:
        why.append("held-out tasks: fewer than two in common")
    else:
        values["nll"] = nll
    return Difference(first, second, values, tuple(why))


def _verifiable(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Estimate]:
    found = {}
    for reading, rows in paired(a.get("verifiable_by_item", {}), b.get("verifiable_by_item", {})).items():
        if reading in READINGS:
            for level, interval in change(*rows)._asdict().items():
                found[f"{level}_{reading}"] = Estimate(*interval)
    return found


def _likelihood(a: Mapping[str, Any], b: Mapping[str, Any]) -> Estimate | None:
    ours, theirs = a.get("nll_by_task", {}), b.get("nll_by_task", {})
    common = sorted(set(ours) & set(theirs))
    if len(common) < 2:
        return None
    mean, error, _ = paired_difference([ours[name] for name in common], [theirs[name] for name in common])
    return Estimate(mean, error=error)
