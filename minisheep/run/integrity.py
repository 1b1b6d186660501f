"""Whether the files of finished phases are still what they were: digested when a phase ends, checked later.

The manifest keeps, for each finished phase, a mark of each of its files (``files`` beside ``phases``). A file of lines
is marked by their number and the sum of their SHA-256: lines may be finished in any order, and a phase that is done
again appends the ones that were lost. Any other file is marked by its size and SHA-256. A run without marks, from
before there were any, is read as it is.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minisheep.errors import CorruptRunError
from minisheep.rules.plain_text import one_line, shell
from minisheep.run.files import disk_errors, fsync_folder, remove, sha256_of, write_atomic
from minisheep.run.folder import FILES, PhaseFile, RoundFolder, RunFolder, line_of
from minisheep.run.records import Record, Rejection

Mark = dict[str, Any]
"""``lines`` and ``digest``, or ``bytes`` and ``digest``."""
ORDER = tuple(FILES)
_seen: dict[tuple[Path, str], tuple[tuple[int, ...], Mark]] = {}
"""What was read in this process already: a file is read again only where its size, times or inode have changed."""


@dataclass(frozen=True, slots=True)
class Damage:
    """A file of a finished phase that is not what that phase left."""

    run: Path
    round: int
    phase: str
    name: str
    what: str

    @property
    def key(self) -> str:
        """The phase's name in the manifest."""
        return f"round-{self.round}/{self.phase}"

    @property
    def command(self) -> str:
        """What makes the phase again."""
        return f"minisheep {self.phase} --run {shell(self.run)}"

    @property
    def fix(self) -> str:
        return one_line(f"Restore it from a copy, or have that phase done again: {self.command}")

    def __str__(self) -> str:
        return one_line(f"round-{self.round}/{self.name} {self.what}")

    def error(self, others: int = 0) -> CorruptRunError:
        more = f" So are {others} more; `minisheep status {shell(self.run)}` lists them." if others else ""
        return CorruptRunError(
            one_line(f"{self.run}/round-{self.round}/{self.name} is damaged: it {self.what}.{more}"), self.fix
        )


def marks(folder: RoundFolder, phase: str) -> dict[str, Mark]:
    """The marks of a phase's files as they are now, by name below the round's folder. Files that are not there are left
    out. Raises OSError as the disk does."""
    return {name: mark for file in FILES[phase] for name, mark in _marks(folder, file)}


def _marks(folder: RoundFolder, file: PhaseFile) -> Iterator[tuple[str, Mark]]:
    path = folder.path / file.name
    paths = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for found in paths:
        mark = mark_of(found, file.stage)
        if mark is not None:
            yield str(found.relative_to(folder.path)), mark


