"""``minisheep status`` and ``minisheep attach``: a run read from its files alone, once or as it goes on."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from minisheep import api, loop
from minisheep.cli.options import view_options
from minisheep.errors import UsageError
from minisheep.rules import plain_text
from minisheep.rules.plain_text import shell
from minisheep.run import verdict
from minisheep.run.events import Glimpse
from minisheep.run.folder import RunFolder
from minisheep.run.time_left import TimeLeft
from minisheep.terminal import detached, live_screen, run_summary, views, words
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
    """Show what RUN came to, how far it is, and what each round did. Without RUN: every run in runs/.

    \b
    minisheep status
    minisheep status runs/mine --full
    """
    chosen = run or run_option
    runs = (
        [api.load_run(chosen)] if chosen else [api.Run(p.parent) for p in sorted(Path("runs").glob("*/manifest.json"))]
    )
    if not runs:
        raise UsageError("There is no run in runs/.", "`minisheep align --preset demo` makes one.")
    for found in runs:
        done, after, damaged = found.phases_done, found.next_phase, found.damage
        # What is damaged is named with what mends it, and needs not be readable for that.
        unread = {one.name for one in damaged}
        metrics = found.metrics if (chosen or as_json) and "metrics.json" not in unread else []
        if as_json:
            data = {
                "run": str(found.path),
                "model": found.settings.model,
                "rounds": found.settings.rounds,
                "next": None if after is None else after.key,
                "best": found.best,
                "ended_early": found.ended_early,
                "time_left": dataclasses.asdict(_left(found)),
                "phases": done,
                "verdict": "" if "metrics.json" in unread else verdict.sentence(verdict.conclude(metrics)),
                "metrics": metrics,
                "damage": [
                    {"round": one.round, "phase": one.phase, "file": one.name, "what": one.what, "again": one.command}
                    for one in damaged
                ],
            }
            click.echo(json.dumps(data))
            continue
        if chosen:
            _say(*_came_to(found, metrics, unread, shutil.get_terminal_size((100, 24)).columns))
        click.echo(plain_text.one_line(f"{found.path}: {found.settings.model}, {found.settings.rounds} round(s)"))
        for one in damaged[:SHOWN]:
            click.echo(f"  DAMAGED: {one}. {one.fix}")
        if len(damaged) > SHOWN:
            click.echo(f"  ... and {len(damaged) - SHOWN} more damaged files")
        if not chosen:
            click.echo(f"  {_ended(found)}" if after is None else f"  next: {words.where(after.round, after.name)}")
            continue
        for phase in loop.phases(found.settings):
            counts = done.get(phase.key)
            state = (
                ("not needed" if after is None else "waiting")
                if counts is None
                else f"done in {plain_text.duration(counts.get('seconds', 0))}"
            )
            text = f": {words.counted(phase.name, counts)}" if counts else ""
            click.echo(f"  {words.where(phase.round, phase.name):26} {state}{text}")
        if full and metrics:
            views.print_metrics(metrics, plain=plain or not sys.stdout.isatty())
        if left := _left(found).in_words():
            click.echo(f"Time left: {left}.")
        if after is not None:
            click.echo(plain_text.one_line(f"Continue: minisheep align --run {shell(found.path)}"))
        else:
            click.echo(f"{_ended(found).capitalize()}.")


def _left(run: api.Run) -> TimeLeft:
    """Nothing where no process works on the run: its phases wait."""
    return run.time_left if detached.holder(run.path) else TimeLeft()


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
    return end if run.best is None else f"{end}; best: {words.model_name(run.best)}"


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
    folder = RunFolder(api.load_run(run).path if run else _going_on())
    if not as_json and views.draws(plain=plain) and live_screen.usable():
        detached.attach(folder)
    else:
        _follow(folder, as_json=as_json)


def _going_on() -> Path:
    """The one run in runs/ that a process works on. Raises `errors.UsageError` if there is none, or more than one."""
    found = [path.parent for path in sorted(Path("runs").glob("*/manifest.json")) if detached.holder(path.parent)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{len(found)} runs are going on.", f"Name one: {', '.join(map(str, found))}.")
    raise UsageError("No run in runs/ is going on.", "To see how one ended: minisheep attach RUN.")


def _follow(run: RunFolder, *, as_json: bool) -> None:
    """Show the events of the run so far, and each new one until no process works on it."""
    follow = Follow(run)
    view = views.JsonView() if as_json else views.PlainView()
    going_on = True
    while going_on:
        # Asked before reading, so that the last events are not missed.
        going_on = detached.holder(run.path) is not None
        for at, event in follow.new():
            if not isinstance(event, Glimpse):
                view(event, at)
        if going_on:
            view.tick()
            time.sleep(LOOK_SECONDS)
