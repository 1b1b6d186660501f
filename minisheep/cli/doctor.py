"""``minisheep doctor``: whether this machine can do a run, and what to type if it cannot."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import click

from minisheep.doctor.check_result import CheckResult, failed, verdict
from minisheep.doctor.diagnosis import LIMIT_SECONDS, Probing, diagnose
from minisheep.models.registry import absolute_paths
from minisheep.rules.plain_text import one_line

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "skipped": "dim"}


@click.command()
@click.option("--model", default="smollm2-135m", metavar="MODEL", help="the model to check with [smollm2-135m]")
@click.option("--gguf", default="", metavar="FILE", help="with this GGUF in place of its own, as for a run")
@click.option("--weights", default="", metavar="PATH", help="with these training weights, as for a run")
@click.option("--offline", is_flag=True, help="fetch nothing and ask no server")
@click.option(
    "--seconds",
    type=click.FloatRange(1, 3600),
    metavar="N",
    help="seconds for all checks together [27]; a large --model needs more",
)
@click.option("--json", "as_json", is_flag=True, help="one JSON object a line, and nothing else")
@click.option("--plain", is_flag=True, help="plain lines without colours")
def doctor(
    model: str, gguf: str, weights: str, offline: bool, seconds: float | None, as_json: bool, plain: bool
) -> None:
    """Check whether this machine can do a run, by doing each part of one on a small scale: at most 30 s.

    Checked are Python, driver, GPU, memory, disk, packages; that llama.cpp really uses the GPU, a real generation, a
    real training step, and that GGUF and training weights agree. Each failure comes with the command that fixes it.
    Exit code 1 if something failed. A model that is not in the cache is fetched first; that time is not counted.

    \b
    minisheep doctor
    minisheep doctor --offline --json
    minisheep doctor --model qwen1.5-7b --seconds 300
    minisheep doctor --gguf mine-Q8_0.gguf --weights mine/ --seconds 120
    """

    def on_progress(text: str) -> None:
        if as_json:
            click.echo(json.dumps({"event": "Note", "text": text}))
        else:
            click.echo(one_line(text), err=True)

    quiet = plain or as_json or not sys.stdout.isatty()
    if not quiet:
        on_progress("Checking the parts of a run; at most 30 s.")
    results: list[CheckResult] = []
    # The parts of a check work in folders of their own.
    paths = absolute_paths({"model": model, "gguf": gguf, "weights": weights})
    for result in diagnose(Probing(offline=offline, **paths), seconds or LIMIT_SECONDS, on_progress):
        results.append(result)
        if as_json:
            click.echo(json.dumps(result.to_dict()))
        elif quiet:
            for line in lines(result):
                click.echo(line)
    if not quiet:
        _show(results)
    if not as_json:
        click.echo(verdict(results))
    if failed(results):
        raise click.exceptions.Exit(1)


def lines(result: CheckResult) -> list[str]:
    """A result without colours: one line, and one for what to type."""
    line = f"{result.outcome:<8}{one_line(f'{result.name}: {result.found}')}"
    return [line, *([f"        -> {one_line(result.fix)}"] if result.fix else [])]


def _show(results: Sequence[CheckResult]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    for result in results:
        found = one_line(result.found)
        table.add_row(Text(result.outcome, STYLES[result.outcome]), Text(result.name), Text(found))
        if result.fix:
            table.add_row(Text(""), Text(""), Text(f"-> {one_line(result.fix)}", "cyan"))
    console.print(table)
