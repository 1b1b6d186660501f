"""A run folder as plain data for the sections: what is there, checked, and what is missing, said."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from minisheep import config, loop
from minisheep.config import Settings
from minisheep.errors import MinisheepError, UsageError
from minisheep.report.blocks import ListItem
from minisheep.rules.seed_tasks import SeedTask, load_seeds, seeds_digest
from minisheep.run.events import EngineReady, Failed, Note, PhaseFinished, TrainStep
from minisheep.run.folder import RoundFolder, RunFolder
from minisheep.run.metric_catalogue import Estimate, round_values
from minisheep.run.reading import Reader, RoundRecords, harness_results, read_round, training_steps
from minisheep.run.versus_lines import lines
from minisheep.stages.collapse import alarms
from minisheep.stages.exam import Exam
from minisheep.stages.judge import findings
from minisheep.terminal import words

_PHASE = re.compile(r"round-[0-9]{1,6}/[a-z]{1,20}")
_ROUND = re.compile(r"round-(0|[1-9][0-9]{0,5})")


@dataclass(frozen=True, slots=True)
class ReportRound(RoundRecords):
    """One round's files; 0 is the base model. What is not there is empty or None."""

    exam: Exam | None
    health: dict[str, Any] | None
    diversity: dict[str, Any] | None
    training: dict[str, Any] | None
    metrics: dict[str, Any] | None
    steps: tuple[TrainStep, ...]
    hashes: dict[str, str]
    """SHA-256 of what a user takes from a round, by file name."""

    @property
    def title(self) -> str:
        return f"round {self.number}" if self.number else "base"


@dataclass(frozen=True, slots=True)
class Gathered:
    path: Path
    settings: Settings | None
    """None where run.toml is missing, damaged or of another version."""
    model: dict[str, Any]
    inputs: dict[str, str]
    """Digests of seed tasks and prompts."""
    phases: dict[str, dict[str, float]]
    state_known: bool
    """Whether the manifest says what is done."""
    all_rounds: tuple[ReportRound, ...]
    """The base (if it has a folder) and every round that was begun."""
    seeds: tuple[SeedTask, ...]
    """Those that the run began with; none where they are not to be had any more."""
    harness: dict[int, dict[str, Estimate]]
    judged: tuple[tuple[ListItem, ...], ...]
    """What outside judges decided (`minisheep versus`), in words; one group a comparison."""
    warnings: tuple[str, ...]
    failure: str
    """Why the run stopped, where nothing was done after it."""
    engines: tuple[str, ...]
    notes: tuple[str, ...]
    """What is missing or could not be read."""

    @property
    def rounds(self) -> tuple[ReportRound, ...]:
        """Without the base."""
        return tuple(r for r in self.all_rounds if r.number)

    @property
    def measured(self) -> tuple[ReportRound, ...]:
        return tuple(r for r in self.all_rounds if r.metrics is not None)

    @property
    def best(self) -> int | None:
        """The round to use, 0 for the base; None where nothing was decided (nothing measured, or an old version)."""
        decided = any("decision" in (r.metrics or {}) for r in self.all_rounds)
        return loop.standing(self.phases).best if decided else None

    @property
    def next_phase(self) -> loop.Phase | None:
        """None where the run is over, and where that is not known."""
        return loop.next_phase(self.settings, self.phases) if self.settings and self.state_known else None

    @property
    def seconds(self) -> float:
        """All phases that are done."""
        return sum(counts.get("seconds", 0.0) for counts in self.phases.values())


