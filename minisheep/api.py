"""A run from Python: `align` does or continues it, `load_run` opens its folder; results are plain records."""

from __future__ import annotations

import contextlib
import importlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w

from minisheep import config, loop
from minisheep.config import Settings
from minisheep.data.constraint_kinds import load_catalogue
from minisheep.data.seed_tasks import is_pipe, load_prompts, load_seeds, load_wording, read_bytes, seeds_digest
from minisheep.engines.permission import check_permitted, remember
from minisheep.errors import DiskError, MinisheepError, RunMismatchError, UsageError
from minisheep.formats.gguf_header import read_header
from minisheep.host import InlineHost, SignalledStop, WorkerHost
from minisheep.models.registry import PATHS, PERHAPS, LocalPath, absolute_paths, find_model
from minisheep.presets import DEFAULT_PRESET, PRESETS, described, with_preset
from minisheep.rules.identity import digest
from minisheep.rules.loss_settings import seeds_text
from minisheep.rules.plain_text import shell
from minisheep.run import integrity, verdict
from minisheep.run.events import Emit, Event, Failed, Glimpse, Note, Present, Progress, RunStarted, to_dict
from minisheep.run.files import check_links, meant, write_atomic, write_json
from minisheep.run.folder import Appender, Lock, RunFolder
from minisheep.run.integrity import Damage
from minisheep.run.reading import Round
from minisheep.stages.respond import LONGEST_SHOWN, showable
from minisheep.trainers.choose_trainer import choose_trainer

PIPED = "seeds-from-pipe.jsonl"
"""A run's copy of seeds that came through a pipe; by no name that a user's own file would have."""
NOT_A_RUN = frozenset(
    {".lock", "scratch", "run.toml", "model.json", "constraints.json", "events.jsonl", "manifest.json", "pause", PIPED}
)


