"""``minisheep attach``: the screen of a run, whichever process works on it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from minisheep.cli.options import view_options

if TYPE_CHECKING:
    from minisheep.store import RunFolder
    from minisheep.ui.views import View

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
    from minisheep.screen.keys import usable
    from minisheep.store import RunFolder
    from minisheep.ui.views import draws

    folder = RunFolder(api.load_run(run).path if run else _going_on())
    if not as_json and draws(plain=plain) and usable():
        from minisheep.screen.front import attach as show

        show(folder)
    else:
        _follow(folder, as_json=as_json)


def _going_on() -> Path:
    """The one run in runs/ that somebody works on. Raises `errors.UsageError` if there is none, or more than one."""
    from minisheep.errors import UsageError
    from minisheep.screen.running import holder

    found = [path.parent for path in sorted(Path("runs").glob("*/manifest.json")) if holder(path.parent)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{len(found)} runs are going on.", f"Name one: {', '.join(map(str, found))}.")
    raise UsageError("No run in runs/ is going on.", "Name one to see how it ended: minisheep attach RUN.")


def _follow(run: RunFolder, *, as_json: bool) -> None:
    """What was said, and what is said until nobody works on the run."""
    from minisheep.events import Glimpse
    from minisheep.screen.follow import Follow
    from minisheep.screen.running import holder
    from minisheep.ui.views import JsonView, PlainView

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
