"""Rows of a task from a file of JSON lines, in the format of the task's own dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from minisheep.errors import ConfigError, UsageError

FIELDS: dict[str, tuple[str, ...]] = {
    "ifeval": ("key", "prompt", "instruction_id_list", "kwargs"),
    "triviaqa": ("question", "answer.aliases"),
    "squadv2": ("id", "title", "context", "question", "answers.text"),
    "humaneval": ("task_id", "prompt", "test", "entry_point"),
    "mbpp": ("task_id", "text", "test_list"),
}
"""What a row must have. Other tasks find out for themselves what a row lacks."""

_LEAST = {"answer.aliases": 1, "test_list": 3}
"""Lists that need so many entries."""


def read(path: Path, task: str) -> list[dict[str, Any]]:
    """The rows of a file, in its order. Raises `errors.UsageError` naming the file and the line."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"--data {path} cannot be read: {error.strerror}.", "Give a file of JSON lines.") from None
    except UnicodeDecodeError:
        raise UsageError(f"--data {path} is not UTF-8 text.", "Give a file of JSON lines.") from None
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            rows.append(_row(f"--data {path}, line {number},", task, line))
    if not rows:
        raise UsageError(f"--data {path} holds no row.", _fix(task))
    if task == "ifeval":
        _check_ifeval(path)
    return rows


def _row(where: str, task: str, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise UsageError(f"{where} is not JSON.", _fix(task)) from None
    if not isinstance(row, dict):
        raise UsageError(f"{where} is not a JSON object.", _fix(task))
    for name in FIELDS.get(task, ()):
        found: Any = row
        for part in name.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if found is None or (name in _LEAST and not (isinstance(found, list) and len(found) >= _LEAST[name])):
            raise UsageError(f"{where} is no row of {task}: {name} is missing or too short.", _fix(task))
    return row


def _check_ifeval(path: Path) -> None:
    from minisheep.data.verifiable import load_items

    try:
        load_items(str(path))
    except ConfigError as error:
        raise UsageError(f"--data {error.message}", error.fix) from None


def _fix(task: str) -> str:
    fields = ", ".join(FIELDS.get(task, ()))
    return f"One JSON object a line, {f'with {fields}' if fields else f'as in the dataset of {task}'}."
