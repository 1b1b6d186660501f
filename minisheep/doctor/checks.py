"""Turns the facts of the machine and of the probes into results. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from minisheep.doctor import packages
from minisheep.doctor.check_result import CheckResult, Facts, broken, fail, ok, skipped, warn
from minisheep.doctor.machine_facts import MachineFacts
from minisheep.errors import MinisheepError
from minisheep.machine.cuda_setup import LLAMA
from minisheep.machine.gpu import BFLOAT16, Gpu, dotted, in_words
from minisheep.rules.plain_text import shell
from minisheep.trainers.choose_trainer import CAPABILITY

GIB = 2**30
LEAST_PYTHON = (3, 11)
LEAST_VRAM, GOOD_VRAM = 1 * GIB, 4 * GIB
"""Free bytes: below the first, even the demo does not fit beside CUDA's context; below the second, no 3B model."""
LEAST_RAM, GOOD_RAM = 2 * GIB, 4 * GIB
LEAST_DISK, GOOD_DISK = 1 * GIB, 20 * GIB
"""A 7B model has about 5 GB of GGUF and 15 GB of training weights."""
NO_GPU = "no NVIDIA GPU: runs use the processor"
NOT_ASKED: Facts = {"unasked": "not asked"}
NO_MODEL: Facts = {"unasked": "no model"}


def check_machine(machine: MachineFacts, place: packages.Place) -> Iterator[CheckResult]:
    yield python(machine)
    yield driver(machine, place)
    yield capability(machine, place)
    yield vram(machine)
    yield ram(machine)
    yield disk(machine)


def python(machine: MachineFacts) -> CheckResult:
    text = f"Python {'.'.join(map(str, machine.python))}, {machine.bits} bits, {machine.system}, {machine.processor}"
    text += f", {machine.cores} core{'' if machine.cores == 1 else 's'}"
    if machine.python < LEAST_PYTHON:
        least = ".".join(map(str, LEAST_PYTHON))
        return fail("python", f"{text}: too old", f"Install Python {least} or newer and minisheep in it.")
    if machine.bits < 64:
        return fail("python", f"{text}: PyTorch has no 32-bit builds", "Install a 64-bit Python and minisheep in it.")
    if machine.system != "Linux":
        return warn("python", f"{text}: only Linux is tested", "On Windows use WSL2: `wsl --install`.")
    return ok("python", text)


def driver(machine: MachineFacts, place: packages.Place) -> CheckResult:
    if machine.has_gpu:
        cuda = f", CUDA up to {dotted(machine.driver_cuda)}" if machine.driver_cuda else ""
        return ok("driver", f"NVIDIA {machine.driver or 'of unknown version'}{cuda}")
    if machine.driver:
        return warn("driver", f"NVIDIA {machine.driver} works, but shows no GPU", packages.driver(place))
    if machine.pci_gpus:
        why = "this machine has an NVIDIA GPU without a working driver: runs use the processor"
        return warn("driver", why, packages.driver(place))
    return ok("driver", NO_GPU)


def capability(machine: MachineFacts, place: packages.Place) -> CheckResult:
    if not machine.has_gpu:
        return skipped("compute capability", NO_GPU)
    text = ", ".join(f"{gpu.name}: {dotted(gpu.capability) or 'unknown'}" for gpu in machine.gpus)
    if machine.hidden is not None and machine.hidden.strip() in ("", "-1"):
        return fail(
            "compute capability",
            f"{text}, but CUDA_VISIBLE_DEVICES={machine.hidden!r} hides every GPU",
            "unset CUDA_VISIBLE_DEVICES",
        )
    used = machine.capability or BFLOAT16
    if used < CAPABILITY:
        return warn(
            "compute capability",
            f"{text}: below {dotted(CAPABILITY)}, which Unsloth and builds of PyTorch for CUDA 12.8 and newer require",
            "Training goes through PEFT, with an older PyTorch: "
            + packages.cuda_torch(place, machine.driver_cuda, used),
        )
    if used < BFLOAT16:
        return warn(
            "compute capability",
            f"{text}: no bfloat16 in hardware, so training computes in float16, with the loss scaled",
            "Nothing to fix; `minisheep plan` allows for it.",
        )
    return ok("compute capability", text)


