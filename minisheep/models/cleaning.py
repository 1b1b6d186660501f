"""What lies in the cache, what uses it, and its removal.

Whatever is listed here can be fetched or made again, so a run that misses it later only waits for that. What a run or
another program of minisheep works with at the moment is never removed. Small notes (hashes, measured speeds) and what a
user permitted stay. Files of the hub are in its own cache, which other programs share.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from minisheep.errors import MinisheepError, UsageError
from minisheep.models import cache
from minisheep.models.prepared import PreparedModel
from minisheep.models.registry import load_registry
from minisheep.run.files import open_lock, remove, try_lock

KINDS = {
    "gguf": "GGUF",
    "converted": "GGUF, converted from weights",
    "inference": "copy for inference",
    "dequantised": "training weights",
    "partial": "unfinished download",
}
"""Folders of the cache whose entries are listed, and what each entry is."""
UNFINISHED = re.compile(r"\..+\.\d+\.tmp")


@dataclass(frozen=True, slots=True)
class CacheItem:
    """A file or folder of the cache that may be removed."""

    name: str
    """The model's name, or where nothing tells it, the beginning of a digest."""
    what: str
    path: Path
    bytes: int
    runs: tuple[str, ...]
    """The run folders, of those that were looked at, that go on with it."""
    held: tuple[int, ...]
    """Processes that have it open, or do a run that needs it."""


def list_items(runs: Iterable[Path]) -> list[CacheItem]:
    """Everything that may be removed, the largest first. runs: folders whose use of it is told; runs that are being
    done are found wherever they are."""
    models = dict(_models(runs))
    opened = _open_files()
    going_on = {Path(path).parent: pids for path, pids in opened.items() if path.endswith("/.lock")}
    working = [(model, going_on[run]) for run, model in _models(going_on)]
    names = {(entry.gguf_sha256 or "")[:32]: entry.name for entry in load_registry().values()}
    names |= {model.gguf_sha256[:32]: model.name for model in models.values()}
    converted = {model.gguf: model.name for model in models.values()}
    items = []
    for path, kind in _entries(cache.cache_root()):
        name = converted.get(path) or _name(path, kind, names)
        held = {pid for open_path, pids in opened.items() if Path(open_path).is_relative_to(path) for pid in pids}
        held |= {pid for model, pids in working if path in _paths(model) for pid in pids}
        what = "unfinished copy" if UNFINISHED.fullmatch(path.name) else KINDS[kind]
        size = cache.folder_bytes(path) if path.is_dir() else path.stat().st_size
        used_by = tuple(str(run) for run, model in models.items() if path in _paths(model))
        items.append(CacheItem(name, what, path, size, used_by, tuple(sorted(held))))
    return sorted(items, key=lambda item: -item.bytes)


def _name(path: Path, kind: str, by_digest: Mapping[str, str]) -> str:
    """By the folder, the download's name or the digest of the GGUF that an entry is made from."""
    if kind == "gguf":
        return path.parent.name
    if kind == "partial":
        return re.sub(r"(-[0-9a-f]{12})?\.[^.]+\.tmp$", "", path.name)
    digest = path.name.lstrip(".")
    return by_digest.get(digest[:32], digest[:12])


def choose_items(items: Sequence[CacheItem], names: Sequence[str], *, unused: bool) -> list[CacheItem]:
    """Those with one of these names, and if so wished all that no run and no process uses.

    Raises `errors.UsageError` for a name that is not there, and for what is being used.
    """
    known = {item.name for item in items}
    for name in names:
        if name.lower() not in known:
            near = get_close_matches(name.lower(), known, n=1)
            listed = f"`minisheep models --cache` lists what is there{f'; nearest: {near[0]}' if near else ''}."
            raise UsageError(f"The cache holds nothing named {name[:100]!r}, so nothing was removed.", listed)
    wanted = {name.lower() for name in names}
    chosen = [item for item in items if item.name in wanted or (unused and not item.runs and not item.held)]
    for item in chosen:
        if item.held:
            who = ", ".join(map(str, item.held))
            raise UsageError(
                f"{item.name} ({item.what}) is in use by process {who}, so nothing was removed.",
                "Wait for it to end, or stop it.",
            )
    return chosen


def remove_items(items: Iterable[CacheItem]) -> int:
    """Remove `items`; returns their bytes. Raises `errors.UsageError` where a download or copy goes on meanwhile, and
    `errors.DiskError`."""
    removed = 0
    with _no_fetching():
        for item in items:
            with cache.disk_errors(f"{item.path} cannot be removed"):
                remove(item.path)
                if item.path.parent.parent.name == "gguf" and not any(item.path.parent.iterdir()):
                    item.path.parent.rmdir()
            removed += item.bytes
    return removed


@contextlib.contextmanager
def _no_fetching() -> Iterator[None]:
    """Hold the locks of all that was ever fetched or copied here, so that nobody begins with it meanwhile."""
    handles = []
    try:
        for path in sorted((cache.cache_root() / "locks").glob("*.lock")):
            handles.append(open_lock(path))
            if not try_lock(handles[-1]):
                raise UsageError(
                    f"Another process is fetching or converting {path.stem}, so nothing was removed.",
                    "Give the same command again when it is done.",
                )
        yield
    finally:
        for handle in handles:
            os.close(handle)


def _entries(root: Path) -> Iterator[tuple[Path, str]]:
    for kind in KINDS:
        folders = sorted((root / kind).glob("*")) if kind == "gguf" else [root / kind]
        for folder in folders:
            for path in sorted(folder.glob("*")):
                if path.suffix in (".gguf", ".tmp") or path.is_dir():
                    yield path, kind


def _models(runs: Iterable[Path]) -> Iterator[tuple[Path, PreparedModel]]:
    """The models of run folders; those that are not prepared yet, or cannot be read, have none."""
    for run in runs:
        with contextlib.suppress(MinisheepError, OSError):
            if (run / "model.json").is_file():  # a pipe would be waited for
                yield run, PreparedModel.read(run / "model.json")


def _paths(model: PreparedModel) -> tuple[Path, ...]:
    return model.gguf, model.inference_gguf, model.weights


def _open_files() -> Mapping[str, set[int]]:
    """The processes that have a file open or mapped, other than this one, as far as this user may see them."""
    found: dict[str, set[int]] = defaultdict(set)
    for process in Path("/proc").glob("[0-9]*"):
        pid = int(process.name)
        if pid == os.getpid():
            continue
        with contextlib.suppress(OSError):
            for handle in os.listdir(process / "fd"):
                with contextlib.suppress(OSError):
                    found[os.readlink(process / "fd" / handle)].add(pid)
        with contextlib.suppress(OSError):
            for line in (process / "maps").read_text(errors="surrogateescape").splitlines():
                # Address, rights, offset, device, inode, and the file if there is one.
                if len(columns := line.split(maxsplit=5)) == 6:
                    found[columns[5]].add(pid)
    return found
