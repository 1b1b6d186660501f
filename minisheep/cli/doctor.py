"""``minisheep doctor``: whether this machine can do a run, and what to type where it cannot."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from minisheep.rules.plain_text import one_line

if TYPE_CHECKING:
    from minisheep.doctor.check_result import CheckResult

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "skipped": "dim"}


@click.command()
@click.option("--model", default="smollm2-135m", metavar="NAME", help="the model to try it with [smollm2-135m]")
@click.option("--offline", is_flag=True, help="fetch nothing and ask no server")
@click.option(
    "--seconds",
    type=click.FloatRange(1, 3600),
    metavar="N",
    help="time for what is tried, all together [27]; a large --model needs more",
)
@click.option("--json", "as_json", is_flag=True, help="one JSON object a line, and nothing else")
@click.option("--plain", is_flag=True, help="plain lines without colours")
def doctor(model: str, offline: bool, seconds: float | None, as_json: bool, plain: bool) -> None:
    """Find out whether this machine can do a run, by doing its parts in small: at most 30 s.

    Python, driver, GPU, memory, disk, packages; llama.cpp really using the GPU, a real generation, a real training
    step, GGUF and training weights saying the same. Each failure comes with the command that mends it. Exit code 1 if
    something failed. The model is fetched first if it is not in the cache; that is not counted.

    \b
    minisheep doctor
    minisheep doctor --offline --json
    minisheep doctor --model qwen1.5-7b --seconds 300
    """
    from minisheep.doctor.check_result import failed, verdict
    from minisheep.doctor.diagnosis import LIMIT_SECONDS, Options, diagnose

    def on_progress(text: str) -> None:
        if as_json:
            click.echo(json.dumps({"event": "Note", "text": text}))
        else:
            click.echo(one_line(text), err=True)

    quiet = plain or as_json or not sys.stdout.isatty()
    if not quiet:
        on_progress("Trying the parts of a run; at most 30 s.")
    results: list[CheckResult] = []
    for result in diagnose(Options(model, offline, seconds or LIMIT_SECONDS), on_progress):
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
    told = f"{result.outcome:<8}{one_line(f'{result.name}: {result.found}')}"
    return [told, *([f"        -> {one_line(result.fix)}"] if result.fix else [])]


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
