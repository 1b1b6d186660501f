"""PyTorch, bitsandbytes, Unsloth and one real step of training. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from minisheep.doctor import commands
from minisheep.doctor.check_machine import NO_GPU
from minisheep.doctor.commands import Place
from minisheep.doctor.machine import Machine
from minisheep.doctor.result import Facts, Result, broken, fail, ok, skipped, warn

BITSANDBYTES = '"bitsandbytes>=0.50,<0.51"'
PROCESSOR_DOES = "--load-in bf16 trains without it."


def check(machine: Machine, place: Place, facts: Mapping[str, Facts]) -> Iterator[Result]:
    yield torch(machine, place, facts.get("torch", {"unasked": "not asked"}))
    yield bitsandbytes(machine, place, facts.get("bitsandbytes", {"unasked": "not asked"}))
    yield unsloth(machine, facts.get("unsloth"))
    yield steps(machine, facts.get("train"))


def torch(machine: Machine, place: Place, facts: Facts) -> Result:
    name = "PyTorch"
    if "unasked" in facts:
        return skipped(name, facts["unasked"])
    if facts.get("error"):
        fix = commands.cuda_torch(place) if machine.has_gpu else commands.pip(place, "--force-reinstall torch")
        return broken(name, facts["error"], facts, fix)
    told = f"torch {facts['version']}"
    if facts["cuda"]:
        return ok(name, f"{told}, CUDA {facts['cuda_build']}, computes on {', '.join(facts['cards'])}")
    if not machine.has_gpu:
        return ok(name, f"{told}, on the processor")
    if not facts["cuda_build"]:
        return fail(
            name, f"{told} is a build for processors, beside {machine.gpus[0].name}", commands.cuda_torch(place)
        )
    if machine.hidden is not None:
        told += f" (CUDA_VISIBLE_DEVICES={machine.hidden!r})"
    newest = machine.driver_cuda or "unknown"
    return fail(
        name,
        f"{told} is built for CUDA {facts['cuda_build']} and sees no GPU; the driver runs CUDA up to {newest}",
        commands.driver(place),
    )


def bitsandbytes(machine: Machine, place: Place, facts: Facts) -> Result:
    name = "bitsandbytes"
    if "unasked" in facts:
        return skipped(name, facts["unasked"])
    fix = commands.pip(place, f"--force-reinstall --no-deps {BITSANDBYTES}")
    if facts.get("error"):
        told = f"4-bit does not work: {facts['error']}"
        return broken(name, told, facts, f"{fix} (or {PROCESSOR_DOES})")
    told = f"bitsandbytes {facts['version']}, 4-bit round trip on {facts['device']}"
    if machine.has_gpu and facts["device"] == "cuda" and not facts["with_cuda"]:
        return fail(name, f"{told}, but with its library for processors ({facts['library']})", fix)
    return ok(name, told)


def unsloth(machine: Machine, facts: Facts | None) -> Result:
    name = "Unsloth"
    if not machine.has_gpu:
        return skipped(name, NO_GPU)
    if facts is None:
        return skipped(name, "not installed: training uses PEFT")
    if facts.get("error"):
        return warn(name, f"it does not import: {facts['error']}", "Mend 'unsloth versions', or use --trainer peft.")
    return ok(name, f"Unsloth {facts['version']} imports, on {facts['device'] or 'a device that it does not name'}")


def steps(machine: Machine, facts: Facts | None) -> Result:
    name = "train"
    if facts is None:
        return skipped(name, "no model")
    if "unasked" in facts:
        return skipped(name, facts["unasked"])
    if facts.get("error"):
        return broken(name, facts["error"], facts, "Mend 'PyTorch' and 'bitsandbytes' first; else report it.")
    told = f"{facts['steps']} step on {facts['device']}, base in {facts['load_in']}, loss {facts['loss']:.3f}"
    if not math.isfinite(facts["loss"]):
        return fail(name, f"{told}: no number", "--load-in fp32 trains in full precision.")
    if not facts["moved"]:
        return fail(name, f"{told}, but the adapter did not move", "Report it, with the output of --json.")
    if machine.has_gpu and facts["device"] != "cuda":
        return warn(name, f"{told}: not on the GPU", "Mend 'PyTorch'.")
    return ok(name, f"{told}, adapter as GGUF {facts['adapter'] / 1e6:.1f} MB", seconds=round(facts["seconds"], 2))
