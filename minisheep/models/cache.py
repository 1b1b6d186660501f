"""The folder with downloaded and converted models, shared by all runs and by processes at the same time.

    CACHE/gguf/MODEL/FILE.gguf   whole, checked files; a file appears here by one rename
    CACHE/partial/               downloads in progress, each in a folder of its own; may be deleted at any time
    CACHE/hashes/                SHA-256 sums, so that a file of 5 GB is read once
    CACHE/locks/                 one empty file for each model that two processes must not fetch at once
    CACHE/compiled/              what numba compiled for drawing tokens; may be deleted at any time

CACHE is $MINISHEEP_CACHE or the user's cache folder.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs

from minisheep.errors import DiskError, ModelFileError
from minisheep.models.registry import NAME
from minisheep.rules.plain_text import megabytes, shell
from minisheep.run.files import open_lock, sha256_of, try_lock, write_json

Report = Callable[[str], None]
"""Takes one plain line for the user."""

REPORT_EVERY = 3.0
"""Seconds between two lines about something long."""


def cache_root() -> Path:
    """Where models are kept. The folder need not exist yet. Raises DiskError where no folder is named and the user has
    no home."""
    named = os.environ.get("MINISHEEP_CACHE")
    try:
        return Path(named).expanduser().absolute() if named else platformdirs.user_cache_path("minisheep")
    except RuntimeError:  # a user without an entry in the system's list, as in containers, or one that is made up
        what = f"{named} names no user's home folder" if named else "This user has no home folder"
        raise DiskError(
            f"{what}, so there is no place for models.", "Set MINISHEEP_CACHE to a folder that you may write to."
        ) from None


def cache_path(*parts: str) -> Path:
    """The path of `parts` in the cache; makes its folder. Each part must obey the grammar of a name, in any case.

    Raises ValueError for a part that does not: nothing may lead out of the cache.
    """
    root = cache_root()
    for part in parts:
        if not NAME.fullmatch(part.lower()):
            raise ValueError(f"not a safe name for a file: {part!r}")
    path = root.joinpath(*parts)
    with disk_errors(f"The model cache {root} cannot be used"):
        path.parent.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def disk_errors(doing: str) -> Iterator[None]:
    """Turn an error of the disk into a DiskError that begins with `doing`."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        fix = "Free some space, or set MINISHEEP_CACHE to a folder on a larger disk, and run the same command again."
        raise DiskError(
            f"{doing}: {error.strerror or error}.",
            fix if full else "Check the folder's rights, or set MINISHEEP_CACHE to a folder that you may write to.",
        ) from error


