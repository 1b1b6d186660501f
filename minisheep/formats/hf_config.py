"""A model's folder read for conversion: its JSON files, and what config.json means in the keys of a GGUF.

Nothing in the files is trusted. The reverse is `formats.gguf_to_hf`; tensors have the names of its `hf_names`.

Of rotary embeddings, linear scaling and YaRN are two keys that llama.cpp knows; Llama 3's frequencies become a tensor
of divisors (``rope_freqs.weight``). Any other kind is refused, and so is any parameter that one side would ignore.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minisheep.errors import ModelFileError, UnsupportedModelError
from minisheep.formats.gguf_to_hf import GEMMA3_27B_LAYERS, GEMMA3_PERIOD, gemma3_layer_types
from minisheep.models.hub import what_is_missing

AGAIN = "Fetch the model's files again, or pass a GGUF of it with --gguf FILE."
_MAX_JSON = 256 * 2**20
"""Bytes; the largest known tokenizer.json (Gemma 3) has 33 MB."""
ANOTHER = "Pass a GGUF of this model with --gguf FILE, or choose another model."
_YARN_DEFAULTS = {"beta_fast": 32, "beta_slow": 1, "truncate": True}
_KNOWN = {"rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings", "partial_rotary_factor"}
_LLAMA_3 = {"low_freq_factor", "high_freq_factor"}


@dataclass(frozen=True, slots=True)
class Source:
    """The JSON files of a model's folder; the mapping of a missing file is empty."""

    folder: Path
    config: Mapping[str, Any]
    """config.json."""
    generation: Mapping[str, Any]
    """generation_config.json."""
    tokenizer: Mapping[str, Any]
    """tokenizer.json: the whole tokenizer."""
    special: Mapping[str, Any]
    """tokenizer_config.json: which tokens begin and end a text."""
    chat_template: str
    """Jinja source; empty for a base model that has none."""


def read_source(folder: Path) -> Source:
    """Read the JSON files of `folder`. Raises `errors.ModelFileError` naming what is missing or damaged."""
    missing = what_is_missing(folder)
    if missing:
        raise ModelFileError(f"{folder} cannot be converted: {missing}.", AGAIN)
    if not (folder / "tokenizer.json").is_file():
        raise ModelFileError(
            f"{folder} cannot be converted: it has no tokenizer.json.",
            "Fetch that file too; if the model has none, transformers' AutoTokenizer.from_pretrained(FOLDER)"
            ".save_pretrained(FOLDER) makes it.",
        )
    special = _read(folder / "tokenizer_config.json")
    return Source(
        folder=folder,
        config=_read(folder / "config.json"),
        generation=_read(folder / "generation_config.json"),
        tokenizer=_read(folder / "tokenizer.json"),
        special=special,
        chat_template=_chat_template(folder, special),
    )


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is no such file."""
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > _MAX_JSON:
            raise ValueError("it is far larger than any model's")
        data = json.loads(path.read_bytes())
        if not isinstance(data, dict):
            raise ValueError("it holds no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}.", AGAIN) from None
    return data


def _chat_template(folder: Path, special: Mapping[str, Any]) -> str:
    """The folder's chat template: a file of its own, or a text or a list of named texts in tokenizer_config.json."""
    path = folder / "chat_template.jinja"
    try:
        if path.is_file():
            return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}.", AGAIN) from None
    template = special.get("chat_template")
    if isinstance(template, list):
        named = [each for each in template if isinstance(each, dict)]
        template = next((e.get("template") for e in named if e.get("name") == "default" or len(named) == 1), None)
    return template if isinstance(template, str) else ""


@dataclass(frozen=True, slots=True)
class Rope:
    """A rotary embedding as a GGUF states it."""

    base: float
    keys: Mapping[str, str | float | int]
    """By the part after ``ARCHITECTURE.rope.scaling.``; floats and ints keep their types."""
    divisors: tuple[float, ...] = ()
    """The divisor of each frequency of a head (half a head of them); empty where all are 1."""


def read_rope(rope: Mapping[str, Any], default_base: float, head_size: int, context: int) -> Rope:
    """The embedding in `rope`, which is ``rope_parameters`` or, in older files, ``rope_scaling`` with ``rope_theta``
    beside it. Raises `errors.UnsupportedModelError` for a kind that llama.cpp computes differently."""
    base = _number(rope, "rope_theta", default_base)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if _number(rope, "partial_rotary_factor", 1.0) != 1.0:
        raise UnsupportedModelError("This model rotates only a part of each head.", ANOTHER)
    if kind == "default":
        return Rope(base, {})
    _refuse_unknown(rope, kind)
    factor = _number(rope, "factor", None)
    if kind == "linear":
        return Rope(base, {"type": "linear", "factor": factor})
    trained = int(_number(rope, "original_max_position_embeddings", float(context)))
    if kind == "yarn":
        return Rope(base, {"type": "yarn", "factor": factor, "original_context_length": trained})
    low, high = _number(rope, "low_freq_factor", None), _number(rope, "high_freq_factor", None)
    return Rope(base, {}, llama_3_divisors(base, head_size, factor, low, high, trained))


