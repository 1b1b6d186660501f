"""Memory of the GPU that is not given back is told, with who holds it; and a GPU without room is refused early."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from minisheep import config
from minisheep.errors import UsageError
from minisheep.machine.gpu import Baseline, Gpu, difference
from minisheep.models.registry import load_registry
from minisheep.plan import room
from minisheep.plan.room import Need

GB = 10**9
NOBODY = 2**22 + 1
"""No process has this PID."""
GPU = Gpu("NVIDIA GeForce RTX 3060", (8, 6), 12 * GB, 11 * GB)


def reads(*gpus: Gpu | None) -> Callable[[], Gpu | None]:
    told = list(gpus)
    return lambda: told.pop(0) if len(told) > 1 else told[0]


def test_memory_that_is_back_is_not_worth_a_word() -> None:
    assert Baseline(reads(GPU, GPU), 0).left_over(frozenset()) == ""


def test_the_driver_gets_time_to_clean_up() -> None:
    late = dataclasses.replace(GPU, free=2 * GB)
    assert Baseline(reads(GPU, late, late, GPU), 5).left_over(frozenset()) == ""


def test_memory_that_stays_away_is_told_with_its_holder() -> None:
    held = dataclasses.replace(GPU, free=7 * GB, holders={NOBODY: 4 * GB})
    told = Baseline(reads(GPU, held), 0).left_over(frozenset())
    assert "4.0 GB more of NVIDIA GeForce RTX 3060" in told and f"PID {NOBODY} 4.0 GB" in told


def test_what_our_own_next_worker_holds_does_not_count() -> None:
    held = dataclasses.replace(GPU, free=10 * GB, holders={NOBODY: GB})
    assert Baseline(reads(GPU, held), 0).left_over(frozenset({NOBODY})) == ""


def test_a_little_more_is_the_desktop() -> None:
    assert difference(GPU, dataclasses.replace(GPU, free=GPU.free - 10**8), frozenset()) == ""


def test_without_a_gpu_nothing_is_asked_twice() -> None:
    assert Baseline(reads(None), 0).left_over(frozenset()) == ""


def test_a_gpu_too_small_is_refused_with_the_numbers_and_a_model_that_fits() -> None:
    with pytest.raises(UsageError, match=r"13\.0 GB .* 15\.0 GB .* 12\.0 GB") as refused:
        room.check_room("big", Need(13 * GB, 15 * GB), GPU, "qwen2.5-3b")
    assert "qwen2.5-3b" in refused.value.fix


def test_a_gpu_that_another_program_holds_is_refused_with_its_name() -> None:
    held = dataclasses.replace(GPU, free=4 * GB, holders={NOBODY: 7 * GB})
    with pytest.raises(UsageError, match=rf"12\.0 GB .* 4\.0 GB .*PID {NOBODY} 7\.0 GB") as refused:
        room.check_room("m", Need(5 * GB, 6 * GB), held, "")
    assert "Close" in refused.value.fix


def test_what_is_only_estimated_is_told_and_not_refused() -> None:
    assert "may be too little" in room.check_room("m", Need(5 * GB, 12 * GB), GPU, "")
    assert room.check_room("m", Need(5 * GB, 9 * GB), GPU, "") == ""


def test_the_largest_model_that_fits_grows_with_the_gpu() -> None:
    settings = config.make({})
    sizes = [room.largest_that_fits(settings, memory * GB, bfloat16=True) for memory in (0, 4, 80)]
    assert sizes[0] == ""
    assert set(sizes[1:]) <= set(load_registry()) and sizes[1] != sizes[2]
