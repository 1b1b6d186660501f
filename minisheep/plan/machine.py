"""What a plan is for: a GPU of the table, the one that is here, or this machine's processor."""

from __future__ import annotations

from dataclasses import dataclass, replace

from minisheep.engines import amx, budget, cpu
from minisheep.errors import UsageError
from minisheep.machine.gpu import Gpu
from minisheep.plan.cards import GIB, GpuModel, find_gpu_model

DESKTOP = 350 * 2**20
"""What a desktop and the driver hold of a GPU."""


@dataclass(frozen=True, slots=True)
class Machine:
    """`memory` is what both phases may take, one after the other, in bytes; None where it is not known."""

    title: str
    memory: int | None
    gpu: GpuModel | None
    bfloat16: bool
    """Whether it multiplies bfloat16 in hardware."""
    threads: int = 0
    amx: bool = False
    """Whether llama.cpp will use the processor's AMX."""

    @property
    def is_gpu(self) -> bool:
        return self.gpu is not None


def with_gpu(gpu: GpuModel) -> Machine:
    return Machine(gpu.title, gpu.memory - DESKTOP, gpu, gpu.bfloat16)


def this_processor(threads: int) -> Machine:
    """This machine without a GPU: the RAM that is free now. `threads` 0 means every core that may be used."""
    text = cpu.cpuinfo()
    threads = threads or cpu.cores()
    title = f"{cpu.name(text) or 'this processor'}, {threads} threads"
    bfloat16 = cpu.multiplies_bfloat16(cpu.flags(text))
    return Machine(title, budget.free_ram(), None, bfloat16, threads, amx.will_be_usable())


def machine_for(name: str | None, threads: int, here: Gpu | None) -> tuple[Machine, str]:
    """The machine to plan for, and what should be said of the choice.

    `name` is the GPU that the user named; `here` is the one that a run would use. Raises `errors.UsageError` for a GPU
    that is not known.
    """
    if name is not None:
        return with_gpu(find_gpu_model(name)), ""
    if here is None:
        return this_processor(threads), ""
    try:
        model = find_gpu_model(f"{here.name} {round(here.total / GIB)}GB")
    except UsageError:
        told = f"{here.name} is here and not in the table of GPUs: name one like it with --gpu."
        return this_processor(threads), told
    return with_gpu(replace(model, memory=here.total)), f"{here.name} is here; it was not measured."
