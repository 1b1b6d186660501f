"""Whether the folders of a run can be written and locked, by doing it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from minisheep.doctor.result import Result, fail, ok
from minisheep.errors import MinisheepError
from minisheep.machine.files import nearest, try_lock, write_json
from minisheep.store import Appender, Lock


def check(cache: Path, runs: Path) -> Result:
    """One result for the model cache and for the folder in which runs are made; nothing stays behind."""
    faults = [told for what, folder in (("cache", cache), ("runs", runs)) if (told := fault(what, folder))]
    if faults:
        fix = f"chmod u+rwx {nearest(runs)}, or set MINISHEEP_CACHE and --run to folders on a local disk."
        return fail("write and lock", "; ".join(faults), fix)
    return ok("write and lock", f"{cache} and {runs} can be written, renamed in, synced and locked")


def fault(what: str, folder: Path) -> str:
    """What is wrong with the nearest existing folder at or above `folder`; empty where nothing is."""
    there = nearest(folder)
    try:
        with tempfile.TemporaryDirectory(prefix=".minisheep-doctor-", dir=there) as name:
            path = Path(name)
            write_json(path / "whole.json", {"whole": True})
            with Appender(path / "lines.jsonl") as lines:
                lines.append({"line": 1})
            return _lock_fault(path, there)
    except (OSError, MinisheepError) as error:
        reason = error.message if isinstance(error, MinisheepError) else error.strerror or str(error)
        return f"the folder of the {what}, {there}, cannot be written: {reason}"


def _lock_fault(path: Path, there: Path) -> str:
    """A second handle must be refused while the first holds the lock: some network disks grant it to everyone."""
    lock = Lock(path)
    try:
        handle = os.open(path / ".lock", os.O_RDWR | os.O_CLOEXEC)
        try:
            if not try_lock(handle):
                return ""
        finally:
            os.close(handle)
        return f"{there} grants the same lock twice, so that two runs could write into one folder"
    finally:
        lock.release()
