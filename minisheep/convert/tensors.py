"""Each tensor of a GGUF and what it is made of: its place in the safetensors, its order of rows, its number format.

Read in pieces of a few million numbers, so that a model of any size takes little memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minisheep.convert.architectures import Design
from minisheep.convert.source import AGAIN
from minisheep.errors import ModelFileError, UnsupportedModelError
from minisheep.formats.safetensors_file import SIZES, Stored, as_float32, from_float32, read_rows, row_count
from minisheep.models.gguf_weights import hf_names

_LEFT_OUT = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")
"""The part of Gemma 3 that sees images."""
_PREFIXES = (("language_model.model.", "model."), ("model.language_model.", "model."), ("language_model.lm_", "lm_"))
"""How the language model inside it is named, and how it is called alone."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor to be written."""

    name: str
    """As llama.cpp calls it."""
    shape: tuple[int, ...]
    """As torch counts: [out, in], or [width]."""
    dtype: str
    """F32, F16 or BF16, in the GGUF."""
    source: Stored | tuple[float, ...]
    """Where its numbers are, or the numbers themselves."""
    heads: int = 0
    """Where above 0, the rows of each head go from halves to pairs (`pairs`)."""
    plus_one: bool = False
    """Gemma's norms, to which llama.cpp adds no 1."""

    @property
    def bytes(self) -> int:
        return prod(self.shape) * SIZES[self.dtype]


def plan(design: Design, stored: Mapping[str, Stored], dtype: str) -> list[Tensor]:
    """All tensors of the GGUF, matrices as `dtype`, vectors as F32 (llama.cpp computes norms and biases in that).

    Raises `errors.UnsupportedModelError` naming a tensor that has no place in the architecture,
    `errors.ModelFileError` naming one that is missing or of a wrong shape.
    """
    here = {plain_name(name): tensor for name, tensor in stored.items() if not _left_out(name)}
    names = hf_names(design.architecture, design.layers)
    if design.tied:
        # Tied embeddings that were stored twice: transformers goes by the first.
        names.pop("output.weight")
        here.pop("lm_head.weight", None)
    unknown = sorted(here.keys() - set(names.values()))
    if unknown:
        raise UnsupportedModelError(
            f"The weights hold {unknown[0]}, which has no place in a GGUF of the architecture {design.architecture}"
            + (f" (nor have {len(unknown) - 1} more)." if len(unknown) > 1 else "."),
            "Give the folder of the original weights, or pass a GGUF of the model with --gguf FILE.",
        )
    missing = sorted(set(names.values()) - here.keys())
    if missing:
        raise ModelFileError(f"The weights lack {missing[0]}, which config.json says there is.", AGAIN)
    tensors = [_tensor(design, name, here[theirs], dtype) for name, theirs in names.items()]
    _check_shapes(design, {tensor.name: tensor.shape for tensor in tensors})
    if design.divisors:
        tensors.append(Tensor("rope_freqs.weight", (len(design.divisors),), "F32", design.divisors))
    return tensors


def plain_name(name: str) -> str:
    """A tensor's name as that of a language model alone."""
    for prefix, alone in _PREFIXES:
        if name.startswith(prefix):
            return alone + name.removeprefix(prefix)
    return name


def _left_out(name: str) -> bool:
    return name.startswith(_LEFT_OUT) or name.endswith("rotary_emb.inv_freq")  # old files store what config.json says


def _tensor(design: Design, name: str, source: Stored, dtype: str) -> Tensor:
    part = name.split(".")[-2]
    heads = {"attn_q": design.heads, "attn_k": design.kv_heads}.get(part, 0) if design.architecture == "llama" else 0
    matrix = len(source.shape) > 1
    gemma_norm = design.architecture == "gemma3" and part.endswith("norm")
    return Tensor(name, source.shape, dtype if matrix else "F32", source, heads, gemma_norm)


def _check_shapes(design: Design, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ModelFileError where a tensor is not of the size that config.json says."""

    def fact(name: str) -> int:
        return int(design.keys[f"{design.architecture}.{name}"])

    width, inner, head = fact("embedding_length"), fact("feed_forward_length"), fact("attention.key_length")
    query, value = design.heads * head, design.kv_heads * head
    vocabulary = shapes["token_embd.weight"][0]
    expected = {
        "token_embd": (vocabulary, width), "output": (vocabulary, width), "attn_q": (query, width),
        "attn_k": (value, width), "attn_v": (value, width), "attn_output": (width, query), "ffn_gate": (inner, width),
        "ffn_up": (inner, width), "ffn_down": (width, inner), "attn_q_norm": (head,), "attn_k_norm": (head,),
    }  # fmt: skip
    for name, shape in shapes.items():
        part = name.split(".")[-2]
        wanted = expected.get(part, (width,))
        if shape != (wanted[:1] if name.endswith(".bias") else wanted):
            raise ModelFileError(f"The weights hold {name} as {shape}, and config.json says {wanted}.", AGAIN)


def offset(tensor: Tensor, first: int) -> int:
    """Bytes from a tensor's start in the GGUF to its row `first`."""
    return first * (tensor.bytes // row_count(tensor.shape))


def read_piece(tensor: Tensor, first: int, end: int) -> NDArray[Any]:
    """Rows `first` to `end` of a tensor as its bytes in the GGUF: float32, float16, or the bits of bfloat16 (uint16).

    Raises `errors.UnsupportedModelError` for numbers that float16 cannot hold.
    """
    if isinstance(tensor.source, tuple):
        return np.array(tensor.source, np.float32)
    wanted = pairs(tensor.shape[0], tensor.heads)[first:end] if tensor.heads else slice(first, end)
    part = read_rows(tensor.source, wanted)
    if tensor.dtype == tensor.source.dtype and not tensor.plus_one:
        return part
    values = as_float32(part)
    made = from_float32(values + np.float32(1) if tensor.plus_one else values, tensor.dtype)
    if tensor.dtype == "F16" and not np.isfinite(made).all():
        raise UnsupportedModelError(
            f"{tensor.name} holds numbers that float16 cannot hold.", "Convert with --type bf16 instead."
        )
    return made


def pairs(rows: int, heads: int) -> NDArray[np.intp]:
    """For each row of a q or k matrix in llama.cpp's order, where transformers keeps it.

    transformers rotates the first half of a head against the second, llama.cpp neighbours (`permute` in llama.cpp's
    conversion of LlamaModel); `models.gguf_weights.halves` is the inverse.
    """
    return np.arange(rows).reshape(heads, 2, rows // heads // 2).swapaxes(1, 2).reshape(rows)
