"""Run folders with one thing wrong: what a failing disk, another version or somebody with bad intent may leave."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LARGE = "9" * 5000
VALUES = (
    *("null", "true", "-1", "0", "1e400", "-1e400", "NaN", LARGE, "1e308", "0.5", '""', '"x"', '"\\ud800"', "[]", "{}"),
    *("[" * 3000, '{"a": 1}', "[null]", '"' + "y" * 5000 + '"', '"../../../etc/passwd"', '"\\u001b[2J"'),
)
"""JSON texts that may stand where another value did; some are no JSON."""


def mutate(run: Path, chance: random.Random) -> str:
    """Change one file of a run folder; returns what was done."""
    files = sorted(path for path in run.rglob("*") if path.is_file() and path.name not in (".lock", "worker.log"))
    # Files that are read as a whole more often: records are many and their lines alike.
    files += [path for path in files if path.suffix in (".json", ".toml")] * 3
    path = chance.choice(files)
    data = path.read_bytes()
    kind = chance.choice(("delete", "cut", "flip", "value", "value", "value", "key", "line", "junk"))
    if kind == "delete":
        path.unlink()
    elif kind == "cut":
        path.write_bytes(data[: chance.randrange(len(data) + 1)])
    elif kind == "flip" and data:
        place = chance.randrange(len(data))
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :])
    elif kind == "junk":
        path.write_bytes(chance.choice((b"", b"\xff\xfe\x00", b"[" * 100_000, b"{}", b"null", b"7", b"\n\n\n")))
    elif path.suffix == ".jsonl" and kind == "line":
        lines = data.splitlines(keepends=True)
        chance.shuffle(lines)
        path.write_bytes(b"".join(lines[: chance.randrange(len(lines) + 1)]))
    elif path.suffix == ".toml":
        lines = data.splitlines(keepends=True)
        place = chance.randrange(len(lines))
        name = lines[place].partition(b"=")[0]
        lines[place] = name + b"= " + chance.choice(VALUES).encode() + b"\n"
        path.write_bytes(b"".join(lines))
    else:
        path.write_bytes(_changed(data, path.suffix == ".jsonl", kind, chance))
    return f"{kind} in {path.relative_to(run)}"


def _changed(data: bytes, lines: bool, kind: str, chance: random.Random) -> bytes:
    """One value of a JSON file, or of one of its lines, replaced, or one key taken away."""
    parts = data.splitlines(keepends=True) if lines else [data]
    if not parts:
        return b"{}"
    place = chance.randrange(len(parts))
    try:
        found = json.loads(parts[place])
    except (ValueError, RecursionError):  # what an earlier change left
        return data[: len(data) // 2]
    spots = list(_spots(found))
    if not spots:
        return b"3"
    holder, key = chance.choice(spots)
    if kind == "key" and isinstance(holder, dict):
        del holder[key]
        text = json.dumps(found)
    else:
        holder[key] = "\ue000"
        text = json.dumps(found).replace('"\\ue000"', chance.choice(VALUES), 1)
    parts[place] = text.encode() + b"\n"
    return b"".join(parts)


def _spots(found: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a JSON value: what holds it, and its key there."""
    items = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    for key, value in list(items):
        yield found, key
        yield from _spots(value)
