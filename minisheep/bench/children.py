"""The parent's side: one child process at a time, what it says, and its sure end."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from minisheep.bench.plan import Job
from minisheep.errors import WorkerError

Said = dict[str, Any]
TIME_UP = "time is up"
GRACE_SECONDS = 2.0


def conversation(
    job: Job, log: Path, *, ends: float = float("inf"), command: list[str] | None = None
) -> Generator[Said, None, None]:
    """What the child of `job` says, line by line; it and all its own children are gone when this is closed.

    At `ends`, on the monotonic clock, the child is ended and the last message is ``{"failed": {"kind": TIME_UP}}``.
    Raises `errors.WorkerError` if the child dies without saying why.
    """
    command = command or [sys.executable, "-m", "minisheep.bench.run"]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    with open(log, "ab") as file:
        child = subprocess.Popen(
            [*command, json.dumps(job.to_dict())],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=file, start_new_session=True, env=environment,
        )  # fmt: skip
    explained = False
    try:
        assert child.stdout is not None
        for line in _lines(child.stdout.fileno(), ends):
            if line is None:
                yield {"failed": {"kind": TIME_UP, "message": "", "fix": ""}}
                return
            said: Said = json.loads(line)
            explained = explained or "failed" in said
            yield said
        code = child.wait()
        if code != 0 and not explained:
            reason = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            raise WorkerError(f"The process that measured '{job.part}' {reason}: {last_line(log)}")
    finally:
        _end(child)


def _lines(handle: int, ends: float) -> Iterator[bytes | None]:
    """Whole lines from a pipe until it closes; None when the time is up."""
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(handle, selectors.EVENT_READ)
        while True:
            left = ends - time.monotonic()
            if left <= 0:
                yield None
                return
            if not selector.select(min(left, 1.0)):
                continue
            data = os.read(handle, 1 << 16)
            if not data:
                return
            *lines, pending = (pending + data).split(b"\n")
            yield from lines


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child and its process group: a server, a run that is being watched."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        # The group may outlive its leader, so it is ended even where that is gone.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, number)
        if number == signal.SIGTERM:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=GRACE_SECONDS)
    child.wait()
    if child.stdout is not None:
        child.stdout.close()


def last_line(log: Path) -> str:
    """What a process said last, for the message that tells of its end."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"
