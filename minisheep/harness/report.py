"""Results in words: a table for a terminal, plain lines for a pipe, JSON objects. Pure but for `print_tables`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from minisheep.ui.sanitise import one_line

Result = Mapping[str, Any]


def objects(results: Sequence[Result]) -> Iterator[dict[str, Any]]:
    """One object for each result, without its items."""
    for result in results:
        yield {"event": "Measured", **{name: value for name, value in result.items() if name != "by_item"}}


def lines(results: Sequence[Result]) -> Iterator[str]:
    """One line for each metric of each result, and one with where the result is."""
    for result in results:
        yield f"{_title(result)}, {_column(result)}: {result['file']}"
        for metric, found in result["metrics"].items():
            changed = _change(result, metric)
            told = f", change to base {changed}" if changed else ""
            yield f"  {one_line(result['task'])} {_column(result)} {one_line(metric)} {_value(found)}{told}"


def tables(results: Sequence[Result]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """For each task its title, the column titles and the rows: a metric, and below it its change to the base."""
    for task in dict.fromkeys(result["task"] for result in results):
        own = [result for result in results if result["task"] == task]
        rows = []
        for metric in dict.fromkeys(metric for result in own for metric in result["metrics"]):
            rows.append([one_line(metric), *(_value(r["metrics"].get(metric)) for r in own)])
            changes = [_change(result, metric) for result in own]
            if any(changes):
                rows.append(["  change to base", *changes])
        speeds = [result["answers"].get("tokens_per_second") for result in own]
        if any(speeds):
            rows.append(["answers that ended", *(_share(result["answers"].get("ended")) for result in own)])
            rows.append(["tokens/s of answers", *("-" if not speed else f"{speed:.0f}" for speed in speeds)])
        yield _title(own[0]), ["", *(_column(result) for result in own)], rows


def print_tables(results: Sequence[Result]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    for title, columns, rows in tables(results):
        table = Table(title=Text(title), title_style="", header_style="")
        for place, column in enumerate(columns):
            table.add_column(column, justify="right" if place else "left")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
    for note in notes(results):
        console.print(Text(note))


def notes(results: Sequence[Result]) -> Iterator[str]:
    """What the reader of the numbers must know."""
    yield "In brackets: 95 % bootstrap intervals over items; changes are paired by item."
    for decided_by in dict.fromkeys(r["decided_by"] for r in results if r["task"] == "ifeval"):
        yield f"ifeval is decided by {one_line(decided_by)}."
    again = [result for result in results if result["stored_before"]]
    if again:
        yield f"{len(again)} of {len(results)} result(s) were stored before; --again measures anew."
    if results:
        yield f"Stored with every item: {one_line(str(results[0]['file']).rpartition('/')[0])}"


def _title(result: Result) -> str:
    settings = result["settings"]
    shots = f", {result['shots']} example(s) shown" if result["shots"] else ""
    return one_line(f"{result['task']}: {result['items']} items, {settings['frame']}{shots}")


def _column(result: Result) -> str:
    return f"round {result['round']}" if result["round"] else "base"


def _value(found: Mapping[str, Any] | None) -> str:
    if found is None or found["value"] is None:
        return "-"
    if found["low"] is None:
        return f"{found['value']:.3f}"
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def _change(result: Result, metric: str) -> str:
    found = result["change"].get(metric)
    return f"{found['value']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]" if found else ""


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
