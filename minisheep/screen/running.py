"""Who works in a run folder, without disturbing him."""

from __future__ import annotations

import os
import re
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

from minisheep.machine.files import try_lock

_HOLDER = re.compile(r"process (\d+) on (.+)")


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds the lock of a run folder; `process` is 0 where it cannot be told, or runs on another computer."""

    process: int
    host: str

    def stop(self) -> str:
        """Ask him to stop, as Ctrl-C would; why that was not possible, or an empty text."""
        if not self.process:
            return f"It runs on {self.host}: stop it there."
        try:
            os.kill(self.process, signal.SIGINT)
        except ProcessLookupError:
            return "Nobody works on it any more."
        except PermissionError:
            return "It belongs to another user."
        return ""


def holder(folder: Path) -> Holder | None:
    """Who holds the lock of `folder` (see `store.Lock`); None if nobody does.

    Asked with a shared lock that is dropped at once; who wants the lock at that instant tries again.
    """
    try:
        handle = os.open(folder / ".lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if try_lock(handle, shared=True):
            return None
        told = _HOLDER.match(os.pread(handle, 300, 0).decode(errors="replace"))
        if told is None:
            return Holder(0, "another process")
        here = told[2].strip() == socket.gethostname()
        return Holder(int(told[1]) if here else 0, told[2].strip())
    finally:
        # Closing drops the lock.
        os.close(handle)
