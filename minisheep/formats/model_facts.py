"""Facts about a model from its GGUF header, as plain values. Pure; every number from the file is range-checked."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import Any

from minisheep.errors import ModelFileError
from minisheep.formats.gguf_header import FILE_TYPES, GgufArray, GgufHeader, mostly_fast_on_cpu
from minisheep.models.shape import Shape

MAX_LAYERS = 512
"""LLAMA_MAX_LAYERS: llama.cpp once wrote out of bounds behind it."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """All facts about a model."""

    architecture: str
    name: str
    parameters: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    context: int
    quantisation: str
    file_bytes: int
    chat_template: str
    """Empty for a base model that has none."""
    bos_text: str
    eos_text: str
    fast_on_cpu: bool


def model_facts(header: GgufHeader) -> ModelFacts:
    """All facts at once. Raises ModelFileError if the file is no language model or a number is senseless."""
    if header.metadata.get("general.type", "model") != "model" or not header.tensors:
        raise ModelFileError(
            "The GGUF has no model in it (it may be an adapter or a vocabulary).", "Pass a model's file with --gguf."
        )
    own = f"{header.architecture}."
    if header.metadata.get(own + "pooling_type") or header.metadata.get(own + "attention.causal") is False:
        raise ModelFileError("The GGUF's model embeds or ranks texts and writes none.", "Pass another with --gguf.")
    heads, width = head_count(header), embedding_length(header)
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    return ModelFacts(
        architecture=header.architecture,
        name=_text(header, "general.name"),
        parameters=parameter_count(header),
        layers=layer_count(header),
        width=width,
        heads=heads,
        kv_heads=kv_head_count(header),
        head_size=_count(header, "attention.key_length", 2**16, width // heads or 1),
        vocabulary=len(tokens) if isinstance(tokens, GgufArray) else 0,
        context=context_length(header),
        quantisation=quantisation(header),
        file_bytes=header.file_bytes,
        chat_template=chat_template(header),
        bos_text=bos_text(header),
        eos_text=eos_text(header),
        fast_on_cpu=has_fast_cpu_kernel(header),
    )


def shape_of(header: GgufHeader) -> Shape:
    """The dimensions in a GGUF. Raises ModelFileError where they are missing or senseless."""
    facts = model_facts(header)
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    inner = shapes.get("blk.0.ffn_up.weight", ())
    if len(inner) != 2:
        raise ModelFileError("The model file has no blk.0.ffn_up.weight.", "Pass another file with --gguf.")
    return Shape(
        layers=facts.layers,
        width=facts.width,
        feed_forward=inner[1],
        heads=facts.heads,
        kv_heads=facts.kv_heads,
        head_size=facts.head_size,
        vocabulary=facts.vocabulary,
        context=facts.context,
        tied="output.weight" not in shapes,
    )


def layer_count(header: GgufHeader) -> int:
    return _count(header, "block_count", MAX_LAYERS)


def embedding_length(header: GgufHeader) -> int:
    return _count(header, "embedding_length", 2**20)


def head_count(header: GgufHeader) -> int:
    """Query heads; the most of any layer where layers differ."""
    return _count(header, "attention.head_count", 2**16)


def kv_head_count(header: GgufHeader) -> int:
    """Key and value heads; the most of any layer where layers differ."""
    return _count(header, "attention.head_count_kv", 2**16, head_count(header))


def context_length(header: GgufHeader) -> int:
    """Tokens that the model was trained to see at once."""
    return _count(header, "context_length", 2**31 - 1)


def parameter_count(header: GgufHeader) -> int:
    return sum(prod(tensor.shape) for tensor in header.tensors)


def chat_template(header: GgufHeader) -> str:
    """The Jinja source of the file's own chat template; empty if there is none. Text from outside: never trusted."""
    return _text(header, "tokenizer.chat_template")


def bos_text(header: GgufHeader) -> str:
    return _special(header, "bos")


def eos_text(header: GgufHeader) -> str:
    """The text of the end-of-sequence token, such as ``<|endoftext|>``; empty if the file names none."""
    return _special(header, "eos")


def special_tokens(header: GgufHeader) -> dict[str, str]:
    """The texts that a chat template may name."""
    return {"bos_token": bos_text(header), "eos_token": eos_text(header)}


def quantisation(header: GgufHeader) -> str:
    """``Q4_K_M`` and the like: by general.file_type, else the tensor type that holds most bytes."""
    return FILE_TYPES.get(header.metadata.get("general.file_type", -1)) or main_tensor_type(header)


def main_tensor_type(header: GgufHeader) -> str:
    """The type that holds most bytes; empty for a file without tensors."""
    held: Counter[str] = Counter()
    for tensor in header.tensors:
        held[tensor.type] += tensor.bytes
    return held.most_common(1)[0][0] if held else ""


def has_fast_cpu_kernel(header: GgufHeader) -> bool:
    """Whether llama.cpp multiplies nearly all of the weights with its fast CPU kernels."""
    weights: Counter[str] = Counter()
    for tensor in header.tensors:
        weights[tensor.type] += prod(tensor.shape)
    return mostly_fast_on_cpu(weights)


def _count(header: GgufHeader, key: str, most: int, default: int | None = None) -> int:
    full = f"{header.architecture}.{key}"
    value: Any = header.metadata.get(full, default)
    if isinstance(value, GgufArray):
        value = max((item for item in value if isinstance(item, int)), default=None)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ModelFileError(
            f"The model file is not a usable language model: {full} is {value!r}.", "Pass another file with --gguf."
        )
    return value


def _text(header: GgufHeader, key: str) -> str:
    value = header.metadata.get(key, "")
    return value if isinstance(value, str) else ""


def _special(header: GgufHeader, which: str) -> str:
    index = header.metadata.get(f"tokenizer.ggml.{which}_token_id")
    return header.token_text(index) if isinstance(index, int) and not isinstance(index, bool) else ""
