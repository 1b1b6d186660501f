"""Files and folders that appear whole or not at all, the kernel's locks, and room on a disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from minisheep.errors import CorruptRunError, DiskError
from minisheep.rules.plain_text import json_fault, megabytes, one_line

T = TypeVar("T")


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full or failing disk into `errors.DiskError`, one line instead of a traceback."""
    try:
        yield
    except OSError as error:
        if error.errno in _WAYS_OUT:
            raise DiskError(
                f"{path} cannot be written: {error.strerror}. Everything recorded before is safe.",
                f"{_WAYS_OUT[error.errno]} and give the same command again.",
            ) from None
        if error.errno == errno.ELOOP:
            raise CorruptRunError(
                f"{path} is a link, and nothing is written through links.", "Remove the link."
            ) from None
        raise


_WAYS_OUT = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Make room"),
    errno.EFBIG: "Allow longer files (`ulimit -f`), or take another disk,",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "See to its permissions, or take another folder,"),
    errno.EROFS: "Mount its disk for writing, or take another folder,",
    errno.EIO: "See to the disk, which may be failing,",
}


def fsync_folder(folder: Path) -> None:
    """Make a rename or a new file in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """The name of a temporary file beside `path`, to be written in the block; it replaces `path` when the block ends
    well, durably, so that a reader sees the old content or the new and never a part. Raises OSError as the disk does;
    whatever is raised, nothing of it remains."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        put_in_place(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def put_in_place(finished: Path, path: Path) -> None:
    """Give a finished file its name on the same disk: data to disk, one rename, folder to disk."""
    with open(finished, "rb") as file:
        os.fsync(file.fileno())
    os.replace(finished, path)
    fsync_folder(path.parent)


def write_atomic(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Replace `path` by `data` (whole or in parts) as `whole_file` does. Raises `errors.DiskError`."""
    with disk_errors(path), whole_file(path) as temporary, open(temporary, "wb") as file:
        file.writelines((data,) if isinstance(data, bytes) else data)


def meant(name: str) -> str:
    """The file that a killed process was about to write, by the name that `write_atomic` left; else `name` itself."""
    left = _TEMPORARY.fullmatch(name)
    return left[1] if left else name


def write_json(path: Path, data: Any) -> None:
    text = json.dumps(data, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
    write_atomic(path, text.encode("utf-8", "surrogatepass"))


def read_json(path: Path) -> Any:
    """The content of a JSON file that minisheep wrote. Raises `errors.CorruptRunError`."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CorruptRunError(f"{path} is missing.", "Restore it from a copy, or start a new run.") from None
    except IsADirectoryError:
        raise CorruptRunError(f"{path} is a folder, and is to be a file.", "Restore the file from a copy.") from None
    except (ValueError, RecursionError) as error:
        fault = json_fault(error, whole=True)
        raise CorruptRunError(f"{path} is damaged: {fault}.", "Restore it from a copy, or start a new run.") from None


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal digits. Raises OSError. `models.cache.sha256_file` keeps those of
    large files."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_in_pieces(path: Path, jobs: Iterable[T], make: Callable[[T], tuple[int, bytes]]) -> Iterator[int]:
    """Write what `make` gives for each job, an offset and bytes, into an existing file. Yields bytes written.

    `make` runs in up to four threads: numpy releases the interpreter's lock where it computes.
    """
    from concurrent.futures import ThreadPoolExecutor

    with open(path, "r+b") as file, ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:

        def fill(job: T) -> int:
            offset, data = make(job)
            left = memoryview(data)
            while left:
                written = os.pwrite(file.fileno(), left, offset)
                left, offset = left[written:], offset + written
            return len(data)

        yield from pool.map(fill, jobs)


@contextlib.contextmanager
def publish(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its name when the block ends well.

    All files are on disk before the rename. If `target` exists by then, that one stays. Raises `errors.DiskError` where
    the disk is full or refuses to write; whatever is raised, nothing of the temporary folder remains.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target.parent, target.name)
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


def sync_tree(folder: Path) -> None:
    """Put every file of `folder` and the folder itself on disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
    fsync_folder(folder)


def open_lock(path: Path) -> int:
    """A handle on a lock file, which is made where it is missing."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)


def try_lock(handle: int, *, shared: bool = False) -> bool:
    """Lock the file of a handle if nobody else holds it. Returns whether it is locked now.

    The lock is the kernel's (flock): it goes with the last process that has this handle open, however that ends.
    """
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL):
            raise DiskError(
                f"The file system of {os.readlink(f'/proc/self/fd/{handle}')} has no locks ({error.strerror}), so two"
                " processes could work there at once. Nothing was begun.",
                "Use a folder on a local disk, or mount this one with locks (flock).",
            ) from None
        raise
    return True


