"""How many sequences fit: pure arithmetic, and what the system says of its memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from minisheep.engines.budget import fewer, slots_within, wanted_slots
from minisheep.machine.system import free_ram

GIB = 2**30


@pytest.mark.parametrize(
    ("free", "slots"),
    [(64 * GIB, 32), (2 * GIB, 11), (GIB, 3), (0, 1), (None, 32)],
)
def test_slots_fit_the_free_memory_beside_the_prefix_and_the_reserve(free: int | None, slots: int) -> None:
    assert slots_within(32, sequence_bytes=GIB // 8, free_bytes=free, reserve=lambda slots: GIB // 2) == slots


def test_where_a_plan_was_wrong_a_quarter_of_the_slots_goes_and_never_the_last() -> None:
    assert [fewer(n) for n in (64, 4, 3, 2, 1)] == [48, 3, 2, 1, 1]


def test_more_cores_keep_more_sequences_busy_within_limits() -> None:
    assert [wanted_slots(offload=False, threads=n, amx=False) for n in (1, 2, 4, 64)] == [16, 16, 32, 64]
    assert [wanted_slots(offload=False, threads=n, amx=True) for n in (1, 2, 8, 64)] == [32, 32, 64, 64]
    assert wanted_slots(offload=True, threads=2, amx=True) == 64


def machine(folder: Path, available: int, limit: str | None = None, used: int = 0) -> tuple[Path, Path]:
    (folder / "meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable:   {available // 1024} kB\nHugePages_Total: 0\n")
    if limit is not None:
        (folder / "memory.max").write_text(limit + "\n")
        (folder / "memory.current").write_text(f"{used}\n")
    return folder, folder


def test_the_system_tells_what_is_available(tmp_path: Path) -> None:
    assert free_ram(*machine(tmp_path, 3 * GIB)) == 3 * GIB


def test_a_container_may_have_less_than_its_machine(tmp_path: Path) -> None:
    assert free_ram(*machine(tmp_path, 30 * GIB, str(4 * GIB), GIB)) == 3 * GIB


def test_a_container_without_a_limit_has_what_the_machine_has(tmp_path: Path) -> None:
    assert free_ram(*machine(tmp_path, 30 * GIB, "max")) == 30 * GIB


def test_a_full_container_has_nothing(tmp_path: Path) -> None:
    assert free_ram(*machine(tmp_path, 30 * GIB, str(GIB), 2 * GIB)) == 0


def test_a_system_that_does_not_tell_is_unknown(tmp_path: Path) -> None:
    assert free_ram(tmp_path, tmp_path) is None
