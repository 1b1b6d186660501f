"""Training weights for a model that exists only as a GGUF: its tensors, dequantised once and kept as bfloat16.

They equal the GGUF's own values, quantisation error included, so the adapter is trained on the very model that it is
later loaded onto. Only header and tensors are read, in pieces of a few million weights, so that a model of any size
takes little memory: transformers' own reader of GGUF files decodes the vocabulary token by token, which training never
needs and which took ten times as long as the tensors.

The keys of config.json are those of transformers' LlamaConfig, Qwen2Config, Qwen3Config and Gemma3TextConfig, in the
names of its versions 4 and 5 (`formats.hf_versions`); a key that is missing has its default there. Facts that a GGUF
does not state are those of llama.cpp's graphs (src/models).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minisheep.errors import ModelFileError, UnsupportedModelError
from minisheep.formats.gguf_header import GgufArray, GgufHeader, TensorInfo, read_header
from minisheep.formats.hf_versions import config_for_both
from minisheep.formats.lora_gguf import BaseFacts, read_base
from minisheep.formats.model_facts import context_length, embedding_length, head_count, kv_head_count, layer_count
from minisheep.formats.safetensors_file import head, pieces, row_count, to_bfloat16
from minisheep.run.events import Emit, Note
from minisheep.run.files import check_room, publish, write_in_pieces, write_json

FIX = "Give a folder with the model's original config.json and safetensors as its training weights."

_TYPES = {
    "llama": ("llama", "LlamaForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
    "gemma3": ("gemma3_text", "Gemma3ForCausalLM"),
}
GEMMA3_PERIOD = 6
"""Every sixth layer of Gemma 3 sees everything, the others a window (llama.cpp, src/models/gemma3.cpp)."""
GEMMA3_27B_LAYERS = 62
"""A Gemma 3 of this many layers scales its queries by the width per head."""


def gemma3_layer_types(layers: int) -> list[str]:
    """What each layer of a Gemma 3 sees, in transformers' words."""
    return ["sliding_attention" if (n + 1) % GEMMA3_PERIOD else "full_attention" for n in range(layers)]


def config_json(header: GgufHeader) -> dict[str, Any]:
    """The content of config.json for the model in a GGUF of a known architecture, weights in bfloat16. Pure.

    Raises `errors.UnsupportedModelError` where transformers would compute something else, `errors.ModelFileError` where
    facts are missing.
    """
    model_type, model_class = _TYPES[header.architecture]
    heads, width = head_count(header), embedding_length(header)
    head_dim = _head_size(header)
    if _integer(header, "attention.value_length", head_dim) != head_dim:
        raise UnsupportedModelError("The values in this GGUF have another width than the keys.", FIX)
    for key in (f"{header.architecture}.attention.{name}" for name in ("head_count", "head_count_kv")):
        if isinstance(each := header.metadata.get(key), GgufArray) and len(set(each)) > 1:
            raise UnsupportedModelError(f"The layers of this GGUF differ in {key}.", FIX)
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    if "token_embd.weight" not in shapes:
        raise ModelFileError("The model file has no token embeddings.", "Pass another file with --gguf.")
    config: dict[str, Any] = {
        "architectures": [model_class],
        "model_type": model_type,
        "dtype": "bfloat16",
        "vocab_size": shapes["token_embd.weight"][1],
        "hidden_size": width,
        "intermediate_size": _integer(header, "feed_forward_length", None),
        "num_hidden_layers": layer_count(header),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_head_count(header),
        "head_dim": head_dim,
        "max_position_embeddings": context_length(header),
        "rms_norm_eps": _number(header, "attention.layer_norm_rms_epsilon", None),
        "rope_parameters": _rope(header),
        "tie_word_embeddings": "output.weight" not in shapes,
    }
    for name in ("bos", "eos", "pad"):
        token = header.metadata.get(f"tokenizer.ggml.{'padding' if name == 'pad' else name}_token_id")
        if isinstance(token, int):
            config[f"{name}_token_id"] = token
    if header.architecture == "gemma3":
        config |= _gemma3(header, head_dim)
    return config_for_both(config)


