"""How many sequences fit the memory that is really free.

llama.cpp reserves the whole KV cache when a context is made. Where memory is overcommitted that succeeds, and the
process is killed hours later when the pages are touched, so it is decided here and beforehand. llama_cpp is imported
only by the functions that ask it.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from minisheep.machine.system import free_ram

RESERVE = 2**29
"""Bytes left to the compute buffers, to what the system does meanwhile, and to the parent process."""
SLOTS_A_CORE = 8
LEAST_CPU_SLOTS, LEAST_AMX_SLOTS = 16, 32
"""AMX multiplies 16 rows in the time of one, so what a step costs besides is shared by more: 32 slots decode a fifth
faster than 16 there, and no faster elsewhere (two cores, docs/log.md)."""
MOST_CPU_SLOTS = 64
GPU_SLOTS = 64
UBATCH = 512
"""Tokens of one forward pass."""
OUTPUT_BYTES = 128 * 2**20
"""What the logits of one batch may take: llama.cpp reserves a row of 4 bytes a vocabulary entry for each output."""
PAD = 256
"""llama.cpp rounds the context of a sequence up to this."""


@dataclass(frozen=True, slots=True)
class CacheType:
    """A number format of the KV cache."""

    name: str
    number: int
    """Its ggml_type."""
    block: int
    """Values that are stored together, and their bytes."""
    block_bytes: int

    def bytes_of(self, values: int) -> int:
        return values * self.block_bytes // self.block


F16, BF16, Q8_0 = CacheType("f16", 1, 1, 2), CacheType("bf16", 30, 1, 2), CacheType("q8_0", 8, 32, 34)


def cache_type(wanted: str, *, offload: bool, bfloat16: bool) -> CacheType:
    """The format for the setting `kv_type`: ``f16``, ``q8_0`` or ``auto``.

    On a CPU that multiplies bfloat16, that makes a whole decode step a quarter faster than half precision; models are
    trained in it, so little is lost. Q8_0 takes 53 % of either, and needs flash attention.
    """
    if wanted == "auto":
        return BF16 if bfloat16 and not offload else F16
    return {"f16": F16, "q8_0": Q8_0}[wanted]


def sequence_tokens(context: int, trained: int) -> int:
    """Cells that llama.cpp reserves for a sequence of `context` tokens; a model was `trained` to see only so many."""
    return -(-min(context, trained) // PAD) * PAD


def rows_within(vocabulary: int) -> int:
    """Rows of logits that `OUTPUT_BYTES` holds."""
    return OUTPUT_BYTES // (4 * vocabulary)


def output_rows(slots: int, vocabulary: int) -> int:
    """Rows of logits that one batch may have: one for each sequence at least."""
    return max(slots + 1, min(rows_within(vocabulary), UBATCH))


def kv_token_bytes(layers: int, kv_heads: int, key: int, value: int, cache: CacheType) -> int:
    """Bytes of the KV cache that one token of one sequence takes; `key` and `value` are the sizes of a head.

    Counts every layer in full: with `swa_full` those with a sliding window take as much as the others.
    """
    return layers * (cache.bytes_of(kv_heads * key) + cache.bytes_of(kv_heads * value))


def wanted_slots(*, offload: bool, threads: int, amx: bool) -> int:
    """Sequences that keep the hardware busy: on a CPU the weights are read once a step for all of them, and more cores
    compute more of them in the time that this takes."""
    least = LEAST_AMX_SLOTS if amx else LEAST_CPU_SLOTS
    return GPU_SLOTS if offload else min(MOST_CPU_SLOTS, max(least, SLOTS_A_CORE * threads))


def slots_within(wanted: int, *, sequence_bytes: int, free_bytes: int | None, reserve: int = RESERVE) -> int:
    """`wanted`, or as many as `free_bytes` holds beside the sequence of the shared prefix, at least 1.

    Where nothing is known of the memory (None) it is `wanted`.
    """
    if free_bytes is None or sequence_bytes <= 0:
        return wanted
    return max(1, min(wanted, (free_bytes - reserve) // sequence_bytes - 1))


def token_bytes(model: Any, cache: CacheType) -> int:
    """`kv_token_bytes` of a loaded model."""
    import llama_cpp

    heads = llama_cpp.llama_model_n_head_kv(model)
    head = llama_cpp.llama_model_n_embd(model) // max(1, llama_cpp.llama_model_n_head(model))
    architecture = _metadata(model, "general.architecture")
    sizes = [_metadata(model, f"{architecture}.attention.{part}_length") for part in ("key", "value")]
    key, value = (int(size) if size.isdigit() else head for size in sizes)
    return kv_token_bytes(llama_cpp.llama_model_n_layer(model), heads, key, value, cache)


def free_bytes(*, offload: bool) -> int | None:
    """Memory that is free where the KV cache will lie; None where this system does not tell."""
    return _free_on_gpus() if offload else free_ram()


def _free_on_gpus() -> int | None:
    """Over all GPUs, as the driver tells it (ggml_backend_dev_memory)."""
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
