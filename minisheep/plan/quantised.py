"""How many bytes a model takes in a GGUF of a named format, matrix by matrix, before any file is here. Pure.

A mix such as Q4_K_M is not one format: llama-quantize gives some matrices more bits, and others the nearest format
whose blocks divide their rows (llama.cpp, src/llama-quant.cpp: llama_tensor_get_type_impl, use_more_bits,
tensor_type_fallback).
"""

from __future__ import annotations

from collections import Counter

from minisheep.models.ggml_types import BLOCKS, Block, mostly_fast_on_cpu
from minisheep.models.shape import EMBEDDING, OUTPUT, Matrix, Shape
from minisheep.plan.weights import Weights

_FORMATS = {block.name: block for block in BLOCKS.values()}
_MIXES = {"Q4_K_M": ("Q4_K", "Q6_K"), "Q5_K_M": ("Q5_K", "Q6_K")}
"""What most matrices of a mix have, and what those with more bits have."""
_NEAREST = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
FORMATS = (*_MIXES, "Q4_0", "Q4_1", "Q6_K", "Q8_0", "BF16", "F16", "F32")
"""What can be foretold."""
HEADER_BYTES_A_TOKEN = 40
"""Of the vocabulary, its merges included: 36 and 39 in files of SmolLM2 and Qwen2."""


def weights_as(shape: Shape, architecture: str, format: str) -> Weights:
    """The weights in one of `FORMATS`. Raises KeyError for another."""
    sizes = {EMBEDDING: 0, OUTPUT: 0}
    tensors = 4 * shape.vectors(architecture)
    for matrix in shape.matrices():
        size = _bytes(matrix, _format(matrix, shape, format))
        tensors += size
        if matrix.name in sizes:
            sizes[matrix.name] = size
    file = tensors + HEADER_BYTES_A_TOKEN * shape.vocabulary
    return Weights(format, file, tensors, sizes[EMBEDDING], shape.tied)


def fast_on_cpu(shape: Shape, format: str) -> bool:
    """Whether a processor multiplies a file in one of `FORMATS` fast. Raises KeyError for another."""
    weights: Counter[str] = Counter()
    for matrix in shape.matrices():
        weights[_format(matrix, shape, format).name] += matrix.weights
    return mostly_fast_on_cpu(weights)


def format_in_name(file: str) -> str | None:
    """The format that a file's name ends in, as is the custom; None where it is none of `FORMATS`."""
    name = file.upper().removesuffix(".GGUF")
    return next((known for known in FORMATS if name.endswith(known)), None)


def uses_more_bits(layer: int, layers: int) -> bool:
    """Of a mix: the first and last eighth of the layers, and every third between (use_more_bits)."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _format(matrix: Matrix, shape: Shape, format: str) -> Block:
    usual, more = _MIXES.get(format, (format, format))
    final = matrix.name == OUTPUT or (shape.tied and matrix.name == EMBEDDING)
    favoured = matrix.name in ("attn_v", "ffn_down") and uses_more_bits(matrix.layer, shape.layers)
    if final and format.startswith("Q") and format != "Q8_0":
        more = "Q6_K"  # the output layer of any quantised model
    chosen = more if final or favoured else usual
    if matrix.columns % _FORMATS[chosen].elements:
        chosen = _NEAREST.get(chosen, "F16")
    return _FORMATS[chosen]


def _bytes(matrix: Matrix, block: Block) -> int:
    return matrix.weights // block.elements * block.bytes
