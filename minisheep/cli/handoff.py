"""``minisheep handoff``: a round's training for another program, which may have many GPUs."""

from __future__ import annotations

import json
from pathlib import Path

import click

TARGETS = ("axolotl", "llamafactory")
"""As `handoff.write` has them, which is not loaded for the help."""


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--to", "target", type=click.Choice(TARGETS), required=True, help="the program that will train")
@click.option("--round", "round_", default="last", metavar="N", help="whose kept data: a number, best or last [last]")
@click.option("--gpus", type=click.IntRange(1), default=1, metavar="N", help="GPUs that share the batch [1]")
@click.option("--base-model", metavar="ID", help="the base as that program finds it: a hub id or a folder")
@click.option("--out", metavar="DIR", help="the new folder [RUN/handoff/TARGET-round-N]")
@click.option("--json", "as_json", is_flag=True, help="one JSON object and nothing else")
def handoff(
    run: str, target: str, round_: str, gpus: int, base_model: str | None, out: str | None, as_json: bool
) -> None:
    """Write what a round of RUN trains on, and a configuration, for a program that trains on many GPUs.

    The pairs are those that our own training would learn from, framed by the run's template; the hyperparameters are
    the run's. `minisheep filter` ends a round's data, and nothing need be trained here.

    \b
    minisheep filter --run runs/large
    minisheep handoff runs/large --to axolotl --gpus 8
    """
    from minisheep.handoff.job import read_job
    from minisheep.handoff.write import write
    from minisheep.ui.sanitise import one_line

    job = read_job(run, round_, base_model or "")
    folder = Path(out) if out else job.run / "handoff" / f"{target}-round-{job.round}"
    command = write(job, target, gpus, folder)
    if as_json:
        click.echo(
            json.dumps({
                "event": "HandedOff", "folder": str(folder), "command": command, "train": len(job.train),
                "validation": len(job.validation), "left_out": job.left_out,
            })
        )  # fmt: skip
        return
    click.echo(one_line(f"{folder}: {len(job.train)} examples and {len(job.validation)} for validation."))
    if job.left_out:
        click.echo(f"{job.left_out} left out: their text looks like a special token of the template.")
    click.echo(one_line(f"Train: cd {folder} && {command}"))
