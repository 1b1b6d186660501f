"""One measurement in a child process of its own, and the most VRAM that it took."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from minisheep.bench.children import TIME_UP, conversation
from minisheep.bench.plan import Job
from minisheep.errors import WorkerError, by_name
from minisheep.machine.gpu import Peak

PART_SECONDS = 900.0
"""What takes longer hangs: the sizes are seconds to minutes on a GPU of 2018."""


def measured(job: Job, command: Sequence[str]) -> tuple[dict[str, Any], int | None]:
    """What the child of `job` measured, and the most VRAM that the GPU held meanwhile beyond what it held before.

    Raises `errors.MinisheepError`: what the child raised, or that it died or hung.
    """
    log = Path(job.folder) / "log"
    ends = time.monotonic() + PART_SECONDS
    with Peak() as peak, closing(conversation(job, log, ends=ends, command=list(command))) as said:
        for message in said:
            if "facts" in message:
                facts: dict[str, Any] = message["facts"]
                break
            failed = message.get("failed", {})
            if failed.get("kind") == TIME_UP:
                raise WorkerError(f"Not finished within {PART_SECONDS:.0f} s.")
            if failed:
                raise by_name(failed["kind"])(failed["message"], failed["fix"])
        else:
            raise WorkerError("It ended without a word.")
    return facts, peak.bytes
