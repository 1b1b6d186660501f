"""A run is opened: settings that were given and those that stand in its folder become one, are checked and stored."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w

from minisheep import config, loop
from minisheep.config import Settings
from minisheep.data.constraint_kinds import load_catalogue
from minisheep.data.seed_tasks import is_pipe, load_prompts, load_seeds, load_wording, read_bytes, seeds_digest
from minisheep.engines.permission import check_permitted, remember
from minisheep.errors import ConfigError, DiskError, MinisheepError, RunMismatchError, UsageError
from minisheep.formats.gguf_header import read_header
from minisheep.models.registry import PATHS, PERHAPS, LocalPath, absolute_paths, find_model
from minisheep.presets import DEFAULT_PRESET, PRESETS, described, with_preset
from minisheep.rules.data_settings import seeds_text
from minisheep.rules.identity import digest
from minisheep.run.events import Emit, Event, Failed, Glimpse, Note, Present, Progress, RunStarted, to_dict
from minisheep.run.files import check_links, meant, write_atomic, write_json
from minisheep.run.folder import Appender, Attempt, Lock, RunFolder
from minisheep.stages.respond import LONGEST_SHOWN, showable
from minisheep.trainers.choose_trainer import choose_trainer

PIPED = "seeds-from-pipe.jsonl"
"""A run's copy of seeds that came through a pipe; by no name that a user's own file would have."""


NOT_A_RUN = frozenset({
    "manifest.json", "run.toml", "model.json", "constraints.json", "events.jsonl", "scratch", "tracking", "pause",
    ".lock", PIPED,
})  # fmt: skip


@contextlib.contextmanager
def open_run(
    run: str | Path | None, preset: str | None, given: Mapping[str, Any], emit: Emit
) -> Iterator[tuple[RunFolder, Settings, Lock, Emit]]:
    """The folder of a run, made or continued, locked, with its settings and an `emit` that also writes events.jsonl.

    Raises `errors.UsageError` for settings, seeds or names that are wrong, before anything is made, and
    `errors.RunLockedError` if another process works there.
    """
    given = absolute_paths(given)
    requested = asked_for(given, preset)
    folder = RunFolder(Path(run) if run is not None else default_folder(config.make(requested).model, preset))
    new = not folder.path.exists()
    if not folder.exists:
        # Checked before there is a folder, so that a refusal leaves none behind.
        check(resolve(requested))
        _refuse_foreign_folder(folder)
        folder.create()
    check_links(folder.path, writing=True)
    attempt = Attempt(folder, folder.path / PIPED, new=new)
    lock = Lock(folder.path)
    try:
        folder.sweep()
        stored, manifest = read_standing(folder, preset)
        requested = asked_for(given, preset, stored)
        requested |= _same_pipe(requested, folder)
        opening = replace(resolve(requested, stored, manifest), preset=preset or preset_of(folder))
        check_permitted(opening.settings, folder.path, given)
        opening = write(folder, opening, check(opening))
        remember(opening.settings, folder.path, given)
        settled, resumed = opening.settings, bool(opening.manifest and opening.manifest["phases"])
        with _logging(folder, emit) as log:
            log(RunStarted(str(folder.path), settled.model, settled.rounds, settled.engine, settled.trainer, resumed))
            if opening.note:
                log(Note(opening.note))
            elif not resumed:
                usual = dict(config.make({}, opening.preset))
                log(Note(described(opening.preset, dict(settled), usual)))
            if settled.mix_seeds:
                log(Note(seeds_text(settled.mix_seeds), "warning"))
            yield folder, settled, lock, log
    except MinisheepError as error:
        attempt.undo_after(error)
        raise
    finally:
        try:
            # The worker of a killed process may have written on for a moment after this one had swept.
            folder.sweep()
        finally:
            lock.release()


@dataclass(frozen=True, slots=True)
class Opening:
    """How a run will begin or go on."""

    settings: Settings
    manifest: Mapping[str, Any] | None = None
    """Of a run that goes on, without the phases to do again; None for a new run."""
    note: str = ""
    """The settings that changed, in words."""
    preset: str = ""
    """What the run began from, to be recorded; empty where that is not to be said."""


def asked_for(given: Mapping[str, Any], preset: str | None, stored: Settings | None = None) -> dict[str, Any]:
    """What the user asks for, with a preset's settings below, unless the `stored` ones of a run are to stay."""
    return with_preset(given, preset or DEFAULT_PRESET) if preset or stored is None else dict(given)