def vram(machine: MachineFacts) -> CheckResult:
    if not machine.has_gpu:
        return skipped("free VRAM", NO_GPU)
    gpu = max(machine.gpus, key=lambda gpu: gpu.free)
    text = f"{_gib(gpu.free)} of {_gib(gpu.total)} free on {gpu.name}"
    return _amount("free VRAM", text, gpu.free, LEAST_VRAM, GOOD_VRAM, _free_gpu(gpu))


def _free_gpu(gpu: Gpu) -> str:
    if gpu.total < GOOD_VRAM:
        return f'See what fits: minisheep plan --gpu "{gpu.name}".'
    if held := in_words(gpu.holders):
        return f"End the programs that hold the rest: {held}."
    return "End the programs that hold the rest; `nvidia-smi` lists them."


def ram(machine: MachineFacts) -> CheckResult:
    if machine.ram_free is None:
        return skipped("free RAM", "this system does not report it")
    total = "" if machine.ram_total is None else f" of {_gib(machine.ram_total)}"
    text = f"{_gib(machine.ram_free)}{total} free"
    return _amount(
        "free RAM",
        text,
        machine.ram_free,
        LEAST_RAM,
        GOOD_RAM,
        "Close programs; `minisheep plan` shows what a run takes.",
    )


def disk(machine: MachineFacts) -> CheckResult:
    if not machine.disks:
        return skipped("free disk", "this system does not report it")
    text = ", ".join(f"{_gib(free)} for {folder}" for folder, free in machine.disks.items())
    fix = "Free some space, or set MINISHEEP_CACHE to a folder on a larger disk and give --run one there."
    return _amount("free disk", text, min(machine.disks.values()), LEAST_DISK, GOOD_DISK, fix)


def _amount(name: str, text: str, free: int, least: int, good: int, fix: str) -> CheckResult:
    if free < least:
        return fail(name, f"{text}: less than the smallest model needs ({_gib(least)})", fix, bytes=free)
    if free < good:
        return warn(name, f"{text}: enough for small models only", fix, bytes=free)
    return ok(name, text, bytes=free)


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB"


def check_llama(machine: MachineFacts, place: packages.Place, facts: Mapping[str, Facts]) -> Iterator[CheckResult]:
    llama, generate = facts.get("llama", NOT_ASKED), facts.get("generate", NO_MODEL)
    yield loads(place, llama, machine)
    yield offload(machine, place, llama, generate)
    yield writes(generate)


def loads(place: packages.Place, facts: Facts, machine: MachineFacts) -> CheckResult:
    if "unasked" in facts:
        return skipped("llama.cpp", facts["unasked"])
    if facts.get("error"):
        fix = packages.pip(place, f"{packages.FORCED} {LLAMA}")
        if machine.has_gpu:
            fix = packages.mend_llama(place, machine.nvcc, machine.capability, machine.driver_cuda)
        # The error's own fix is to ask the doctor; that of a probe that took too long is more time.
        own = facts if "after" in facts else {**facts, "fix": ""}
        return broken("llama.cpp", f"it does not load: {facts['error']}", own, fix)
    what = "with" if facts["offload"] else "without"
    return ok("llama.cpp", f"llama-cpp-python {facts['version']}, {what} GPU support", system=facts["system"])


def offload(machine: MachineFacts, place: packages.Place, llama: Facts, generate: Facts) -> CheckResult:
    """A CPU build on a machine with a GPU fails here; so does a CUDA build that puts nothing on the GPU."""
    name = "llama.cpp on the GPU"
    if not machine.has_gpu:
        return skipped(name, NO_GPU)
    if not _usable(llama):
        return skipped(name, "see 'llama.cpp'")
    fix = packages.mend_llama(place, machine.nvcc, machine.capability, machine.driver_cuda)
    if not llama["offload"]:
        # A build for CUDA that finds no driver needs a driver, or a build for this driver's CUDA; not the same again.
        fault = llama.get("fault") or "this llama.cpp was built for processors only"
        text = f"{machine.gpus[0].name} is not used: {fault}"
        return fail(name, text, f"{packages.driver(place)} Or: {fix}" if llama.get("built") else fix)
    if not _usable(generate):
        return warn(name, "built for a GPU, but not known to work, because no model was loaded", "See 'generate'.")
    layers, taken = generate["layers"], generate["taken"] or 0
    if layers is not None and layers[0] == layers[1]:
        return ok(name, f"all {layers[1]} layers on the GPU, {taken / 2**20:.0f} MiB of it taken", taken=taken)
    if layers is None and taken >= generate["weights"] // 2:
        return ok(name, f"{taken / 2**20:.0f} MiB of the GPU taken", taken=taken)
    text = "no layer" if layers is None or layers[0] == 0 else f"{layers[0]} of {layers[1]} layers"
    return fail(name, f"built for a GPU, but {text} went there", fix, taken=taken)


