"""The events of a run folder as they are written, by whichever process."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from minisheep import present
from minisheep.present import Timed
from minisheep.store import RunFolder


class Follow:
    """Reads ``events.jsonl`` from its start and then what is added, and the present file when it changes.

    Only whole lines are taken; a line that is no event is passed over. Nothing is written.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._offset = 0
        self._stamp = 0
        self._seen: dict[str, float] = {}

    def new(self) -> list[Timed]:
        """What was said since the last call, in order."""
        return [*self._lines(), *self._now()]

    def _lines(self) -> Iterator[Timed]:
        with contextlib.suppress(OSError), open(self._folder.events, "rb") as file:
            if os.fstat(file.fileno()).st_size < self._offset:
                # Another run was made in the same place.
                self._offset = 0
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                found = _event(line)
                if found is not None:
                    yield found

    def _now(self) -> Iterator[Timed]:
        path: Path = self._folder.present
        try:
            stamp = path.stat().st_mtime_ns
        except OSError:
            return
        if stamp == self._stamp:
            return
        self._stamp = stamp
        for at, event in present.read(path):
            kind = type(event).__name__
            if at > self._seen.get(kind, 0.0):
                self._seen[kind] = at
                yield at, event


def _event(line: bytes) -> Timed | None:
    try:
        return present.timed(json.loads(line))
    except (ValueError, TypeError):
        return None
