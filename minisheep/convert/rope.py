"""The scaling of a rotary embedding, from transformers' words to those of a GGUF.

Linear scaling and YaRN are two keys that llama.cpp knows; Llama 3's frequencies travel as a tensor of divisors
(``rope_freqs.weight``). Any other kind is refused, and so are parameters that one side would not see.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from minisheep.errors import UnsupportedModelError

ANOTHER = "Pass a GGUF of this model with --gguf FILE, or choose another model."
_YARN_DEFAULTS = {"beta_fast": 32, "beta_slow": 1, "truncate": True}
_KNOWN = {"rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings", "partial_rotary_factor"}
_LLAMA_3 = {"low_freq_factor", "high_freq_factor"}


@dataclass(frozen=True, slots=True)
class Rope:
    """A rotary embedding as a GGUF says it."""

    base: float
    keys: Mapping[str, str | float | int]
    """What stands behind ``ARCHITECTURE.rope.scaling.``; floats and ints keep their types."""
    divisors: tuple[float, ...] = ()
    """What each frequency of a head is divided by (half a head of them); empty where all are 1."""


def read_rope(told: Mapping[str, Any], default_base: float, head_size: int, context: int) -> Rope:
    """The embedding that `told` describes, which is ``rope_parameters`` or, in older files, ``rope_scaling`` with
    ``rope_theta`` beside it. Raises `errors.UnsupportedModelError` for a kind that llama.cpp does not compute alike."""
    base = _number(told, "rope_theta", default_base)
    kind = told.get("rope_type") or told.get("type") or "default"
    if _number(told, "partial_rotary_factor", 1.0) != 1.0:
        raise UnsupportedModelError("This model rotates a part of each head only.", ANOTHER)
    if kind == "default":
        return Rope(base, {})
    _refuse_unknown(told, kind)
    factor = _number(told, "factor", None)
    if kind == "linear":
        return Rope(base, {"type": "linear", "factor": factor})
    trained = int(_number(told, "original_max_position_embeddings", float(context)))
    if kind == "yarn":
        return Rope(base, {"type": "yarn", "factor": factor, "original_context_length": trained})
    low, high = _number(told, "low_freq_factor", None), _number(told, "high_freq_factor", None)
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


def _refuse_unknown(told: Mapping[str, Any], kind: object) -> None:
    """Refuse a kind that is not known, and any parameter of a known one that llama.cpp would compute without."""
    if kind not in ("linear", "yarn", "llama3"):
        raise UnsupportedModelError(f"This model scales its rotary embedding by {kind!r}.", ANOTHER)
    allowed = _KNOWN | (_LLAMA_3 if kind == "llama3" else set())
    for name, value in told.items():
        usual = kind == "yarn" and name in _YARN_DEFAULTS and value == _YARN_DEFAULTS[name]
        if name not in allowed and value is not None and not usual:
            raise UnsupportedModelError(
                f"This model scales its rotary embedding by {kind!r} with {name} = {value!r}.", ANOTHER
            )


def _number(told: Mapping[str, Any], name: str, default: float | None) -> float:
    value = told.get(name)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
        raise UnsupportedModelError(f"config.json gives the rotary embedding a {name} of {value!r}.", ANOTHER)
    return float(value)