def gather(path: str | Path) -> Gathered:
    """Read a run folder. Raises `errors.UsageError` if it is none."""
    folder = RunFolder(Path(path))
    if not (folder.manifest.is_file() or folder.settings.is_file()):
        raise UsageError(f"{path} is not a run folder.", "`minisheep align` makes one.")
    reader = Reader(folder.path)
    settings = _settings(folder, reader)
    manifest = reader.json(folder.manifest, _manifest)
    events = reader.events(folder.events)
    numbers = sorted(int(m[1]) for p in folder.path.iterdir() if (m := _ROUND.fullmatch(p.name)) and p.is_dir())
    rounds = tuple(_round(reader, n, folder.round(n), training_steps(events, n)) for n in numbers)
    if rounds and not folder.manifest.exists():
        reader.note(folder.manifest, "missing, so how far the run is cannot be told")
    state_known = manifest is not None or not (rounds or folder.manifest.exists())
    manifest = manifest or {"phases": {}, "inputs": {}}
    seeds = _seeds(settings, manifest["inputs"], reader)
    harness = harness_results(folder.path, reader.notes)
    judged = [reader.json(path, _judged) for path in sorted((folder.path / "judged").glob("*.json"))]
    model = reader.json(folder.model, dict) or {}
    return Gathered(
        path=folder.path,
        settings=settings,
        model=model,
        inputs=manifest["inputs"],
        phases=manifest["phases"],
        state_known=state_known,
        all_rounds=rounds,
        seeds=seeds,
        harness=harness,
        judged=tuple(found for found in judged if found is not None),
        warnings=_once(e.text for e in events if isinstance(e, Note) and e.level == "warning"),
        failure=_failure(events),
        engines=_once(e.description for e in events if isinstance(e, EngineReady)),
        notes=tuple(reader.notes),
    )


def _round(reader: Reader, number: int, folder: RoundFolder, steps: tuple[TrainStep, ...]) -> ReportRound:
    records = read_round(number, folder, reader)
    return ReportRound(
        **{field.name: getattr(records, field.name) for field in fields(records)},
        exam=reader.json(folder.exam, Exam.from_dict),
        health=reader.json(folder.health, _health),
        diversity=reader.json(folder.diversity, _diversity),
        training=reader.json(folder.training, dict),
        metrics=reader.json(folder.metrics, lambda data: _metrics(data, number)),
        steps=steps,
        hashes={p.name: sha for p in (folder.kept, folder.adapter_gguf) if (sha := reader.sha256(p))},
    )


def _settings(folder: RunFolder, reader: Reader) -> Settings | None:
    try:
        # An empty file would be a run by the defaults, which no run writes.
        if stored := tomllib.loads(folder.settings.read_text(encoding="utf-8")):
            return config.make(stored)
    except FileNotFoundError:
        reader.note(folder.settings, "missing, so no settings are shown")
        return None
    except (MinisheepError, OSError, ValueError, RecursionError):
        pass
    reader.note(folder.settings, "damaged or of another version, so no settings are shown")
    return None


def _manifest(data: Mapping[str, Any]) -> dict[str, Any]:
    phases = {
        key: {name: float(value) for name, value in counts.items() if math.isfinite(value)}
        for key, counts in data["phases"].items()
        if _PHASE.fullmatch(key)
    }
    return {"phases": phases, "inputs": {name: str(value) for name, value in data.get("inputs", {}).items()}}


def _health(data: dict[str, Any]) -> dict[str, Any]:
    findings(data)
    return data


def _diversity(data: dict[str, Any]) -> dict[str, Any]:
    # Whatever the alarms can read, the tables can.
    alarms({1: data, 2: data})
    return data


def _metrics(data: dict[str, Any], number: int) -> dict[str, Any]:
    """Raises where the tables could not be made of it."""
    words.metric_rows([data])
    round_values(data, {}, "")
    if data["round"] != number or not isinstance(data["model"], dict):
        raise ValueError("not this round's metrics")
    return data


def _judged(summary: dict[str, Any]) -> tuple[ListItem, ...]:
    return tuple(ListItem(" ".join(line.split())) for line in lines(summary))


def _failure(events: Sequence[Any]) -> str:
    for event in reversed(events):
        if isinstance(event, Failed):
            return f"{event.message} {event.fix}".strip()
        if isinstance(event, PhaseFinished):
            break
    return ""


def _seeds(settings: Settings | None, inputs: Mapping[str, str], reader: Reader) -> tuple[SeedTask, ...]:
    """The seed tasks, if they are still those that the run began with."""
    if settings is None:
        return ()
    try:
        seeds = load_seeds(settings.seeds)
    except MinisheepError as error:
        reader.notes.append(f"{error.message} The map of the data is drawn without seed tasks.")
        return ()
    if "seeds" in inputs and seeds_digest(seeds) != inputs["seeds"]:
        reader.notes.append("The seed tasks are not those that the run began with, so the map is drawn without them.")
        return ()
    return tuple(seeds)


def _once(texts: Iterable[Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(text) for text in texts))
