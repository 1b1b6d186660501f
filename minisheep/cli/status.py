"""``minisheep status``, ``runs`` and ``attach``: runs read from their files alone, once or as they go on."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from minisheep import api, loop
from minisheep.cli.options import fitted, view_options
from minisheep.errors import UsageError
from minisheep.rules import plain_text
from minisheep.rules.plain_text import shell
from minisheep.run import run_state, verdict
from minisheep.run.events import Glimpse
from minisheep.run.folder import RunFolder
from minisheep.run.integrity import Damage
from minisheep.run.time_left import TimeLeft
from minisheep.terminal import detached, live_screen, run_list, run_summary, views, words
from minisheep.terminal.screen_state import Follow

LOOK_SECONDS = 0.5
SHOWN = 10
"""Damaged files that are named one by one."""


@click.command()
@click.argument("run", required=False)
@click.option("--run", "run_option", metavar="DIR", help="the run folder, as for the other commands")
@click.option("--json", "as_json", is_flag=True, help="one JSON object and nothing else")
@click.option("--plain", is_flag=True, help="no colours")
@click.option("--full", is_flag=True, help="every measure of every round too")
def status(run: str | None, run_option: str | None, as_json: bool, plain: bool, full: bool) -> None:
    """Show what RUN came to, what it is doing, and what each round did. Without RUN: as `minisheep runs`.

    \b
    minisheep status
    minisheep status runs/mine --full
    """
    chosen = run or run_option
    if chosen is None:
        return _list(RUNS, as_json)
    opened = api.load_run(chosen)
    damaged = opened.damage
    # What is damaged is named with what mends it, and needs not be readable for that.
    unread = {one.name for one in damaged}
    metrics = [] if "metrics.json" in unread else opened.metrics
    after = opened.next_phase
    found = run_list.now(
        RunFolder(opened.path), over=after is None, early=opened.ended_early, begun=RunFolder(opened.path).begun
    )
    if as_json:
        click.echo(json.dumps(_facts(opened, found, metrics, unread) | {"damage": [_damage(one) for one in damaged]}))
        return
    _say(*_came_to(opened, metrics, unread, shutil.get_terminal_size((100, 24)).columns))
    settings = opened.settings
    _say(plain_text.one_line(f"{opened.path}: {settings.model}, {plain_text.plural(settings.rounds, 'round')}"))
    for one in damaged[:SHOWN]:
        _say(f"  DAMAGED: {one}. {one.fix}")
    if len(damaged) > SHOWN:
        _say(f"  ... and {len(damaged) - SHOWN} more damaged files")
    for phase in loop.phases(settings):
        line = f"  {words.where(phase.round, phase.name):26} {_standing(phase, opened, found)}"
        _say(*fitted(line, indent=29))
    if full and metrics:
        views.print_metrics(metrics, plain=plain or not sys.stdout.isatty())
    _say(plain_text.one_line(run_list.sentence(opened.path, found, _ended(opened))))
    if left := _left(opened, found).in_words():
        _say(f"Time left: {left}.")
    if found.going_on:
        _say(*run_list.commands(opened.path, found.name))
    elif after is not None:
        _say(plain_text.one_line(f"Continue: minisheep align --run {shell(opened.path)}"))


def _standing(phase: loop.Phase, run: api.Run, found: run_list.Now) -> str:
    """How far one phase is."""
    counts = run.phases_done.get(phase.key)
    if counts is not None:
        text = words.counted(phase.name, counts)
        took = f"done in {plain_text.duration(counts.get('seconds', 0))}"
        return f"{took}: {text}" if text else took
    if found.going_on and found.events.now == (phase.round, phase.name):
        return f"{found.name}: {run_list.doing(found.events).partition(': ')[2] or 'just begun'}"
    begun = found.events.stages.get((phase.round, phase.name))
    if begun is not None and (count := run_list.counted(begun)):
        return f"begun: {count}"
    return "not needed" if run.next_phase is None else "waiting"


def _damage(one: Damage) -> dict[str, Any]:
    return {"round": one.round, "phase": one.phase, "file": one.name, "what": one.what, "again": one.command}


def _facts(
    run: api.Run, found: run_list.Now, metrics: Sequence[Mapping[str, Any]], unread: Collection[str] = ()
) -> dict[str, Any]:
    """What ``--json`` tells of a run."""
    state, after = found.events, run.next_phase
    stage = state.stages.get(state.now) if state.now else None
    return {
        "run": str(run.path),
        "state": found.name,
        "reason": state.ended if found.name in (run_state.FAILED, run_state.STOPPED) else "",
        "process": found.holder.process if found.holder else None,
        "doing": None if stage is None or state.now is None or not found.going_on else {
            "round": state.now[0], "phase": state.now[1], "done": stage.done, "total": stage.total, "unit": stage.unit,
            "a_second": stage.rate(),
        },
        "time_left": dataclasses.asdict(_left(run, found)),
        "model": run.settings.model,
        "rounds": run.settings.rounds,
        "next": None if after is None else after.key,
        "best": run.best,
        "ended_early": run.ended_early,
        "phases": run.phases_done,
        "verdict": "" if "metrics.json" in unread else verdict.sentence(verdict.conclude(metrics)),
        "metrics": metrics,
    }  # fmt: skip


RUNS = Path("runs")


@click.command()
@click.argument("folder", default=str(RUNS))
@click.option("--json", "as_json", is_flag=True, help="one JSON object a line, and nothing else")
def runs(folder: str, as_json: bool) -> None:
    """List the runs in FOLDER (runs/ by default): what each is doing or came to; what changed last comes last.

    What is no run, or cannot be read, is listed as that. `status RUN` also checks every file of one.

    \b
    minisheep runs
    minisheep runs /mnt/shared/runs --json
    """
    _list(Path(folder), as_json)


def _list(folder: Path, as_json: bool) -> None:
    if not folder.is_dir():
        if folder != RUNS:
            raise UsageError(f"{folder} is not a folder.", "Give the folder that holds the runs.")
        raise UsageError("There is no run in runs/.", "`minisheep align --preset demo` makes one.")
    try:
        rows = [run_list.listed(path) for path in run_list.find(folder)]
    except OSError as error:
        raise UsageError(f"{folder} cannot be read: {error.strerror}.", "Give another folder.") from None
    if not rows and not as_json:
        raise UsageError(f"There is no run in {folder}/.", "`minisheep align --preset demo` makes one.")
    for row in rows if as_json else ():
        change = {"changed": round(row.changed, 3), "against_base": run_list.change(row)}
        unknown = {"run": str(row.path), "state": row.now.name, "reason": row.reason}
        click.echo(json.dumps((unknown if row.run is None else _facts(row.run, row.now, row.run.metrics)) | change))
    if not as_json:
        _say(*run_list.table(rows, shutil.get_terminal_size((100, 24)).columns))


def _left(run: api.Run, found: run_list.Now) -> TimeLeft:
    """Nothing where no process works on the run: its phases wait."""
    return run.time_left if found.going_on else TimeLeft()


def _came_to(run: api.Run, metrics: Sequence[Mapping[str, Any]], unread: set[str], width: int) -> list[str]:
    """The sentence, answers before and after, the short table and the learning curve, with an empty line after each.

    unread: names of damaged files; what needs one of them is left out."""
    found = verdict.conclude(metrics)
    parts = (
        run_summary.sentence(found, width) if "metrics.json" not in unread else [],
        run_summary.before_after(run, found, width) if not unread & {"answers.jsonl", "verifiable.jsonl"} else [],
        run_summary.numbers(found, metrics, width),
        run_summary.curve(metrics, width),
    )
    return [line for part in parts if part for line in (*part, "")]


def _say(*lines: str) -> None:
    for line in lines:
        click.echo(plain_text.sanitise(line))


def _ended(run: api.Run) -> str:
    end = "stopped early: no improvement in the last rounds" if run.ended_early else "finished"
    return end if run.best is None else f"{end}; best: {plain_text.round_name(run.best, 'the base model')}"


@click.command()
@click.argument("run", required=False)
@view_options
def attach(run: str | None, plain: bool, as_json: bool) -> None:
    """Show the screen of RUN. Without RUN: of the one run in runs/ that is going on.

    q leaves the screen and the run goes on; p pauses the run; Ctrl-C stops it, as where it was started. In a pipe, and
    with --plain or --json, attach prints the run's lines from its start until it ends.

    \b
    minisheep attach
    minisheep attach runs/mine --json
    """
    folder = RunFolder(api.load_run(run).path if run else going_on())
    if not as_json and views.draws(plain=plain) and live_screen.usable():
        detached.attach(folder)
        if run_state.holder(folder.path):
            _say(run_list.left(folder))
    else:
        _follow(folder, as_json=as_json)


def going_on(runs: Path = RUNS) -> Path:
    """The one run in runs/ that a process works on. Raises `errors.UsageError` if there is none, or more than one."""
    found = [path.parent for path in sorted(runs.glob("*/manifest.json")) if run_state.holder(path.parent)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{len(found)} runs are going on.", f"Name one: {', '.join(map(str, found))}.")
    raise UsageError("No run in runs/ is going on.", "`minisheep runs` lists what there is; name one to see its end.")


def _follow(run: RunFolder, *, as_json: bool) -> None:
    """Show the events of the run so far, and each new one until no process works on it."""
    follow = Follow(run)
    view = views.JsonView() if as_json else views.PlainView()
    going_on = True
    while going_on:
        # Asked before reading, so that the last events are not missed.
        going_on = run_state.holder(run.path) is not None
        for at, event in follow.new():
            if not isinstance(event, Glimpse):
                view(event, at)
        if going_on:
            view.tick()
            time.sleep(LOOK_SECONDS)
