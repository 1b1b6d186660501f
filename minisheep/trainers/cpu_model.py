"""Puts the written-out parts into a model that trains on a processor: same function, same parameters, several times
the speed.

transformers' own modules stay; what is replaced is the `forward` of single modules of this one model, so that nothing
else in the process changes. Only dense weights and the architectures that adapters can be made for are replaced.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from transformers import AttentionInterface

from minisheep.trainers.cpu_lora import JointLora
from minisheep.trainers.cpu_ops import GatedUnit, PackedAttention, RmsNorm

ATTENTION = "minisheep_packed"
_TYPES = ("llama", "qwen2", "qwen3", "gemma3_text", "mistral")
_ACTIVATIONS = {"silu": False, "gelu_pytorch_tanh": True}
_SHARED_INPUT = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))


def can_pack(model: Any) -> bool:
    """Whether `quicken` was done on this model, so that a row may hold several sequences."""
    return bool(getattr(model.config, "_attn_implementation", "") == ATTENTION)


def quicken(model: Any) -> None:
    """Replace what is slow in a PEFT model on a processor; does nothing to a model that it does not know whole."""
    config = model.config
    activation = getattr(config, "hidden_act", None) or getattr(config, "hidden_activation", None)
    dense = all(p.dtype.is_floating_point for p in model.parameters())
    if model.device.type != "cpu" or config.model_type not in _TYPES or activation not in _ACTIVATIONS or not dense:
        return
    if getattr(config, "attn_logit_softcapping", None) or getattr(config, "use_bidirectional_attention", False):
        return
    AttentionInterface.register(ATTENTION, packed_attention)
    model.get_base_model().set_attn_implementation(ATTENTION)
    for module in list(model.modules()):
        for names in _SHARED_INPUT:
            if hasattr(module, names[0]) and hasattr(getattr(module, names[0]), "lora_A"):
                JointLora([getattr(module, name) for name in names])
        kind = type(module).__name__
        if kind.endswith("RMSNorm"):
            gemma = kind.startswith("Gemma")
            weight = (module.weight.float() + 1).to(module.weight.dtype) if gemma else module.weight.detach()
            epsilon = module.eps if gemma else module.variance_epsilon
            module.forward = functools.partial(_norm, weight, epsilon)
        if kind.endswith("MLP"):
            module.forward = functools.partial(_mlp, module, _ACTIVATIONS[activation])


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    bounds: tuple[int, ...] | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function as transformers' AttentionInterface wants it: [1, heads, tokens, width] each; out
    [1, tokens, heads, width]. `bounds` says where sequences begin, and ends with the number of tokens."""
    cut = bounds or (0, query.shape[2])
    out = PackedAttention.apply(query[0], key[0], value[0], cut, scaling, sliding_window)  # type: ignore[no-untyped-call]
    return out[None], None


def _norm(weight: torch.Tensor, epsilon: float, x: torch.Tensor) -> torch.Tensor:
    normed: torch.Tensor = RmsNorm.apply(x, weight, epsilon)  # type: ignore[no-untyped-call]
    return normed


def _mlp(module: Any, gelu: bool, x: torch.Tensor) -> Any:
    return module.down_proj(GatedUnit.apply(module.gate_proj(x), module.up_proj(x), gelu))  # type: ignore[no-untyped-call]
