"""Reads prompts with verifiable constraints: minisheep's own, or a file in our format or IFEval's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from minisheep.errors import ConfigError
from minisheep.rules.verify.items import Check, Item
from minisheep.rules.verify.verdicts import resolve

_FIX = (
    'A line looks like {"id": ..., "prompt": ..., "checks": [{"kind": "punctuation:no_comma", "arguments": {}}]}, or'
    ' like IFEval\'s {"key": ..., "prompt": ..., "instruction_id_list": [...], "kwargs": [...]}.'
)


def load_items(path: str = "") -> list[Item]:
    """The items of a file of JSON lines, in its order; minisheep's own for an empty `path`.

    Every argument is checked here, so that no verdict fails later. Raises `errors.ConfigError` naming the file and
    the line or the item.
    """
    if path:
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise ConfigError(f"The evaluation file {path} cannot be read: {error.strerror}.") from None
    else:
        data = resources.files("minisheep.data").joinpath("verifiable.jsonl").read_bytes()
    name = path or "minisheep's verifiable prompts"
    items: dict[str, Item] = {}
    for number, row in _rows(name, data):
        item = _item(f"{name}, line {number}", row)
        if item.id in items:
            raise ConfigError(f"{name}, line {number}: the id {item.id!r} was there before.")
        for check in item.checks:
            resolve(check, item.prompt, f"{name}, item {item.id}")
        items[item.id] = item
    if not items:
        raise ConfigError(f"{name} holds no prompt.", _FIX)
    return list(items.values())


def _rows(name: str, data: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{name}, line {line}: not UTF-8 text.") from None
    for number, line_text in enumerate(text.split("\n"), 1):
        if not line_text.strip():
            continue
        try:
            row = json.loads(line_text)
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{name}, line {number}: not JSON: {error}.", _FIX) from None
        if not isinstance(row, dict):
            raise ConfigError(f"{name}, line {number}: not a JSON object.", _FIX)
        yield number, row


def _item(where: str, row: dict[str, Any]) -> Item:
    """One object in either format."""
    id_ = row.get("id", row.get("key"))
    prompt = row.get("prompt")
    if isinstance(id_, bool) or not isinstance(id_, str | int) or id_ == "":
        raise ConfigError(f"{where}: no id.", _FIX)
    if not isinstance(prompt, str) or not prompt.strip():
        raise ConfigError(f"{where}: no prompt.", _FIX)
    checks = _ifeval_checks(where, row) if "instruction_id_list" in row else row.get("checks")
    if not isinstance(checks, list) or not checks:
        raise ConfigError(f"{where}: no constraints.", _FIX)
    found = []
    for check in checks:
        kind, arguments = (check.get("kind"), check.get("arguments", {})) if isinstance(check, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(arguments, dict):
            raise ConfigError(f"{where}: a constraint needs a kind, and its arguments as an object.", _FIX)
        found.append(Check(kind, arguments))
    return Item(str(id_), prompt, tuple(found))


def _ifeval_checks(where: str, row: dict[str, Any]) -> list[dict[str, Any]]:
    kinds, arguments = row["instruction_id_list"], row.get("kwargs")
    if not isinstance(kinds, list) or not isinstance(arguments, list) or len(kinds) != len(arguments):
        raise ConfigError(f"{where}: instruction_id_list and kwargs are not two lists of the same length.", _FIX)
    return [{"kind": kind, "arguments": given} for kind, given in zip(kinds, arguments, strict=True)]
