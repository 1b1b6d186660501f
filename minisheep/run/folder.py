"""The run folder: the only memory of a run, safe against a crash at any moment.

    runs/NAME/
      run.toml         resolved settings            manifest.json   which phases are done; replaced atomically, last
      model.json       files, hashes, versions      events.jsonl    every event, in order
      constraints.json the kinds of constraint that a run with --constraints draws, with their words
      round-1/         *.jsonl, adapter/, adapter.gguf, metrics.json
      .lock            held while a process works   scratch/        checkpoints, worker logs, the present; may be lost
      pause            while it is there, the run waits
      tracking/        what services of --log-to were told

A record is acknowledged when it is on disk (fsync). A crash can leave no more than a torn last line. It is cut off when
the file is opened for appending, so that the next record does not stick to it. A phase is done when the manifest says
so, not before. The lock is the kernel's (flock): it goes with the process, however that ends, and a worker inherits
it, so no other process enters while an orphaned worker still writes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from minisheep.errors import CorruptRunError, DiskError, ModelFileError, RunLockedError, Stopped, WorkerError
from minisheep.rules.plain_text import one_line, shell
from minisheep.run.files import (
    disk_errors,
    fsync_folder,
    open_lock,
    read_json,
    sweep,
    try_lock,
    who_has_open,
    write_atomic,
    write_json,
)
from minisheep.run.records import Check, Draft, Record, Response, Verdict
from minisheep.run.typed import MANIFEST, NotOfShapeError, check

R = TypeVar("R", bound=Record)


def line_of(data: dict[str, Any]) -> bytes:
    """A record's dictionary as its line in a file."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass") + b"\n"


class Appender:
    """Appends JSON lines to one file, durably. One writer a file; `append` returns when the lines are on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with disk_errors(path):
            new = not path.exists()
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            if new:
                fsync_folder(path.parent)
            self._size = self._cut_torn_tail()

    def _cut_torn_tail(self) -> int:
        size = os.fstat(self._handle).st_size
        keep, block = size, 1 << 16
        while keep > 0:
            start = max(0, keep - block)
            newline = os.pread(self._handle, keep - start, start).rfind(b"\n")
            if newline >= 0:
                keep = start + newline + 1
                break
            keep = start
        if keep < size:
            os.ftruncate(self._handle, keep)
            os.fsync(self._handle)
        return keep

    def append(self, *items: dict[str, Any]) -> None:
        """Write `items`, all or none. Raises `errors.DiskError`; the file then ends as before."""
        data = b"".join(line_of(item) for item in items)
        if not data:
            return
        with disk_errors(self.path):
            try:
                written = 0
                while written < len(data):
                    # A full disk or a file-size limit shows as a short write.
                    written += os.pwrite(self._handle, data[written:], self._size + written)
                os.fsync(self._handle)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._handle, self._size)
                raise
        self._size += len(data)

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> Appender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_records(path: Path, kind: type[R], own: Callable[[R], bool] = bool) -> list[R]:
    """All acknowledged records of a file; raises as `each_record` does."""
    return list(each_record(path, kind, own))


def each_record(path: Path, kind: type[R], own: Callable[[R], bool] = bool) -> Iterator[R]:
    """The acknowledged records of a file one by one, each checked against its id; a torn last line is not one of them.

    Raises `errors.CorruptRunError` with the line's number where a whole line is not such a record, or not one's `own`.
    """
    if not path.exists():
        return
    with open(path, "rb") as file:
        # Binary lines end at a newline alone: model text may hold other line separators.
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                record = kind.from_dict(json.loads(line.decode("utf-8", "surrogatepass")))
                if not own(record):
                    raise ValueError("it is of another round or run")
            except (ValueError, TypeError, AttributeError, RecursionError) as error:
                raise CorruptRunError(
                    f"{path}, line {number}, is damaged ({error}). No record after it was lost.",
                    "Restore the file from a copy, or take the line out: what an unfinished phase lacks is made again."
                    " Where `minisheep status RUN` calls the file damaged, it says what makes it again.",
                ) from None
            yield record


class Lock:
    """The exclusive right to work in a run folder, held as long as any process has the handle open."""

    def __init__(self, folder: Path, wait_seconds: float = 3.0) -> None:
        """Raises `errors.RunLockedError` naming the holder if the lock is not free within `wait_seconds`.

        The wait covers the moment that an orphaned worker needs to notice that its parent was killed.
        """
        path = folder / ".lock"
        deadline = time.monotonic() + wait_seconds
        while True:
            with disk_errors(path):
                self.handle = open_lock(path)
                # The file of an attempt that was undone is gone, and its lock would keep nobody out.
                if try_lock(self.handle) and os.fstat(self.handle).st_nlink:
                    break
            noted = os.pread(self.handle, 200, 0).decode(errors="replace").strip()
            self.release()
            if time.monotonic() >= deadline:
                where = shell(folder)
                known = (
                    f"`minisheep attach {where}` shows it, `minisheep stop {where}` stops it, and a run beside it takes"
                    " a folder of its own (--run)."
                )
                raise RunLockedError(
                    f"{folder} is in use by {_holder(path, noted)}.",
                    known if RunFolder(folder).exists else "Wait for it to end, and give the same command again.",
                )
            time.sleep(0.05)
        # For the message above only; the lock itself is the kernel's, and holds on a full disk too.
        with contextlib.suppress(OSError):
            os.ftruncate(self.handle, 0)
            os.pwrite(self.handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1


def _holder(lock: Path, noted: str) -> str:
    """Who holds a lock: as it was noted, or where that process is gone, the workers that it left."""
    noted = one_line(noted, 100)
    left = re.fullmatch(r"process (\d+) on (.*)", noted)
    if left and left[2] == socket.gethostname() and not Path(f"/proc/{left[1]}").exists():
        workers = who_has_open(lock)
        if workers:
            return f"process {', '.join(map(str, workers))}, a worker of process {left[1]}, which has ended"
    return noted or "another process"


class RoundFolder:
    """The files of one round; round 0 is the base model and holds its metrics only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.exam = path / "exam.json"
        self.drafts = path / "drafts.jsonl"
        self.instructions = path / "instructions.jsonl"
        self.asked = path / "asked.jsonl"
        self.responses = path / "responses.jsonl"
        self.checks = path / "checks.jsonl"
        self.verdicts = path / "verdicts.jsonl"
        self.health = path / "judge.json"
        self.diversity = path / "diversity.json"
        self.kept = path / "kept.jsonl"
        self.unshown = path / "unshown.jsonl"
        self.pairs = path / "pairs.jsonl"
        self.rejected = path / "rejected.jsonl"
        self.answers = path / "answers.jsonl"
        self.verifiable = path / "verifiable.jsonl"
        self.adapter = path / "adapter"
        self.adapter_gguf = path / "adapter.gguf"
        self.training = path / "training.json"
        self.metrics = path / "metrics.json"


