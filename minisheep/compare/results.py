"""Runs read from their folders: what was measured, what differs in their settings, which base they share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minisheep import api
from minisheep.compare.metrics import Estimate, Value, harness_values, round_values
from minisheep.errors import CorruptRunError, UsageError
from minisheep.machine.files import read_json
from minisheep.store import RunFolder

FITTING = frozenset({"threads", "slots", "gpu_layers", "micro_batch_size", "checkpoint_seconds"})
"""Settings that fit a run to its machine; they move results by rounding only, so tables do not name them."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One measured model: the base (round 0), or the base with a round's adapter."""

    round: int
    values: dict[str, Value]
    model: Mapping[str, Any]
    """The model's part of the round's metrics.json, with its verdicts by item."""


@dataclass(frozen=True, slots=True)
class Result:
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
    """The round to use, as the run decided; 0 is the base, None where it did not."""
    measured: tuple[Measured, ...]

    @property
    def rounds(self) -> tuple[Measured, ...]:
        return tuple(m for m in self.measured if m.round)


@dataclass(frozen=True, slots=True)
class Row:
    """A measured model in a table. A base that several runs share is one row of all of them."""

    results: tuple[Result, ...]
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
    results: tuple[Result, ...]
    differing: tuple[str, ...]
    """Names of the settings that are not the same in all runs, in the order of the settings; none of `FITTING`."""
    rows: tuple[Row, ...]
    notes: list[str] = field(default_factory=list)


def compare(paths: Sequence[str]) -> Comparison:
    """Read the runs in `paths`; one that stands there twice counts once.

    Raises `errors.UsageError` for a path that is no run or where nothing was measured at all, and
    `errors.CorruptRunError` for damaged files.
    """
    notes: list[str] = []
    once = {Path(path).resolve(): path for path in reversed(paths)}
    opened = [api.load_run(path) for path in reversed(once.values())]
    results = tuple(_read(run, _key(place), notes) for place, run in enumerate(opened))
    if not any(result.measured for result in results):
        raise UsageError(
            f"Nothing has been measured in {' or '.join(result.path for result in results)} yet.",
            f"`minisheep align --run {results[0].path}` goes on.",
        )
    for result in results:
        if not result.rounds:
            state = "only its base has been measured" if result.measured else "nothing has been measured there yet"
            notes.append(f"{result.path}: {state}; `minisheep align --run {result.path}` goes on.")
    if len({result.gguf for result in results}) > 1:
        notes.append("The runs are of different models: each is measured against its own base.")
    return Comparison(results, differing(results), (*_bases(results), *_rounds(results)), notes)


def differing(results: Sequence[Result]) -> tuple[str, ...]:
    names = [name for name in results[0].settings if name not in FITTING]
    return tuple(name for name in names if any(r.settings[name] != results[0].settings[name] for r in results))


def shared(results: Sequence[Result], name: str) -> Any:
    """A setting's value, or nothing where a row is of runs in which it differs."""
    values = [result.settings[name] for result in results]
    return values[0] if all(value == values[0] for value in values) else ""


def _read(run: api.Run, key: str, notes: list[str]) -> Result:
    folder = RunFolder(run.path)
    settings = run.settings
    model = _object(folder.model)
    harness = harness_results(run.path, notes)
    measured: list[Measured] = []
    decided = False
    for number in range(settings.rounds + 1):
        place = folder.round(number)
        if not place.metrics.exists():
            continue
        metrics = _object(place.metrics)
        decided = decided or "decision" in metrics
        values = {**round_values(metrics, _object(place.exam), settings.judge), **harness.get(number, {})}
        measured.append(Measured(number, values, metrics.get("model", {})))
    return Result(
        key=key,
        path=str(run.path),
        settings=settings.model_dump(),
        gguf=str(model.get("gguf_sha256") or settings.model),
        seeds=str(folder.read_manifest().get("inputs", {}).get("seeds", "")),
        # A run of an earlier version decided nothing.
        best=run.best if decided else None,
        measured=tuple(measured),
    )


def _object(path: Path) -> dict[str, Any]:
    """A JSON object of minisheep's own; empty where there is no such file. Raises `errors.CorruptRunError`."""
    if not path.exists():
        return {}
    found = read_json(path)
    if not isinstance(found, dict):
        raise CorruptRunError(f"{path} is damaged: it holds no object.", "Restore it from a copy.")
    return found


def harness_results(run: Path, notes: list[str]) -> dict[int, dict[str, Estimate]]:
    """Values of the evaluation harness by round; the base's may say 0 or null. A file that is none becomes a note."""
    found: dict[int, dict[str, Estimate]] = {}
    for path in sorted((run / "eval").glob("*.json")):
        try:
            report = json.loads(path.read_bytes())
            number = int(report.get("round") or 0)
            # Behind the round the file's name says what was measured otherwise: "ifeval-round-1-limit-20".
            variant = path.stem.partition(f"-round-{number}")[2]
            found.setdefault(number, {}).update(harness_values(report, variant))
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            notes.append(f"{path} is not a result of `minisheep eval`, so it is left out.")
    return found


def _bases(results: Iterable[Result]) -> list[Row]:
    """Round 0 of each model once: runs share a row if their base is the same file and measured the same."""
    groups: list[list[Result]] = []
    for result in results:
        if result.measured and result.measured[0].round == 0:
            group = next((group for group in groups if all(_same_base(result, other) for other in group)), None)
            if group is None:
                groups.append(group := [])
            group.append(result)
    return [Row(tuple(group), _merged([result.measured[0] for result in group])) for group in groups]


def _same_base(one: Result, other: Result) -> bool:
    """Results of the harness may be there for one run alone, but may not contradict each other."""
    a, b = one.measured[0], other.measured[0]
    same_values = all(a.values[name] == b.values[name] for name in set(a.values) & set(b.values))
    return one.gguf == other.gguf and a.model == b.model and same_values


def _merged(bases: Sequence[Measured]) -> Measured:
    values = {name: value for base in bases for name, value in base.values.items()}
    return Measured(0, values, bases[0].model)


def _rounds(results: Iterable[Result]) -> list[Row]:
    return [Row((result,), measured) for result in results for measured in result.rounds]


def _key(place: int) -> str:
    """A .. Z, then A2 .. Z2 and so on."""
    letter, turn = chr(ord("A") + place % 26), place // 26
    return letter if turn == 0 else f"{letter}{turn + 1}"
