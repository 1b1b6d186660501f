"""Chat workers for tests: one in this process, and one that is slow or dies (`UnrulyHandler`)."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from minisheep.chat import worker
from minisheep.engines.base import Completion, GenerateRequest, OnText
from minisheep.engines.fake_engine import FakeEngine, text_of

DEADLY = "die now"
SLOW = "slowly"
STUCK = "stop listening"


class WorkerHere:
    """In the place of `WorkerProcess`: its handler in this process."""

    def __init__(self, name: str, log: Path) -> None:
        self.handler = worker.ChatHandler()
        self.pid = os.getpid()

    def do(self, job: dict[str, Any], doing: str, emit: Any) -> None:
        self.handler.do(job, emit, lambda: False)

    def kill(self) -> None:
        self.handler.close()

    def close(self) -> None:
        self.handler.close()


class Unruly(FakeEngine):
    """Dies of SIGSEGV, takes ten seconds, or computes for long between two tokens, where it is asked to."""

    def generate(
        self, requests: Sequence[GenerateRequest], on_text: OnText | None = None, *, keep: bool = False
    ) -> Iterator[Completion]:
        asked = text_of(requests[0].prompt).rpartition("Instruction: ")[2]
        if DEADLY in asked:
            os.kill(os.getpid(), signal.SIGSEGV)
        if SLOW in asked and on_text is not None:
            for number in range(1000):
                on_text(requests[0].id, f"{number} ")
                time.sleep(0.01)
        if STUCK in asked and on_text is not None:
            for number in range(3):
                on_text(requests[0].id, f"{number} ")
            time.sleep(30)
        return super().generate(requests, on_text)


class UnrulyHandler(worker.ChatHandler):
    """The handler of a worker of its own."""

    def __init__(self) -> None:
        super().__init__()
        worker.open_engine = lambda settings, gguf: Unruly()  # type: ignore[assignment]
