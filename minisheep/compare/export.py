"""A comparison for other programs: CSV, and objects for JSON lines. Pure; every value whole, nothing rounded."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from minisheep.compare.table import metrics_of
from minisheep.run.comparison import Comparison, Difference, Row, shared
from minisheep.run.metrics import Estimate


def csv_text(comparison: Comparison, rows: Sequence[Row]) -> str:
    """A line a run and round; each metric with its bounds or its standard error in columns of their own."""
    metrics = metrics_of(rows)
    parts = {metric.name: _parts(metric.name, rows) for metric in metrics}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    titles = [name if part == "value" else f"{name}_{part}" for name, own in parts.items() for part in own]
    writer.writerow(["run", *comparison.differing, "round", *titles])
    for row in rows:
        cells: list[Any] = []
        for name, own in parts.items():
            value = row.measured.values.get(name)
            given = value.to_dict() if isinstance(value, Estimate) else {} if value is None else {"value": value}
            cells += [given.get(part, "") for part in own]
        writer.writerow(
            [
                " ".join(result.path for result in row.results),
                *(shared(row.results, name) for name in comparison.differing),
                row.measured.round,
                *cells,
            ]
        )
    return out.getvalue()


def row_json(comparison: Comparison, row: Row) -> dict[str, Any]:
    return {
        "row": "round",
        "runs": [result.path for result in row.results],
        "settings": {name: shared(row.results, name) for name in comparison.differing},
        "round": row.measured.round,
        "best": row.best,
        "metrics": {
            name: value.to_dict() if isinstance(value, Estimate) else value
            for name, value in row.measured.values.items()
        },
    }


def difference_json(found: Difference) -> dict[str, Any]:
    (run, measured), (to_run, to_measured) = found.first, found.second
    return {
        "row": "difference",
        "run": run.path,
        "round": measured.round,
        "minus_run": to_run.path,
        "minus_round": to_measured.round,
        "metrics": {name: value.to_dict() for name, value in found.values.items()},
        "not_comparable": list(found.not_comparable),
    }


def _parts(name: str, rows: Sequence[Row]) -> list[str]:
    given = {
        part for row in rows if isinstance(value := row.measured.values.get(name), Estimate) for part in value.to_dict()
    }
    return [part for part in Estimate._fields if part == "value" or part in given]
