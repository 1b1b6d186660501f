"""Runs side by side: what was measured, what differs in their settings, which base they share, and the differences of
two models over the same items.

Pairing by item removes the spread between items, which is mostly far larger than the difference of two adapters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from minisheep.api import Run, load_run
from minisheep.data.constraint_kinds import default_trained_kinds
from minisheep.errors import UsageError
from minisheep.metrics.stats import change, paired_difference
from minisheep.rules.ifeval import HALVES, READINGS, half, paired
from minisheep.rules.plain_text import shell
from minisheep.run import decision, verdict
from minisheep.run.folder import RunFolder
from minisheep.run.metric_catalogue import Estimate, Value, round_values
from minisheep.run.reading import harness_results, read_object
from minisheep.stages.evaluate import with_halves

FITTING = frozenset({"threads", "slots", "gpu_layers", "micro_batch_size", "checkpoint_seconds"})
"""Settings that fit a run to its machine; they change results only by rounding, so tables leave them out."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One measured model: the base (round 0), or the base with a round's adapter."""

    round: int
    values: dict[str, Value]
    model: Mapping[str, Any]
    """The model's part of the round's metrics.json, with its verdicts by item."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run with what it measured, in order of the rounds."""

    key: str
    """A letter that stands for it in tables."""
    path: str
    settings: dict[str, Any]
    gguf: str
    """SHA-256 of the base GGUF: what makes two models the same."""
    seeds: str
    """Digest of the seed tasks: what makes two held-out sets the same."""
    best: int | None
    """The round to use, as the run decided; 0 is the base, None if it decided nothing."""
    measured: tuple[Measured, ...]

    @property
    def rounds(self) -> tuple[Measured, ...]:
        return tuple(m for m in self.measured if m.round)


@dataclass(frozen=True, slots=True)
class RunRow:
    """A measured model in a table. A base that several runs share is one row of all of them."""

    results: tuple[RunResult, ...]
    measured: Measured

    @property
    def key(self) -> str:
        return " ".join(result.key for result in self.results)

    @property
    def best(self) -> bool:
        """Whether this is the model that its run (for a base: any of them) calls the best."""
        return any(result.best == self.measured.round for result in self.results)


@dataclass(frozen=True, slots=True)
class Comparison:
    results: tuple[RunResult, ...]
    differing: tuple[str, ...]
    """Names of the settings that are not the same in all runs, in the order of the settings; none of `FITTING`."""
    rows: tuple[RunRow, ...]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PairedResults:
    """`first` minus `second`; `values` holds what their items allow."""

    first: tuple[RunResult, Measured]
    second: tuple[RunResult, Measured]
    values: dict[str, Estimate]
    """The verifiable shares, of both halves too, and ``nll``."""
    not_comparable: tuple[str, ...]
    """Why values are missing."""

    def sentence(self, *, alone: bool) -> str:
        """In words, by the measures that decide between rounds. alone: both are of one run."""
        (run_a, a), (run_b, b) = self.first, self.second
        halves = "constraints_trained" in self.values and bool(run_a.settings["constraints"])
        found = decision.differences(a.model, b.model, halves=halves)
        fair = {n: d for n, d in found.items() if ("nll" if n == "likelihood" else "instruction_strict") in self.values}
        of_a, of_b = ("", "") if alone else (_whose(run_a), _whose(run_b))
        return verdict.pair_sentence(fair, (f"round {a.round}{of_a}", f"round {b.round}{of_b}"), (a.model, b.model))


def compare(paths: Sequence[str]) -> Comparison:
    """Read the runs in `paths`; one that is named twice counts once.

    Raises `errors.UsageError` for a path that is no run or where nothing was measured at all, and
    `errors.CorruptRunError` for damaged files.
    """
    notes: list[str] = []
    once = {Path(path).resolve(): path for path in reversed(paths)}
    opened = [load_run(path) for path in reversed(once.values())]
    results = tuple(_read(run, _key(place), notes) for place, run in enumerate(opened))
    if not any(result.measured for result in results):
        for run in opened:
            run.check_whole("evaluate")
        raise UsageError(
            f"Nothing has been measured in {' or '.join(result.path for result in results)} yet.",
            f"`minisheep align --run {shell(results[0].path)}` goes on.",
        )
    notes += [f"{run.path}, {found}: damaged. To fix it: {found.command}." for run in opened for found in run.damage]
    for result in results:
        if not result.rounds:
            state = "only its base has been measured" if result.measured else "nothing has been measured there yet"
            notes.append(f"{result.path}: {state}; `minisheep align --run {shell(result.path)}` goes on.")
    if len({result.gguf for result in results}) > 1:
        notes.append("The runs are of different models: each is measured against its own base.")
    rounds = [RunRow((result,), measured) for result in results for measured in result.rounds]
    return Comparison(results, differing(results), (*_bases(results), *rounds), notes)


def differing(results: Sequence[RunResult]) -> tuple[str, ...]:
    names = [name for name in results[0].settings if name not in FITTING]
    return tuple(name for name in names if any(r.settings[name] != results[0].settings[name] for r in results))


def shared(results: Sequence[RunResult], name: str) -> Any:
    """A setting's value, or nothing where a row is of runs in which it differs."""
    values = [result.settings[name] for result in results]
    return values[0] if all(value == values[0] for value in values) else ""


def best(result: RunResult) -> Measured | None:
    """The round that the run itself calls its best; where that is the base, the last one. None where there is none.

    A best round was chosen by the numbers that are then shown, so they look a little better than they are.
    """
    return next((m for m in result.rounds if m.round == result.best), result.rounds[-1] if result.rounds else None)


