"""``minisheep compare``: settings against results, over the rounds of several runs."""

from __future__ import annotations

import json
import shutil
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from minisheep.run.comparison import Comparison, Difference, Row
    from minisheep.run.metrics import Metric

PIPED_WIDTH = 100


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--sort", "sort_by", metavar="METRIC", help="the best first by this metric, as --json names it")
@click.option("--only", metavar="METRIC,...", help="these metrics alone in the tables, in this order")
@click.option("--csv", "csv_file", metavar="FILE", help="write the rows to a CSV file too")
@click.option("--plot", "plot_file", metavar="FILE", help="draw them across rounds: .png, .svg or .pdf")
@click.option("--markdown", "as_markdown", is_flag=True, help="Markdown tables")
@click.option("--json", "as_json", is_flag=True, help="one JSON object a line, and nothing else")
def compare(
    runs: tuple[str, ...], sort_by: str | None, csv_file: str | None, plot_file: str | None, **form: Any
) -> None:
    """Show the settings in which RUNs differ beside what each of their rounds did to the model.

    Shares have 95 % bootstrap intervals, changes are paired by item, NLL has its standard error. The best round of each
    run is set against that of the first RUN, so give the reference first. One RUN alone: its rounds are compared.

    \b
    for judge in pmi logits; do minisheep align --run runs/$judge --judge $judge; done
    minisheep compare runs/pmi runs/logits --plot judges.svg
    """
    from minisheep.compare import export, plot, table
    from minisheep.errors import UsageError
    from minisheep.machine.files import write_atomic
    from minisheep.run import comparison

    if form["as_json"] and form["as_markdown"]:
        raise UsageError("--json and --markdown are two forms of the same output.", "Leave one out.")
    names = None if form["only"] is None else [name.strip() for name in form["only"].split(",") if name.strip()]
    if names is not None and form["as_json"]:
        raise UsageError("--only is for the tables; --json has every metric.", "Leave one out.")
    if names == []:
        raise UsageError("--only names no metric.", "As in --only instruction_own,nll_change.")
    if plot_file:
        plot.check_plot(plot_file)
    if csv_file and not Path(csv_file).absolute().parent.is_dir():
        raise UsageError(f"--csv {csv_file}: there is no folder {Path(csv_file).parent}.")
    found = comparison.compare(runs)
    rows = table.sort_rows(found.rows, sort_by) if sort_by else list(found.rows)
    metrics = table.chosen(rows, names) if names else None
    against = comparison.differences(found.results)
    if csv_file:
        write_atomic(Path(csv_file), export.csv_text(found, rows).encode("utf-8", "surrogatepass"))
    if plot_file:
        plot.plot(found, plot_file)
    if form["as_json"]:
        for row in rows:
            click.echo(json.dumps(export.row_json(found, row)))
        for difference in against:
            click.echo(json.dumps(export.difference_json(difference)))
        for note in found.notes:
            click.echo(json.dumps({"event": "Note", "text": note}))
        return
    write = _markdown if form["as_markdown"] else _plain
    lines = write(found, rows, against, metrics)
    for line in lines:
        click.echo(line)
    for name, written in (("CSV", csv_file), ("figure", plot_file)):
        if written:
            click.echo(f"{name}: {written}", err=True)


def _plain(found: Comparison, rows: list[Row], against: list[Difference], only: list[Metric] | None) -> list[str]:
    from minisheep.compare import table

    width = shutil.get_terminal_size((PIPED_WIDTH, 24)).columns
    who, *rest = table.legend(found)
    index = table.index_columns(rows)
    settings = table.setting_columns(found, [row.results for row in rows])
    # Beside the first numbers where they leave room for them; the list of runs has them in any case.
    fits = sum(column.width + 2 for column in (*index, *settings)) <= width // 2
    columns = [*(settings if fits else []), *table.value_columns(rows, only)]
    lines = [*table.text([who], rest, width), "", *table.text(index, columns, width)]
    pair_index, pair_columns = table.difference_columns(against, only)
    if pair_columns:
        lines += ["", _heading(found), *table.text(pair_index, pair_columns, width)]
    said = [part for remark in _remarks(found, against) for part in textwrap.wrap(remark, width) or [""]]
    return [*lines, *said]


def _markdown(found: Comparison, rows: list[Row], against: list[Difference], only: list[Metric] | None) -> list[str]:
    from minisheep.compare import table

    index = table.index_columns(rows)
    # The list of runs above has them in any case.
    settings = [] if only else table.setting_columns(found, [row.results for row in rows])
    lines = [*table.markdown(table.legend(found)), ""]
    lines += table.markdown([index[0], *settings, *index[1:], *table.value_columns(rows, only)])
    pair_index, pair_columns = table.difference_columns(against, only)
    if pair_columns:
        lines += ["", _heading(found), "", *table.markdown([*pair_index, *pair_columns])]
    return [*lines, *_remarks(found, against)]


def _heading(found: Comparison) -> str:
    if len(found.results) == 1:
        return "Each round minus the one before, paired by item (points, 95 % interval):"
    return "Best round (else the last) of each run, paired by item (points, 95 % interval):"


def _remarks(found: Comparison, against: list[Difference]) -> list[str]:
    from minisheep.compare import table
    from minisheep.ui.sanitise import one_line

    said = ["*: the run's best, by its own decision."] if any(row.best for row in found.rows) else []
    said += [*table.not_comparable(against), *(one_line(note) for note in found.notes)]
    if len(found.results) > 1 and any(d.values for d in against):
        said.append("A best round was chosen by the numbers shown here, so it looks a little better than it is.")
    return ["", *said] if said else []
