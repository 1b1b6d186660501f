"""Faults on demand, so that tests can prove what happens when a worker dies. Off unless MINISHEEP_FAULT says otherwise.

``MINISHEEP_FAULT=abort:respond:3`` aborts the process (as a failed assertion in native code would) at the third record
of the phase; ``full:respond:3`` raises the error of a full disk there.
"""

from __future__ import annotations

import errno
import os

from minisheep.errors import DiskError

_seen: dict[str, int] = {}


def point(phase: str) -> None:
    """Called wherever a phase has acknowledged something."""
    wanted = os.environ.get("MINISHEEP_FAULT")
    if not wanted:
        return
    kind, name, count = wanted.split(":")
    if name != phase:
        return
    _seen[name] = _seen.get(name, 0) + 1
    if _seen[name] == int(count):
        if kind == "abort":
            os.abort()
        raise DiskError(f"Injected fault: {os.strerror(errno.ENOSPC)}.", "Give the same command again.")