def writes(facts: Facts) -> CheckResult:
    name = "generate"
    if "unasked" in facts:
        return skipped(name, facts["unasked"])
    if facts.get("error"):
        return broken(name, facts["error"], facts, "Fix 'llama.cpp' first; otherwise report it.")
    rate = facts["tokens"] / facts["seconds"] if facts["seconds"] else 0.0
    text = f"{facts['tokens']} tokens in {facts['seconds']:.2f} s ({rate:.0f} tokens/s, one sequence)"
    if not facts["tokens"]:
        return warn(name, "the model ended its answer before its first token", "Try another --template.")
    return ok(name, f"{text}, {facts['description']}", tokens_per_second=round(rate, 1))


CLOSE = {
    **dict.fromkeys(("F32", "F16", "BF16"), 0.08), "Q8_0": 0.13, "Q6_K": 0.25,
    **dict.fromkeys(("Q5_K_M", "Q5_K_S", "Q4_K_M", "4bit"), 0.4),
    "made": 0.2,
}  # fmt: skip
COARSE = 1.0
"""Mean absolute difference of log-probabilities, in nats per token, between llama.cpp and the training weights, that
rounding explains: by the GGUF's format, or that in which training loads its weights; ``made`` is for weights that were
made from the GGUF, whatever its format, and `COARSE` for all other formats. Beyond twice as much it is another model,
or one of the sides computes it wrongly.

Measured over `probes.STORY` on SmolLM2-135M and Gemma 3 270M against their weights in float32: BF16 0.010 and 0.009,
Q8_0 0.069 and 0.053, Q4_K_M 0.27 and 0.08, Q4_0 0.57 and 0.70, Q3_K_M 0.40; SmolLM2's Q4_1 against the weights made
from it 0.071. With a rotary embedding of base 10,000 in place of 100,000 and 1,000,000: BF16 0.34 and 0.22, Q8_0 0.34
and 0.23, Q4_K_M 0.47 and 0.22. With the rows of query and key heads in the other order: 2.1 on SmolLM2; with Gemma's 1
added twice to the norms: 15, in one layer alone 0.58."""


def check_model(facts: Mapping[str, Facts], missing: MinisheepError | None, name: str) -> Iterator[CheckResult]:
    model, generate, weights = (facts.get(probe, NO_MODEL) for probe in ("file", "generate", "weights"))
    yield hub(facts.get("hub", NOT_ASKED))
    yield file(model, missing, name)
    yield template(model, generate, weights)
    yield agreement(model, generate, weights)


def hub(facts: Facts) -> CheckResult:
    cached = "Cached models work without it; `minisheep pull MODEL` fetches one while there is a network."
    if "unasked" in facts:
        return skipped("hub", facts["unasked"])
    if facts.get("error"):
        return warn("hub", f"its client does not work: {facts['error']}", cached)
    if facts["offline"]:
        return skipped("hub", "offline by request: only cached models can be used")
    if facts["status"] == 200:
        return ok("hub", "it answers")
    why = facts["reason"] or f"status {facts['status']}"
    return warn("hub", f"it cannot be reached ({why})", f"{cached} A mirror or proxy: HF_ENDPOINT, HTTPS_PROXY.")


def file(facts: Facts, missing: MinisheepError | None, name: str) -> CheckResult:
    if missing is not None:
        if missing.__class__.__name__ == "DownloadError":
            return skipped("model file", f"{name} is not here: {missing.message}", f"minisheep pull {name}")
        return fail("model file", missing.message, missing.fix)
    if "unasked" in facts:
        return skipped("model file", facts["unasked"])
    if facts.get("error"):
        return broken("model file", facts["error"], facts, "")
    text = f"{facts['name']}, {facts['bytes'] / 1e6:.0f} MB, SHA-256 {facts['sha256'][:16]}..."
    if facts["again"] and facts["again"] != facts["sha256"]:
        return fail(
            "model file", f"{text}, but reading it again gives {facts['again'][:16]}...", f"rm {shell(facts['path'])}"
        )
    return ok(
        "model file", f"{text}, {'read again and right' if facts['again'] else 'unchanged since it was read last'}"
    )


