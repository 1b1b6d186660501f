"""The NVIDIA GPUs of this machine as their driver reports them, without CUDA or torch.

Answers which GPU a run will use, the most memory that it held meanwhile, and whether a worker that ended gave its
memory back. A machine without driver or GPU is no error, nor is a driver that stops answering. It is imported with
the standard library alone, before anything is installed (`cuda_setup`).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SLACK = 200 * 2**20
"""Bytes by which a desktop's own use goes up and down."""
WAIT_SECONDS = 5.0
"""How long the driver may take to clean up after a process has ended."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
BFLOAT16 = (8, 0)
"""The least compute capability whose tensor cores multiply bfloat16 (Ampere)."""
PEAK_SECONDS = 0.05
"""How often `Peak` looks."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU at one moment, in bytes, percent, degrees Celsius and watts. None where the driver gives no figure."""

    name: str
    capability: tuple[int, int] | None
    """CUDA compute capability."""
    total: int
    free: int
    holders: Mapping[int, int] = field(default_factory=dict)
    """Bytes by PID of the processes that use it; 0 where the driver gives no figure."""
    busy: int | None = None
    temperature: int | None = None
    watts: float | None = None
    limit: float | None = None
    """Watts that it may draw."""

    @property
    def used(self) -> int:
        return self.total - self.free


