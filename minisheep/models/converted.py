"""The GGUF of a run's model; converted once where the model has only its own weights."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from minisheep.errors import MinisheepError
from minisheep.models import cache
from minisheep.models.cache import Report, sha256_file
from minisheep.models.entries import ModelEntry
from minisheep.models.sources import FetchedFile, fetch_gguf, fetch_weights

TYPE = "Q8_0"
"""Half of f16's memory, next to none of its losses; another is the user's choice (`minisheep convert --type`)."""


def gguf_of(entry: ModelEntry, report: Report, offline: bool = False) -> FetchedFile:
    """The GGUF of a model: fetched, or converted from its weights where none is known. Raises as `fetch_gguf` does,
    and as `convert.convert` does."""
    if entry.gguf is not None or entry.weights is None:
        return fetch_gguf(entry, report, offline)
    folder = fetch_weights(entry, report, offline)
    assert folder is not None
    output = cache.cache_path("converted", f"{_identity(folder)}-{TYPE.lower()}.gguf")
    if not output.exists():
        from minisheep.convert.convert import convert

        with cache.lock(f"convert-{output.stem}", report):
            if not output.exists():  # another process may have made it while this one waited
                report(f"{entry.title} has no GGUF: it is converted to one in {TYPE}, once for this model.")
                try:
                    convert(folder, output, TYPE, entry.title, report)
                except MinisheepError as error:
                    raise _explained(entry, error) from None
    return FetchedFile(output, sha256_file(output), output.stat().st_size, f"converted from {entry.weights}")


def _identity(folder: Path) -> str:
    """A name for what is in a folder: its files by name, size, inode and time of change, without reading them."""
    told = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in (".json", ".jinja", ".safetensors"):
            found = path.stat()
            told.append((path.name, found.st_size, found.st_ino, found.st_mtime_ns))
    named = [os.fsencode(folder.resolve()).hex(), told]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:32]


def _explained(entry: ModelEntry, error: MinisheepError) -> MinisheepError:
    said = f"No GGUF of {entry.title} is known, and its weights cannot be converted to one: {error.message}"
    return type(error)(said, error.fix)