def llama_3_divisors(
    base: float, head_size: int, factor: float, low: float, high: float, trained: int
) -> tuple[float, ...]:
    """Llama 3.1's scaling: long waves are stretched by `factor`, short ones kept, those between blended.

    `low` and `high` say how often a wave must fit into the `trained` context to count as long or short (transformers,
    ``_compute_llama3_parameters``; llama.cpp divides each frequency by its number here).
    """
    divisors = []
    for index in range(0, head_size, 2):
        fits = trained / (2 * math.pi * base ** (index / head_size))
        if fits < low:
            divisors.append(factor)
        elif fits > high:
            divisors.append(1.0)
        else:
            smooth = (fits - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return tuple(divisors)


def _refuse_unknown(rope: Mapping[str, Any], kind: object) -> None:
    """Refuse an unknown kind, and any parameter of a known one that llama.cpp would ignore."""
    if kind not in ("linear", "yarn", "llama3"):
        raise UnsupportedModelError(f"This model scales its rotary embedding by {kind!r}.", ANOTHER)
    allowed = _KNOWN | (_LLAMA_3 if kind == "llama3" else set())
    for name, value in rope.items():
        usual = kind == "yarn" and name in _YARN_DEFAULTS and value == _YARN_DEFAULTS[name]
        if name not in allowed and value is not None and not usual:
            raise UnsupportedModelError(
                f"This model scales its rotary embedding by {kind!r} with {name} = {value!r}.", ANOTHER
            )


def _number(rope: Mapping[str, Any], name: str, default: float | None) -> float:
    value = rope.get(name)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
        raise UnsupportedModelError(f"config.json gives the rotary embedding a {name} of {value!r}.", ANOTHER)
    return float(value)


Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class ArchitectureKind:
    """One ``model_type`` of transformers: its architecture in llama.cpp and the keys that config.json may omit."""

    gguf: str
    activation: str = "silu"
    activation_key: str = "hidden_act"
    tied: bool = False
    rope_base: float = 10_000.0
    defaults: Mapping[str, int] = field(default_factory=dict)
    """Where the configuration class has a default of its own."""


_GEMMA = ArchitectureKind(
    "gemma3", "gelu_pytorch_tanh", "hidden_activation", True, 1_000_000.0,
    {
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 131_072,
        "sliding_window": 4096, "query_pre_attn_scalar": 256,
    },
)  # fmt: skip
KINDS: dict[str, ArchitectureKind] = {
    "llama": ArchitectureKind("llama", defaults={"max_position_embeddings": 2048}),
    "mistral": ArchitectureKind("llama", defaults={"num_key_value_heads": 8, "max_position_embeddings": 131_072}),
    "qwen2": ArchitectureKind("qwen2", defaults={"num_key_value_heads": 32, "max_position_embeddings": 32_768}),
    "qwen3": ArchitectureKind(
        "qwen3", defaults={"num_key_value_heads": 32, "max_position_embeddings": 32_768, "head_dim": 128}
    ),
    "gemma3_text": _GEMMA,
    # The same with a part that sees images, which stays behind.
    "gemma3": _GEMMA,
}
"""By ``model_type``; defaults are those of transformers' configuration classes."""


@dataclass(frozen=True, slots=True)
class Design:
    """A model's shape as a GGUF states it."""

    architecture: str
    """Of llama.cpp: ``llama``, ``qwen2``, ``qwen3`` or ``gemma3``."""
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int | None  # rows of the embeddings; None where config.json leaves them to transformers
    tied: bool
    """Whether the embeddings are the output matrix too."""
    keys: Mapping[str, Value]
    """Metadata by its full name; ints are uint32 and floats float32 in the file."""
    divisors: tuple[float, ...] = ()
    """Of the rotary frequencies (`formats.hf_config.Rope`)."""
    notes: tuple[str, ...] = ()
    """Lines for the user."""


def read_design(config: Mapping[str, Any]) -> Design:
    """The design in a config.json. Raises `errors.UnsupportedModelError` where llama.cpp would compute something else,
    `errors.ModelFileError` where facts are missing or senseless."""
    model_type = config.get("model_type")
    kind = KINDS.get(model_type) if isinstance(model_type, str) else None
    if kind is None:
        raise UnsupportedModelError(
            f"Models of the type {model_type!r} cannot be converted; {', '.join(KINDS)} can.", ANOTHER
        )
    if "quantization_config" in config:
        raise UnsupportedModelError("These weights are quantised already.", "Give the folder of the original weights.")
    text = config.get("text_config") if model_type == "gemma3" else config
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
    epsilon = text.get("rms_norm_eps", 1e-6)
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 0 < epsilon < 1:
        raise ModelFileError(f"The rms_norm_eps in config.json is {epsilon!r}.", AGAIN)
    if rope.divisors and kind.gguf != "llama":
        raise UnsupportedModelError(f"llama.cpp cannot scale the architecture {kind.gguf} as Llama 3.", ANOTHER)
    keys: dict[str, Value] = {
        "block_count": layers,
        "context_length": context,
        "embedding_length": width,
        "feed_forward_length": number("intermediate_size"),
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.key_length": head_size,
        "attention.value_length": head_size,
        "attention.layer_norm_rms_epsilon": float(epsilon),
        "rope.dimension_count": head_size,
        "rope.freq_base": rope.base,
        **{f"rope.scaling.{name}": value for name, value in rope.keys.items()},
        **special,
    }
    tied = text.get("tie_word_embeddings", config.get("tie_word_embeddings", kind.tied))
    full = {f"{kind.gguf}.{name}": value for name, value in keys.items()}
    rows = number("vocab_size") if text.get("vocab_size") is not None else None
    return Design(kind.gguf, layers, heads, kv_heads, rows, bool(tied), full, rope.divisors, notes)


def _rope(text: Mapping[str, Any], kind: ArchitectureKind, head_size: int, context: int) -> Rope:
    """The rotary embedding of the layers with full attention; transformers 5 writes one mapping, older ones two."""
    rope = text.get("rope_parameters") or {}
    if isinstance(rope, Mapping) and isinstance(rope.get("full_attention"), Mapping):
        rope = rope["full_attention"]
    scaling = text.get("rope_scaling") or {}
    if not isinstance(rope, Mapping) or not isinstance(scaling, Mapping):
        raise ModelFileError("The rotary embedding in config.json cannot be read.", AGAIN)
    return read_rope({"rope_theta": text.get("rope_theta"), **scaling, **rope}, kind.rope_base, head_size, context)


def _within_window(text: Mapping[str, Any], layers: int, context: int) -> tuple[int, tuple[str, ...]]:
    """The context within which windowed attention makes no difference: llama.cpp knows no window for these models."""
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
    return window, (f"Its attention reaches {window} tokens back, so the GGUF gets a context of {window} tokens.",)


def _gemma(
    text: Mapping[str, Any], number: Callable[..., int], layers: int, per_head: int, head_size: int
) -> dict[str, Value]:
    """The keys of Gemma 3 alone. Raises UnsupportedModelError where llama.cpp has something else built in."""
    for name in ("attn_logit_softcapping", "final_logit_softcapping", "use_bidirectional_attention"):
        if text.get(name):
            raise UnsupportedModelError(f"This model has {name} = {text[name]!r}.", ANOTHER)
    expected = gemma3_layer_types(layers)
    period = text.get("sliding_window_pattern", text.get("_sliding_window_pattern", GEMMA3_PERIOD))
    if text.get("layer_types", expected) != expected or period != GEMMA3_PERIOD:
        raise UnsupportedModelError("In this Gemma 3, not every sixth layer has full attention.", ANOTHER)
    scale = per_head if layers == GEMMA3_27B_LAYERS else head_size
    if number("query_pre_attn_scalar") != scale:
        raise UnsupportedModelError(
            f"This Gemma 3 scales its queries by {text.get('query_pre_attn_scalar')}, llama.cpp by {scale}.", ANOTHER
        )
    parameters = text.get("rope_parameters")
    local = parameters.get("sliding_attention") if isinstance(parameters, Mapping) else None
    windowed = local if isinstance(local, Mapping) else {}
    rope = read_rope({"rope_theta": text.get("rope_local_base_freq"), **windowed}, 10_000.0, head_size, 1)
    if rope.keys or rope.divisors:
        raise UnsupportedModelError("This Gemma 3 scales the rotary embedding of its windowed layers.", ANOTHER)
    return {"attention.sliding_window": number("sliding_window"), "rope.freq_base_swa": rope.base}


def _reader(text: Mapping[str, Any], kind: ArchitectureKind) -> Callable[..., int]:
    def number(name: str, default: int | None = None) -> int:
        value = text.get(name)
        value = kind.defaults.get(name, default) if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
            raise ModelFileError(f"The {name} in config.json is {value!r}.", AGAIN)
        return value

    return number