def align(
    run: str | Path | None = None,
    *,
    preset: str | None = None,
    emit: Emit | None = None,
    tick: Callable[[], None] = lambda: None,
    until: loop.Phase | None = None,
    inline: bool = False,
    **settings: Any,
) -> Run:
    """Do a run, or what is left of it, and return it.

    `settings` are those of `config.Settings`; a run that exists goes on with its own. `emit` gets each event; `tick` is
    called at least twice a second while a worker is busy. Without `emit` the run tells of itself in plain lines where
    somebody watches, in a notebook or on a terminal, and is silent elsewhere; ``emit=lambda event: None`` silences it
    there too. `inline` runs everything in this process instead of workers (for the fake engine; a real model would keep
    its memory).

    Raises `errors.MinisheepError`.
    """
    if emit is None and is_watched():
        view = importlib.import_module(VIEWS).PlainView()
        emit, tick = view, view.tick
    told = emit or (lambda event: None)
    with open_run(run, preset, settings, told) as (folder, resolved, lock, log), contextlib.ExitStack() as leaving:
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
    `errors.RunLockedError` if another process works there.
    """
    given = absolute_paths(given)
    requested = with_preset(given, preset) if preset else dict(given)
    folder = RunFolder(Path(run) if run is not None else default_folder(config.make(requested).model, preset))
    if not folder.exists:
        # Checked before there is a folder, so that a refusal leaves none behind.
        check(resolve(requested))
        _refuse_foreign_folder(folder)
        folder.create()
    check_links(folder.path, writing=True)
    lock = Lock(folder.path)
    try:
        folder.sweep()
        requested |= _same_pipe(requested, folder)
        opening = replace(resolve(requested, *read_standing(folder, preset)), preset=preset or preset_of(folder))
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


def read_standing(folder: RunFolder, preset: str | None) -> tuple[Settings | None, Mapping[str, Any] | None]:
    """The stored settings and the manifest of a run, each None where it does not bind a new start."""
    manifest = folder.read_manifest()
    begun = bool(manifest["phases"]) or (folder.exists and any(folder.round(n).path.exists() for n in (0, 1)))
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


def check(opening: Opening) -> dict[str, str]:
    """Read everything that the user gave, so that a fault shows at once; returns digests of it for the manifest.

    Nothing is written. Raises `errors.UsageError`, what the search for the model raises, and
    `errors.RunMismatchError` if seeds or prompts differ from those that the run began with.
    """
    settings = opening.settings
    seeds = load_seeds(settings.seeds, settings.language)
    shown = sum(not seed.held_out for seed in seeds)
    if shown < settings.shots:
        raise UsageError(f"--shots {settings.shots} shows {settings.shots} seed tasks, but there are only {shown}.")
    short = len(showable(seeds))
    if short < settings.answer_shots:
        raise UsageError(
            f"--answer-shots {settings.answer_shots} shows that many short seed tasks, but there are only {short}.",
            f"Short means at most {LONGEST_SHOWN} characters, answer included.",
        )
    prompts = load_prompts(settings.prompts, settings.language)
    load_wording(settings.prompts, settings.language)
    if settings.constraints and opening.manifest is None:
        load_catalogue(settings.constraint_file, language=settings.language)
    if settings.trainer == "unsloth":
        choose_trainer(settings.trainer, settings.load_in)
    if settings.engine == "openai":
        from minisheep.engines.openai import check_server

        check_server(settings)
    if settings.engine != "fake":
        entry = find_model(settings.model, gguf=settings.gguf or None, weights=settings.weights or None)
        if isinstance(entry.gguf, LocalPath) and entry.gguf.path.is_file():
            read_header(entry.gguf.path)
    inputs = {"seeds": seeds_digest(seeds), "prompts": digest("prompts", prompts)}
    if opening.manifest is not None and opening.manifest.get("inputs") != inputs:
        raise RunMismatchError(
            "The seed tasks or prompts are not those that the run began with.", "Restore them, or start a new run."
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
        folder.write_manifest({"phases": {}, "inputs": inputs, **preset})
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
    if folder.path.exists() and not folder.path.is_dir():
        raise UsageError(f"{folder.path} is not a folder.", "Give another --run.")
    folder.check_manifest()
    names = [path.name for path in folder.path.iterdir()] if folder.path.exists() else []
    foreign = [name for name in names if meant(name) not in NOT_A_RUN]
    if foreign and not folder.settings.exists():
        raise UsageError(f"{folder.path} exists and is not a run (it holds {foreign[0]}).", "Give another --run.")


REPORT = "minisheep.report.write"
"""What `Run.report` calls, by its name: the core imports nothing that is built on it."""
VIEWS = "minisheep.terminal.views"
"""What `align` shows a run with, likewise."""


def is_watched() -> bool:
    """Whether somebody reads what is printed as it comes: in a notebook, in IPython, or on a terminal."""
    ipython = sys.modules.get("IPython")
    return (ipython is not None and ipython.get_ipython() is not None) or (
        sys.stdout is not None and sys.stdout.isatty()
    )


@dataclass(frozen=True, slots=True)
class Run:
    """A run on disk."""

    path: Path

    @property
    def settings(self) -> Settings:
        return stored_settings(RunFolder(self.path))

    @property
    def rounds(self) -> list[Round]:
        """The rounds that were begun, from 1."""
        return [r for r in map(self.round, range(1, self.settings.rounds + 1)) if r.folder.path.exists()]

    @property
    def base(self) -> Round:
        """Round 0, which holds only what was measured of the base model."""
        return self.round(0)

    @property
    def measured(self) -> list[Round]:
        """The base and the rounds, as far as they were measured."""
        return [r for r in map(self.round, range(self.settings.rounds + 1)) if r.folder.metrics.exists()]

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Metrics of the base and of each measured round."""
        return [r.metrics for r in self.measured]

    @property
    def trained(self) -> list[int]:
        """Numbers of the rounds whose adapter is there."""
        return [r.number for r in self.rounds if r.adapter_gguf.exists()]

    @property
    def phases_done(self) -> dict[str, dict[str, float]]:
        return dict(RunFolder(self.path).read_manifest()["phases"])

    @property
    def damage(self) -> list[Damage]:
        """Files of finished phases that are not what those phases left; empty for runs of before there were marks."""
        folder = RunFolder(self.path)
        return integrity.damage(folder, folder.read_manifest())

    def check_whole(self, phase: str, numbers: Iterable[int]) -> None:
        """Raise `errors.CorruptRunError` where what a phase left in one of these rounds is damaged."""
        wanted = {loop.Phase(number, phase).key for number in numbers}
        for found in self.damage:
            if found.key in wanted:
                raise found.error()

    @property
    def best(self) -> int | None:
        """The round to use, by its evaluation; 0 is the base model, None before anything was measured."""
        return loop.standing(self.phases_done).best

    @property
    def verdict(self) -> str:
        """One sentence on what the run came to: which model to use, what it does better or worse, and how sure that
        is."""
        return verdict.sentence(verdict.conclude(self.metrics))

    @property
    def ended_early(self) -> bool:
        """Whether the run stopped before its last round, since the last ones brought no gain."""
        return self.next_phase is None and any(p.key not in self.phases_done for p in loop.phases(self.settings))

    @property
    def next_phase(self) -> loop.Phase | None:
        """None when the run is finished."""
        return loop.next_phase(self.settings, self.phases_done)

    def round(self, number: int) -> Round:
        """Any round, begun or not."""
        return Round(number, RunFolder(self.path).round(number))

    def report(self, out: str | Path | None = None) -> Path:
        """Write the run as report.html and report.md into `out`, or into its own folder report/; returns the first.

        Raises `errors.UsageError` for a folder that cannot be written, and `errors.DiskError`.
        """
        return Path(importlib.import_module(REPORT).write(self.path, out).html)