def read_standing(folder: RunFolder, preset: str | None) -> tuple[Settings | None, Mapping[str, Any] | None]:
    """The stored settings and the manifest of a run, each None where it does not bind a new start."""
    manifest, begun = folder.read_manifest(), folder.begun
    stored = stored_settings(folder) if begun or (folder.exists and preset is None) else None
    return stored, manifest if begun else None


def preset_of(folder: RunFolder) -> str:
    """The preset that a run began from; the default where none is recorded, or one that is gone."""
    stored = folder.read_manifest().get("preset")
    return stored if stored in PRESETS else DEFAULT_PRESET


def resolve(
    requested: Mapping[str, Any], stored: Settings | None = None, manifest: Mapping[str, Any] | None = None
) -> Opening:
    """How a run will begin or go on, from the settings requested and those of its folder. Pure.

    Without a `manifest` nothing has been made yet, so every setting may be given anew, as after a first attempt that
    failed. A setting that is not given stays. Raises `errors.ConfigError` and `errors.RunMismatchError`.
    """
    if stored is None or manifest is None:
        return Opening(config.make(requested, base=stored))
    stored = stored.model_copy(update=absolute_paths(stored.model_dump(include={*PATHS, *PERHAPS})))
    settings, done = config.continued(stored, requested), dict(manifest["phases"])
    standing = loop.standing(done)
    if stored.rounds != settings.rounds > standing.measured and standing.ends(settings):
        # More rounds that are asked for are done: patience, which would end the run before them, counts from here.
        settings = settings.model_copy(update={"patience": standing.without_gain + settings.patience})
    changed = [name for name in config.names() if getattr(settings, name) != getattr(stored, name)]
    if not changed:
        return Opening(settings, manifest)
    if "keep" in changed:
        # Filters that no training has used yet are quick to do again.
        for number in range(1, settings.rounds + 1):
            if f"round-{number}/train" not in done:
                done.pop(f"round-{number}/filter", None)
    changes = ", ".join(f"{config.flag(n)} {getattr(stored, n)} -> {getattr(settings, n)}" for n in changed)
    return Opening(settings, {**manifest, "phases": done}, f"Continuing with changed settings: {changes}.")


def read_given(opening: Opening) -> dict[str, str]:
    """Read the seeds, prompts, wordings and constraints that the user gave, so that a fault shows before there is a
    plan or a run; returns digests of them for the manifest. Raises `errors.UsageError`."""
    settings = opening.settings
    seeds = load_seeds(settings.seeds, settings.language)
    shown = sum(not seed.held_out for seed in seeds)
    if shown < settings.shots:
        raise UsageError(f"--shots {settings.shots} shows {settings.shots} seed tasks, but there are only {shown}.")
    short = len(showable(seeds))
    if short < settings.answer_shots:
        raise UsageError(
            f"--answer-shots {settings.answer_shots} shows that many short seed tasks, but there are only {short}.",
            f"Short means at most {LONGEST_SHOWN} characters, answer included. Add some, or --answer-shots {short}.",
        )
    prompts = load_prompts(settings.prompts, settings.language)
    load_wording(settings.prompts, settings.language)
    if settings.constraints and opening.manifest is None:
        load_catalogue(settings.constraint_file, language=settings.language)
    return {"seeds": seeds_digest(seeds), "prompts": digest("prompts", prompts)}


def check(opening: Opening) -> dict[str, str]:
    """Check everything that the user gave, so that a fault shows at once; returns digests of it for the manifest.

    Nothing is written. Raises `errors.UsageError`, what the search for the model raises, and
    `errors.RunMismatchError` if seeds or prompts differ from those that the run began with.
    """
    settings, inputs = opening.settings, read_given(opening)
    if settings.trainer == "unsloth":
        choose_trainer(settings.trainer, settings.load_in)
    if settings.engine == "openai":
        from minisheep.engines.openai import check_server

        check_server(settings)
    if settings.engine != "fake":
        entry = find_model(settings.model, gguf=settings.gguf or None, weights=settings.weights or None)
        if isinstance(entry.gguf, LocalPath) and entry.gguf.path.is_file():
            read_header(entry.gguf.path)
    if opening.manifest is not None and opening.manifest.get("inputs") != inputs:
        raise RunMismatchError(
            "The seed tasks or prompts are not those that the run began with.",
            "Restore them, or the minisheep that shipped or read them (`versions` in model.json), or start a new run.",
        )
    return inputs


