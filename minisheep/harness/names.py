"""The names of the harness's tasks, read off its files without parsing them: 14,000 of them take the harness a quarter
of a minute."""

from __future__ import annotations

import re
from pathlib import Path

_NAMED = re.compile(rb"""^[ \t]*(?:-[ \t]+)?["']?(?:task|group|tag)["']?:[ \t]*["']?([^\s"'#\[\]]+)""", re.MULTILINE)
_LISTED = re.compile(rb"""(?:^[ \t]*-|[\[,])[ \t]*["']?([^\s"'#:\[\],]+)""", re.MULTILINE)


def read(root: Path) -> tuple[set[str], set[str]]:
    """Names that tasks, groups and tags give themselves below `root`, and all that may be one (lists of tags too)."""
    named: set[str] = set()
    possible: set[str] = set()
    for file in root.rglob("*"):
        # Files that others include have no suffix.
        if file.suffix not in ("", ".yaml", ".yml") or not file.is_file():
            continue
        text = file.read_bytes()
        named.update(found.decode("utf-8", "replace") for found in _NAMED.findall(text))
        possible.update(found.decode("utf-8", "replace") for found in _LISTED.findall(text))
    return named, named | possible