class Nvml:
    """NVIDIA's management library, which comes with the driver. A context manager; raises nothing."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self._handles: list[Any] = []
        try:
            import pynvml
        except ImportError:  # an installation that is not whole, which `minisheep doctor` must be able to say
            return
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            return
        self._nvml = pynvml
        handles = [self._ask("nvmlDeviceGetHandleByIndex", i) for i in range(self._ask("nvmlDeviceGetCount") or 0)]
        self._handles = [handle for handle in handles if handle is not None]

    def __enter__(self) -> Nvml:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """From now on there are no GPUs."""
        if self._nvml is not None:
            self._ask("nvmlShutdown")
            self._nvml, self._handles = None, []

    def gpus(self) -> list[Gpu]:
        """All whose memory can be read, in the driver's order. CUDA_VISIBLE_DEVICES hides none of them."""
        return [gpu for handle in self._handles if (gpu := self._gpu(handle)) is not None]

    def used(self) -> list[int]:
        """Bytes in use on each GPU of `gpus`. Quicker than `gpus`."""
        readings = [self._ask("nvmlDeviceGetMemoryInfo", handle) for handle in self._handles]
        return [int(memory.total - memory.free) for memory in readings if memory is not None]

    def driver(self) -> str:
        """The driver's version (``580.95``), empty where none answers."""
        return str(self._ask("nvmlSystemGetDriverVersion") or "")

    def cuda(self) -> tuple[int, int] | None:
        """The newest CUDA that the driver runs."""
        number = self._ask("nvmlSystemGetCudaDriverVersion_v2")
        return None if number is None else (number // 1000, number % 1000 // 10)

    def _gpu(self, handle: Any) -> Gpu | None:
        memory = self._ask("nvmlDeviceGetMemoryInfo", handle)
        if memory is None:
            return None
        use = self._ask("nvmlDeviceGetUtilizationRates", handle)
        milliwatts = self._ask("nvmlDeviceGetPowerUsage", handle)
        limit = self._ask("nvmlDeviceGetEnforcedPowerLimit", handle)
        return Gpu(
            name=str(self._ask("nvmlDeviceGetName", handle) or "NVIDIA GPU"),
            capability=self._ask("nvmlDeviceGetCudaComputeCapability", handle),
            total=memory.total,
            free=memory.free,
            holders=self._holders(handle),
            busy=None if use is None else use.gpu,
            temperature=self._ask("nvmlDeviceGetTemperature", handle, 0),  # NVML_TEMPERATURE_GPU
            watts=None if milliwatts is None else milliwatts / 1000,
            limit=None if limit is None else limit / 1000,
        )

    def _holders(self, handle: Any) -> dict[int, int]:
        """Bytes by PID, of graphics as well as compute."""
        holders: dict[int, int] = {}
        for kind in ("Compute", "Graphics"):
            # The version is named since without it a driver that is too old raises what is no NVMLError.
            for process in self._ask(f"nvmlDeviceGet{kind}RunningProcesses_v3", handle) or ():
                holders[process.pid] = process.usedGpuMemory or 0
        return holders

    def _ask(self, function: str, *arguments: Any) -> Any:
        """The function's result, None where it gives none."""
        if self._nvml is None:
            return None
        try:
            return getattr(self._nvml, function)(*arguments)
        except (self._nvml.NVMLError, UnicodeDecodeError):
            return None


def gpus_here() -> list[Gpu]:
    with Nvml() as nvml:
        return nvml.gpus()


def find_gpu() -> Gpu | None:
    """The GPU that a run would use."""
    return selected(gpus_here())


def selected(gpus: Sequence[Gpu], environment: Mapping[str, str] = os.environ) -> Gpu | None:
    """The first of those that CUDA_VISIBLE_DEVICES leaves and CUDA can use; where it is not set, the `best`."""
    wanted = environment.get(VISIBLE)
    if wanted is None:
        return best(gpus)
    return next((gpu for gpu in visible(gpus, wanted) if gpu.capability is not None), None)


def best(gpus: Sequence[Gpu]) -> Gpu | None:
    """Of several, the one to work on: with the most memory, then the newest, then the first. An old one that drives the
    display would else decide what a run can do."""
    usable = [gpu for gpu in gpus if gpu.capability is not None]
    return max(usable, key=lambda gpu: (gpu.total, gpu.capability), default=None)


PINNED = "MINISHEEP_ONE_GPU_OF"
"""Tells a worker that its GPU is one of so many and was not chosen by the user."""


def worker_variables(environment: Mapping[str, str], gpus: Callable[[], Sequence[Gpu]] = gpus_here) -> dict[str, str]:
    """Variables that a worker gets beside its parent's.

    CUDA counts GPUs as the driver and nvidia-smi do, not by speed. Of several a worker sees one, unless the user said
    which: llama.cpp would else spread over all of them what training has on one.
    """
    found = {"CUDA_DEVICE_ORDER": environment.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID")}
    if VISIBLE in environment:
        return found
    here = gpus()
    usable = [gpu for gpu in here if gpu.capability is not None]
    one = best(here)
    if one is not None and len(usable) > 1:
        index = next(i for i, gpu in enumerate(here) if gpu is one)
        found |= {VISIBLE: str(index), PINNED: str(len(usable))}
    return found


def pinned_note(environment: Mapping[str, str], gpu: Gpu | None) -> str:
    """What a run says of its `gpu` where it is one of several; empty where it is alone, or the user's choice."""
    if gpu is None or PINNED not in environment:
        return ""
    return (
        f"Of {environment[PINNED]} GPUs the run uses one, {gpu.name} (number {environment[VISIBLE]} of"
        " nvidia-smi): set CUDA_VISIBLE_DEVICES for another, or for several (llama.cpp then spreads over them)."
    )


def visible(gpus: Sequence[Gpu], wanted: str | None) -> list[Gpu]:
    """The GPUs that `wanted`, CUDA_VISIBLE_DEVICES, leaves, in its order: as CUDA has it, the first number that is none
    of them ends the list. A name (UUID) leaves all, since nothing here knows which GPU it means."""
    if wanted is None:
        return list(gpus)
    shown = []
    for word in wanted.split(","):
        word = word.strip()
        if word.startswith(("GPU-", "MIG-")):
            return list(gpus)
        if not word.isdecimal() or int(word) >= len(gpus):
            break
        shown.append(gpus[int(word)])
    return shown


def dotted(version: tuple[int, int] | None) -> str:
    """``8.6``; empty for None."""
    return "" if version is None else f"{version[0]}.{version[1]}"


def in_words(holders: Mapping[int, int], own: frozenset[int] = frozenset()) -> str:
    """Processes on a GPU other than our `own`, the largest first: ``PID 12 (ollama) 3.1 GB``, or nothing."""
    others = sorted(((used, pid) for pid, used in holders.items() if pid not in own), reverse=True)
    return ", ".join(f"PID {pid}{_program(pid)}{f' {used / 1e9:.1f} GB' if used else ''}" for used, pid in others[:5])


def _program(pid: int) -> str:
    """The program of a process as ` (name)`, or nothing: some systems hide another user's."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
    return f" ({name})" if name.isprintable() and name else ""


class Baseline:
    """The GPU's use before a worker starts, to see what is not given back. Does nothing on a machine without a GPU."""

    def __init__(self, read: Callable[[], Gpu | None] = find_gpu, wait: float = WAIT_SECONDS) -> None:
        self._read, self._wait = read, wait
        self._before = read()

    def left_over(self, own: frozenset[int]) -> str:
        """A warning after the worker has ended; empty if all is back. Waits a few seconds for what is not.

        own: PIDs of our other workers.
        """
        if self._before is None:
            return ""
        end = time.monotonic() + self._wait
        while (after := self._read()) is not None:
            warning = difference(self._before, after, own)
            if not warning or time.monotonic() >= end:
                return warning
            time.sleep(min(0.2, self._wait))
        return ""


def difference(before: Gpu, after: Gpu, own: frozenset[int]) -> str:
    """In words: how much more of a GPU is in use than before, and by whom. Empty where it is little."""
    more = _used_by_others(after, own) - _used_by_others(before, own)
    if more <= SLACK:
        return ""
    held = in_words(after.holders, own)
    who = f"{held} holds it" if held else "The driver does not say who holds it"
    return (
        f"The worker has ended, but {more / 1e9:.1f} GB more of {after.name} are in use than before it began. {who}."
        " The next phase has that much less, and may take fewer slots."
    )


def _used_by_others(gpu: Gpu, own: frozenset[int]) -> int:
    return gpu.used - sum(used for pid, used in gpu.holders.items() if pid in own)


class Peak:
    """The most that a GPU holds while something runs, CUDA's own context included.

    A context manager. Afterwards `bytes` is the largest growth of any one GPU, None where no driver answers.
    """

    def __init__(self, read: Callable[[], list[int]] | None = None) -> None:
        self._nvml = Nvml()
        self._read = read or self._nvml.used
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak VRAM", daemon=True)
        self._before: list[int] = []
        self._most: list[int] = []

    def __enter__(self) -> Peak:
        self._before = self._most = self._read()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._nvml.close()

    @property
    def bytes(self) -> int | None:
        grown = [most - before for before, most in zip(self._before, self._most, strict=True)]
        return max(grown, default=None)

    def _watch(self) -> None:
        while not self._done.wait(PEAK_SECONDS):
            now = self._read()
            # A GPU that gives no figure for a moment is left as it was.
            if len(now) == len(self._most):
                self._most = [max(pair) for pair in zip(self._most, now, strict=True)]