def differences(results: Sequence[RunResult]) -> list[PairedResults]:
    """Of several runs: the best round of each against that of the first. Of one run: each round against the last one
    before it."""
    if len(results) == 1:
        (run,) = results
        return [difference((run, later), (run, earlier)) for earlier, later in pairwise(run.rounds)]
    chosen = [(result, measured) for result in results if (measured := best(result)) is not None]
    return [difference(other, chosen[0]) for other in chosen[1:]]


def difference(first: tuple[RunResult, Measured], second: tuple[RunResult, Measured]) -> PairedResults:
    (run_a, a), (run_b, b) = first, second
    if run_a.gguf != run_b.gguf:
        return PairedResults(first, second, {}, ("different models",))
    values: dict[str, Estimate] = {}
    why: list[str] = []
    limit = "eval_verifiable_max_tokens"
    if run_a.settings[limit] != run_b.settings[limit]:
        why.append("verifiable instructions: answers of different length were allowed")
    elif not (verifiable := _verifiable(a.model, b.model)):
        why.append("verifiable instructions: none in common")
    else:
        values |= verifiable
        if (halves := _halves(a.model, b.model)) is None:
            why.append("trained and unseen kinds of constraint: not the same kinds in both")
        values |= halves or {}
    if run_a.seeds != run_b.seeds:
        why.append("held-out tasks: the runs have different seed tasks")
    elif (nll := _likelihood(a.model, b.model)) is None:
        why.append("held-out tasks: fewer than two in common")
    else:
        values["nll"] = nll
    return PairedResults(first, second, values, tuple(why))


def _read(run: Run, key: str, notes: list[str]) -> RunResult:
    folder, settings = RunFolder(run.path), run.settings
    model = read_object(folder.model)
    harness = harness_results(run.path, notes)
    measured: list[Measured] = []
    decided = False
    base: Mapping[str, Any] = {}
    for round in run.measured:
        metrics = round.metrics
        metrics["model"] = with_halves(metrics.get("model", {}), base, default_trained_kinds(), settings.language)
        base = base or metrics["model"]
        decided = decided or "decision" in metrics
        values = {**round_values(metrics, round.exam, settings.judge), **harness.get(round.number, {})}
        measured.append(Measured(round.number, values, metrics.get("model", {})))
    return RunResult(
        key=key,
        path=str(run.path),
        settings=settings.model_dump(),
        gguf=str(model.get("gguf_sha256") or settings.model),
        seeds=str(folder.read_manifest().get("inputs", {}).get("seeds", "")),
        # A run of an earlier version decided nothing.
        best=run.best if decided else None,
        measured=tuple(measured),
    )


def _whose(run: RunResult) -> str:
    return f" of {run.key}" + " (its last: its best is the base)" * (run.best == 0)


def _bases(results: Iterable[RunResult]) -> list[RunRow]:
    """Round 0 of each model once: runs share a row if their base is the same file and measured the same."""
    groups: list[list[RunResult]] = []
    for result in results:
        if result.measured and result.measured[0].round == 0:
            group = next((group for group in groups if all(_same_base(result, other) for other in group)), None)
            if group is None:
                groups.append(group := [])
            group.append(result)
    return [RunRow(tuple(group), _merged([result.measured[0] for result in group])) for group in groups]


def _same_base(one: RunResult, other: RunResult) -> bool:
    """Results of the harness may be there for one run alone, but may not contradict each other."""
    a, b = one.measured[0], other.measured[0]
    same_values = all(a.values[name] == b.values[name] for name in set(a.values) & set(b.values))
    return one.gguf == other.gguf and a.model == b.model and same_values


def _merged(bases: Sequence[Measured]) -> Measured:
    values = {name: value for base in bases for name, value in base.values.items()}
    return Measured(0, values, bases[0].model)


def _key(place: int) -> str:
    """A .. Z, then A2 .. Z2 and so on."""
    letter, turn = chr(ord("A") + place % 26), place // 26
    return letter if turn == 0 else f"{letter}{turn + 1}"


def _verifiable(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Estimate]:
    estimates = {}
    for reading, rows in paired(a.get("verifiable_by_item", {}), b.get("verifiable_by_item", {})).items():
        if reading in READINGS:
            for level, interval in change(*rows)._asdict().items():
                estimates[f"{level}_{reading}"] = Estimate(*interval)
    return estimates


def _halves(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Estimate] | None:
    """Constraints of trained and of unseen kinds, in the answers' own words; None if the runs train on different kinds,
    empty if both were measured by a version that did not tell them apart."""
    ours, theirs = a.get("verifiable_by_item", {}), b.get("verifiable_by_item", {})
    if any(ours[name].get("trained") != theirs[name].get("trained") for name in ours if name in theirs):
        return None
    pairs = {name: paired(half(ours, name), half(theirs, name)) for name in HALVES}
    return {f"constraints_{name}": Estimate(*change(*rows["own"]).instruction) for name, rows in pairs.items() if rows}


def _likelihood(a: Mapping[str, Any], b: Mapping[str, Any]) -> Estimate | None:
    ours, theirs = a.get("nll_by_task", {}), b.get("nll_by_task", {})
    common = sorted(set(ours) & set(theirs))
    if len(common) < 2:
        return None
    mean, error, _ = paired_difference([ours[name] for name in common], [theirs[name] for name in common])
    return Estimate(mean, error=error)
