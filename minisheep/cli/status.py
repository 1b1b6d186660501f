"""``minisheep status``: how far a run is and what each round did, read from its files alone."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from minisheep import api, loop
from minisheep.cli.options import view_options
from minisheep.errors import UsageError
from minisheep.rules import plain_text
from minisheep.rules.plain_text import one_line
from minisheep.terminal import words
from minisheep.terminal.views import print_metrics

if TYPE_CHECKING:
    from minisheep.run.folder import RunFolder
    from minisheep.terminal.views import View


@click.command()
@click.argument("run", required=False)
@click.option("--run", "run_option", metavar="DIR", help="the run folder, as for the other commands")
@click.option("--json", "as_json", is_flag=True, help="one JSON object and nothing else")
@click.option("--plain", is_flag=True, help="no colours")
def status(run: str | None, run_option: str | None, as_json: bool, plain: bool) -> None:
    """Show how far RUN is and what each round did. Without RUN: every run in runs/.

    \b
    minisheep status
    minisheep status runs/mine
    """
    import sys

    chosen = run or run_option
    runs = (
        [api.load_run(chosen)] if chosen else [api.Run(p.parent) for p in sorted(Path("runs").glob("*/manifest.json"))]
    )
    if not runs:
        raise UsageError("There is no run in runs/.", "`minisheep align --preset demo` makes one.")
    for found in runs:
        done, after = found.phases_done, found.next_phase
        if as_json:
            data = {
                "run": str(found.path),
                "model": found.settings.model,
                "rounds": found.settings.rounds,
                "next": None if after is None else after.key,
                "best": found.best,
                "ended_early": found.ended_early,
                "phases": done,
                "metrics": found.metrics,
            }
            click.echo(json.dumps(data))
            continue
        click.echo(one_line(f"{found.path}: {found.settings.model}, {found.settings.rounds} round(s)"))
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
            told = f": {words.counted(phase.name, counts)}" if counts else ""
            click.echo(f"  {words.where(phase.round, phase.name):26} {state}{told}")
        if found.metrics:
            print_metrics(found.metrics, plain=plain or not sys.stdout.isatty())
        if after is not None:
            click.echo(one_line(f"Continue: minisheep align --run {found.path}"))
        else:
            click.echo(f"{_ended(found).capitalize()}.")


def _ended(run: api.Run) -> str:
    early = "stopped early for want of a gain" if run.ended_early else "finished"
    best = run.best
    return early if best is None else f"{early}; best: {'the base model' if best == 0 else f'round {best}'}"


# ``minisheep attach``: the screen of a run, whichever process works on it.
LOOK_SECONDS = 0.5


@click.command()
@click.argument("run", required=False)
@view_options
def attach(run: str | None, plain: bool, as_json: bool) -> None:
    """Show the screen of RUN. Without RUN: of the one in runs/ that is going on.

    q leaves and p pauses; the run goes on without a screen. Ctrl-C stops the run, as where it was started. In a pipe,
    and with --plain or --json: what the run has said from its start, and then what it says until it ends.

    \b
    minisheep attach
    minisheep attach runs/mine --json
    """
    from minisheep import api
    from minisheep.run.folder import RunFolder
    from minisheep.terminal.live_screen import usable
    from minisheep.terminal.views import draws

    folder = RunFolder(api.load_run(run).path if run else _going_on())
    if not as_json and draws(plain=plain) and usable():
        from minisheep.terminal.detached import attach as show

        show(folder)
    else:
        _follow(folder, as_json=as_json)


def _going_on() -> Path:
    """The one run in runs/ that somebody works on. Raises `errors.UsageError` if there is none, or more than one."""
    from minisheep.errors import UsageError
    from minisheep.terminal.detached import holder

    found = [path.parent for path in sorted(Path("runs").glob("*/manifest.json")) if holder(path.parent)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{len(found)} runs are going on.", f"Name one: {', '.join(map(str, found))}.")
    raise UsageError("No run in runs/ is going on.", "Name one to see how it ended: minisheep attach RUN.")


def _follow(run: RunFolder, *, as_json: bool) -> None:
    """What was said, and what is said until nobody works on the run."""
    from minisheep.run.events import Glimpse
    from minisheep.terminal.detached import holder
    from minisheep.terminal.screen_state import Follow
    from minisheep.terminal.views import JsonView, PlainView

    follow = Follow(run)
    view: View = JsonView() if as_json else PlainView()
    going_on = True
    while going_on:
        # Asked before reading, so that the last words are not missed.
        going_on = holder(run.path) is not None
        for at, event in follow.new():
            if not isinstance(event, Glimpse):
                view(event, at) if isinstance(view, JsonView) else view(event)
        if going_on:
            view.tick()
            time.sleep(LOOK_SECONDS)