@contextmanager
def working_folder(name: str) -> Iterator[Path]:
    """A fresh folder for a download of `name`, deleted afterwards; leftovers of killed processes go first.

    Call it under `lock(name)`: the lock is what proves older folders of the same name to be leftovers.
    """
    partial = cache_path("partial", name).parent
    for leftover in partial.glob(f"{name}.*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    with disk_errors("The download cannot begin"):
        folder = Path(tempfile.mkdtemp(prefix=f"{name}.", suffix=".tmp", dir=partial))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def lock(name: str, report: Report) -> Iterator[None]:
    """Hold the lock `name` against other processes."""
    path = cache_path("locks", f"{name}.lock")
    with disk_errors("The model cache cannot be locked"):
        handle = open_lock(path)
    try:
        reported = 0.0
        while not try_lock(handle):
            if time.monotonic() - reported > 30:
                report(f"waiting for another process that fetches or tries {name}")
                reported = time.monotonic()
            time.sleep(0.2)
        yield
    finally:
        os.close(handle)


def remedy(path: Path) -> str:
    """What to do about a model file that is of no use or gone: what minisheep fetched or made can be had again."""
    place = path.resolve()
    if not path.exists():
        if place.is_relative_to(cache_root().resolve()):
            return "It was in minisheep's cache and is gone: give the same command again, which makes it anew."
        return "Check the path given with --gguf."
    if place.is_relative_to(cache_root().resolve()) or any(part.startswith("models--") for part in place.parts):
        return f"Delete it (`rm {shell(place)}`) and run the same command again."
    return "It stays as it is. Get it again from where it came from, or give another one with --gguf."


def sha256_file(path: Path, report: Report | None = None) -> str:
    """The SHA-256 of a file in hex, computed once and kept by path, size, inode and time of change.

    Raises ModelFileError if the file cannot be read.
    """
    try:
        identity = _identity(path)
        memory = _memory("hashes", path)
        known = _recall(memory, identity)
        if known is not None:
            return known
        digest = hashlib.sha256()
        done, reported = 0, time.monotonic()
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(2**22):
                digest.update(chunk)
                done += len(chunk)
                if report and time.monotonic() - reported > REPORT_EVERY:
                    report(f"checking {path.name}: {megabytes(done)} of {megabytes(identity[0])}")
                    reported = time.monotonic()
        if _identity(path) == identity:
            _remember(memory, identity, digest.hexdigest())
    except OSError as error:
        raise ModelFileError(
            f"The model file {path} cannot be read: {error.strerror or error}.", "Check the path and its rights."
        ) from error
    return digest.hexdigest()


def known_sha256(path: Path) -> str | None:
    """The SHA-256 of a file if it was computed before; a file of 5 GB is not read for it."""
    try:
        return _recall(_memory("hashes", path), _identity(path))
    except (OSError, DiskError):
        return None


def _identity(path: Path) -> tuple[int, ...]:
    status = path.stat()
    if not path.is_file():  # model.json may name a device or a pipe, which has no end
        raise OSError(errno.EINVAL, "it is not a regular file")
    # Programs can set the time of a change back, but not that of the inode.
    return status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns


_whole: set[Path] = set()
"""What was made here and read whole by this process."""


def is_as_made(path: Path) -> bool:
    """Whether a file, or a folder of files, that this machine made once still holds what it held then. It is read
    whole, once a process; what is not known yet is taken as it is and noted.

    Raises ModelFileError if it cannot be read.
    """
    if path in _whole:
        return True
    now = _digests(path)
    try:
        known = json.loads(_memory("made", path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        note_made(path, now)
        return True
    if whole := bool(known == now):
        _whole.add(path)
    return whole


def note_made(path: Path, digests: dict[str, str] | None = None) -> None:
    """Note the digests of what was just made, for `is_as_made`."""
    # A full or read-only cache must not stop a run that has its model.
    with suppress(OSError, DiskError):
        write_json(_memory("made", path), digests or _digests(path))
    _whole.add(path)


def _digests(path: Path) -> dict[str, str]:
    """SHA-256 by name of the files of a folder, or of the one file."""
    found = {}
    try:
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            found[file.name] = sha256_of(file)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}.", f"Delete it: rm -r {shell(path)}") from None
    return found


def _memory(kind: str, path: Path) -> Path:
    """The side-car is in the cache, not beside the file: a user's own folder is not ours to write in."""
    return cache_path(kind, hashlib.sha256(os.fsencode(path.resolve())).hexdigest() + ".json")


def _recall(memory: Path, identity: tuple[int, ...]) -> str | None:
    try:
        stored = json.loads(memory.read_text(encoding="utf-8"))
        known = stored["sha256"] if [*identity] == stored["identity"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return known if isinstance(known, str) and len(known) == 64 else None


def _remember(memory: Path, identity: tuple[int, ...], digest: str) -> None:
    # A full or read-only cache must not stop a run that has its model.
    with suppress(OSError, DiskError):
        write_json(memory, {"identity": identity, "sha256": digest})


def folder_bytes(folder: Path) -> int:
    """Bytes of all files under `folder`, without those that vanish meanwhile."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_size
            except OSError:
                continue
    return total