def who_has_open(path: Path) -> list[int]:
    """The processes, other than this one, that have a file open, as far as this user may see them."""
    try:
        wanted = os.stat(path)
    except OSError:
        return []
    found = set()
    for handle in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            there = handle.stat()
            if (there.st_dev, there.st_ino) == (wanted.st_dev, wanted.st_ino):
                found.add(int(handle.parts[2]))
    return sorted(found - {os.getpid()})


LONGEST = 1 << 28
"""Bytes of a file that is read as a whole; ours are a hundredth of that."""


def check_links(root: Path, *, writing: bool) -> None:
    """Raise `errors.CorruptRunError` for a link below `root` that leaves it, or for any link where it will be written,
    and for whatever is neither file nor folder or too large to be read: such a thing is not minisheep's, and may lead
    or wait anywhere, or take all memory."""
    inside = Path(os.path.realpath(root))
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            with contextlib.suppress(FileNotFoundError):  # it has gone meanwhile
                _check_link(Path(folder, name), inside, writing)


def _check_link(path: Path, inside: Path, writing: bool) -> None:
    found = os.lstat(path)
    mode = stat.S_IFMT(found.st_mode)
    if mode == stat.S_IFLNK and (writing or not Path(os.path.realpath(path)).is_relative_to(inside)):
        what = f"a link to {os.readlink(path)}. Links in a run folder are not followed"
    elif mode == stat.S_IFREG and _is_endless(path, found):
        what = f"a file of {megabytes(found.st_size)}, longer than any that a run holds"
    elif mode in (stat.S_IFLNK, stat.S_IFREG, stat.S_IFDIR):
        return
    else:
        what = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}.get(mode, "a device") + ", which no run holds"
    raise CorruptRunError(one_line(f"{path} is {what}."), "Put the run's own file there, or if it has none, remove it.")


def _is_endless(path: Path, found: os.stat_result) -> bool:
    """Whether a file would fill all memory: most of it holes, as a few bytes of an archive may make, or JSON."""
    # safetensors makes a file as long as it will be, under such a name, and fills it.
    if found.st_size <= LONGEST or path.name.startswith(".tmp"):
        return False
    # Some file systems tell no blocks of any file; where there are no holes, the first is the end.
    with open(path, "rb") as file:
        holes = os.lseek(file.fileno(), 0, os.SEEK_HOLE) < found.st_size > found.st_blocks * 512 * 64
    return holes or path.suffix in (".json", ".toml")


def sweep(folder: Path, name: str = "*") -> None:
    """Delete what killed processes were about to write into `folder`, under this name or any (see `whole_file` and
    `publish`); not what a live one writes."""
    for path in folder.glob(f".{name}.*.tmp"):
        left = _TEMPORARY.fullmatch(path.name)
        mine = left and name != "*" and left[2] == str(os.getpid())
        if left and not path.is_symlink() and (mine or not Path(f"/proc/{left[2]}").exists()):
            with contextlib.suppress(OSError):
                remove(path)


def remove(path: Path) -> None:
    """Delete a file or a folder; nothing where there is none. Raises OSError as the disk does."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


_TEMPORARY = re.compile(r"\.(.+)\.(\d+)\.tmp")


def nearest(path: Path) -> Path:
    """The nearest folder at or above `path` that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def check_room(folder: Path, need: float, doing: str, fix: str) -> None:
    """Raise `errors.DiskError` where `need` bytes do not fit into `folder`, before an hour's work. It may not exist
    yet. `doing` begins the sentence: ``The conversion needs``."""
    folder = nearest(folder)
    free = shutil.disk_usage(folder).free
    if free < need:
        raise DiskError(f"{doing} {megabytes(need)} in {folder}; {megabytes(free)} are free.", fix)
