"""What a run is doing now: one name for it (pure), the process that holds its lock, and how to ask that one to stop.

Every place that tells a run's state takes it from `name_of`: the screen's header, ``status``, ``runs``, ``pause``,
``resume`` and ``stop``.
"""

from __future__ import annotations

import os
import re
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

from minisheep.run.files import try_lock, who_has_open

RUNNING, PAUSING, PAUSED, STOPPING = "running", "pausing", "paused", "stopping"
STOPPED, FAILED, FINISHED, EARLY, NEW = "stopped", "failed", "finished", "finished early", "not started"
GOING_ON = (RUNNING, PAUSING, PAUSED, STOPPING)
"""States of a run that a process works on,"""
DONE = (FINISHED, EARLY)
"""and of one that has nothing left to do."""


def name_of(
    *,
    alive: bool,
    outcome: str = "",
    stopping: bool = False,
    paused: bool = False,
    pausing: bool = False,
    over: bool = False,
    early: bool = False,
    begun: bool = True,
) -> str:
    """The state of a run by name.

    alive: a process holds its lock. `outcome` (how it ended, or nothing), `stopping` and
    `paused` are what the events of its newest start say; pausing: the file that asks for a pause is there. over:
    nothing is left to do, and `early`, before its last round. begun: it has made something, or set out to.
    """
    if over and not alive:
        return EARLY if early else FINISHED
    if outcome:
        return outcome
    if alive:
        return STOPPING if stopping else PAUSED if paused else PAUSING if pausing else RUNNING
    # A process that was killed says nothing: its last events are those of a run that goes on.
    return STOPPED if begun else NEW


_HOLDER = re.compile(r"process (\d+) on (.+)")


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds the lock of a run folder: 0 if it is on another computer, or, without a host, unknown."""

    process: int
    host: str
    lock: Path

    def ask(self, number: signal.Signals = signal.SIGINT) -> str:
        """Send it a signal, by default as Ctrl-C would; returns why that failed, or an empty text.

        A process that no longer has the lock open gets none: its number may be another's by now.
        """
        if not self.host:
            return "It is not known which process does the run. Stop it where it was started."
        if not self.process:
            return (
                f"The run is done by a process on {self.host}, which shares this folder. A process can be stopped only"
                " on its own computer: give the command there."
            )
        try:
            os.kill(self.process, 0)
            seen = who_has_open(self.lock)
            # A system that shows nobody's files leaves only the number.
            if not seen or self.process in (os.getpid(), *seen):
                os.kill(self.process, number)
        except ProcessLookupError:
            return ""
        except PermissionError:
            return f"The run belongs to another user (process {self.process})."
        return ""


def holder(folder: Path) -> Holder | None:
    """The holder of the lock of `folder` (see `run.folder.Lock`), or None.

    Found by a shared lock that is dropped at once; a process that wants the lock at that instant tries again.
    """
    path = folder / ".lock"
    try:
        # A pipe in a run from elsewhere would be waited for, and a link may lead to another program's lock.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        if try_lock(handle, shared=True):
            return None
        match = _HOLDER.match(os.pread(handle, 300, 0).decode(errors="replace"))
        if match is None:
            return Holder(0, "", path)
        here = match[2].strip() == socket.gethostname()
        return Holder(int(match[1]) if here else 0, match[2].strip(), path)
    finally:
        # Closing drops the lock.
        os.close(handle)
