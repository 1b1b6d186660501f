"""What the machine tells, read from files and from a driver that stands in for the real one."""

from __future__ import annotations

import sys
from pathlib import Path

import nvml_stand_in
import pytest

from minisheep.machine import cgroup, cpu, gpu
from minisheep.machine.gpu import Gpu, Nvml, Peak
from minisheep.machine.system import READ_SECONDS, Gauge, free_ram, total_ram

GIB = 2**30
RTX_3090 = Gpu("NVIDIA GeForce RTX 3090", (8, 6), 24 * GIB, 4 * GIB, {2**22 + 1: 3 * GIB, 2**22 + 2: 0}, 97, 71, 312.4)
SILENT = Gpu("NVIDIA GPU", None, 24 * GIB, 4 * GIB)


def test_gpus_tell_what_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = nvml_stand_in.pretend(monkeypatch)
    with Nvml() as found:
        assert found.gpus() == [RTX_3090, SILENT]
        assert found.used() == [20 * GIB, 20 * GIB] == [one.used for one in found.gpus()]
        assert (found.driver(), found.cuda()) == ("580.95.05", (13, 1))
    assert driver.opened == 0 and found.gpus() == [] and found.used() == []


@pytest.mark.parametrize("missing", ["the binding", "the driver"])
def test_without_a_driver_there_are_no_gpus(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml_stand_in.pretend(monkeypatch, "nvmlInit")
    if missing == "the binding":
        monkeypatch.setitem(sys.modules, "pynvml", None)
    with Nvml() as found:
        assert (found.gpus(), found.used(), found.driver(), found.cuda()) == ([], [], "", None)
    assert gpu.find_gpu() is None
    with Peak() as peak:
        pass
    assert peak.bytes is None


@pytest.mark.parametrize("function", [name for name in vars(nvml_stand_in.Nvml) if name.startswith("nvml")])
def test_a_driver_that_falls_silent_is_survived(function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = nvml_stand_in.pretend(monkeypatch)
    found = Nvml()
    driver.silent.add(function)
    told = found.gpus()
    assert len(told) == (0 if function == "nvmlDeviceGetMemoryInfo" else 2) and len(found.used()) == len(told)
    found.driver(), found.cuda(), found.close(), gpu.find_gpu()


def test_a_run_uses_the_first_gpu_that_is_visible_and_has_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml_stand_in.pretend(monkeypatch)
    for visible, found in ((None, RTX_3090), ("0,1", RTX_3090), ("1,0", RTX_3090), ("1", None), ("", None)):
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert gpu.find_gpu() == found


GT_1030 = Gpu("NVIDIA GeForce GT 1030", (6, 1), 2 * GIB, GIB)
RTX_4090 = Gpu("NVIDIA GeForce RTX 4090", (8, 9), 24 * GIB, 23 * GIB)


@pytest.mark.parametrize(
    ("gpus", "environment", "shown"),
    [
        ([GT_1030, RTX_4090], {}, "1"),
        ([GT_1030, RTX_3090, RTX_4090], {}, "2"),
        ([RTX_4090, RTX_4090], {}, "0"),
        ([RTX_4090], {}, None),
        ([SILENT, RTX_4090], {}, None),
        ([], {}, None),
        ([GT_1030, RTX_4090], {"CUDA_VISIBLE_DEVICES": "0,1"}, None),
    ],
)
def test_a_worker_sees_the_best_of_several_gpus_unless_the_user_chose(
    monkeypatch: pytest.MonkeyPatch, gpus: list[Gpu], environment: dict[str, str], shown: str | None
) -> None:
    given = gpu.worker_variables(environment, lambda: gpus)
    assert given["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID" and given.get("CUDA_VISIBLE_DEVICES") == shown
    # The parent plans and checks for the GPU that its workers get.
    monkeypatch.setattr(gpu.os, "environ", environment)
    expected = gpu.selected(gpus)
    monkeypatch.setattr(gpu.os, "environ", {**environment, **given})
    assert gpu.selected(gpus) == expected
    told = gpu.pinned_note({**environment, **given}, expected)
    assert (expected is not None and expected.name in told and "CUDA_VISIBLE_DEVICES" in told) == (shown is not None)


def test_cuda_counts_as_the_user_told_it_to() -> None:
    assert gpu.worker_variables({"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, list)["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST"


def test_the_screen_reads_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = nvml_stand_in.pretend(monkeypatch)
    gauge = Gauge()
    assert gauge.read().gpus == (RTX_3090, SILENT)
    gauge.close()
    assert driver.opened == 0


@pytest.mark.parametrize(("limit", "total"), [("max\n", 16 * GIB), (f"{4 * GIB}\n", 4 * GIB), (None, 16 * GIB)])
def test_the_memory_of_a_container_ends_at_its_limit(limit: str | None, total: int, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(f"MemTotal:       {16 * GIB // 1024} kB\nMemFree:  1 kB\n")
    if limit is not None:
        (tmp_path / "memory.max").write_text(limit)
    assert total_ram(tmp_path, tmp_path) == total


def test_a_system_that_tells_no_memory_is_no_error(tmp_path: Path) -> None:
    assert total_ram(tmp_path, tmp_path) is None


def test_the_machine_is_read_every_other_second_only(monkeypatch: pytest.MonkeyPatch) -> None:
    now, reads = [0.0], [0]

    def read() -> int:
        reads[0] += 1
        return GIB

    monkeypatch.setattr("minisheep.machine.system.total_ram", read)
    gauge = Gauge(lambda: now[0])
    for _ in range(33):
        gauge.read()
        now[0] += READ_SECONDS / 8
    gauge.close()
    assert reads[0] == 5


def group(root: Path, lines: str, **files: str) -> tuple[Path, Path]:
    """A machine whose process is in the groups of `lines`, with files by their path (``/`` written ``__``)."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "cgroup").write_text(lines)
    (root / "proc" / "meminfo").write_text(f"MemTotal: {16 * GIB // 1024} kB\nMemAvailable: {12 * GIB // 1024} kB\n")
    for name, content in files.items():
        path = root / "cg" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root / "proc", root / "cg"


def test_the_smallest_of_nested_limits_counts(tmp_path: Path) -> None:
    places = group(
        tmp_path, "0::/slurm/job_1/step\n",
        **{"slurm__memory.max": f"{8 * GIB}\n", "slurm__memory.current": "0\n", "slurm__cpu.max": "max 100000\n",
           "slurm__job_1__memory.max": f"{4 * GIB}\n", "slurm__job_1__memory.current": f"{3 * GIB}\n",
           "slurm__job_1__memory.stat": f"anon 1\ninactive_file {GIB}\n", "slurm__job_1__cpu.max": "250000 100000\n",
           "slurm__job_1__step__memory.max": "max\n", "slurm__job_1__step__cpu.max": "400000 100000\n"},
    )  # fmt: skip
    assert total_ram(*places) == 4 * GIB
    # What is only cached from files, such as a mapped model, can be had.
    assert free_ram(*places) == 2 * GIB
    assert cgroup.cores(*places) == 2.5


def test_limits_of_version_1_are_read(tmp_path: Path) -> None:
    places = group(
        tmp_path, "5:memory:/docker/a\n4:cpu,cpuacct:/docker/a\n0::/\n",
        **{"memory__docker__a__memory.limit_in_bytes": f"{2 * GIB}\n",
           "memory__docker__a__memory.usage_in_bytes": f"{GIB}\n", "memory__memory.limit_in_bytes": f"{2**63 - 4096}\n",
           "cpu,cpuacct__docker__a__cpu.cfs_quota_us": "150000\n",
           "cpu,cpuacct__docker__a__cpu.cfs_period_us": "100000\n", "cpu,cpuacct__cpu.cfs_quota_us": "-1\n"},
    )  # fmt: skip
    assert (total_ram(*places), free_ram(*places), cgroup.cores(*places)) == (2 * GIB, GIB, 1.5)


@pytest.mark.parametrize("lines", ["", "0::/\n", "0::/../../host/path\n", "broken"])
def test_a_path_of_the_host_is_not_looked_for_in_a_container(tmp_path: Path, lines: str) -> None:
    places = group(tmp_path, lines, **{"memory.max": f"{GIB}\n", "memory.current": "0\n", "cpu.max": "100000 100000\n"})
    assert (total_ram(*places), cgroup.cores(*places)) == (GIB, 1.0)


@pytest.mark.parametrize(("quota", "cores"), [(None, 8), (2.5, 2), (0.5, 1), (64.0, 8)])
def test_threads_are_no_more_than_the_time_that_they_get(
    quota: float | None, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(cgroup, "cores", lambda: quota)
    assert cpu.cores() == cores
