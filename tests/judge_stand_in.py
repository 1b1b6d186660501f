"""A stand-in for a judge's server, on loopback: it answers as a test wants, well or badly. No model is behind it."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answer:
    """One response. `hang` waits until the server ends; `drop` closes the connection before a word; `cut` in the
    middle of the body."""

    body: bytes = b""
    status: int = 200
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False
    drop: bool = False
    cut: bool = False


@dataclass
class Asked:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def prompt(self) -> str:
        return str(self.body["messages"][-1]["content"])


@dataclass
class StandIn:
    url: str
    asked: list[Asked] = field(default_factory=list)


def says(text: str | None) -> Answer:
    """A chat completion."""
    return Answer(json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode())


def fails(status: int, message: str, **headers: str) -> Answer:
    return Answer(json.dumps({"error": {"message": message}}).encode(), status, headers=headers)


def answers_in(prompt: str) -> list[str]:
    """The answers that a prompt of ours shows, in order."""
    return re.findall(r"\[begin answer[^\]]*\]\n(.*?)\n\[end answer", prompt, re.DOTALL)


def prefers(better: Callable[[str], float]) -> Callable[[Asked, int], Answer]:
    """A judge that wants the answer with the higher value, whichever place it stands in."""

    def behave(asked: Asked, _number: int) -> Answer:
        first, second = map(better, answers_in(asked.prompt))
        return says(f"One is better.\nVerdict: {'tie' if first == second else 'A' if first > second else 'B'}")

    return behave


@contextmanager
def stand_in(behave: Callable[[Asked, int], Answer]) -> Iterator[StandIn]:
    """A server that runs for a test; `behave` gets each request and its number from 1."""
    ended, counting = threading.Event(), threading.Lock()
    found = StandIn("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            asked = Asked(self.path, dict(self.headers.items()), json.loads(data))
            with counting:
                found.asked.append(asked)
                number = len(found.asked)
            answer = behave(asked, number)
            if answer.hang:
                ended.wait(20)
            if answer.hang or answer.drop:
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in {"Content-Type": answer.kind, **answer.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body) + (50 if answer.cut else 0)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """A client that left early is what some tests want."""

    server = Server(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
