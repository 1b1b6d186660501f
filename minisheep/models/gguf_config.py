"""The config.json that a GGUF amounts to: what transformers must know to compute as llama.cpp does with that file.

Pure. Keys are those of transformers' LlamaConfig, Qwen2Config, Qwen3Config and Gemma3TextConfig; what is left out has
its default there. Facts that a GGUF does not state are those that llama.cpp builds into its graphs (src/models).
"""

from __future__ import annotations

from typing import Any

from minisheep.errors import ModelFileError, UnsupportedModelError
from minisheep.models.facts import context_length, embedding_length, head_count, kv_head_count, layer_count
from minisheep.models.gguf_header import GgufHeader

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
"""A Gemma 3 of so many layers scales its queries in a way of its own."""


def gemma3_layer_types(layers: int) -> list[str]:
    """What each layer of a Gemma 3 sees, in transformers' words."""
    return ["sliding_attention" if (n + 1) % GEMMA3_PERIOD else "full_attention" for n in range(layers)]


def config_json(header: GgufHeader) -> dict[str, Any]:
    """The content of config.json for the model in a GGUF of a known architecture, weights in bfloat16.

    Raises `errors.UnsupportedModelError` for what transformers would compute differently, `errors.ModelFileError` for
    facts that are missing.
    """
    model_type, model_class = _TYPES[header.architecture]
    heads, width = head_count(header), embedding_length(header)
    head_dim = _integer(header, "attention.key_length", width // heads)
    if _integer(header, "attention.value_length", head_dim) != head_dim:
        raise UnsupportedModelError("This GGUF has values of another width than keys.", FIX)
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
    return config


def _gemma3(header: GgufHeader, head_dim: int) -> dict[str, Any]:
    layers = layer_count(header)
    large = layers == GEMMA3_27B_LAYERS
    return {
        "sliding_window": _integer(header, "attention.sliding_window", None),
        "layer_types": gemma3_layer_types(layers),
        "query_pre_attn_scalar": embedding_length(header) // head_count(header) if large else head_dim,
        # Its windowed layers rotate by a base of their own and unscaled.
        "rope_parameters": {
            "full_attention": _rope(header),
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    }


def _rope(header: GgufHeader) -> dict[str, Any]:
    """Rotary embedding. Linear scaling is what both sides know alike; any other kind is refused."""
    theta = _number(header, "rope.freq_base", 1_000_000.0 if header.architecture == "gemma3" else 10_000.0)
    rotated = _integer(header, "rope.dimension_count", None, optional=True)
    head_dim = _integer(header, "attention.key_length", embedding_length(header) // head_count(header))
    if rotated is not None and rotated != head_dim:
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


def _number(header: GgufHeader, key: str, default: float | None) -> float:
    full = f"{header.architecture}.{key}"
    value = header.metadata.get(full, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
        raise ModelFileError(f"The model file's {full} is {value!r}.", "Pass another file with --gguf.")
    return float(value)


def _integer(header: GgufHeader, key: str, default: int | None, *, optional: bool = False) -> Any:
    full = f"{header.architecture}.{key}"
    value = header.metadata.get(full, default)
    if value is None and optional:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
        raise ModelFileError(f"The model file's {full} is {value!r}.", "Pass another file with --gguf.")
    return value