def _gemma3(header: GgufHeader, head_dim: int) -> dict[str, Any]:
    layers = layer_count(header)
    large = layers == GEMMA3_27B_LAYERS
    return {
        "sliding_window": _integer(header, "attention.sliding_window", None),
        "layer_types": gemma3_layer_types(layers),
        "query_pre_attn_scalar": embedding_length(header) // head_count(header) if large else head_dim,
        # Its windowed layers rotate by another base and unscaled.
        "rope_parameters": {
            "full_attention": _rope(header),
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    }


def _rope(header: GgufHeader) -> dict[str, Any]:
    """Rotary embedding. Both sides know linear scaling alike; any other kind is refused."""
    theta = _number(header, "rope.freq_base", 1_000_000.0 if header.architecture == "gemma3" else 10_000.0)
    head_dim = _head_size(header)
    rotated = _integer(header, "rope.dimension_count", head_dim)
    if rotated != head_dim:
        raise UnsupportedModelError(f"This GGUF rotates {rotated} of {head_dim} dimensions of a head.", FIX)
    kind = header.metadata.get(f"{header.architecture}.rope.scaling.type", "none")
    factor = _number(header, "rope.scaling.factor", 1.0)
    if kind == "none" or factor == 1.0:
        return {"rope_type": "default", "rope_theta": theta}
    if kind != "linear":
        raise UnsupportedModelError(
            f"This GGUF scales its rotary embedding ({kind}), which training weights made from it would lose.", FIX
        )
    return {"rope_type": "linear", "rope_theta": theta, "factor": factor}


def _head_size(header: GgufHeader) -> int:
    return _integer(header, "attention.key_length", embedding_length(header) // head_count(header))


def _number(header: GgufHeader, key: str, default: float | None) -> float:
    return float(_checked(header, key, default, int | float, 1e12))


def _integer(header: GgufHeader, key: str, default: int | None) -> int:
    value: int = _checked(header, key, default, int, 2**31)
    return value


def _checked(header: GgufHeader, key: str, default: float | None, kind: Any, beyond: float) -> Any:
    full = f"{header.architecture}.{key}"
    value = header.metadata.get(full, default)
    if isinstance(value, bool) or not isinstance(value, kind) or not 0 < value < beyond:
        raise ModelFileError(f"The model file's {full} is {value!r}.", "Pass another file with --gguf.")
    return value


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
    by_part, width = heads_in_pairs(header), _head_size(header)
    for tensor in header.tensors:
        heads = by_part.get(tensor.name.split(".")[-2], 0)
        if heads and tensor.shape[1:] != (heads * width,):
            raise ModelFileError(
                f"The model file's {tensor.name} is of {tensor.shape}, which {heads} heads of {width} do not fit.",
                "Pass another file with --gguf.",
            )
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


def heads_in_pairs(header: GgufHeader) -> dict[str, int]:
    """The parts of a block whose rows llama.cpp has in pairs (`halves`), with the number of their heads."""
    return {"attn_q": head_count(header), "attn_k": kv_head_count(header)} if header.architecture == "llama" else {}


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

    Raises as `read_piece` does.
    """
    import gguf

    rows = row_count(source.shape[::-1])
    raw: Any = np.memmap(path, np.uint8, "r", source.offset, (rows, source.bytes // rows))
    try:
        kind = gguf.GGMLQuantizationType[source.type]
        part = raw[wanted]
        # `gguf.dequantize` takes unquantised formats as numbers.
        part = part.view({"F32": np.float32, "F16": np.float16}.get(source.type, np.uint8))
        values: NDArray[Any] = gguf.dequantize(part, kind)
    except (KeyError, ValueError, NotImplementedError) as error:
        raise ModelFileError(f"{path.name} cannot be dequantised: {error}", FIX) from error
    return values.astype(np.float32, copy=False)


def halves(rows: int, heads: int) -> NDArray[np.intp]:
    """For each row of a q or k matrix in transformers' order, its row in llama.cpp: the inverse of its `permute`.

    transformers rotates the first half of a head against the second, llama.cpp neighbours.
    """
    return np.arange(rows).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).reshape(rows)


def dequantise(gguf: Path, output: Path, emit: Emit) -> None:
    """Write config.json and bfloat16 safetensors of `gguf` into the folder `output`, which appears whole or not at all.

    Nothing is done if `output` exists. Takes 2 bytes of disk a parameter and little memory. Raises
    `errors.UnsupportedModelError` where the weights would be a slightly different model than the GGUF,
    `errors.ModelFileError` where it cannot be read, `errors.DiskError` where the disk is too small.
    """
    if output.exists():
        return
    base = read_base(gguf)
    refuse_lossy(base)
    need = 2 * sum(map(prod, base.shapes.values())) + 2**28
    check_room(output, need, "Training weights need", "Free some space and run the same command again.")
    started = time.monotonic()
    emit(Note(f"Making training weights from {gguf.name} (once for this model)."))
    header = read_header(gguf)
    config, weights = config_json(header), plan_weights(header)
    with publish(output) as folder:
        write_json(folder / "config.json", config)
        _write_safetensors(folder / "model.safetensors", gguf, weights)
    emit(Note(f"Training weights are in {output.name} after {time.monotonic() - started:.0f} s."))


def _write_safetensors(path: Path, gguf: Path, weights: Sequence[Weight]) -> None:
    text, begins = head([(weight.name, weight.shape) for weight in weights], "BF16")
    path.write_bytes(text)

    def make(job: tuple[Weight, int, int, int]) -> tuple[int, bytes]:
        weight, begin, first, end = job
        row = 2 * prod(weight.shape) // row_count(weight.shape)
        return begin + first * row, read_piece(gguf, weight, first, end).tobytes()

    jobs = [
        (weight, begin, *piece) for weight, begin in zip(weights, begins, strict=True) for piece in pieces(weight.shape)
    ]
    for _ in write_in_pieces(path, jobs, make):
        pass


def refuse_lossy(base: BaseFacts) -> None:
    """Raise `errors.UnsupportedModelError` for a known loss of the conversion: Llama 3's scaled rotary embedding, which
    a GGUF keeps as a tensor."""
    if "rope_freqs.weight" in base.shapes:
        raise UnsupportedModelError(
            "This GGUF scales its rotary embedding (rope_freqs), which training weights made from it would lose.", FIX
        )
