"""What config.json means for a GGUF: which architecture, and the keys that llama.cpp reads for it.

Pure. The other way round is `models.gguf_config`; names of tensors are those of `models.gguf_weights.hf_names`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from minisheep.convert.rope import ANOTHER, Rope, read_rope
from minisheep.convert.source import AGAIN
from minisheep.errors import ModelFileError, UnsupportedModelError
from minisheep.models.gguf_config import GEMMA3_27B_LAYERS, GEMMA3_PERIOD, gemma3_layer_types

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Kind:
    """One ``model_type`` of transformers: its architecture in llama.cpp and what its config.json may leave out."""

    gguf: str
    activation: str = "silu"
    activation_key: str = "hidden_act"
    tied: bool = False
    rope_base: float = 10_000.0
    defaults: Mapping[str, int] = field(default_factory=dict)
    """Where the configuration class has a default of its own."""


_GEMMA = Kind(
    "gemma3", "gelu_pytorch_tanh", "hidden_activation", True, 1_000_000.0,
    {
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 131_072,
        "sliding_window": 4096, "query_pre_attn_scalar": 256,
    },
)  # fmt: skip
KINDS: dict[str, Kind] = {
    "llama": Kind("llama", defaults={"max_position_embeddings": 2048}),
    "mistral": Kind("llama", defaults={"num_key_value_heads": 8, "max_position_embeddings": 131_072}),
    "qwen2": Kind("qwen2", defaults={"num_key_value_heads": 32, "max_position_embeddings": 32_768}),
    "qwen3": Kind("qwen3", defaults={"num_key_value_heads": 32, "max_position_embeddings": 32_768, "head_dim": 128}),
    "gemma3_text": _GEMMA,
    # The same with a part that sees images, which stays behind.
    "gemma3": _GEMMA,
}
"""By ``model_type``; defaults are those of transformers' configuration classes."""


@dataclass(frozen=True, slots=True)
class Design:
    """A model's shape as a GGUF says it."""

    architecture: str
    """Of llama.cpp: ``llama``, ``qwen2``, ``qwen3`` or ``gemma3``."""
    layers: int
    heads: int
    kv_heads: int
    tied: bool
    """Whether the embeddings are the output matrix too."""
    keys: Mapping[str, Value]
    """Metadata by its full name; ints are uint32 and floats float32 in the file."""
    divisors: tuple[float, ...] = ()
    """Of the rotary frequencies (`rope.Rope`)."""
    notes: tuple[str, ...] = ()
    """What the user should know, in plain lines."""


