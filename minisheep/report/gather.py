"""Reads a run folder into plain data for the sections: checks what is there, and notes what is missing."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from minisheep import config, loop
from minisheep.api import Run, no_run
from minisheep.data.constraint_kinds import default_trained_kinds
from minisheep.data.seed_tasks import SeedTask, load_seeds, seeds_digest
from minisheep.errors import CorruptRunError, MinisheepError
from minisheep.report.blocks import ListItem
from minisheep.rules.plain_text import round_name
from minisheep.run import verdict
from minisheep.run.decision import told
from minisheep.run.events import EngineReady, Failed, Note, PhaseFinished, PhaseStarted, RunStarted, TrainStep
from minisheep.run.files import check_links
from minisheep.run.folder import RoundFolder, RunFolder
from minisheep.run.integrity import Damage, damage
from minisheep.run.metric_catalogue import Estimate, round_values
from minisheep.run.reading import UNREADABLE, Reader, RoundRecords, harness_results, read_round, training_steps
from minisheep.run.typed import DIVERSITY, EXAM, HEALTH, METRICS, TRAINING
from minisheep.run.verdict import BeforeAfter, Conclusion
from minisheep.run.versus_lines import lines
from minisheep.stages.collapse import alarms
from minisheep.stages.evaluate import with_halves
from minisheep.stages.exam import Exam
from minisheep.stages.judge import findings
from minisheep.terminal import words
from minisheep.terminal.run_summary import examples

_PHASE = re.compile(r"round-[0-9]{1,6}/[a-z]{1,20}")
_ROUND = re.compile(r"round-(0|[1-9][0-9]{0,5})")


@dataclass(frozen=True, slots=True)
class ReportRound(RoundRecords):
    """One round's files; 0 is the base model. What is missing is empty or None."""

    exam: Exam | None
    health: dict[str, Any] | None
    diversity: dict[str, Any] | None
    training: dict[str, Any] | None
    metrics: dict[str, Any] | None
    steps: tuple[TrainStep, ...]
    hashes: dict[str, str]
    """SHA-256 of the files that a user takes from a round, by name."""

    @property
    def title(self) -> str:
        return round_name(self.number)


@dataclass(frozen=True, slots=True)
class Gathered:
    path: Path
    settings: config.Settings | None
    """None where run.toml is missing, damaged or of another version."""
    model: dict[str, Any]
    inputs: dict[str, str]
    """Digests of seed tasks and prompts."""
    preset: str
    """What its settings began from; empty where that was not recorded."""
    phases: dict[str, dict[str, float]]
    state_known: bool
    """Whether the manifest says what is done."""
    all_rounds: tuple[ReportRound, ...]
    """The base (if it has a folder) and every round that has started."""
    seeds: tuple[SeedTask, ...]
    """Those that the run began with; empty if they are no longer available."""
    conclusion: Conclusion | None
    """What the run came to; None before a round was measured."""
    examples: tuple[BeforeAfter, ...]
    """Answers of the base and of the round that the conclusion is about."""
    harness: dict[int, dict[str, Estimate]]
    judged: tuple[tuple[ListItem, ...], ...]
    """What outside judges decided (`minisheep versus`), in words; one group for each comparison."""
    warnings: tuple[str, ...]
    failure: str
    """Why the run stopped, if no phase finished after that."""
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
        """The round to use, 0 for the base; None if no evaluation of this run compared rounds."""
        decided = any("decision" in (r.metrics or {}) for r in self.all_rounds)
        return loop.standing(self.phases).best if decided else None

    @property
    def next_phase(self) -> loop.Phase | None:
        """None if the run is over, or if that is not known."""
        return loop.next_phase(self.settings, self.phases) if self.settings and self.state_known else None

    @property
    def seconds(self) -> float:
        """Of all finished phases."""
        return sum(counts.get("seconds", 0.0) for counts in self.phases.values())


def gather(path: str | Path) -> Gathered:
    """Read a run folder. Raises `errors.UsageError` for any other folder."""
    folder = RunFolder(Path(path))
    if not (folder.manifest.is_file() or folder.settings.is_file()):
        raise no_run(path)
    check_links(folder.path, writing=False)
    reader = Reader(folder.path)
    settings = _settings(folder, reader)
    manifest = reader.json(folder.manifest, _manifest)
    events = reader.events(folder.events)
    numbers = sorted(int(m[1]) for p in folder.path.iterdir() if (m := _ROUND.fullmatch(p.name)) and p.is_dir())
    rounds = tuple(_round(reader, n, folder.round(n), training_steps(events, n)) for n in numbers)
    if rounds and not folder.manifest.exists():
        reader.note(folder.manifest, "missing, so this report cannot say how far the run got")
    reader.notes += [f"{found}. {found.fix}" for found in _damage(folder)]
    state_known = manifest is not None or not (rounds or folder.manifest.exists())
    manifest = manifest or {"phases": {}, "inputs": {}, "preset": ""}
    seeds = _seeds(settings, manifest["inputs"], reader)
    harness = harness_results(folder.path, reader.notes)
    judged = [reader.json(path, _judged) for path in sorted((folder.path / "judged").glob("*.json"))]
    model = reader.json(folder.model, dict) or {}
    rounds = _with_halves(rounds, settings.language if settings else "en")
    conclusion = _conclusion(rounds, reader)
    return Gathered(
        path=folder.path, settings=settings, model=model, inputs=manifest["inputs"], preset=manifest["preset"],
        phases=manifest["phases"], state_known=state_known, all_rounds=rounds, seeds=seeds, conclusion=conclusion,
        examples=_examples(folder, conclusion, reader) if conclusion else (), harness=harness,
        judged=tuple(items for items in judged if items is not None), warnings=_warnings(events),
        failure=_failure(events), engines=_once(e.description for e in events if isinstance(e, EngineReady)),
        notes=tuple(reader.notes),
    )  # fmt: skip