def mark_of(path: Path, stage: str = "") -> Mark | None:
    """The mark of a file, of its lines of a `stage` alone if that is given; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    identity = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    known = _seen.get((path, stage))
    if known is None or known[0] != identity:
        known = identity, _read(path, stage)
        _seen[path, stage] = known
    return known[1]


def _read(path: Path, stage: str) -> Mark:
    if path.suffix != ".jsonl":
        return {"bytes": path.stat().st_size, "digest": sha256_of(path)}
    with open(path, "rb") as file:
        # A torn last line was never acknowledged.
        return mark_lines(line for line in file if line.endswith(b"\n") and _of_stage(line, stage))


def _of_stage(line: bytes, stage: str) -> bool:
    return not stage or f'"stage":"{stage}"'.encode() in line[:80]


def mark_lines(lines: Iterable[bytes]) -> Mark:
    """The mark of lines in any order."""
    count = total = 0
    for line in lines:
        count += 1
        total += int.from_bytes(hashlib.sha256(line).digest())
    return {"lines": count, "digest": f"{total % 2**256:064x}"}


def damage(run: RunFolder, manifest: Mapping[str, Any]) -> list[Damage]:
    """What is wrong with the files of the phases that `manifest` calls done; the phase that came first, first."""
    found: list[Damage] = []
    for key, expected in manifest.get("files", {}).items():
        number, phase = _round_and_phase(key)
        if key not in manifest["phases"] or phase not in FILES:
            continue
        folder = run.round(number)
        stages = {file.name: file.stage for file in FILES[phase]}
        for name, mark in expected.items():
            try:
                now = mark_of(folder.path / name, stages.get(name, ""))
            except OSError as error:
                found.append(Damage(run.path, number, phase, name, f"cannot be read ({error.strerror})"))
                continue
            if now != mark:
                found.append(Damage(run.path, number, phase, name, _difference(mark, now)))
    return sorted(found, key=lambda one: (one.round, ORDER.index(one.phase)))


def _difference(mark: Mark, now: Mark | None) -> str:
    if now is None:
        return "is missing"
    for unit in ("lines", "bytes"):
        if unit in mark and mark[unit] != now.get(unit):
            return f"has {now.get(unit)} of {mark[unit]} {unit}"
    return "has another content than the phase wrote"


def check(run: RunFolder, manifest: Mapping[str, Any]) -> None:
    """Raise `errors.CorruptRunError` for the first file of a finished phase that is not whole."""
    found = damage(run, manifest)
    if found:
        raise found[0].error(len(found) - 1)


def later(done: Iterable[str], key: str) -> list[str]:
    """The phases of `done` that rest on the phase `key`. A measurement carries later measurements only."""
    place = _place(key)
    return [
        other
        for other in done
        if _place(other) > place and (not key.endswith("/evaluate") or other.endswith("/evaluate"))
    ]


def same(first: Mapping[str, Mark], second: Mapping[str, Mark], phase: str) -> bool:
    """Whether two makings of a phase came out the same, but for how long they took."""
    timed = {file.name for file in FILES[phase] if file.timed}
    one, other = ({name: mark for name, mark in marks.items() if name not in timed} for marks in (first, second))
    return one == other


def make_room(folder: RoundFolder, phase: str) -> None:
    """Prepare the folder for doing a damaged phase again: what the model made stays where it is whole, the rest goes.

    Raises `errors.DiskError`.
    """
    for file in FILES[phase]:
        path = folder.path / file.name
        if file.made is not None:
            _keep_whole_lines(path, file.made)
        elif file.stage:
            _keep_whole_lines(path, Rejection, file.stage)
        else:
            with disk_errors(path):
                remove(path)


def set_aside(run: RunFolder, keys: Iterable[str]) -> Path | None:
    """Move what these phases made out of the way, below ``replaced-N`` of the run; None where there was nothing."""
    target = next(p for n in range(1, 10**6) if not (p := run.path / f"replaced-{n}").exists())
    moved = False
    for key in keys:
        number, phase = _round_and_phase(key)
        for file in FILES.get(phase, ()):
            path = run.round(number).path / file.name
            # A file that an earlier phase shares stays: the filter writes its own lines of it anew.
            if file.stage or not path.exists():
                continue
            with disk_errors(path):
                place = target / f"round-{number}" / file.name
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, place)
                fsync_folder(path.parent)
            moved = True
    return target if moved else None


def _keep_whole_lines(path: Path, kind: type[Record], but: str = "") -> None:
    """Each record once, without those of a stage. What is no record belongs to none, and would be in a reader's way."""
    if path.exists():
        with open(path, "rb") as lines:
            found = (_record(line, kind) for line in lines if not (but and _of_stage(line, but)))
            whole = {record.id: record for record in found if record is not None}
        write_atomic(path, (line_of(record.to_dict()) for record in whole.values()))


def _record(line: bytes, kind: type[Record]) -> Record | None:
    try:
        return kind.from_dict(json.loads(line.decode("utf-8", "surrogatepass")))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def _round_and_phase(key: str) -> tuple[int, str]:
    """``round-3/judge`` as its parts. A manifest holds no other names: it was read by its shape."""
    round, _, phase = key.partition("/")
    return int(round.removeprefix("round-")), phase


def _place(key: str) -> tuple[int, int]:
    number, phase = _round_and_phase(key)
    return number, ORDER.index(phase) if phase in ORDER else len(ORDER)