def _same_pipe(requested: Mapping[str, Any], folder: RunFolder) -> dict[str, str]:
    """The run's own copy of its seeds, where the same come through a pipe again."""
    given, kept = requested.get("seeds", ""), folder.path / PIPED
    if is_pipe(given) and kept.is_file() and kept.read_bytes() == read_bytes(given):
        return {"seeds": str(kept.absolute())}
    return {}


def write(folder: RunFolder, opening: Opening, inputs: Mapping[str, str]) -> Opening:
    """Write what was resolved and checked to the folder, with seeds that came through a pipe, and return it as it is
    written. Raises `errors.DiskError`."""
    if opening.manifest is None and is_pipe(opening.settings.seeds):
        kept = folder.path / PIPED
        write_atomic(kept, read_bytes(opening.settings.seeds))
        opening = replace(opening, settings=opening.settings.model_copy(update={"seeds": str(kept.absolute())}))
    if opening.manifest is None:
        folder.model.unlink(missing_ok=True)
        folder.constraints.unlink(missing_ok=True)
        settings = opening.settings
        if settings.constraints:
            catalogue = load_catalogue(settings.constraint_file, language=settings.language)
            write_json(folder.constraints, catalogue.to_dict())
        write_settings(folder, settings)
        preset = {"preset": opening.preset} if opening.preset else {}
        bound = {name: value for name, value in settings.model_dump().items() if not config.is_changeable(name)}
        folder.write_manifest({"phases": {}, "inputs": inputs, "settings": bound, **preset})
    elif opening.note:
        # The manifest first: if cut off in between, the filter is done again with the old --keep, not left out.
        folder.write_manifest(dict(opening.manifest))
        write_settings(folder, opening.settings)
    # Giving the command again lifts a pause.
    folder.pause.unlink(missing_ok=True)
    return opening


@contextlib.contextmanager
def _logging(folder: RunFolder, emit: Emit) -> Iterator[Emit]:
    """An `emit` that also writes events.jsonl, with a failure too, and the present file for a screen elsewhere."""
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
            # For screens elsewhere; the caller tells its own user.
            with contextlib.suppress(DiskError):
                store(Failed(type(error).__name__, error.message, error.fix))
            raise


def default_folder(model: str, preset: str | None) -> Path:
    """The folder of a run without --run, which the same command finds again."""
    name = Path(model.split(":")[0]).name.removesuffix(".gguf").lower() or "run"
    return Path("runs") / (f"{name}-{preset}" if preset and preset != DEFAULT_PRESET else name)


def write_settings(folder: RunFolder, settings: Settings) -> None:
    header = b"# The settings of this run, resolved. `minisheep align --run FOLDER` goes on with them.\n"
    write_atomic(folder.settings, header + tomli_w.dumps(settings.model_dump()).encode())


def _refuse_foreign_folder(folder: RunFolder) -> None:
    if os.path.lexists(folder.path) and not folder.path.is_dir():
        raise UsageError(f"{folder.path} is not a folder, or leads nowhere.", "Give another --run.")
    folder.check_manifest()
    names = [path.name for path in folder.path.iterdir()] if folder.path.exists() else []
    foreign = [name for name in names if meant(name) not in NOT_A_RUN]
    if foreign and not folder.settings.exists():
        raise UsageError(f"{folder.path} exists and is not a run (it holds {foreign[0]}).", "Give another --run.")


MOVED = frozenset({*PATHS, *PERHAPS, "engine", "engine_hook"})
"""Settings of which a run on another machine may need others; what they lead to is checked there."""


def stored_settings(folder: RunFolder) -> Settings:
    """Raises `errors.ConfigError` for a file that is damaged, or was changed or cut short where it binds a run."""
    fault, fix = "", "Restore it from a copy; if a newer minisheep made the run, that one reads it."
    try:
        given = config.read_toml(folder.settings)
        fault, fix = f"{folder.settings} holds settings that are none: ", "Restore it from a copy, or correct it."
        settings = config.make(given)
        fault = f"{folder.settings} has changed since the run began. "
        bound = folder.read_manifest().get("settings", {}) if folder.begun else {}
        began = {name: value for name, value in bound.items() if name not in given or name not in MOVED}
        config.continued(settings.model_copy(update=began), dict(settings))
        return settings
    except UsageError as error:  # it is the file that is wrong, not what was typed
        raise ConfigError(f"{fault}{error.message}", fix) from None
