"""The same run from Python: `align` does (or continues) it, `load_run` opens its folder; results are plain records."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
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
from minisheep.machine.files import meant, write_atomic
from minisheep.models.registry import find_model
from minisheep.present import Present
from minisheep.records import digest
from minisheep.run.reading import Round as Round
from minisheep.run.reading import Run as Run
from minisheep.run.reading import load_run as load_run
from minisheep.run.reading import stored_settings as stored_settings
from minisheep.stages.respond import LONGEST_SHOWN, showable
from minisheep.store import Appender, Lock, RunFolder
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
    with open_run(run, preset, settings, emit) as (folder, resolved, lock, log), contextlib.ExitStack() as leaving:
        host = InlineHost() if inline else WorkerHost(lock.handle, tick)
        leaving.callback(host.close)
        if isinstance(host, WorkerHost):
            leaving.enter_context(SignalledStop(host, lambda text: log(Note(text))))
        loop.run(folder, resolved, host, log, until)
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
    folder = RunFolder(Path(run) if run is not None else default_folder(config.make(wanted).model, preset))
    if not folder.exists:
        # Before there is a folder: what is refused leaves none behind.
        check(resolve(wanted))
        _refuse_foreign_folder(folder)
        folder.create()
    lock = Lock(folder.path)
    try:
        opening = resolve(wanted, *read_standing(folder, preset))
        write(folder, opening, check(opening))
        settled, resumed = opening.settings, bool(opening.manifest and opening.manifest["phases"])
        with _telling(folder, emit) as log:
            log(RunStarted(str(folder.path), settled.model, settled.rounds, settled.engine, settled.trainer, resumed))
            if opening.note:
                log(Note(opening.note))
            yield folder, settled, lock, log
    finally:
        lock.release()


@dataclass(frozen=True, slots=True)
class Opening:
    """How a run will begin or go on."""

    settings: Settings
    manifest: Mapping[str, Any] | None = None
    """What goes on, without the phases that are to be done again; None for a run that begins."""
    note: str = ""
    """The settings that changed, in words."""


def read_standing(folder: RunFolder, preset: str | None) -> tuple[Settings | None, Mapping[str, Any] | None]:
    """The settings of a run and the manifest of what was made with them, each None where it does not count."""
    manifest = folder.read_manifest()
    begun = bool(manifest["phases"]) or (folder.exists and any(folder.round(n).path.exists() for n in (0, 1)))
    stored = stored_settings(folder) if begun or (folder.exists and preset is None) else None
    return stored, manifest if begun else None


def resolve(
    wanted: Mapping[str, Any], stored: Settings | None = None, manifest: Mapping[str, Any] | None = None
) -> Opening:
    """The settings that a run will have, from those that are wanted and those of its folder, and what follows. Pure.

    Without a `manifest` nothing has been made yet, so nothing can be contradicted: after a first attempt that failed,
    every setting may be given anew. What is not given stays. Raises `errors.ConfigError` and `errors.RunMismatchError`.
    """
    if stored is None or manifest is None:
        return Opening(config.make(wanted, base=stored))
    settings, done = config.continued(stored, wanted), dict(manifest["phases"])
    changed = [name for name in config.names() if getattr(settings, name) != getattr(stored, name)]
    if not changed:
        return Opening(settings, manifest)
    if "keep" in changed:
        # Filters that no training has used yet are quick to do again.
        for number in range(1, settings.rounds + 1):
            if f"round-{number}/train" not in done:
                done.pop(f"round-{number}/filter", None)
    told = ", ".join(f"{config.flag(n)} {getattr(stored, n)} -> {getattr(settings, n)}" for n in changed)
    return Opening(settings, {**manifest, "phases": done}, f"Continuing with changed settings: {told}.")


def check(opening: Opening) -> dict[str, str]:
    """Reads everything that a user gave, so that a fault shows at once; returns digests of it for the manifest.

    Nothing is written. Raises `errors.UsageError`, what the search for the model raises, and
    `errors.RunMismatchError` where seeds or prompts are others than a run began with.
    """
    settings = opening.settings
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
    inputs = {"seeds": seeds_digest(seeds), "prompts": digest("prompts", prompts)}
    if opening.manifest is not None and opening.manifest.get("inputs") != inputs:
        raise RunMismatchError(
            "The seed tasks or prompts are not those that the run began with.", "Restore them, or start a new run."
        )
    return inputs


def write(folder: RunFolder, opening: Opening, inputs: Mapping[str, str]) -> None:
    """Make what was resolved and checked the state of the folder. Raises `errors.DiskError`."""
    if opening.manifest is None:
        folder.model.unlink(missing_ok=True)
        write_settings(folder, opening.settings)
        folder.write_manifest({"phases": {}, "inputs": inputs})
    elif opening.note:
        # The manifest first: cut off in between, the filter is done again with the old --keep, and not left out.
        folder.write_manifest(dict(opening.manifest))
        write_settings(folder, opening.settings)
    # Whoever gives the command again wants it to go on.
    folder.pause.unlink(missing_ok=True)


@contextlib.contextmanager
def _telling(folder: RunFolder, emit: Emit) -> Iterator[Emit]:
    """An `emit` that also writes events.jsonl, where a failure is told too, and shows progress to who watches."""
    present = Present(folder.present)
    with Appender(folder.events) as events:

        def store(event: Event) -> None:
            events.append({"time": round(time.time(), 3), **to_dict(event)})

        def log(event: Event) -> None:
            if isinstance(event, Progress | Glimpse):
                present(event)
            else:
                store(event)
            if not isinstance(event, Glimpse):
                emit(event)

        try:
            yield log
        except MinisheepError as error:
            # For whoever watches from elsewhere; the caller tells its own user.
            with contextlib.suppress(DiskError):
                store(Failed(type(error).__name__, error.message, error.fix))
            raise


def default_folder(model: str, preset: str | None) -> Path:
    """Where a run goes that was given no folder: the same command finds it again."""
    name = Path(model.split(":")[0]).name.removesuffix(".gguf").lower() or "run"
    return Path("runs") / (f"{name}-{preset}" if preset and preset != "paper" else name)


def write_settings(folder: RunFolder, settings: Settings) -> None:
    header = b"# The settings of this run, resolved. `minisheep align --run FOLDER` goes on with them.\n"
    write_atomic(folder.settings, header + tomli_w.dumps(settings.model_dump()).encode())


def _refuse_foreign_folder(folder: RunFolder) -> None:
    if folder.path.exists() and not folder.path.is_dir():
        raise UsageError(f"{folder.path} is not a folder.", "Give another --run.")
    there = [path.name for path in folder.path.iterdir()] if folder.path.exists() else []
    foreign = [name for name in there if meant(name) not in NOT_A_RUN]
    if foreign and not folder.settings.exists():
        raise UsageError(f"{folder.path} exists and is not a run (it holds {foreign[0]}).", "Give another --run.")
