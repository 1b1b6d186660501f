"""The same run from Python: `align` does (or continues) it, `load_run` opens its folder; results are plain records."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from minisheep import config, loop
from minisheep.config import Settings
from minisheep.data.texts import load_prompts, load_seeds, seeds_digest
from minisheep.engines.remote_server import check_server
from minisheep.errors import DiskError, MinisheepError, RunMismatchError, UsageError
from minisheep.events import Emit, Event, Failed, Glimpse, Note, Progress, RunStarted, to_dict
from minisheep.hosts import InlineHost, SignalledStop, WorkerHost
from minisheep.models.registry import find_model
from minisheep.present import Present
from minisheep.records import digest
from minisheep.run.reading import Round as Round
from minisheep.run.reading import Run as Run
from minisheep.run.reading import load_run as load_run
from minisheep.run.reading import stored_settings as stored_settings
from minisheep.stages.respond import LONGEST_SHOWN, showable
from minisheep.store import Appender, Lock, RunFolder, meant, write_atomic
from minisheep.trainers.choose import choose

NOT_A_RUN = frozenset({".lock", "scratch", "run.toml", "model.json", "events.jsonl", "manifest.json", "pause"})


def align(
    run: str | Path | None = None,
    *,
    preset: str | None = None,
    emit: Emit = lambda event: None,
    tick: Callable[[], None] = lambda: None,
    until: loop.Phase | None = None,
    inline: bool = False,
    **settings: Any,
) -> Run:
    """Do a run, or what is left of it, and return it.

    `settings` are those of `config.Settings`; a run that exists goes on with its own. `emit` gets each event; `tick` is
    called at least twice a second while a worker is busy. `inline` runs everything in this process instead of workers
    (for the fake engine; a real model would keep its memory).

    Raises `errors.MinisheepError`.
    """
    with open_run(run, preset, settings, emit) as (folder, resolved, lock, log):
        host = InlineHost() if inline else WorkerHost(lock.handle, tick)
        try:
            with SignalledStop(host, lambda text: log(Note(text))) if isinstance(host, WorkerHost) else _nothing():
                loop.run(folder, resolved, host, log, until)
        finally:
            host.close()
    return Run(folder.path)


@contextlib.contextmanager
def open_run(
    run: str | Path | None, preset: str | None, given: Mapping[str, Any], emit: Emit
) -> Iterator[tuple[RunFolder, Settings, Lock, Emit]]:
    """The folder of a run, made or continued, locked, with its settings and an `emit` that also writes events.jsonl.

    Raises `errors.UsageError` for settings, seeds or names that are wrong, before anything is made, and
    `errors.RunLockedError` if somebody else works there.
    """
    wanted = config.with_preset(given, preset) if preset else dict(given)
    if run is None:
        fresh = config.make(given, preset or "paper")
        run = default_folder(fresh.model, preset)
    folder = RunFolder(Path(run))
    if not folder.exists:
        settings = config.make(given, preset or "paper")
        _check_inputs(settings)
        _refuse_foreign_folder(folder)
        folder.create()
    lock = Lock(folder.path) if folder.path.is_dir() else None
    if lock is None:
        raise UsageError(f"{folder.path} is not a folder.")
    try:
        resumed = folder.exists and bool(folder.read_manifest()["phases"])
        notes: list[str] = []
        if resumed:
            settings = _continue(folder, wanted, notes)
        else:
            # Nothing has been made yet, so nothing can be contradicted: after a first attempt that failed, every
            # setting may be given anew. What is not given stays, as for every run that exists.
            stored = stored_settings(folder) if folder.exists and preset is None else None
            settings = config.make(given, preset or "paper", base=stored)
            inputs = _check_inputs(settings)
            begun = (folder.path / "round-1").exists() or (folder.path / "round-0").exists()
            if folder.exists and begun:
                settings = _continue(folder, wanted, notes)
            else:
                folder.model.unlink(missing_ok=True)
                write_settings(folder, settings)
                folder.write_manifest({"phases": {}, "inputs": inputs})
        # Whoever gives the command again wants it to go on.
        folder.pause.unlink(missing_ok=True)
        present = Present(folder.present)
        with Appender(folder.events) as events:

            def log(event: Event) -> None:
                if isinstance(event, Progress | Glimpse):
                    present(event)
                else:
                    events.append({"time": round(time.time(), 3), **to_dict(event)})
                if not isinstance(event, Glimpse):
                    emit(event)

            log(
                RunStarted(
                    str(folder.path), settings.model, settings.rounds, settings.engine, settings.trainer, resumed
                )
            )
            for note in notes:
                log(Note(note))
            try:
                yield folder, settings, lock, log
            except MinisheepError as error:
                # For whoever watches from elsewhere; the caller tells its own user.
                with contextlib.suppress(DiskError):
                    events.append({"time": round(time.time(), 3), **to_dict(_failure(error))})
                raise
    finally:
        lock.release()


def _failure(error: MinisheepError) -> Failed:
    return Failed(type(error).__name__, error.message, error.fix)


def default_folder(model: str, preset: str | None) -> Path:
    """Where a run goes that was given no folder: the same command finds it again."""
    name = Path(model.split(":")[0]).name.removesuffix(".gguf").lower() or "run"
    return Path("runs") / (f"{name}-{preset}" if preset and preset != "paper" else name)


def write_settings(folder: RunFolder, settings: Settings) -> None:
    header = b"# The settings of this run, resolved. `minisheep align --run FOLDER` goes on with them.\n"
    write_atomic(folder.settings, header + tomli_w.dumps(settings.model_dump()).encode())


def _continue(folder: RunFolder, wanted: Mapping[str, Any], notes: list[str]) -> Settings:
    """The settings that an existing run goes on with. Raises `errors.RunMismatchError`."""
    stored = stored_settings(folder)
    settings = config.continued(stored, wanted)
    manifest = folder.read_manifest()
    if _check_inputs(settings) != manifest.get("inputs"):
        raise RunMismatchError(
            "The seed tasks or prompts are not those that the run began with.", "Restore them, or start a new run."
        )
    changed = [name for name in config.names() if getattr(settings, name) != getattr(stored, name)]
    if changed:
        told = ", ".join(f"{config.flag(n)} {getattr(stored, n)} -> {getattr(settings, n)}" for n in changed)
        notes.append(f"Continuing with changed settings: {told}.")
        if "keep" in changed:
            redo = [key for key in _filters_to_redo(settings.rounds, manifest["phases"])]
            for key in redo:
                del manifest["phases"][key]
            folder.write_manifest(manifest)
        write_settings(folder, settings)
    return settings


def _filters_to_redo(rounds: int, done: Mapping[str, Any]) -> list[str]:
    """Filters that no training has used yet: they are quick to do again with another --keep."""
    return [
        f"round-{r}/filter"
        for r in range(1, rounds + 1)
        if f"round-{r}/filter" in done and f"round-{r}/train" not in done
    ]


def _check_inputs(settings: Settings) -> dict[str, str]:
    """Reads everything that a user gave, so that a fault shows at once; returns digests of it for the manifest."""
    seeds = load_seeds(settings.seeds)
    shown = sum(not seed.held_out for seed in seeds)
    if shown < settings.shots:
        raise UsageError(f"--shots {settings.shots} needs as many seed tasks to show, and there are {shown}.")
    solved = len(showable(seeds))
    if solved < settings.answer_shots:
        raise UsageError(
            f"--answer-shots {settings.answer_shots} needs as many short seed tasks to show, and there are {solved}.",
            f"One is short with at most {LONGEST_SHOWN} characters, its answer included.",
        )
    prompts = load_prompts(settings.prompts)
    if settings.trainer == "unsloth":
        choose(settings.trainer, settings.load_in)
    check_server(settings)
    if settings.engine != "fake":
        find_model(settings.model, gguf=settings.gguf or None, weights=settings.weights or None)
    return {"seeds": seeds_digest(seeds), "prompts": digest("prompts", prompts)}


def _refuse_foreign_folder(folder: RunFolder) -> None:
    if folder.path.exists() and not folder.path.is_dir():
        raise UsageError(f"{folder.path} is not a folder.", "Give another --run.")
    there = [path.name for path in folder.path.iterdir()] if folder.path.exists() else []
    foreign = [name for name in there if meant(name) not in NOT_A_RUN]
    if foreign and not folder.settings.exists():
        raise UsageError(f"{folder.path} exists and is not a run (it holds {foreign[0]}).", "Give another --run.")


@contextlib.contextmanager
def _nothing() -> Iterator[None]:
    yield