@dataclass(frozen=True, slots=True)
class PhaseFile:
    """A file (or a folder of files) of a round that a phase writes."""

    name: str
    made: type[Record] | None = None
    """Its records, where a model made them one by one: those that are whole are kept when the phase is done again. Any
    other file is made anew."""
    stage: str = ""
    """Where two phases share a file: only its rejections of this stage are the phase's."""
    timed: bool = False
    """Whether it tells how long something took, and so differs each time."""


FILES: dict[str, tuple[PhaseFile, ...]] = {
    "exam": (PhaseFile("exam.json"),),
    "generate": (
        PhaseFile("drafts.jsonl", Draft),
        PhaseFile("instructions.jsonl"),
        PhaseFile("rejected.jsonl", stage="generate"),
    ),
    "respond": (PhaseFile("asked.jsonl"), PhaseFile("responses.jsonl", Response), PhaseFile("unshown.jsonl", Response)),
    "judge": (PhaseFile("checks.jsonl", Check), PhaseFile("verdicts.jsonl", Verdict), PhaseFile("judge.json")),
    "filter": (
        PhaseFile("kept.jsonl"),
        PhaseFile("pairs.jsonl"),
        PhaseFile("rejected.jsonl", stage="filter"),
        PhaseFile("diversity.json"),
    ),
    "train": (PhaseFile("training.json", timed=True), PhaseFile("adapter"), PhaseFile("adapter.gguf")),
    "evaluate": (PhaseFile("answers.jsonl"), PhaseFile("verifiable.jsonl"), PhaseFile("metrics.json")),
}
"""Which files belong to which phase, in the order of a round. A phase need not write all of them."""


