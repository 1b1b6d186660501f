"""Reads files of a run that may be unfinished, torn, damaged or of another version, and changes none of them.

What is whole is taken; what is not is left out and said, once a file. Nothing here raises for what a file holds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from minisheep.records import Record

R = TypeVar("R", bound=Record)
T = TypeVar("T")

UNREADABLE = (ValueError, TypeError, AttributeError, KeyError, IndexError, RecursionError, OverflowError)
"""What data of another shape than expected does to the code that reads it."""


class Reader:
    """Reads files below `root`; `notes` collects what could not be read, a sentence each."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.notes: list[str] = []

    def records(self, path: Path, kind: type[R]) -> list[R]:
        """All whole records; damaged lines are left out. A torn last line is not one yet."""
        found: list[R] = []
        damaged = 0
        for line in self.lines(path):
            try:
                found.append(kind.from_dict(json.loads(line.decode("utf-8", "surrogatepass"))))
            except UNREADABLE:
                damaged += 1
        if damaged:
            self.note(path, f"{damaged} damaged line(s) are left out of this report")
        return found

    def objects(self, path: Path) -> list[dict[str, Any]]:
        """JSON objects, a line each; what is none is left out silently (events tell, they prove nothing)."""
        found = []
        for line in self.lines(path):
            try:
                data = json.loads(line.decode("utf-8", "surrogatepass"))
            except UNREADABLE:
                continue
            if isinstance(data, dict):
                found.append(data)
        return found

    def lines(self, path: Path) -> list[bytes]:
        """Whole lines; none where there is no such file."""
        data = self._bytes(path)
        # Binary lines end at a newline alone: model text may hold other line separators.
        return [line for line in data.split(b"\n")[:-1] if line] if data else []

    def json(self, path: Path, check: Callable[[dict[str, Any]], T]) -> T | None:
        """What `check` makes of a JSON object; None where there is no file, or where it is not such an object."""
        data = self._bytes(path)
        if data is None:
            return None
        try:
            found = json.loads(data)
            if isinstance(found, dict):
                return check(found)
        except UNREADABLE:
            pass
        self.note(path, "damaged or of another version, so it is left out of this report")
        return None

    def sha256(self, path: Path) -> str:
        """Of a file's bytes, in hexadecimal digits; empty where there is none."""
        try:
            with open(path, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return ""

    def note(self, path: Path, text: str) -> None:
        self.notes.append(f"{path.relative_to(self.root)}: {text}.")

    def _bytes(self, path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self.note(path, f"cannot be read ({error.strerror})")
            return None