def template(file: Facts, generate: Facts, weights: Facts) -> CheckResult:
    """Whether both sides use the same ids, and whether the file's own template is that of the published weights."""
    name = "chat template"
    if not (_usable(file) and _usable(generate) and _usable(weights)):
        return skipped(name, _unusable(file, generate, weights))
    if (generate["prompt"], generate["ids"]) != (weights["prompt"], weights["ids"]):
        first = next((i for i, (a, b) in enumerate(zip(generate["ids"], weights["ids"], strict=False)) if a != b), None)
        where = f"from token {first + 1} on" if first is not None else "in length"
        return fail(
            name, f"inference and training see different tokens, {where}", "Report it, with the output of --json."
        )
    text = f"{file['template']}: the same {len(generate['ids'])} tokens in inference and training"
    own, published = file["templates"]["gguf"], file["templates"]["weights"]
    if own and published and own != published:
        return warn(
            name,
            f"{text}; but the weights' own template differs from the GGUF's, which is used",
            "--template chatml or llama-3 chooses one by name.",
        )
    beside = "" if published else "; the training weights have no template of their own"
    return ok(name, text + (", equal to the weights' own" if own and published else beside))


def agreement(file: Facts, generate: Facts, weights: Facts) -> CheckResult:
    """llama.cpp's log-probabilities of a given answer against those of the training weights."""
    name = "GGUF and weights"
    if not (_usable(generate) and _usable(weights)):
        return skipped(name, _unusable(generate, weights))
    if len(generate["logprobs"]) != len(weights["logprobs"]):
        return fail(name, "they tokenise the same answer differently", "Give a GGUF and weights of the same model.")
    nats = distance(generate["logprobs"], weights["logprobs"])
    text = f"{nats:.3f} nats per token apart over {len(weights['logprobs'])} tokens"
    text += ", with weights made from the GGUF" if weights["note"] else ""
    format = "made" if weights["note"] else file.get("format", "")
    close = max(CLOSE.get(format, COARSE), CLOSE["4bit"] if weights["load_in"] == "4bit" else 0.0)
    text += f" (rounding makes up to {close:g})"
    # `not <=`, so that NaN fails.
    if not nats <= 2 * close:
        return fail(
            name,
            f"{text}: another model, or one side computes it wrongly",
            "Give --gguf and --weights of the same model.",
            nats=nats,
        )
    if not nats <= close:
        fix = "Give --gguf and --weights of the same model, or a GGUF with more bits."
        return warn(name, f"{text}: another revision, a wrong rotary embedding or a very coarse file", fix, nats=nats)
    return ok(name, text, nats=round(nats, 4))


def distance(one: Sequence[float], other: Sequence[float]) -> float:
    """Mean absolute difference; 0 for none."""
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one) if one else 0.0


def _usable(facts: Facts) -> bool:
    return "unasked" not in facts and not facts.get("error")


def _unusable(*sides: Facts) -> str:
    """Why the sides cannot be compared: the reason of the first probe without a result."""
    reasons = [facts.get("unasked") or facts.get("error") for facts in sides if not _usable(facts)]
    return f"one side has no result: {reasons[0]}"


BITSANDBYTES = '"bitsandbytes>=0.50,<0.51"'
PROCESSOR_DOES = "--load-in bf16 trains without it."


def check_training(machine: MachineFacts, place: packages.Place, facts: Mapping[str, Facts]) -> Iterator[CheckResult]:
    yield torch(machine, place, facts.get("torch", NOT_ASKED))
    yield bitsandbytes(machine, place, facts.get("bitsandbytes", NOT_ASKED))
    yield unsloth(
        machine,
        facts.get("unsloth", {"unasked": "not installed: training uses PEFT"}),
        facts.get("unsloth step", NO_MODEL),
    )
    yield steps(machine, facts.get("train", NO_MODEL))


