"""How many sequences fit the free memory.

llama.cpp reserves the whole KV cache when a context is made. Where memory is overcommitted that succeeds, and the
system kills the process hours later when the pages are touched; so the number is decided here, before. Only the
functions that need llama_cpp import it.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from minisheep.machine import llama_library
from minisheep.machine.system import free_ram

RESERVE = 2**29
"""Bytes left for the compute buffers, the system and the parent process."""
SLOTS_A_CORE = 8
LEAST_CPU_SLOTS, LEAST_AMX_SLOTS = 16, 32
"""AMX multiplies 16 rows in the time of one, so more slots share the other costs of a step: 32 slots decode a fifth
faster than 16 with it, and no faster without (two cores, docs/log.md)."""
MOST_CPU_SLOTS = 64
GPU_SLOTS = 64
UBATCH = 512
"""Tokens of one forward pass."""
OUTPUT_BYTES = 128 * 2**20
"""Limit for the logits of one batch: llama.cpp reserves a row of 4 bytes a vocabulary entry for each output."""
PAD = 256
"""llama.cpp rounds the context of a sequence up to this."""


@dataclass(frozen=True, slots=True)
class CacheType:
    """A number format of the KV cache."""

    name: str
    number: int
    """Its ggml_type."""
    block: int
    """Values that are stored together, in `block_bytes`."""
    block_bytes: int

    def bytes_of(self, values: int) -> int:
        return values * self.block_bytes // self.block


F16, BF16, Q8_0 = CacheType("f16", 1, 1, 2), CacheType("bf16", 30, 1, 2), CacheType("q8_0", 8, 32, 34)


def cache_type(kv_type: str, *, offload: bool, bfloat16: bool) -> CacheType:
    """The format for the setting `kv_type`: ``f16``, ``q8_0`` or ``auto``.

    On a CPU that multiplies bfloat16, a whole decode step is a quarter faster in it than in half precision; models are
    trained in it, so little is lost. Q8_0 takes 53 % of either, and needs flash attention.
    """
    if kv_type == "auto":
        return BF16 if bfloat16 and not offload else F16
    return {"f16": F16, "q8_0": Q8_0}[kv_type]


def sequence_tokens(context: int, trained: int) -> int:
    """Cells that llama.cpp reserves for a sequence of `context` tokens, at most the `trained` context of the model."""
    return -(-min(context, trained) // PAD) * PAD


def rows_within(vocabulary: int) -> int:
    """Rows of logits that `OUTPUT_BYTES` holds."""
    return OUTPUT_BYTES // (4 * vocabulary)


def output_rows(slots: int, vocabulary: int) -> int:
    """Rows of logits that one batch may have, at least one for each sequence."""
    return max(slots + 1, min(rows_within(vocabulary), UBATCH))


def kv_token_bytes(layers: int, kv_heads: int, key: int, value: int, cache: CacheType) -> int:
    """Bytes of the KV cache that one token of one sequence takes; `key` and `value` are the sizes of a head.

    Counts every layer in full: with `swa_full` those with a sliding window take as much as the others.
    """
    return layers * (cache.bytes_of(kv_heads * key) + cache.bytes_of(kv_heads * value))


def wanted_slots(*, offload: bool, threads: int, amx: bool) -> int:
    """Sequences that keep the hardware busy: a CPU reads the weights once a step for all of them, and more cores
    compute more of them meanwhile."""
    least = LEAST_AMX_SLOTS if amx else LEAST_CPU_SLOTS
    return GPU_SLOTS if offload else min(MOST_CPU_SLOTS, max(least, SLOTS_A_CORE * threads))


def slots_within(wanted: int, *, sequence_bytes: int, free_bytes: int | None, reserve: int = RESERVE) -> int:
    """`wanted`, or fewer where `free_bytes` (None: unknown) hold fewer beside the shared prefix; at least 1."""
    if free_bytes is None or sequence_bytes <= 0:
        return wanted
    return max(1, min(wanted, (free_bytes - reserve) // sequence_bytes - 1))


def token_bytes(model: Any, cache: CacheType) -> int:
    """`kv_token_bytes` of a loaded model."""
    llama_cpp = llama_library.load()

    def metadata(key: str) -> str:
        buffer = ctypes.create_string_buffer(64)
        n = llama_cpp.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if n > 0 else ""

    heads = llama_cpp.llama_model_n_head_kv(model)
    head = llama_cpp.llama_model_n_embd(model) // max(1, llama_cpp.llama_model_n_head(model))
    architecture = metadata("general.architecture")
    sizes = [metadata(f"{architecture}.attention.{part}_length") for part in ("key", "value")]
    key, value = (int(size) if size.isdigit() else head for size in sizes)
    return kv_token_bytes(llama_cpp.llama_model_n_layer(model), heads, key, value, cache)


def free_bytes(*, offload: bool) -> int | None:
    """Free memory where the KV cache will lie: RAM, or that of all GPUs as the driver reports it
    (ggml_backend_dev_memory); None where the system does not report it."""
    if not offload:
        return free_ram()
    llama_library.load()
    from llama_cpp import _ctypes_extensions, _ggml

    library = _ggml.libggml
    # By the package's own loader, which knows what the system calls a library (on a Mac: .dylib).
    base = _ctypes_extensions.load_shared_library("ggml-base", _ggml.libggml_base_path)
    library.ggml_backend_dev_count.restype = ctypes.c_size_t
    library.ggml_backend_dev_get.restype = ctypes.c_void_p
    library.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    base.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    base.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    total = 0
    for index in range(library.ggml_backend_dev_count()):
        device = library.ggml_backend_dev_get(index)
        if base.ggml_backend_dev_type(device) == 1:  # GGML_BACKEND_DEVICE_TYPE_GPU
            free, whole = ctypes.c_size_t(0), ctypes.c_size_t(0)
            base.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(whole))
            total += free.value
    return total or None
