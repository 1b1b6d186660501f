"""A tiny run on the fake engine and trainer, for tests: the whole loop, no model."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from minisheep import api, loop
from minisheep.run.events import Event

TINY: dict[str, Any] = {
    "engine": "fake",
    "trainer": "fake",
    "per_round": 12,
    "eval_tasks": 6,
    "eval_answers": 3,
    "eval_verifiable": 4,
    "patience": 0,
}
"""Settings over the demo preset: two rounds of twelve instructions."""


def tiny_run(path: Path, *, until: loop.Phase | None = None, **settings: Any) -> tuple[api.Run, list[Event]]:
    """Do (or continue) a tiny run in this process; returns it and what it said."""
    said: list[Event] = []
    preset = None if (path / "manifest.json").exists() else "imitation"
    given = {} if preset is None else TINY
    return api.align(path, preset=preset, emit=said.append, until=until, inline=True, **{**given, **settings}), said


def flags(**settings: Any) -> list[str]:
    """The tiny run's settings as flags of the command line."""
    return [
        part for name, value in {**TINY, **settings}.items() for part in (f"--{name.replace('_', '-')}", str(value))
    ]


def minisheep(*args: str, fault: str = "", check: bool = False, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    environment = {**os.environ, **({"MINISHEEP_FAULT": fault} if fault else {})}
    return subprocess.run(
        [sys.executable, "-m", "minisheep", *args],
        capture_output=True, text=True, env=environment, check=check, **{"timeout": HELD, **options},
    )  # fmt: skip


HELD = 900
"""Seconds for what takes a few: other programs may hold this machine for minutes."""
ONLY = "MINISHEEP_TEST_ONLY"
"""``17`` or ``17-40``: of the many cases of a long test only these, so that a failure can be had again by itself, and a
test that was cut off goes on where it stopped."""


def chosen(count: int) -> Sequence[int]:
    """The numbers of a long test's cases."""
    first, _, last = os.environ.get(ONLY, "").partition("-")
    return range(int(first), int(last or first) + 1) if first else range(count)


@contextlib.contextmanager
def case(number: int, what: str, run: Path | None = None) -> Iterator[list[str]]:
    """Whatever fails inside, a limit of time too, is told with which case it was, what was added to the list that this
    gives, and how the worker of the `run` ended."""
    told: list[str] = []
    try:
        yield told
    except (KeyboardInterrupt, pytest.skip.Exception):
        raise
    except BaseException as error:
        log = run / "scratch" / "worker.log" if run is not None else None
        if log is not None and log.is_file():
            told.append(f"The end of {log}:\n{log.read_text(errors='replace')[-4000:]}")
        again = f"Again, alone: {ONLY}={number} and the same test."
        raise AssertionError("\n".join([f"Case {number}: {what}. {again}", *told, repr(error)])) from error


def ended(done: subprocess.CompletedProcess[str]) -> str:
    """How a command line ended, as evidence."""
    return f"{done.args[3:]} ended with {done.returncode}\nstdout: {done.stdout[-3000:]}\nstderr: {done.stderr[-6000:]}"


def outcome(run: Path) -> dict[str, Any]:
    """Everything in a run that must not depend on interruptions: all records and metrics, by file."""
    found: dict[str, Any] = {}
    for path in sorted(run.glob("round-*/*")):
        name = str(path.relative_to(run))
        if path.suffix == ".jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            assert len({json.dumps(line) for line in lines}) == len(lines), f"repeated records in {name}"
            # Drafts and answers may finish in any order; what follows from them may not.
            found[name] = sorted(map(json.dumps, lines)) if name.endswith("drafts.jsonl") else lines
        elif path.name == "metrics.json":
            found[name] = json.loads(path.read_text())
        elif path.is_dir():
            found[name] = {p.name: p.read_bytes() for p in sorted(path.iterdir())}
        elif path.name != "training.json":
            found[name] = path.read_bytes()
    return found
