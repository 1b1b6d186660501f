"""A run's report on disk: report.html and report.md, each whole or not at all. Nothing else in the run is touched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from minisheep.errors import UsageError
from minisheep.machine.files import disk_errors, write_atomic
from minisheep.report import plots
from minisheep.report.document import document
from minisheep.report.gather import gather
from minisheep.report.html import page
from minisheep.report.markdown import markdown

FOLDER = "report"
NO_PICTURES = 'matplotlib is not installed, so the report has no pictures; pip install "minisheep[plots]" brings it.'


@dataclass(frozen=True, slots=True)
class Written:
    html: Path
    markdown: Path
    notes: tuple[str, ...]
    """What could not be read, and whether pictures are missing."""


def write(run: str | Path, out: str | Path | None = None) -> Written:
    """Write the report of `run` into the folder `out`, by default ``report`` in the run.

    Raises `errors.UsageError` where `run` is no run or `out` cannot be written, and `errors.DiskError`.
    """
    found = gather(run)
    folder = Path(out) if out is not None else found.path / FOLDER
    told = document(found)
    drawable = plots.available()
    drawings = plots.drawn(told.plots) if drawable else {}
    texts = {"report.html": page(told, drawings), "report.md": markdown(told)}
    try:
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_atomic(folder / name, text.encode("utf-8"))
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be written: {error.strerror}. The run itself is untouched.", "Give another --out FOLDER."
        ) from None
    notes = found.notes if drawable else (*found.notes, NO_PICTURES)
    return Written(folder / "report.html", folder / "report.md", notes)
