"""llama.cpp: whether it loads, whether it uses the GPU, whether it writes. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from minisheep.doctor import commands
from minisheep.doctor.check_machine import NO_GPU
from minisheep.doctor.commands import Place
from minisheep.doctor.machine import Machine
from minisheep.doctor.result import Facts, Result, broken, fail, ok, skipped, warn


def check(machine: Machine, place: Place, facts: Mapping[str, Facts]) -> Iterator[Result]:
    llama, generate = facts.get("llama", {"unasked": "not asked"}), facts.get("generate")
    yield loads(place, llama, machine)
    yield offload(machine, place, llama, generate)
    yield writes(generate)


def loads(place: Place, facts: Facts, machine: Machine) -> Result:
    if "unasked" in facts:
        return skipped("llama.cpp", facts["unasked"])
    if facts.get("error"):
        fix = (
            commands.mend_llama(place, compiler=machine.nvcc, capability=machine.capability)
            if machine.has_gpu
            else commands.pip(place, f"--no-cache-dir --force-reinstall --no-deps {commands.LLAMA}")
        )
        return broken("llama.cpp", f"it does not load: {facts['error']}", facts, fix)
    what = "with" if facts["offload"] else "without"
    return ok("llama.cpp", f"llama-cpp-python {facts['version']}, {what} GPU support", system=facts["system"])


def offload(machine: Machine, place: Place, llama: Facts, generate: Facts | None) -> Result:
    """A build for processors on a machine with a GPU fails here; so does one with CUDA that puts nothing on it."""
    name = "llama.cpp on the GPU"
    if not machine.has_gpu:
        return skipped(name, NO_GPU)
    if "unasked" in llama or llama.get("error"):
        return skipped(name, "see 'llama.cpp'")
    fix = commands.mend_llama(place, compiler=machine.nvcc, capability=machine.capability)
    if not llama["offload"]:
        return fail(name, f"{machine.gpus[0].name} is here, but this llama.cpp was built for processors only", fix)
    if generate is None or "unasked" in generate or generate.get("error"):
        return warn(name, "built for a GPU, but nothing was loaded, so it is not known to work", "See 'generate'.")
    layers, taken = generate["layers"], generate["taken"] or 0
    if layers is not None and layers[0] == layers[1]:
        return ok(name, f"all {layers[1]} layers on the GPU, {taken / 2**20:.0f} MiB of it taken", taken=taken)
    if layers is None and taken >= generate["weights"] // 2:
        return ok(name, f"{taken / 2**20:.0f} MiB of the GPU taken", taken=taken)
    told = "no layer" if layers is None or layers[0] == 0 else f"{layers[0]} of {layers[1]} layers"
    return fail(name, f"built for a GPU, but {told} went there", fix, taken=taken)


def writes(facts: Facts | None) -> Result:
    name = "generate"
    if facts is None:
        return skipped(name, "no model")
    if "unasked" in facts:
        return skipped(name, facts["unasked"])
    if facts.get("error"):
        return broken(name, facts["error"], facts, "Mend 'llama.cpp' first; else report it.")
    rate = facts["tokens"] / facts["seconds"] if facts["seconds"] else 0.0
    told = f"{facts['tokens']} tokens in {facts['seconds']:.2f} s ({rate:.0f} tokens/s, one sequence)"
    if not facts["tokens"]:
        return warn(name, "the model ended its answer before its first token", "Try another --template.")
    return ok(name, f"{told}, {facts['description']}", tokens_per_second=round(rate, 1))