def _with_halves(rounds: tuple[ReportRound, ...], language: str) -> tuple[ReportRound, ...]:
    """The rounds with trained and unseen kinds of constraint told apart, as far as their metrics allow."""
    base: Mapping[str, Any] = {}
    found = []
    for r in rounds:
        try:
            model = with_halves((r.metrics or {})["model"], base, default_trained_kinds(), language)
            base = base or model
            found.append(replace(r, metrics={**(r.metrics or {}), "model": model}))
        except UNREADABLE:
            found.append(r)
    return tuple(found)


def _conclusion(rounds: Sequence[ReportRound], reader: Reader) -> Conclusion | None:
    metrics = [r.metrics for r in rounds if r.metrics is not None]
    try:
        found = verdict.conclude(metrics)
        verdict.sentence(found), verdict.short_table(found, metrics), verdict.curve(metrics)
        return found
    except UNREADABLE:
        reader.notes.append("The rounds' metrics do not fit together, so this report has no verdict on the run.")
        return None


def _examples(folder: RunFolder, found: Conclusion, reader: Reader) -> tuple[BeforeAfter, ...]:
    try:
        return tuple(examples(Run(folder.path), found))
    except CorruptRunError as error:
        reader.notes.append(f"{error.message} So no answers are shown beside each other.")
        return ()


def _round(reader: Reader, number: int, folder: RoundFolder, steps: tuple[TrainStep, ...]) -> ReportRound:
    records = read_round(number, folder, reader)
    return ReportRound(
        **{field.name: getattr(records, field.name) for field in fields(records)},
        exam=reader.json(folder.exam, Exam.from_dict, EXAM),
        health=reader.json(folder.health, _health, HEALTH),
        diversity=reader.json(folder.diversity, _diversity, DIVERSITY),
        training=reader.json(folder.training, dict, TRAINING),
        metrics=reader.json(folder.metrics, lambda data: _metrics(data, number), METRICS),
        steps=steps,
        hashes={p.name: sha for p in (folder.kept, folder.adapter_gguf) if (sha := reader.sha256(p))},
    )


def _damage(folder: RunFolder) -> list[Damage]:
    try:
        return damage(folder, folder.read_manifest())
    except CorruptRunError:
        return []  # said already


def _settings(folder: RunFolder, reader: Reader) -> config.Settings | None:
    try:
        # An empty file would mean all defaults, but every run writes its settings.
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
    return {
        "phases": phases,
        "inputs": {name: str(value) for name, value in data.get("inputs", {}).items()},
        "preset": str(data.get("preset", "")),
    }


def _health(data: dict[str, Any]) -> dict[str, Any]:
    findings(data)
    return data


def _diversity(data: dict[str, Any]) -> dict[str, Any]:
    # What the alarms can read, the tables can show.
    alarms({1: data, 2: data})
    return data


def _metrics(data: dict[str, Any], number: int) -> dict[str, Any]:
    """Raises if the tables cannot show it."""
    words.metric_rows([data])
    round_values(data, {}, "")
    told(number, data.get("decision", {}))
    if data["round"] != number or not isinstance(data["model"], dict):
        raise ValueError("not this round's metrics")
    return data


def _judged(summary: dict[str, Any]) -> tuple[ListItem, ...]:
    return tuple(ListItem(" ".join(line.split())) for line in lines(summary))


def _warnings(events: Sequence[Any]) -> tuple[str, ...]:
    """Each once; without those of a phase that was begun anew, since the new one gave its own."""
    by_phase: dict[tuple[int, str], list[str]] = {}
    between = phase = (0, "")
    for event in events:
        if isinstance(event, PhaseStarted):
            phase = (event.round, event.phase)
            if not event.done:
                by_phase.pop(phase, None)
        elif isinstance(event, RunStarted | PhaseFinished):
            phase = between
        elif isinstance(event, Note) and event.level == "warning":
            by_phase.setdefault(phase, []).append(event.text)
    return _once(text for texts in by_phase.values() for text in texts)


def _failure(events: Sequence[Any]) -> str:
    for event in reversed(events):
        if isinstance(event, Failed):
            return f"{event.message} {event.fix}".strip()
        if isinstance(event, PhaseFinished):
            break
    return ""


def _seeds(settings: config.Settings | None, inputs: Mapping[str, str], reader: Reader) -> tuple[SeedTask, ...]:
    """The seed tasks, if they have not changed since the run began."""
    if settings is None:
        return ()
    try:
        seeds = load_seeds(settings.seeds, settings.language)
    except MinisheepError as error:
        reader.notes.append(f"{error.message} The map of the data shows no seed tasks.")
        return ()
    if "seeds" in inputs and seeds_digest(seeds) != inputs["seeds"]:
        reader.notes.append(
            "The seed tasks have changed since the run began, so the map of the data does not show them."
        )
        return ()
    return tuple(seeds)


def _once(texts: Iterable[Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(text) for text in texts))
