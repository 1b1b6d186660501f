"""Servers for tests: in a thread of this process on an engine that a test watches, or as it is typed."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from openai import OpenAI

from minisheep.engines.base import EngineInfo, GenerateRequest, OnText
from minisheep.engines.fake_engine import FakeBatch, FakeEngine, text_of
from minisheep.rules.templates import Conversation, conversation, plain
from minisheep.serve.desk import Desk
from minisheep.serve.endpoints import Endpoints, Offered
from minisheep.serve.worker import serve

CONTEXT = 100


class WatchedEngine(FakeEngine):
    """Says back the last word of its prompt, as often as the word before it says; a step takes `delay` seconds."""

    def __init__(self, slots: int = 4, delay: float = 0.005, reply: Callable[[GenerateRequest], str] | None = None):
        super().__init__(delay=delay, slots=slots, reply=reply or repeated)
        self.most = 0
        """Texts that ran at once."""
        self.prompts: list[str] = []
        self.requests: list[GenerateRequest] = []
        self.broken: Exception | None = None
        self.go = threading.Event()
        """While it is not set, the engine is in a step that does not end."""
        self.go.set()

    @property
    def info(self) -> EngineInfo:
        return EngineInfo("fake", "watched", super().info.slots, CONTEXT)

    @contextmanager
    def open_batch(self, on_text: OnText, requests: Sequence[GenerateRequest] = ()) -> Iterator[FakeBatch]:
        outer = self

        class Watched(FakeBatch):
            def add(self, requests: Any) -> None:
                outer.requests += requests
                outer.prompts += [text_of(request.prompt) for request in requests]
                super().add(requests)

            def step(self) -> Any:
                if outer.broken is not None:
                    raise outer.broken
                outer.go.wait(20)
                outer.most = max(outer.most, min(len(self._completions), outer.info.slots))
                return super().step()

        batch = Watched(self, self._delay, on_text)
        batch.add(requests)
        yield batch


def repeated(request: GenerateRequest) -> str:
    words = text_of(request.prompt).removesuffix("\nResponse: ").split()
    return " ".join(f"{words[-1]}{number}" for number in range(int(words[-2])))


@dataclass
class Served:
    port: int
    desk: Desk
    engine: WatchedEngine
    rounds: list[int]
    """The rounds whose adapter was put on, in order."""
    stop: threading.Event
    reports: list[dict[str, Any]] = field(default_factory=list)
    asker: OpenAI = field(init=False)

    def __post_init__(self) -> None:
        self.asker = self.client()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, key: str = "none") -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=30)

    def ask(self, content: str, model: str = "minisheep", **more: Any) -> Any:
        messages: Any = [{"role": "user", "content": content}]
        return self.asker.chat.completions.create(model=model, messages=messages, **more)

    def opened(self, count: int) -> bool:
        """Whether so many texts run or wait, soon."""
        return until(lambda: self.desk.open == count)


def until(true: Callable[[], bool], seconds: float = 10.0) -> bool:
    ends = time.monotonic() + seconds
    while not true() and time.monotonic() < ends:
        time.sleep(0.01)
    return true()


@contextmanager
def serving(
    engine: WatchedEngine, queue: int = 8, key: str = "", frame: Conversation | None = None, hosts: Sequence[str] = ()
) -> Iterator[Served]:
    """A server that has ended when the block has."""
    rounds: list[int] = []
    desk = Desk(engine, rounds.append, queue)
    models = {"minisheep": 2, "base": 0, "round-1": 1, "round-2": 2}
    offered = Offered(models, frame or conversation(plain("</s>"), "", {}), 0.7, 0.95, key, hosts)
    listener = socket.create_server(("127.0.0.1", 0))
    served = Served(listener.getsockname()[1], desk, engine, rounds, threading.Event())
    endpoints = Endpoints(offered, desk, served.reports.append)
    ready = threading.Event()
    threads = [
        threading.Thread(target=desk.run),
        threading.Thread(target=lambda: asyncio.run(serve(endpoints, desk, listener, served.stop.is_set, ready.set))),
    ]
    for thread in threads:
        thread.start()
    try:
        assert ready.wait(20)
        yield served
    finally:
        served.asker.close()
        engine.go.set()
        served.stop.set()
        for thread in threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in threads)


class ServeProcess(NamedTuple):
    """`minisheep serve` as a process, and the file that it writes to."""

    process: subprocess.Popen[bytes]
    said: Path

    @property
    def text(self) -> str:
        return self.said.read_text()

    @property
    def url(self) -> str:
        found = re.search(r"http://\S+/v1", self.text)
        assert found
        return found[0]

    def ended(self) -> int:
        return self.process.wait(30)

    def worker(self) -> int:
        """The process that owns the model."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return int(children.split()[0])


@contextmanager
def serve_process(said: Path, *args: str, **environment: str) -> Iterator[ServeProcess]:
    """A server that is ready, on a port that is free."""
    with open(said, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "minisheep", "serve", *args, "--port", "0"],
            stdout=file, stderr=file, env={**os.environ, **environment},
        )  # fmt: skip
    serving = ServeProcess(process, said)
    try:
        assert until(lambda: "/v1/chat/completions" in serving.text or process.poll() is not None, 60), serving.text
        yield serving
    finally:
        process.kill()
        process.wait()
