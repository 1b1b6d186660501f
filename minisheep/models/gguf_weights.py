"""The tensors of a GGUF under the names and in the order of rows that transformers gives them, as bfloat16.

Read in pieces of a few million weights straight from the mapped file, so that a model of any size takes little memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minisheep.errors import ModelFileError, UnsupportedModelError
from minisheep.formats.safetensors_file import row_count, to_bfloat16
from minisheep.models.facts import head_count, kv_head_count, layer_count
from minisheep.models.gguf_config import FIX
from minisheep.models.gguf_header import GgufHeader, TensorInfo

_PROJECTIONS = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
}
_QK_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_TWO_NORMS = {"ffn_norm": "post_attention_layernorm"}
_FOUR_NORMS = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_BLOCKS = {
    "llama": _PROJECTIONS | _TWO_NORMS,
    "qwen2": _PROJECTIONS | _TWO_NORMS,
    "qwen3": _PROJECTIONS | _TWO_NORMS | _QK_NORMS,
    "gemma3": _PROJECTIONS | _FOUR_NORMS | _QK_NORMS,
}
"""Names within a block, GGUF to transformers, by architecture (llama.cpp, gguf-py/gguf/tensor_mapping.py)."""


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor to be written."""

    name: str
    """As transformers calls it."""
    shape: tuple[int, ...]
    """As torch counts: [out, in], or [width]."""
    source: TensorInfo
    heads: int = 0
    """Where above 0, the rows of each head go from pairs back to halves."""
    minus_one: bool = False
    """Gemma's norms: transformers adds the 1 that llama.cpp's conversion has already added."""


def plan_weights(header: GgufHeader) -> list[Weight]:
    """All tensors of a known architecture, in the file's order.

    Raises `errors.UnsupportedModelError` where the file holds a tensor that the transformers model does not have, or
    lacks one: trained on, such weights would be another model than the GGUF.
    """
    names = hf_names(header.architecture, layer_count(header))
    required = {name for name in names if not name.endswith(".bias") and name != "output.weight"}
    found = {tensor.name for tensor in header.tensors}
    if header.architecture == "qwen2":
        required |= {name for name in names if name.endswith(".bias")}
    for problem, name in [("lacks", name) for name in sorted(required - found)] + [
        ("holds the unknown tensor", name) for name in sorted(found - names.keys())
    ]:
        raise UnsupportedModelError(f"This GGUF {problem} {name}: no training weights can be made from it.", FIX)
    by_part = {"attn_q": head_count(header), "attn_k": kv_head_count(header)} if header.architecture == "llama" else {}
    gemma = header.architecture == "gemma3"
    return [
        Weight(
            names[tensor.name],
            tensor.shape[::-1],
            tensor,
            by_part.get(tensor.name.split(".")[-2], 0),
            gemma and tensor.name.endswith("norm.weight"),
        )
        for tensor in header.tensors
    ]


def hf_names(architecture: str, layers: int) -> dict[str, str]:
    """Every tensor that a model of this architecture can have: GGUF name to transformers' name."""
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
    }
    for layer in range(layers):
        for part, module in _BLOCKS[architecture].items():
            names[f"blk.{layer}.{part}.weight"] = f"model.layers.{layer}.{module}.weight"
        if architecture == "qwen2":
            for part in ("attn_q", "attn_k", "attn_v"):
                names[f"blk.{layer}.{part}.bias"] = f"model.layers.{layer}.{_PROJECTIONS[part]}.bias"
    return names


def read_piece(path: Path, weight: Weight, first: int, end: int) -> NDArray[np.uint16]:
    """The bfloat16 bits of some rows of a weight, in transformers' order.

    Raises `errors.ModelFileError` for a number format that cannot be dequantised.
    """
    rows = row_count(weight.shape)
    wanted = halves(rows, weight.heads)[first:end] if weight.heads else slice(first, end)
    values = read_rows(path, weight.source, wanted)
    return to_bfloat16(values - np.float32(1) if weight.minus_one else values)


def read_rows(path: Path, source: TensorInfo, wanted: slice | NDArray[np.intp]) -> NDArray[np.float32]:
    """Some rows of a GGUF's tensor, in its own order, as float32 [rows, in]; a vector is one row.

    Raises `errors.ModelFileError` for a number format that cannot be dequantised.
    """
    import gguf

    rows = row_count(source.shape[::-1])
    raw: Any = np.memmap(path, np.uint8, "r", source.offset, (rows, source.bytes // rows))
    try:
        kind = gguf.GGMLQuantizationType[source.type]
        values: NDArray[Any] = gguf.dequantize(_typed(raw[wanted], source.type), kind)
    except (KeyError, ValueError, NotImplementedError) as error:
        raise ModelFileError(f"{path.name} cannot be dequantised: {error}", FIX) from error
    return values.astype(np.float32, copy=False)


def _typed(part: NDArray[np.uint8], kind: str) -> NDArray[Any]:
    """Unquantised formats as numbers, which is how `gguf.dequantize` wants them."""
    return part.view({"F32": np.float32, "F16": np.float16}[kind]) if kind in ("F32", "F16") else part


def halves(rows: int, heads: int) -> NDArray[np.intp]:
    """For each row of a q or k matrix in transformers' order, where llama.cpp keeps it: the inverse of its `permute`.

    transformers rotates the first half of a head against the second, llama.cpp neighbours.
    """
    return np.arange(rows).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).reshape(rows)
