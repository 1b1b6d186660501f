"""A run from Python: `align` does or continues it, `load_run` opens its folder; results are plain records."""

from __future__ import annotations

import contextlib
import importlib
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minisheep import loop
from minisheep.config import Settings
from minisheep.errors import MinisheepError, UsageError
from minisheep.host import InlineHost, WorkerHost, signalled_stop
from minisheep.models.prepared import PreparedModel
from minisheep.opening import open_run, stored_settings
from minisheep.phase_times import known_times, profiles, read_times, times_path
from minisheep.rules.plain_text import shell
from minisheep.run import integrity, verdict
from minisheep.run.events import Emit
from minisheep.run.files import check_links
from minisheep.run.folder import RunFolder
from minisheep.run.integrity import Damage
from minisheep.run.reading import Round
from minisheep.run.time_left import Outlook, TimeLeft, first_time, read_course, time_left


def align(
    run: str | Path | None = None,
    *,
    preset: str | None = None,
    emit: Emit | None = None,
    tick: Callable[[], None] | None = None,
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
        emit, tick = view, tick or view.tick
    told = emit or (lambda event: None)
    with open_run(run, preset, settings, told) as (folder, resolved, lock, log), contextlib.ExitStack() as leaving:
        if resolved.log_to:
            following = importlib.import_module(TRACKING).following
            log = leaving.enter_context(following(folder.path, resolved, log))
        host = InlineHost() if inline else WorkerHost(lock.handle, tick or (lambda: None))
        leaving.callback(host.close)
        if isinstance(host, WorkerHost):
            leaving.enter_context(signalled_stop(host))
        loop.run(folder, resolved, host, log, until)
    return Run(folder.path)


REPORT, TRACKING = "minisheep.report.write", "minisheep.tracking.following"
"""What `Run.report` calls and what follows a run, by name: the core imports nothing that is built on it."""
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

    def check_whole(self, phase: str, numbers: Iterable[int] | None = None) -> None:
        """Raise `errors.CorruptRunError` where what a phase left in one of these rounds (or in any) is damaged."""
        wanted = {loop.Phase(n, phase).key for n in (range(self.settings.rounds + 1) if numbers is None else numbers)}
        for found in self.damage:
            if found.key in wanted:
                raise found.error()

    @property
    def best(self) -> int | None:
        """The round to use, by its evaluation; 0 is the base model, None before anything was measured."""
        return loop.standing(self.phases_done).best

    @property
    def verdict(self) -> str:
        """One sentence in plain words: which model to use, what it does better or worse than the base, how sure that
        is. The same that the end of a run, ``status`` and the report begin with. Raises `errors.CorruptRunError`."""
        return verdict.sentence(verdict.conclude(self.metrics))

    @property
    def ended_early(self) -> bool:
        """Whether the run stopped before its last round, since the last ones brought no gain."""
        return self.next_phase is None and any(p.key not in self.phases_done for p in loop.phases(self.settings))

    @property
    def next_phase(self) -> loop.Phase | None:
        """None when the run is finished."""
        return loop.next_phase(self.settings, self.phases_done)

    @property
    def time_left(self) -> TimeLeft:
        """What is left of the phase in hand and of the run, if it goes on now as before; nothing of a run that is over.

        That a process works on it is not asked here."""
        if self.next_phase is None:
            return TimeLeft()
        folder = RunFolder(self.path)
        return time_left(read_course(folder), outlook(folder), time.time())

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
        raise no_run(path)
    check_links(folder.path, writing=False)
    return Run(folder.path)


def outlook(folder: RunFolder) -> Outlook:
    """What is known of a run beside its events: its phases, and what such phases took on this machine. Empty where its
    settings cannot be read."""
    try:
        settings = stored_settings(folder)
        plan = tuple((phase.round, phase.name) for phase in loop.phases(settings))
        early, pooled = settings.patience > 0, settings.strategy == "total-base"
        if settings.engine == "fake" or not folder.model.exists():
            return Outlook(plan, early=early, pooled=pooled)
        times = read_times(times_path(settings, PreparedModel.read(folder.model).gguf_sha256))
        # What this run itself took is no measure of whether it is slower than others were.
        before = known_times(settings, times, first_time(folder))
        return Outlook(plan, before, profiles(settings, times), early, pooled)
    except MinisheepError:
        return Outlook()


def no_run(path: str | Path) -> UsageError:
    """What to say of a path that holds no run."""
    if not Path(path).exists():
        fix = f"Start it with `minisheep align --run {shell(path)}`, with the --model or --preset that you want."
        return UsageError(f"{path} does not exist.", fix)
    return UsageError(f"{path} is not a run folder.", "Give the folder of a run; `minisheep align` makes one.")


_MADE_BY = {"trained": "train", "measured": "evaluate", "filtered": "filter"}


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

    Raises `errors.UsageError` for a round that is not there, and `errors.CorruptRunError` for one that was.
    """
    words = "best, last or base" if on_progress else "best or last"
    listed = ("round " if len(there) == 1 else "rounds ") + ", ".join(map(str, there))
    digits = asked.isascii() and asked.isdigit() and len(asked) < 10
    number = int(asked) if digits else 0 if asked == "base" else None
    named = f"{flag} {asked[:40]}".strip()
    if asked == "best" and run.best is not None:
        number, named = run.best, f"{named} (round {run.best})"
        if number == 0 and (there or on_progress):
            measured = any(key.endswith("/evaluate") and key != "round-0/evaluate" for key in run.phases_done)
            said = "was better than its base beyond chance" if measured else "has been measured yet"
            why = f"No round of {run.path} {said}, so its best model is the base."
            if on_progress is None:
                raise UsageError(why, f"To use a round anyway, give {flag} N: it has {state} {listed}.")
            on_progress(why)
    elif asked in ("best", "last") and there:
        number = there[-1]
    if number is not None and (number in there or (number == 0 and on_progress is not None)):
        return number
    if phase := _MADE_BY.get(state):
        # What a finished phase left and is gone is damage, and no round that is yet to come.
        run.check_whole(phase, None if number is None else [number])
    if not there:
        fix = f"Give {flag} base." if on_progress else f"`minisheep align --run {shell(run.path)}` goes on."
        raise UsageError(f"{named}: {run.path} has {state} no round yet.", fix)
    raise UsageError(f"{named}: {run.path} has {state} {listed}.", f"Give one of them, {words}.")