def torch(machine: MachineFacts, place: packages.Place, facts: Facts) -> CheckResult:
    name = "PyTorch"
    if "unasked" in facts:
        return skipped(name, facts["unasked"])
    suited = packages.cuda_torch(place, machine.driver_cuda, machine.capability)
    if facts.get("error"):
        fix = suited if machine.has_gpu else packages.pip(place, "--force-reinstall torch")
        return broken(name, facts["error"], facts, fix)
    text = f"torch {facts['version']}"
    if facts["cuda"]:
        return ok(name, f"{text}, CUDA {facts['cuda_build']}, computes on {', '.join(facts['cards'])}")
    if not machine.has_gpu:
        return ok(name, f"{text}, on the processor")
    if not facts["cuda_build"]:
        return fail(name, f"{text} is a build for processors, beside {machine.gpus[0].name}", suited)
    if machine.hidden is not None:
        text += f" (CUDA_VISIBLE_DEVICES={machine.hidden!r})"
    newest = dotted(machine.driver_cuda) or "unknown"
    return fail(
        name,
        f"{text} is built for CUDA {facts['cuda_build']} and sees no GPU; the driver runs CUDA up to {newest}",
        f"{packages.driver(place)} Or, for this driver: {suited}",
    )


def bitsandbytes(machine: MachineFacts, place: packages.Place, facts: Facts) -> CheckResult:
    name = "bitsandbytes"
    if "unasked" in facts:
        return skipped(name, facts["unasked"])
    fix = packages.pip(place, f"--force-reinstall --no-deps {BITSANDBYTES}")
    if facts.get("error"):
        text = f"4-bit does not work: {facts['error']}"
        return broken(name, text, facts, f"{fix} (or {PROCESSOR_DOES})")
    text = f"bitsandbytes {facts['version']}, 4-bit round trip on {facts['device']}"
    if machine.has_gpu and facts["device"] == "cuda" and not facts["with_cuda"]:
        return fail(name, f"{text}, but with its library for processors ({facts['library']})", fix)
    return ok(name, text)


def unsloth(machine: MachineFacts, facts: Facts, step: Facts) -> CheckResult:
    """Whether it imports and, where there is a model, trains a step: its kernels are compiled in the first one."""
    name = "Unsloth"
    if not machine.has_gpu:
        return skipped(name, NO_GPU)
    if "unasked" in facts:
        return skipped(name, facts["unasked"])
    if facts.get("error"):
        return warn(name, f"it does not import: {facts['error']}", "Fix 'unsloth versions', or use --trainer peft.")
    text = f"Unsloth {facts['version']} imports, on {facts['device'] or 'an unnamed device'}"
    if step.get("error"):
        fix = step.get("fix") or "apt install build-essential python3-dev, or use --trainer peft."
        return warn(name, f"{text}, but trains no step: {step['error']}", fix)
    if "unasked" in step:
        return ok(name, f"{text}; no step was trained: {step['unasked']}")
    if not math.isfinite(step["loss"]):
        return warn(name, f"{text}, but the loss of a step is not a finite number", "Use --trainer peft.")
    return ok(name, f"{text}, and trains a step in {step['seconds']:.0f} s, base in {step['load_in']}")


def steps(machine: MachineFacts, facts: Facts) -> CheckResult:
    name = "train"
    if "unasked" in facts:
        return skipped(name, facts["unasked"])
    if facts.get("error"):
        return broken(name, facts["error"], facts, "Fix 'PyTorch' and 'bitsandbytes' first; otherwise report it.")
    text = f"{facts['steps']} step on {facts['device']}, base in {facts['load_in']}, loss {facts['loss']:.3f}"
    if not math.isfinite(facts["loss"]):
        return fail(name, f"{text}: the loss is not a finite number", "--load-in fp32 trains in full precision.")
    if not facts["moved"]:
        return fail(name, f"{text}, but the adapter did not move", "Report it, with the output of --json.")
    if machine.has_gpu and facts["device"] != "cuda":
        return warn(name, f"{text}: not on the GPU", "Fix 'PyTorch'.")
    return ok(name, f"{text}, adapter as GGUF {facts['adapter'] / 1e6:.1f} MB", seconds=round(facts["seconds"], 2))
