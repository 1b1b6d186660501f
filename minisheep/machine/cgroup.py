"""The limits that a container or a batch system sets: memory and processor time of this process's control groups.

A limit holds for every level below it, so the smallest of all levels counts: a Slurm job's, a pod's or a user's slice.
In version 1 each resource has a tree of its own (``memory/``, ``cpu/``); in version 2 there is one tree, and its root
has no limits but in a container, which sees its own group as the root (Linux, Documentation/admin-guide/cgroup-v2.rst).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


def memory(proc: Path = PROC, cgroup: Path = CGROUP) -> list[tuple[int, int]]:
    """Limit and use of each level that has a limit, in bytes; use is without what is only cached from files."""
    found = []
    for folder, version in _levels("memory", proc, cgroup):
        names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        limit, used = (_number(folder / name) for name in names)
        if limit is None or limit >= 1 << 60:  # version 1 writes "no limit" as a huge number
            continue
        cached = _line(folder / "memory.stat", "inactive_file" if version == 2 else "total_inactive_file")
        found.append((limit, max(0, (used or 0) - cached)))
    return found


def cores(proc: Path = PROC, cgroup: Path = CGROUP) -> float | None:
    """Processor time that this process may have, in whole processors; None where nothing limits it."""
    shares = []
    for folder, version in _levels("cpu", proc, cgroup):
        if version == 2:
            words = _text(folder / "cpu.max").split()
        else:
            words = [_text(folder / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
        if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):
            shares.append(int(words[0]) / int(words[1]))
    return min(shares, default=None)


def _levels(resource: str, proc: Path, cgroup: Path) -> Iterator[tuple[Path, int]]:
    """The folders of this process's group and of those above it, each with the version of its tree."""
    lines = [line.split(":", 2) for line in _text(proc / "self" / "cgroup").splitlines() if line.count(":") >= 2]
    of_one = next((path for _, names, path in lines if resource in names.split(",")), None)
    of_two = next((path for number, names, path in lines if number == "0" and not names), None)
    if of_one is not None:
        roots = [cgroup / resource, *sorted(cgroup.glob(f"*{resource}*"))]
        root = next((path for path in roots if path.is_dir()), None)
        if root is not None:
            yield from ((folder, 1) for folder in _upwards(root, of_one))
            return
    yield from ((folder, 2) for folder in _upwards(cgroup, of_two or "/"))


def _upwards(root: Path, path: str) -> Iterator[Path]:
    """From the group's folder up to the root. A container may see a path of its host's, which is not there."""
    parts = [part for part in path.split("/") if part]
    if ".." in parts:
        parts = []
    for count in range(len(parts), -1, -1):
        folder = root.joinpath(*parts[:count])
        if folder.is_dir():
            yield folder


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None  # "max" for none


def _line(path: Path, name: str) -> int:
    words = next((line.split() for line in _text(path).splitlines() if line.startswith(f"{name} ")), [])
    return int(words[1]) if len(words) == 2 and words[1].isdecimal() else 0
