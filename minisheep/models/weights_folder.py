"""Is a folder of weights fit for training: a config.json and whole safetensors, never a pickle."""

from __future__ import annotations

import json
import os
from pathlib import Path

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def what_is_missing(folder: Path) -> str:
    """In words what keeps `folder` from being loaded; empty if nothing does. Never raises for a bad folder."""
    if not folder.is_dir():
        return "it is no folder"
    if not (folder / "config.json").is_file():
        return "it has no config.json"
    if (folder / INDEX).is_file():
        names = _shards(folder / INDEX)
        if not names:
            return f"its {INDEX} cannot be read"
    elif (folder / SINGLE).is_file():
        names = {SINGLE}
    elif any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth")):
        return "its weights are pickles, which can run code when they are loaded; minisheep loads safetensors only"
    else:
        return f"it has no {SINGLE}"
    broken = sorted(name for name in names if not _whole(folder / name))
    return f"{broken[0]} is missing or cut short" if broken else ""


def shards(folder: Path) -> set[str]:
    """The names of the safetensors files of a folder in which nothing is missing."""
    return _shards(folder / INDEX) if (folder / INDEX).is_file() else {SINGLE}


def _shards(index: Path) -> set[str]:
    """The files that an index names; empty if it names any that is not a plain file name."""
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()
    plain = all(isinstance(name, str) and os.path.basename(name) == name for name in names)
    return names if plain and all(name.endswith(".safetensors") for name in names) else set()


def _whole(path: Path) -> bool:
    """Whether the head of a safetensors file is sound and the file as long as it says."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy"):
            return True
    except (OSError, SafetensorError):
        return False
