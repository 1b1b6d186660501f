"""JSON files that transformers 4 and 5 read as the same model.

Version 5 renamed keys and reads the older ones; version 4 (4.57 and before) does not know the newer ones and takes its
defaults in silence: a rotary embedding of base 10,000 in place of the model's own. So both are written. A tokenizer
that version 5 saves names a class and keys that version 4 fails at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

GENERIC = "PreTrainedTokenizerFast"
"""The class that takes tokenizer.json as it is, in both versions; 5 calls it TokenizersBackend."""
_LEAKED = ("backend", "is_local", "local_files_only")
"""Keys that say how version 5 loaded the tokenizer that it saved."""
_VAST = 1e15
"""Tokens; a ``model_max_length`` beyond it means that none was known."""


def config_for_both(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json with the keys of version 4 beside those of version 5, those of the text model inside it too."""
    made = dict(config)
    number_format = made.get("dtype", made.get("torch_dtype"))
    if number_format is not None:
        made |= {"dtype": number_format, "torch_dtype": number_format}
    if isinstance(made.get("rope_parameters"), Mapping):
        made |= _older_rope(made["rope_parameters"])
    if isinstance(made.get("text_config"), Mapping):
        made["text_config"] = config_for_both(made["text_config"])
    return made


def _older_rope(rope: Mapping[str, Any]) -> dict[str, Any]:
    """``rope_parameters`` in the keys of version 4; where it differs by the kind of layer, as Gemma 3 has them."""
    whole, windowed = rope.get("full_attention", rope), rope.get("sliding_attention", {})
    made = {name: whole[name] for name in ("rope_theta", "partial_rotary_factor") if name in whole}
    if whole.get("rope_type", "default") != "default":
        made["rope_scaling"] = {name: value for name, value in whole.items() if name not in made}
    if "rope_theta" in windowed:
        made["rope_local_base_freq"] = windowed["rope_theta"]
    return made


def tokenizer_config_for_both(saved: Mapping[str, Any], context: int) -> dict[str, Any]:
    """A tokenizer_config.json, beside a tokenizer.json, as version 5 saved it; `context` is the model's, in tokens."""
    made = {name: value for name, value in saved.items() if name not in _LEAKED} | {"tokenizer_class": GENERIC}
    if made.get("model_max_length", _VAST) >= _VAST:
        made["model_max_length"] = context
    # A list under the new name breaks version 4; 5 reads the old one.
    extra = made.pop("extra_special_tokens", None)
    if isinstance(extra, list):
        made["additional_special_tokens"] = extra
    elif extra is not None:
        made["extra_special_tokens"] = extra
    return made
