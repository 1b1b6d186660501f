"""Runs minisheep's own commands as processes and reads their events, their time and their memory."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from minisheep.errors import MinisheepError

Event = dict[str, Any]
MINISHEEP = (sys.executable, "-m", "minisheep")


def flags(**settings: object) -> list[str]:
    """``per_round=5`` as ``--per-round 5``."""
    return [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", str(value))]


def seconds_of(command: list[str]) -> float:
    """How long a command takes from start to end. Its output is thrown away."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


@contextlib.contextmanager
def watched(arguments: list[str], folder: Path) -> Iterator[tuple[subprocess.Popen[str], Iterator[Event]]]:
    """``minisheep ARGUMENTS --json`` in `folder`, with its events as they come. The process is ended on exit."""
    process = subprocess.Popen(
        [*MINISHEEP, *arguments, "--json"],
        cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process, _events(process.stdout)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _events(lines: Any) -> Iterator[Event]:
    for line in lines:
        event: Event = json.loads(line)
        if event["event"] == "Failed":
            raise MinisheepError(str(event["message"]), str(event["fix"]))
        yield event


def run(arguments: list[str], folder: Path, until: Callable[[Event], bool] = lambda event: False) -> bool:
    """Run a command to its end, or stop it when `until` holds; returns whether it held."""
    with watched(arguments, folder) as (process, events):
        for event in events:
            if until(event):
                process.send_signal(signal.SIGTERM)
                process.wait()
                return True
        process.wait()
        if process.returncode != 0:
            raise MinisheepError(f"`minisheep {' '.join(arguments)}` ended with code {process.returncode}.")
        return False


def peak_memory(status: str) -> int | None:
    """Highest resident size in bytes, from the text of /proc/PID/status; None for a process that has ended."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def peak_memory_of(pid: int) -> int | None:
    try:
        return peak_memory(Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return None


def own_peak_memory() -> int:
    return peak_memory_of(os.getpid()) or 0
