"""How many sequences fit the memory that is really free.

llama.cpp reserves the whole KV cache when a context is made. Where memory is overcommitted that succeeds, and the
process is killed hours later when the pages are touched, so it is decided here and beforehand. llama_cpp is imported
only by the functions that ask it.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

RESERVE = 2**29
"""Bytes left to the compute buffers, to what the system does meanwhile, and to the parent process."""
SLOTS_A_CORE = 8
MOST_CPU_SLOTS = 64
GPU_SLOTS = 64


def wanted_slots(*, offload: bool, threads: int) -> int:
    """Sequences that keep the hardware busy: on a CPU the weights are read once a step for all of them, and more cores
    compute more of them in the time that this takes."""
    return GPU_SLOTS if offload else min(MOST_CPU_SLOTS, max(16, SLOTS_A_CORE * threads))


def slots_within(wanted: int, *, sequence_bytes: int, free_bytes: int | None, reserve: int = RESERVE) -> int:
    """`wanted`, or as many as `free_bytes` holds beside the sequence of the shared prefix, at least 1.

    Where nothing is known of the memory (None) it is `wanted`.
    """
    if free_bytes is None or sequence_bytes <= 0:
        return wanted
    return max(1, min(wanted, (free_bytes - reserve) // sequence_bytes - 1))


def token_bytes(model: Any) -> int:
    """Bytes of the KV cache that one token of one sequence takes, keys and values in half precision.

    Counts every layer in full: with `swa_full` those with a sliding window take as much as the others.
    """
    import llama_cpp

    heads = llama_cpp.llama_model_n_head_kv(model)
    head = llama_cpp.llama_model_n_embd(model) // max(1, llama_cpp.llama_model_n_head(model))
    architecture = _metadata(model, "general.architecture")
    sizes = [_metadata(model, f"{architecture}.attention.{part}_length") for part in ("key", "value")]
    width = sum(int(size) if size.isdigit() else head for size in sizes)
    return int(llama_cpp.llama_model_n_layer(model) * heads * width * 2)


def free_bytes(*, offload: bool) -> int | None:
    """Memory that is free where the KV cache will lie; None where this system does not tell."""
    return _free_on_gpus() if offload else free_ram()


def free_ram(proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """RAM that can be had without swapping: what the system says, within the limit of the container if there is one."""
    try:
        lines = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines() if ":" in line)
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    try:
        limit = int((cgroup / "memory.max").read_text())
        used = int((cgroup / "memory.current").read_text())
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return free
    return max(0, min(free, limit - used))


def _free_on_gpus() -> int | None:
    """Over all graphics cards, as the driver tells it (ggml_backend_dev_memory)."""
    from llama_cpp import _ggml

    library = _ggml.libggml
    base = ctypes.CDLL(str(_ggml.libggml_base_path / "libggml-base.so"))
    library.ggml_backend_dev_count.restype = ctypes.c_size_t
    library.ggml_backend_dev_get.restype = ctypes.c_void_p
    library.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    base.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    base.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    total = 0
    for index in range(library.ggml_backend_dev_count()):
        device = library.ggml_backend_dev_get(index)
        if base.ggml_backend_dev_type(device) == _GPU:
            free, whole = ctypes.c_size_t(0), ctypes.c_size_t(0)
            base.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(whole))
            total += free.value
    return total or None


_GPU = 1
"""GGML_BACKEND_DEVICE_TYPE_GPU."""


def _metadata(model: Any, key: str) -> str:
    import llama_cpp

    buffer = ctypes.create_string_buffer(64)
    n = llama_cpp.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer))
    return buffer.value.decode("utf-8", "replace") if n > 0 else ""