class RunFolder:
    """A run on disk. Making one does not write; `create` does."""

    def __init__(self, path: Path) -> None:
        # bash leaves the ~ of --run=~/x to the program, which would make a folder of that name.
        self.path = path = Path(os.path.expanduser(path))
        self.settings = path / "run.toml"
        self.model = path / "model.json"
        self.constraints = path / "constraints.json"
        self.manifest = path / "manifest.json"
        self.events = path / "events.jsonl"
        self.scratch = path / "scratch"
        self.present = self.scratch / "present.json"
        self.pause = path / "pause"

    @property
    def exists(self) -> bool:
        return self.manifest.exists()

    @property
    def begun(self) -> bool:
        """Whether anything was made here, so that the settings bind. Raises as `read_manifest`."""
        rounds = self.exists and any(self.round(number).path.exists() for number in (0, 1))
        return rounds or bool(self.read_manifest()["phases"])

    def round(self, number: int) -> RoundFolder:
        return RoundFolder(self.path / f"round-{number}")

    def make_round(self, number: int) -> RoundFolder:
        folder = self.round(number)
        with disk_errors(folder.path):
            folder.path.mkdir(parents=True, exist_ok=True)
        return folder

    def sweep(self) -> None:
        """Delete what killed processes left half written; only under the lock. Exports have locks of their own."""
        for folder in (self.path, *(inner for inner in self.path.glob("*/") if inner.name != "export")):
            sweep(folder)

    def create(self) -> None:
        """Make the folder itself. Raises `errors.DiskError`."""
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self.scratch.mkdir(exist_ok=True)

    def read_manifest(self) -> dict[str, Any]:
        """``{"phases": {"round-1/generate": {...counts}}, ...}``; empty for a new run. Raises `CorruptRunError`."""
        if not self.exists:
            self.check_manifest()
            return {"phases": {}}
        manifest = read_json(self.manifest)
        try:
            check(manifest, MANIFEST)
        except NotOfShapeError as error:
            raise CorruptRunError(
                f"{self.manifest} is damaged: {error}.", "Restore it from a copy, or start a new run."
            ) from None
        return dict(manifest)

    def check_manifest(self) -> None:
        """Raise `errors.CorruptRunError` where rounds were begun and the manifest, which comes before them, is gone."""
        begun = sorted(path.name for path in self.path.glob("round-*") if path.is_dir()) if self.path.is_dir() else []
        if begun and not self.exists:
            raise CorruptRunError(
                f"{self.manifest} is missing, although there is {begun[-1]}: which phases are done is not known.",
                "Restore it from a copy, or give another --run.",
            )

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        write_json(self.manifest, manifest)


class Attempt:
    """A start of a run, which can be undone as long as nothing was made: its settings then bind no later one."""

    def __init__(self, folder: RunFolder, *more: Path, new: bool) -> None:
        """`more`: files beside those that every start writes; new: it made the folder, which else holds what it held.

        Raises as `RunFolder.read_manifest`."""
        self._folder, self._new = folder, new
        written = (folder.settings, folder.manifest, folder.constraints, folder.model, folder.events, *more)
        before = () if folder.begun else written
        self._before = {path: path.read_bytes() if path.is_file() else None for path in before}

    def undo_after(self, error: Exception) -> None:
        """Leave the folder as it was, under the lock, unless something was made. A new one goes, but for the log that
        `error` names."""
        # A first phase may find out that the model computes no numbers; bound to it, the folder could never go on.
        wrong = isinstance(error, ModelFileError) and not any(self._folder.path.glob("round-*/*"))
        # Whoever stops a run means to go on with it.
        if isinstance(error, Stopped) or (self._folder.begun and not wrong):
            return
        with contextlib.suppress(OSError, DiskError):
            for path, content in self._before.items():
                if content is None:
                    path.unlink(missing_ok=True)
                elif not path.is_file() or path.read_bytes() != content:
                    write_atomic(path, content)
            for empty in self._folder.path.glob("round-*"):
                empty.rmdir()
            if self._new and not isinstance(error, WorkerError):
                shutil.rmtree(self._folder.scratch, ignore_errors=True)
                for name in ("rehearsal.json", "pause", ".lock"):
                    (self._folder.path / name).unlink(missing_ok=True)
                self._folder.path.rmdir()


def replace_records(path: Path, records: Iterable[Record]) -> None:
    """Write a whole file of records at once, atomically."""
    write_atomic(path, (line_of(record.to_dict()) for record in records))
