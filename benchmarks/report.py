"""Rows as JSON lines, as a table on the terminal, and as Markdown for ``docs/performance.md``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

from rich.table import Table
from rich.text import Text

from benchmarks.measure import Comparison, Row
from benchmarks.session import Failure

Found = Row | Failure
NONE = "-"


def failure_row(failure: Failure, hardware: str, versions: dict[str, str]) -> dict[str, Any]:
    """A part that failed, in the shape of a row, so that ``--json`` has one shape only."""
    empty = Comparison(failure.part, None, None, "", "", note=f"not measured: {failure.message}")
    return Row(empty, hardware, versions).to_dict()


def number(value: float | None) -> str:
    """Three significant digits: ``0.0123``, ``4.56``, ``1,230``."""
    if value is None:
        return NONE
    if abs(value) >= 100:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:#.3g}".rstrip(".")


def cells(comparison: Comparison) -> tuple[str, ...]:
    """what, ours, peer, ratio, target: as words."""
    ratio = NONE if comparison.ratio is None else f"{number(comparison.ratio)}x"
    target = "" if comparison.target is None else comparison.target.describe(comparison.unit)
    if comparison.met is not None:
        target += ": met" if comparison.met else ": missed"
    return (
        comparison.what,
        f"{number(comparison.ours)} {comparison.unit}" if comparison.ours is not None else NONE,
        f"{number(comparison.peer)} {comparison.unit}" if comparison.peer is not None else NONE,
        ratio,
        target,
        comparison.peer_name,
    )


def bench_table(rows: Sequence[Row], *, quick: bool) -> Table:
    """The figures of a run."""
    title = "minisheep beside its peers" + (" (--quick: small sizes, not figures to quote)" if quick else "")
    table = Table(title=title, title_style="", header_style="")
    for name in ("what", "minisheep", "peer", "ratio", "target", "peer is"):
        table.add_column(name, justify="right" if name in ("minisheep", "peer", "ratio") else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in cells(row.comparison)))
    return table


def details(rows: Sequence[Row]) -> list[str]:
    """One line a row: sizes, turns, spread, note."""
    lines = []
    for row in rows:
        c = row.comparison
        spreads = " and ".join(f"{s:.0%}" for s in (c.spread_ours, c.spread_peer) if s is not None)
        turns = f"{c.repeats} turn{'s' if c.repeats != 1 else ''}" + (f", spread {spreads}" if c.repeats > 1 else "")
        lines.append(f"{c.what}: " + "; ".join(part for part in (c.sizes, turns if c.repeats else "", c.note) if part))
    return lines


def surroundings(hardware: str, versions: dict[str, str]) -> list[str]:
    return [f"Machine: {hardware}", "Versions: " + ", ".join(f"{k} {v}" for k, v in versions.items())]


def markdown(found: Sequence[Found], hardware: str, versions: dict[str, str], command: str, today: date) -> str:
    """The block for the page: date, command, machine, table, sizes, and the parts that could not be measured."""
    rows = [item for item in found if isinstance(item, Row)]
    lines = [f"Measured on {today.isoformat()} with `{command}`.", ""]
    lines += [f"- {line}" for line in surroundings(hardware, versions)]
    lines += ["", "| what | minisheep | peer | ratio | target | peer is |", "|---|---:|---:|---:|---|---|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells(row.comparison)) + " |" for row in rows]
    lines += ["", *(f"- {line}" for line in details(rows))]
    lines += [f"- {item.part}: not measured: {item.message}" for item in found if isinstance(item, Failure)]
    return "\n".join(lines) + "\n"