def read_design(config: Mapping[str, Any]) -> Design:
    """What a config.json means. Raises `errors.UnsupportedModelError` for what llama.cpp would compute otherwise,
    `errors.ModelFileError` for facts that are missing or senseless."""
    told = config.get("model_type")
    kind = KINDS.get(told) if isinstance(told, str) else None
    if kind is None:
        raise UnsupportedModelError(
            f"Models of the type {told!r} cannot be converted; {', '.join(KINDS)} can.", ANOTHER
        )
    if "quantization_config" in config:
        raise UnsupportedModelError("These weights are quantised already.", "Give the folder of the original weights.")
    text = config.get("text_config") if told == "gemma3" else config
    if not isinstance(text, Mapping):
        raise ModelFileError("config.json has no usable text_config.", AGAIN)
    number = _reader(text, kind)
    width, layers, heads = number("hidden_size"), number("num_hidden_layers"), number("num_attention_heads")
    kv_heads = number("num_key_value_heads", heads)
    head_size, context = number("head_dim", width // heads), number("max_position_embeddings")
    if heads % kv_heads or head_size % 2:
        raise ModelFileError(f"config.json has {heads} heads of {head_size} and {kv_heads} key-value heads.", AGAIN)
    activation = text.get(kind.activation_key, kind.activation)
    if activation != kind.activation:
        raise UnsupportedModelError(f"This model's activation is {activation!r}, not {kind.activation!r}.", ANOTHER)
    gemma = kind.gguf == "gemma3"
    special = _gemma(text, number, layers, width // heads, head_size) if gemma else {}
    context, notes = (context, ()) if gemma else _within_window(text, layers, context)
    rope = _rope(text, kind, head_size, number("max_position_embeddings"))
    if rope.divisors and kind.gguf != "llama":
        raise UnsupportedModelError(f"llama.cpp scales no {kind.gguf} as Llama 3 is scaled.", ANOTHER)
    keys: dict[str, Value] = {
        "block_count": layers,
        "context_length": context,
        "embedding_length": width,
        "feed_forward_length": number("intermediate_size"),
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.key_length": head_size,
        "attention.value_length": head_size,
        "attention.layer_norm_rms_epsilon": _epsilon(text),
        "rope.dimension_count": head_size,
        "rope.freq_base": rope.base,
        **{f"rope.scaling.{name}": value for name, value in rope.keys.items()},
        **special,
    }
    tied = text.get("tie_word_embeddings", config.get("tie_word_embeddings", kind.tied))
    full = {f"{kind.gguf}.{name}": value for name, value in keys.items()}
    return Design(kind.gguf, layers, heads, kv_heads, bool(tied), full, rope.divisors, notes)


def _rope(text: Mapping[str, Any], kind: Kind, head_size: int, context: int) -> Rope:
    """The rotary embedding of the layers that see everything; transformers 5 writes one mapping, older ones two."""
    told = text.get("rope_parameters") or {}
    if isinstance(told, Mapping) and isinstance(told.get("full_attention"), Mapping):
        told = told["full_attention"]
    scaling = text.get("rope_scaling") or {}
    if not isinstance(told, Mapping) or not isinstance(scaling, Mapping):
        raise ModelFileError("config.json describes no rotary embedding that can be read.", AGAIN)
    return read_rope({"rope_theta": text.get("rope_theta"), **scaling, **told}, kind.rope_base, head_size, context)


def _within_window(text: Mapping[str, Any], layers: int, context: int) -> tuple[int, tuple[str, ...]]:
    """The context in which a model with windowed attention is one without: llama.cpp knows no window for these."""
    mistral = text.get("model_type") == "mistral"
    window = text.get("sliding_window", 4096 if mistral else None)
    types = text.get("layer_types")
    if isinstance(types, list):
        windowed = "sliding_attention" in types
    else:
        windowed = text.get("use_sliding_window", mistral)
        first = text.get("max_window_layers", 0)
        windowed = windowed and isinstance(first, int) and first < layers
    if not windowed or not isinstance(window, int) or not 0 < window < context:
        return context, ()
    return window, (f"Its attention sees {window} tokens back: the GGUF says {window} tokens of context.",)


def _gemma(
    text: Mapping[str, Any], number: Callable[..., int], layers: int, per_head: int, head_size: int
) -> dict[str, Value]:
    """What is Gemma 3's own. Raises UnsupportedModelError where it differs from what llama.cpp builds in."""
    for name in ("attn_logit_softcapping", "final_logit_softcapping", "use_bidirectional_attention"):
        if text.get(name):
            raise UnsupportedModelError(f"This model has {name} = {text[name]!r}.", ANOTHER)
    expected = gemma3_layer_types(layers)
    period = text.get("sliding_window_pattern", text.get("_sliding_window_pattern", GEMMA3_PERIOD))
    if text.get("layer_types", expected) != expected or period != GEMMA3_PERIOD:
        raise UnsupportedModelError("Not every sixth layer of this Gemma 3 sees everything.", ANOTHER)
    scale = per_head if layers == GEMMA3_27B_LAYERS else head_size
    if number("query_pre_attn_scalar") != scale:
        raise UnsupportedModelError(
            f"This Gemma 3 scales its queries by {text.get('query_pre_attn_scalar')}, llama.cpp by {scale}.", ANOTHER
        )
    told = text.get("rope_parameters")
    local = told.get("sliding_attention") if isinstance(told, Mapping) else None
    windowed = local if isinstance(local, Mapping) else {}
    rope = read_rope({"rope_theta": text.get("rope_local_base_freq"), **windowed}, 10_000.0, head_size, 1)
    if rope.keys or rope.divisors:
        raise UnsupportedModelError("This Gemma 3 scales the rotary embedding of its windowed layers.", ANOTHER)
    return {"attention.sliding_window": number("sliding_window"), "rope.freq_base_swa": rope.base}


def _reader(text: Mapping[str, Any], kind: Kind) -> Callable[..., int]:
    def number(name: str, default: int | None = None) -> int:
        value = text.get(name)
        value = kind.defaults.get(name, default) if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
            raise ModelFileError(f"The {name} in config.json is {value!r}.", AGAIN)
        return value

    return number


def _epsilon(text: Mapping[str, Any]) -> float:
    value = text.get("rms_norm_eps", 1e-6)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ModelFileError(f"The rms_norm_eps in config.json is {value!r}.", AGAIN)
    return float(value)
