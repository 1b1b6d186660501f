"""``minisheep compare``: settings against results, over the rounds of several runs."""

from __future__ import annotations

import json
import shutil
import textwrap
from pathlib import Path
from typing import Any

import click

from minisheep import comparison
from minisheep.comparison import Comparison, PairedResults, RunRow
from minisheep.errors import UsageError
from minisheep.rules.plain_text import one_line
from minisheep.run.files import write_atomic
from minisheep.run.metric_catalogue import Metric
from minisheep.terminal import comparison_plot, comparison_table
from minisheep.terminal.columns import Column, laid_out

PIPED_WIDTH = 100


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--sort", "sort_by", metavar="METRIC", help="the best first by this metric, as --json names it")
@click.option("--only", metavar="METRIC,...", help="only these metrics in the tables, in this order")
@click.option("--full", is_flag=True, help="every metric in the tables, not only what decides")
@click.option("--csv", "csv_file", metavar="FILE", help="write the rows to a CSV file too")
@click.option("--plot", "plot_file", metavar="FILE", help="draw them across rounds: .png, .svg or .pdf")
@click.option("--markdown", "as_markdown", is_flag=True, help="Markdown tables")
@click.option("--json", "as_json", is_flag=True, help="one JSON object a line, and nothing else")
def compare(
    runs: tuple[str, ...], sort_by: str | None, csv_file: str | None, plot_file: str | None, **form: Any
) -> None:
    """Say in words how the best rounds of RUNs compare; then their settings beside what each round did to the model.

    Shares have 95 % bootstrap intervals, changes are paired by item, NLL has its standard error. The best round of each
    run is compared with that of the first RUN, so give the reference first. With one RUN, its rounds are compared.
    Each run of a loop takes its full time: without --per-round that is 3 rounds of 4,000 instructions, and
    `minisheep plan` says how long.

    \b
    minisheep align --run runs/pmi --judge pmi --rounds 1 --per-round 300
    minisheep align --run runs/logits --judge logits --rounds 1 --per-round 300
    minisheep compare runs/pmi runs/logits --plot judges.svg
    """
    if form["as_json"] and form["as_markdown"]:
        raise UsageError("--json and --markdown are two forms of the same output.", "Leave one out.")
    names = None if form["only"] is None else [name.strip() for name in form["only"].split(",") if name.strip()]
    if names is not None and form["as_json"]:
        raise UsageError("--only is for the tables; --json has every metric.", "Leave one out.")
    if names == []:
        raise UsageError("--only names no metric.", "As in --only instruction_own,nll_change.")
    if plot_file:
        comparison_plot.check_plot(plot_file)
    if csv_file and not Path(csv_file).absolute().parent.is_dir():
        raise UsageError(f"--csv {csv_file}: there is no folder {Path(csv_file).parent}.")
    found = comparison.compare(runs)
    rows = comparison_table.sort_rows(found.rows, sort_by) if sort_by else list(found.rows)
    metrics = (
        comparison_table.chosen(rows, names) if names else None if form["full"] else comparison_table.deciding(rows)
    )
    against = comparison.differences(found.results)
    if csv_file:
        write_atomic(Path(csv_file), comparison_table.csv_text(found, rows).encode("utf-8", "surrogatepass"))
    if plot_file:
        comparison_plot.plot(found, plot_file)
    if form["as_json"]:
        for row in rows:
            click.echo(json.dumps(comparison_table.row_json(found, row)))
        for difference in against:
            click.echo(json.dumps(comparison_table.difference_json(difference)))
        for note in found.notes:
            click.echo(json.dumps({"event": "Note", "text": note}))
        return
    width = 0 if form["as_markdown"] else shutil.get_terminal_size((PIPED_WIDTH, 24)).columns
    # Who named metrics wants to read of no others.
    for pair in [] if names else against:
        for line in (*_wrapped(one_line(pair.sentence(alone=len(found.results) == 1)), width), ""):
            click.echo(line)
    for line in _tables(found, rows, against, metrics, width):
        click.echo(line)
    if width and not (names or form["full"]):
        click.echo("Every metric: --full. Some of them: --only METRIC,...")
    for name, written in (("CSV", csv_file), ("figure", plot_file)):
        if written:
            click.echo(f"{name}: {written}", err=True)


def _tables(
    found: Comparison, rows: list[RunRow], against: list[PairedResults], only: list[Metric] | None, width: int
) -> list[str]:
    """For a terminal of `width` columns; in Markdown for 0."""

    def drawn(index: list[Column], columns: list[Column]) -> list[str]:
        return laid_out(index, columns, width) if width else comparison_table.markdown([*index, *columns])

    who, *rest = comparison_table.legend(found)
    index, columns = comparison_table.index_columns(rows), comparison_table.value_columns(rows, only)
    settings = comparison_table.setting_columns(found, [row.results for row in rows])
    # Settings are repeated here only where they break no table; the list of runs has them.
    fits = not only if not width else sum(column.width + 2 for column in (*index, *settings, *columns)) <= width + 2
    lines = [*drawn([who], rest), "", *drawn(index, [*(settings if fits else []), *columns])]
    pair_index, pair_columns = comparison_table.difference_columns(against, only)
    if pair_columns:
        lines += ["", _heading(found), *([] if width else [""]), *drawn(pair_index, pair_columns)]
    return [*lines, *(part for text in _remarks(found, against) for part in _wrapped(text, width) or [""])]


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width) if width else [text]


def _heading(found: Comparison) -> str:
    if len(found.results) == 1:
        return "Each round minus the one before, paired by item (points, 95 % interval):"
    return "Best round (else the last) of each run, paired by item (points, 95 % interval):"


def _remarks(found: Comparison, against: list[PairedResults]) -> list[str]:
    remarks = ["*: the run's best, by its own decision."] if any(row.best for row in found.rows) else []
    remarks += [*comparison_table.not_comparable(against), *(one_line(note) for note in found.notes)]
    if len(found.results) > 1 and any(d.values for d in against):
        remarks.append("A best round was chosen by the numbers shown here, so it looks a little better than it is.")
    return ["", *remarks] if remarks else []