def load_run(path: str | Path) -> Run:
    """Open a run folder for reading. Raises `errors.UsageError` if it is none, and
    `errors.CorruptRunError` for one without a manifest, or with links that lead out of it."""
    folder = RunFolder(Path(path))
    if not folder.exists:
        folder.check_manifest()
        raise UsageError(f"{path} is not a run folder.", "`minisheep align` makes one.")
    check_links(folder.path, writing=False)
    return Run(folder.path)


def stored_settings(folder: RunFolder) -> Settings:
    return config.make(config.read_toml(folder.settings))


def resolve_round(
    run: Run,
    asked: str,
    there: Sequence[int],
    state: str = "trained",
    *,
    flag: str = "--round",
    on_progress: Callable[[str], None] | None = None,
) -> int:
    """The round that ``best``, ``last``, ``base`` or a number means in every command; 0 is the base.

    `there` are the rounds to choose from, ascending; `state` says what they have in common, for messages. If the
    evaluation found the base best, ``best`` is the base and `on_progress` is told so; without `on_progress` the base is
    of no use, and ``best`` is refused in the same words. If nothing was measured, ``best`` is the last of `there`.

    Raises `errors.UsageError` for a round that is not there.
    """
    words = "best, last or base" if on_progress else "best or last"
    listed = ("round " if len(there) == 1 else "rounds ") + ", ".join(map(str, there))
    digits = asked.isascii() and asked.isdigit() and len(asked) < 10
    number = int(asked) if digits else 0 if asked == "base" else None
    named = f"{flag} {asked[:40]}".strip()
    if asked == "best" and run.best is not None:
        number, named = run.best, f"{named} (round {run.best})"
        if number == 0 and (there or on_progress):
            why = f"No round of {run.path} was better than its base beyond chance, so its best model is the base."
            if on_progress is None:
                raise UsageError(why, f"To use a round anyway, give {flag} N: it has {state} {listed}.")
            on_progress(why)
    elif asked in ("best", "last") and there:
        number = there[-1]
    if number is not None and (number in there or (number == 0 and on_progress is not None)):
        return number
    if not there:
        fix = f"Give {flag} base." if on_progress else f"`minisheep align --run {shell(run.path)}` goes on."
        raise UsageError(f"{named}: {run.path} has {state} no round yet.", fix)
    raise UsageError(f"{named}: {run.path} has {state} {listed}.", f"Give one of them, {words}.")
