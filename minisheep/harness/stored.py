"""Results on disk: ``<task>-round-<n>.json``, one for each task and round, and when one may be used again.

What was measured on a part of the items or on a file of the user's is named apart, so that a quick look never replaces
what took hours: ``ifeval-round-1-data-3f9c0d12-limit-20.json``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minisheep.errors import CorruptRunError
from minisheep.harness.spec import PLAIN
from minisheep.machine.files import read_json, write_json


def path(out: Path, task: str, round: int, settings: Mapping[str, Any]) -> Path:
    """Where the result of a task belongs. `settings` are those of `Identity`."""
    parts = [
        f"data-{settings['data'][:8]}" if settings["data"] else "",
        f"limit-{settings['limit']}" if settings["limit"] else "",
        f"shots-{settings['shots']}" if settings["shots"] is not None else "",
        f"max-{settings['max_tokens']}" if settings["max_tokens"] else "",
        "plain" if settings["frame"] == PLAIN else "",
    ]
    name = "-".join([_safe(task), "round", str(round), *(part for part in parts if part)])
    return out / f"{name}.json"


def read(file: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result in `file`, if it was measured with these settings; else None, also for a damaged one."""
    if not file.exists():
        return None
    try:
        found = read_json(file)
    except CorruptRunError:
        return None
    return found if isinstance(found, dict) and found.get("settings") == dict(settings) else None


def write(file: Path, result: Mapping[str, Any]) -> None:
    """Atomically. Raises `errors.DiskError`."""
    write_json(file, dict(result))


def comparable(ours: Mapping[str, Any], base: Mapping[str, Any]) -> bool:
    """Whether two results differ in the adapter alone, so that they can be paired."""
    alone = {"adapter"}
    return {k: v for k, v in ours["settings"].items() if k not in alone} == {
        k: v for k, v in base["settings"].items() if k not in alone
    } and ours.get("decided_by") == base.get("decided_by")


def _safe(task: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]", "-", task).lstrip(".") or "task"
