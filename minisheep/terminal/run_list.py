"""Runs as they are now: what one is doing, in words, and a table of those of a folder. Nothing here writes or locks.

Whatever lies in a folder of runs is listed with what it is: a run, a damaged one, or no run at all.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from minisheep import api
from minisheep.errors import MinisheepError
from minisheep.rules.plain_text import duration, one_line, round_name, shell
from minisheep.run import run_state, verdict
from minisheep.run.decision import outcome
from minisheep.run.folder import RunFolder
from minisheep.run.run_state import Holder
from minisheep.run.time_left import Stage, TimeLeft
from minisheep.run.verdict import Conclusion
from minisheep.terminal import words
from minisheep.terminal.columns import GAP, Column, laid_out
from minisheep.terminal.screen_state import Follow, State, fold

DAMAGED, FOREIGN = "damaged", "not a run"
"""What a folder may be beside the states of a run."""
CHANGE = {"gain": "better", "loss": "worse", "mixed": "mixed", "none": "no clear change"}


@dataclass(frozen=True, slots=True)
class Now:
    """What a run is doing. `events` are those of its newest start, folded."""

    name: str
    holder: Holder | None = None
    events: State = field(default_factory=State)

    @property
    def going_on(self) -> bool:
        """Whether it goes on, paused or not. Another command may work in a run that is over."""
        return self.name in run_state.GOING_ON


def now(folder: RunFolder, *, over: bool = False, early: bool = False, begun: bool = True) -> Now:
    """over, early, begun: see `run_state.name_of`."""
    return Watch(folder).now(over=over, early=early, begun=begun)


class Watch:
    """Looks at one run again and again; of its events only what is new is read."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder, self._follow, self._state = folder, Follow(folder, newest=True), State()

    def now(self, *, over: bool = False, early: bool = False, begun: bool = True) -> Now:
        # Asked first: a run that ends meanwhile has told so in its events.
        held = run_state.holder(self._folder.path)
        for at, event in self._follow.new():
            self._state = fold(self._state, event, at)
        state = self._state
        name = run_state.name_of(
            alive=held is not None, outcome=state.outcome, stopping=state.stopping, paused=state.paused_at is not None,
            pausing=self._folder.pause.exists(), over=over, early=early, begun=begun,
        )  # fmt: skip
        return Now(name, held, state)


def doing(state: State) -> str:
    """``round 1, judge: 12 of 30 pairs, 1.4 a second``; empty between phases."""
    stage = state.stages.get(state.now) if state.now else None
    if state.now is None or stage is None:
        return ""
    count, rate = counted(stage), stage.rate()
    if count and rate is not None:
        count += f", {rate:.1f} a second" if rate >= 1 else f", {60 * rate:.1f} a minute"
    return words.where(*state.now) + (f": {count}" if count else "")


def counted(stage: Stage) -> str:
    """``12 of 30 pairs``; empty before anything is counted."""
    of = f" of {stage.total}" if stage.total else ""
    return f"{stage.done}{of} {one_line(stage.unit, 30)}" if stage.total or stage.done else ""


def sentence(run: Path, found: Now, end: str = "") -> str:
    """The state of a run and what it is at, or why it ended. `end` stands for the state of a run that is over."""
    name = end if end and found.name in run_state.DONE else found.name
    text, at = f"{run}: {name}", doing(found.events)
    if found.going_on:
        return f"{text}{f' in {at}' if at else ''}{_by(found.holder)}."
    used = f" It is in use by another command{_by(found.holder)}." if found.holder else ""
    if found.name == run_state.STOPPED and not found.events.outcome:
        ended = f" in {at}: its process ended without a word" if found.events.now else ""
        return f"{text}{ended}.{used}"
    told = one_line(found.events.ended)
    if found.name == run_state.STOPPED:
        return f"{run}: {told}{used}"
    return f"{text}. {told}{used}" if found.name == run_state.FAILED else f"{text}.{used}"


def _by(holder: Holder | None) -> str:
    if holder is None or not holder.host:
        return ""
    return f" (process {holder.process})" if holder.process else f" (on {one_line(holder.host, 60)})"


def commands(run: Path, name: str) -> list[str]:
    """What can be done with a run that goes on, a line each."""
    where = shell(run)
    pausing = "resume" if name in (run_state.PAUSED, run_state.PAUSING) else "pause"
    verbs = ("attach", *([] if name == run_state.STOPPING else [pausing]), "stop")
    return [f"{'Watch' if verb == 'attach' else verb.capitalize()}: minisheep {verb} {where}" for verb in verbs]


def left(folder: RunFolder) -> str:
    """What a user is told who left the screen of a run that goes on."""
    where, found = shell(folder.path), now(folder)
    if found.name in (run_state.PAUSED, run_state.PAUSING):
        return f"The run stays paused. To go on: minisheep resume {where}. Its screen: minisheep attach {where}"
    how = "The run is stopping." if found.name == run_state.STOPPING else "The run goes on."
    return f"{how} Its screen: minisheep attach {where}"


