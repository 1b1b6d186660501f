"""Folders that appear whole or not at all, and are never overwritten."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from minisheep.errors import CorruptRunError
from minisheep.store import disk_errors, fsync_folder


@contextlib.contextmanager
def publish(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its name when the block ends well.

    All files are on disk before the rename. If `target` has come into being meanwhile, that one stays. Raises
    `errors.DiskError` where the disk is full or refuses to write; whatever is raised, nothing of the folder remains.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_orphans(target)
        try:
            temporary.mkdir()
            yield temporary
            sync_tree(temporary)
            try:
                os.rename(temporary, target)
            except OSError:
                if not target.is_dir():
                    raise
            fsync_folder(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def another_training(output: Path) -> CorruptRunError:
    """The error for an adapter that was made by another training than the one whose output it would be."""
    return CorruptRunError(
        f"{output} is there already, but was not made from these examples and settings.",
        "Move it away, or start a new run.",
    )


def sync_tree(folder: Path) -> None:
    """Put every file of `folder` and the folder itself on disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
    fsync_folder(folder)


def remove_orphans(target: Path) -> None:
    """Delete what killed processes left; a live one may be writing the same cache entry and is let be."""
    for path in target.parent.glob(f".{target.name}.*.tmp"):
        owner = path.suffixes[-2].lstrip(".") if len(path.suffixes) > 1 else ""
        if owner.isdecimal() and (int(owner) == os.getpid() or not Path(f"/proc/{owner}").exists()):
            shutil.rmtree(path, ignore_errors=True)
