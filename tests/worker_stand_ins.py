"""Handlers for workers of tests: what a test wants done in the child is Python source in the environment."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minisheep.run.events import Emit

SCRIPT = "worker_stand_ins:script"
_NAME = "MINISHEEP_TEST_WORKER"


def pretend(monkeypatch: pytest.MonkeyPatch, source: str) -> str:
    """A handler that runs `source`, which knows `job`, `emit` and `should_stop`, and returns its `facts`."""
    monkeypatch.setenv(_NAME, source)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    return SCRIPT


def script(job: dict[str, Any], emit: Emit, should_stop: Callable[[], bool]) -> Any:
    known: dict[str, Any] = {"job": job, "emit": emit, "should_stop": should_stop, "facts": {}}
    start = "import os, signal, sys, time\nfrom minisheep.errors import *\nfrom minisheep.run.events import *\n"
    exec(start + os.environ[_NAME], known)
    return known["facts"]
