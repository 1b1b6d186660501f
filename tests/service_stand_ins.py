"""STAND-INS for wandb and trackio, which are not installed for tests: each notes what it is told, one JSON line a call.

MINISHEEP_STAND_IN_MODE: ``refuses`` to open (with the key in its words), ``dies`` at the third thing it is told, or
``hangs`` there.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

BODY = """
import json, os, time

count = 0

def mode():
    return os.environ.get("MINISHEEP_STAND_IN_MODE", "")

def note(**what):
    with open(os.environ["MINISHEEP_STAND_IN_NOTES"], "a") as file:
        file.write(json.dumps(what, default=vars) + "\\n")

class Table:
    def __init__(self, columns, data):
        self.rows = [list(columns), *map(list, data)]

class Histogram:
    def __init__(self, np_histogram):
        self.counts, self.edges = np_histogram

class Settings(dict):
    def __init__(self, **given):
        super().__init__(given)

class Run:
    url, dir = "https://stand-in.example/run", "/nowhere/wandb/run-1/files"

    def define_metric(self, name, step_metric):
        pass

    def log(self, told, step):
        global count
        count += 1
        if count == 3 and mode() == "dies":
            raise ConnectionError("the service is gone")
        if count == 3 and mode() == "hangs":
            time.sleep(600)
        note(step=step, **told)

    def finish(self):
        note(finished=True)

def init(**given):
    print("a library that prints to stdout", flush=True)
    if mode() == "refuses":
        key = os.environ["STAND_IN_API_KEY"]
        raise ConnectionError(f"https://me:hunter2@stand-in.example/?token=abc refuses {key}")
    note(opened=given)
    return Run()

log, finish = Run().log, Run().finish
"""


class StandIns:
    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._notes, self._patch = folder / "notes.jsonl", patch
        packages = folder / "stand-ins"
        packages.mkdir()
        for name in ("wandb", "trackio"):
            (packages / f"{name}.py").write_text(BODY)
        patch.syspath_prepend(str(packages))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(packages), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("MINISHEEP_STAND_IN_NOTES", str(self._notes))
        patch.setenv("STAND_IN_API_KEY", "a-key-that-nobody-may-see")

    def mode(self, name: str) -> None:
        self._patch.setenv("MINISHEEP_STAND_IN_MODE", name)

    def notes(self) -> list[dict[str, object]]:
        lines = self._notes.read_text().splitlines() if self._notes.exists() else []
        return [json.loads(line) for line in lines]
