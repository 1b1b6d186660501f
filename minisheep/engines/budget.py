"""How many sequences fit the free memory.

llama.cpp reserves the whole KV cache when a context is made. Where memory is overcommitted that succeeds, and the
system kills the process hours later when the pages are touched; so the number is decided here, before. Only the
functions that need llama_cpp import it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from minisheep.machine import llama_library
from minisheep.machine.system import free_ram
from minisheep.models.shape import Shape

RESERVE = 2**29
"""Bytes of RAM left for the compute buffers, the system and the parent process."""
GPU_MARGIN = 192 * 2**20
"""Bytes left on a GPU beside everything that `beside_cache` counts: a desktop that takes more, and fragments."""
CUDA_GRAPHS = 32 * 2**20
"""Captured graphs of a decode step, by the driver. An estimate: not measured here."""
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


def compute_bytes(shape: Shape, slots: int, context: int) -> int:
    """llama.cpp's buffer for a forward pass: a batch's logits, the states between layers, and the mask.

    Within 3 % of what llama.cpp reports for SmolLM2, Gemma 3 and Qwen2 with 1 to 63 slots. `context` is in tokens a
    sequence; likewise below.
    """
    logits = output_rows(slots, shape.vocabulary) * shape.vocabulary * 4
    return logits + UBATCH * 4 * (2 * shape.width + sequence_tokens(context, shape.context))


def copy_bytes(shape: Shape, slots: int, context: int, cache: CacheType) -> int:
    """On a GPU, the copy in half precision of one layer's whole K and V that flash attention makes of a quantised cache
    (ggml-cuda, fattn-common.cuh); none of one in f16 or bf16."""
    if cache.block == 1:
        return 0
    return 2 * 2 * shape.kv_width * (slots + 1) * sequence_tokens(context, shape.context)


def adapter_bytes(shape: Shape, rank: int) -> int:
    """A LoRA on every matrix of every layer, in float32; none for rank 0."""
    return 4 * shape.lora_weights(rank)


def pool_bytes(shape: Shape) -> int:
    """The pool from which CUDA's kernels take what they need within one operation: a pass's widest activations, once
    in float32 and once quantised, and attention's partial sums. An estimate: not measured here."""
    return UBATCH * (6 * shape.feed_forward + 8 * shape.query_width)


def beside_cache(shape: Shape, slots: int, context: int, cache: CacheType, rank: int) -> dict[str, int]:
    """What llama.cpp takes of a GPU beside weights and KV cache, by name, in bytes: engine and plan count by it."""
    return {
        "compute buffers": compute_bytes(shape, slots, context),
        "copy of a layer's cache": copy_bytes(shape, slots, context, cache),
        "adapter": adapter_bytes(shape, rank),
        "CUDA's graphs and pool": CUDA_GRAPHS + pool_bytes(shape),
    }


def slots_within(
    wanted: int, *, sequence_bytes: int, free_bytes: int | None, reserve: Callable[[int], int] = lambda slots: RESERVE
) -> int:
    """`wanted`, or fewer where `free_bytes` (None: unknown) hold fewer beside the shared prefix and the `reserve` for
    so many; at least 1."""
    if free_bytes is None or sequence_bytes <= 0:
        return wanted
    return next((n for n in range(wanted, 1, -1) if (n + 1) * sequence_bytes + reserve(n) <= free_bytes), 1)


def fitting_slots(
    wanted: int,
    shape: Shape,
    context: int,
    cache: CacheType,
    *,
    sequence_bytes: int,
    free_bytes: int | None,
    offload: bool,
    rank: int,
) -> int:
    """`slots_within` for a model, as the engine and the plan ask: `free_bytes` are those beside the weights, and on a
    GPU all that `beside_cache` counts is kept free, with an adapter of `rank`."""

    def on_gpu(slots: int) -> int:
        return GPU_MARGIN + sum(beside_cache(shape, slots, context, cache, rank).values())

    if offload:
        return slots_within(wanted, sequence_bytes=sequence_bytes, free_bytes=free_bytes, reserve=on_gpu)
    return slots_within(wanted, sequence_bytes=sequence_bytes, free_bytes=free_bytes)


def fewer(slots: int) -> int:
    """The slots to go on with where memory ran out though they were planned: three quarters, at least one less."""
    return max(1, slots * 3 // 4)


def shape_of(model: Any) -> Shape:
    """The dimensions of a loaded model; the sizes of keys and values are asked by `token_bytes`."""
    llama_cpp = llama_library.load()
    heads = max(1, llama_cpp.llama_model_n_head(model))
    width = llama_cpp.llama_model_n_embd(model)
    key, _ = _head_sizes(model)
    inner = _metadata(model, "feed_forward_length")
    return Shape(
        layers=llama_cpp.llama_model_n_layer(model),
        width=width,
        feed_forward=int(inner) if inner.isdigit() else 4 * width,
        heads=heads,
        kv_heads=llama_cpp.llama_model_n_head_kv(model),
        head_size=key,
        vocabulary=llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model)),
        context=llama_cpp.llama_model_n_ctx_train(model),
        tied=False,  # counts in no size here
    )


def token_bytes(model: Any, cache: CacheType) -> int:
    llama_cpp = llama_library.load()
    layers, heads = llama_cpp.llama_model_n_layer(model), llama_cpp.llama_model_n_head_kv(model)
    return kv_token_bytes(layers, heads, *_head_sizes(model), cache)


def _head_sizes(model: Any) -> tuple[int, int]:
    """Of a key and of a value."""
    llama_cpp = llama_library.load()
    head = llama_cpp.llama_model_n_embd(model) // max(1, llama_cpp.llama_model_n_head(model))
    sizes = [_metadata(model, f"attention.{part}_length") for part in ("key", "value")]
    key, value = (int(size) if size.isdigit() else head for size in sizes)
    return key, value


def _metadata(model: Any, key: str) -> str:
    """A value of the GGUF's header under the architecture's name; empty where it has none."""
    architecture = _text(model, "general.architecture")
    return _text(model, f"{architecture}.{key}")


def _text(model: Any, key: str) -> str:
    llama_cpp = llama_library.load()
    buffer = ctypes.create_string_buffer(64)
    n = llama_cpp.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer))
    return buffer.value.decode("utf-8", "replace") if n > 0 else ""


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