@dataclass(frozen=True, slots=True)
class Listed:
    """One folder of a list; without a `run` it is none that can be read, and `reason` says why."""

    path: Path
    now: Now
    changed: float
    """When it changed last, in seconds since the epoch."""
    reason: str = ""
    model: str = ""
    rounds: int = 0
    round: int = 0
    """The newest round that was begun."""
    best: int | None = None
    conclusion: Conclusion | None = None
    run: api.Run | None = None


def find(parent: Path) -> list[Path]:
    """The folders of a folder, or itself where it is a run; what changed last comes last."""
    if RunFolder(parent).exists:
        return [parent]
    found = [path for path in parent.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return sorted(found, key=lambda path: (_changed(path), path.name))


def listed(path: Path) -> Listed:
    """A folder with what it is; what is wrong with it ends in words and not in an error."""
    try:
        folder = RunFolder(path)
        if not folder.exists:
            folder.check_manifest()
            names = sorted(p.name for p in path.iterdir())
            return Listed(path, Now(FOREIGN), _changed(path), f"it holds {names[0]}" if names else "it is empty")
        run = api.load_run(path)
        settings, done = run.settings, run.phases_done
        over, begun = run.next_phase is None, folder.begun
        found = now(folder, over=over, early=run.ended_early, begun=begun)
        newest = max((int(key.split("/")[0].removeprefix("round-")) for key in done), default=0)
        return Listed(
            path, found, _changed(path),
            reason=one_line(found.events.ended) if found.name == run_state.FAILED else "",
            model=settings.model, rounds=settings.rounds, round=max(newest, found.events.round), best=run.best,
            conclusion=verdict.conclude(run.metrics), run=run,
        )  # fmt: skip
    except MinisheepError as error:
        return Listed(path, Now(DAMAGED), _changed(path), error.message)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Listed(path, Now(DAMAGED), _changed(path), f"it cannot be read ({error})")


def _changed(path: Path) -> float:
    folder, times = RunFolder(path), [0.0]
    for file in (folder.path, folder.manifest, folder.events, folder.present):
        with contextlib.suppress(OSError):
            times.append(file.stat().st_mtime)
    return max(times)


def table(rows: Sequence[Listed], width: int, at: float | None = None) -> list[str]:
    """A line a run, no wider than `width`: the columns that matter least are left out first. Under it, why one failed
    or cannot be read, and what is no run. `at` is the present time in seconds since the epoch."""
    at = time.time() if at is None else at
    foreign = [one_line(row.path.name) for row in rows if row.now.name == FOREIGN]
    rows = [row for row in rows if row.now.name != FOREIGN]
    paths = [one_line(str(row.path)) for row in rows]
    # The end of a long path tells runs apart.
    room = max(12, width - len(GAP) - max((len(row.now.name) for row in rows), default=0))
    paths = [path if len(path) <= room else f"...{path[3 - room :]}" for path in paths]
    columns = [
        # How much each is wanted (less is more), and the column.
        (0, Column(("run",), paths, right=False)),
        (1, Column(("state",), [row.now.name for row in rows], right=False)),
        (6, Column(("model",), [one_line(row.model, 28) or "-" for row in rows], right=False)),
        (2, Column(("round",), [f"{row.round} of {row.rounds}" if row.run else "-" for row in rows], right=False)),
        (3, Column(("best",), [_best(row) for row in rows], right=False)),
        (5, Column(("against base",), [change(row) or "-" for row in rows], right=False)),
        (4, Column(("time left",), [_left(row) for row in rows])),
        (7, Column(("changed",), [age(at - row.changed) for row in rows])),
    ]
    room, chosen = width, []
    for wanted, column in sorted(columns, key=lambda column: column[0]):
        if wanted >= 2 and all(cell == "-" for cell in column.cells):
            continue
        if wanted < 2 or column.width + len(GAP) <= room:
            chosen.append(wanted)
        room -= column.width + len(GAP)
    lines = laid_out([], [column for wanted, column in columns if wanted in chosen], 10**4) if rows else []
    why = [f"{one_line(str(row.path))}: {row.now.name}: {one_line(row.reason)}" for row in rows if row.reason]
    others = f"{FOREIGN[0].upper()}{FOREIGN[1:]}: {', '.join(foreign)}"
    below = [*why, *([others] if foreign else [])]
    return [*lines, *([""] if lines and below else []), *below]


def _best(row: Listed) -> str:
    return "-" if row.best is None else round_name(row.best)


def change(row: Listed) -> str | None:
    """How the round that the run is about compares with its base; None before that is known."""
    return None if row.conclusion is None else CHANGE[outcome(row.conclusion.found)]


def _left(row: Listed) -> str:
    """Of the whole run, or, where only that is known, of its phase."""
    left = row.run.time_left if row.run is not None and row.now.name == run_state.RUNNING else TimeLeft()
    return left.run_in_words() or ("-" if left.phase is None else f"phase: {duration(left.phase)}")


def age(seconds: float) -> str:
    """``now``, ``5 min``, ``3 h``, ``12 d``: since when."""
    if seconds < 60:
        return "now"
    name, size = next(unit for unit in (("d", 86400), ("h", 3600), ("min", 60)) if seconds >= unit[1])
    return f"{seconds / size:.0f} {name} ago"
