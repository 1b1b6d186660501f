"""What a run is doing at this moment, in one small file that is replaced: for screens in other processes.

``events.jsonl`` keeps what happened. Progress and glimpses are only of interest while they are new, so the newest of
each kind lies in ``scratch/present.json``. Nothing depends on the file: a full disk leaves it as it was, and a reader
takes no file, or half of one, for nothing to see.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

from minisheep.events import Event, Glimpse, Progress, from_dict, to_dict

LATEST = 1e11
"""No clock shows a later time, in seconds since the epoch."""
Timed = tuple[float, Event]
"""An event, and when it was said (seconds since the epoch)."""


class Present:
    """The writer's side; one a run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._said: dict[str, dict[str, Any]] = {}

    def __call__(self, event: Progress | Glimpse) -> None:
        self._said[type(event).__name__] = {"time": round(time.time(), 3), **to_dict(event)}
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        # Not synced: after a crash there is no present.
        with contextlib.suppress(OSError):
            temporary.write_text(json.dumps(list(self._said.values())), encoding="utf-8")
            os.replace(temporary, self._path)


def read(path: Path) -> list[Timed]:
    """The newest event of each kind, oldest first."""
    try:
        return sorted((timed(line) for line in json.loads(path.read_bytes())), key=lambda found: found[0])
    except (OSError, ValueError, TypeError):
        return []


def timed(line: Any) -> Timed:
    """An event and its time from a line of ``events.jsonl``. Raises ValueError or TypeError if it is none."""
    fields = dict(line)
    at = float(fields.pop("time", 0.0))
    if not 0 <= at < LATEST:
        raise ValueError(f"not a time: {at}")
    return at, from_dict(fields)
