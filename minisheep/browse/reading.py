"""The records of a round as far as they are whole. Reads only, whatever else happens to the folder meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from minisheep.records import Draft, Example, Instruction, Record, Rejection, Response, Verdict
from minisheep.store import RoundFolder

R = TypeVar("R", bound=Record)


@dataclass(slots=True)
class RoundRecords:
    """All that a round holds, each kind in the order of its file."""

    number: int
    drafts: list[Draft] = field(default_factory=list)
    instructions: list[Instruction] = field(default_factory=list)
    responses: list[Response] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    kept: list[Example] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Which files hold lines that are no records."""


def read_round(number: int, folder: RoundFolder) -> RoundRecords:
    """The records of a round. What came last is read first, so that a round that grows meanwhile lacks no parents."""
    found = RoundRecords(number)
    found.rejected = _whole(folder.rejected, Rejection, found.notes)
    found.kept = _whole(folder.kept, Example, found.notes)
    found.verdicts = _whole(folder.verdicts, Verdict, found.notes)
    found.responses = _whole(folder.responses, Response, found.notes)
    found.instructions = _whole(folder.instructions, Instruction, found.notes)
    found.drafts = _whole(folder.drafts, Draft, found.notes)
    return found


def ids_with(prefix: str, folder: RoundFolder) -> Iterator[str]:
    """The ids of a round's records that begin with `prefix`, by the beginnings of lines alone."""
    start = b'{"id":"'
    wanted = start + prefix.encode("utf-8", "replace")
    for path in (folder.kept, folder.rejected, folder.verdicts, folder.responses, folder.instructions, folder.drafts):
        for line in _lines(path):
            if line.startswith(wanted):
                yield line[len(start) :].partition(b'"')[0].decode("utf-8", "replace")


def _whole(path: Path, kind: type[R], notes: list[str]) -> list[R]:
    found: list[R] = []
    damaged = 0
    for line in _lines(path):
        try:
            data: Any = json.loads(line.decode("utf-8", "surrogatepass"))
            found.append(kind.from_dict(data))
        except (ValueError, TypeError, AttributeError, RecursionError):
            damaged += 1
    if damaged:
        lines = "1 line" if damaged == 1 else f"{damaged} lines"
        notes.append(f"{path}: {lines} left out: damaged, or of another version.")
    return found


def _lines(path: Path) -> Iterator[bytes]:
    """The acknowledged lines of a file: a torn last one is none, nor is a file that is not there."""
    try:
        with open(path, "rb") as file:
            yield from (line for line in file if line.endswith(b"\n"))
    except FileNotFoundError:
        return
