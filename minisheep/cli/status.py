"""``minisheep status``: how far a run is and what each round did, read from its files alone."""

from __future__ import annotations

import json
from pathlib import Path

import click

from minisheep import api, loop
from minisheep.errors import UsageError
from minisheep.ui import words
from minisheep.ui.sanitise import one_line
from minisheep.ui.views import print_metrics


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
                else f"done in {words.duration(counts.get('seconds', 0))}"
            )
            told = f": {words.counts(counts)}" if counts else ""
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
