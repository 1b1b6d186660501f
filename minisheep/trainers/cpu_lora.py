"""The blocks of a model that trains on a processor, with LoRA, forward and backward written out: several times as fast.

`patch_for_cpu` replaces the `forward` of single modules of one model, so that nothing else in the process changes; each
part computes what the module of transformers and PEFT computes, rounding aside. Frozen weights get no gradient.

PEFT computes each adapted layer by itself and its small matrices in float32: every input is copied to float32, dropped
and multiplied for each of seven layers of a block, which costs more than the frozen weights' own products. Here the
layers that read the same input (q, k and v; gate and up) share one draw of dropout and one product with their stacked
A, all in the base's number format, and the backward pass keeps nothing but the input, the mask and the narrow middle.
The parameters stay PEFT's own, in float32.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface

Tensor = torch.Tensor


def draw_dropped(shape: Sequence[int], probability: float) -> tuple[Tensor | None, float]:
    """Which values are dropped (bool, None for none), and the probability that was used: in 256ths.

    One byte a value, from a generator that torch's own seeds: torch itself draws a mask a number at a time, which took
    half of a small model's forward pass.
    """
    dropped = round(probability * 256)
    if dropped == 0:
        return None, 0.0
    generator = np.random.Generator(np.random.SFC64(int(torch.randint(2**62, ()).item())))
    draws = np.frombuffer(generator.bytes(int(np.prod(shape))), np.uint8)
    return torch.from_numpy(draws < dropped).view(*shape), dropped / 256


class _JointLora(torch.autograd.Function):
    """y_i = x W_i^T + b_i + scale * drop(x) A_i^T B_i^T for layers i of one input; the frozen W_i get no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, probability: float, frozen: Any, *adapters: Tensor) -> Any:
        """`x` [tokens, in]; `frozen` holds (W [out, in], bias or None) a layer, `adapters` A [r, in] and B [out, r]."""
        mask, used = draw_dropped(x.shape, probability)
        dropped = x if mask is None else x.masked_fill(mask, 0)
        scale /= 1 - used
        a = torch.cat(adapters[0::2]).to(x.dtype)
        b = [(part * scale).to(x.dtype) for part in adapters[1::2]]
        middle = dropped @ a.t()
        outputs = []
        parts = torch.split(middle, [part.shape[1] for part in b], dim=1)
        for (weight, bias), part, own in zip(frozen, b, parts, strict=True):
            outputs.append(torch.nn.functional.linear(x, weight, bias).addmm_(own, part.t()))
        ctx.save_for_backward(dropped, middle, mask, a, *b)
        ctx.scale, ctx.weights = scale, [weight for weight, _ in frozen]
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        dropped, middle, mask, a, *b = ctx.saved_tensors
        grads = tuple(grad.contiguous() for grad in grads)
        ranks = [part.shape[1] for part in b]
        inner = torch.cat([grad @ part for grad, part in zip(grads, b, strict=True)], dim=1)
        adapters: list[Tensor] = []
        for grad, own, of_a in zip(
            grads, torch.split(middle, ranks, dim=1), torch.split(inner.t() @ dropped, ranks), strict=True
        ):
            adapters += [of_a.float(), (own.t() @ grad).t().float().mul_(ctx.scale)]
        x = None
        if ctx.needs_input_grad[0]:
            x = inner @ a
            if mask is not None:
                x.masked_fill_(mask, 0)
            for grad, weight in zip(grads, ctx.weights, strict=True):
                x.addmm_(grad, weight)
        return x, None, None, None, *adapters


class JointLora:
    """PEFT's adapted layers that read the same input, computed together when the first of them is called."""

    def __init__(self, layers: Sequence[Any]) -> None:
        self.layers = list(layers)
        self.input: Tensor | None = None
        self.outputs: dict[int, Tensor] = {}
        for index, layer in enumerate(self.layers):
            layer.forward = functools.partial(self.call, index)

    def call(self, index: int, x: Tensor) -> Tensor:
        """The output of layer `index` for `x` [..., in]; those of the others wait for their call with the same `x`."""
        if self.input is not x or index not in self.outputs:
            self.input, self.outputs = x, dict(enumerate(self._compute(x)))
        output = self.outputs.pop(index)
        if not self.outputs:
            self.input = None
        return output

    def _compute(self, x: Tensor) -> list[Tensor]:
        first = self.layers[0]
        if first.disable_adapters:
            return [torch.nn.functional.linear(x, p.base_layer.weight, p.base_layer.bias) for p in self.layers]
        probability = float(getattr(first.lora_dropout["default"], "p", 0.0)) if first.training else 0.0
        frozen = [(layer.base_layer.weight, layer.base_layer.bias) for layer in self.layers]
        adapters = []
        for layer in self.layers:
            adapters += [layer.lora_A["default"].weight, layer.lora_B["default"].weight]
        scale = float(first.scaling["default"])
        outputs = _JointLora.apply(x.reshape(-1, x.shape[-1]), scale, probability, frozen, *adapters)  # type: ignore[no-untyped-call]
        return [output.view(*x.shape[:-1], -1) for output in outputs]


class RmsNorm(torch.autograd.Function):
    """x / rms(x) * weight over the last dimension."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        inverse = inverse.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        normed: Tensor = (x * inverse).to(x.dtype).mul_(weight)
        return normed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight, inverse = ctx.saved_tensors
        grad = grads[0] * weight
        along = (grad * x).sum(dim=-1, keepdim=True, dtype=torch.float32)
        along *= inverse.square() / -x.shape[-1]
        return torch.addcmul(grad, x, along.to(x.dtype)).mul_(inverse.to(x.dtype)), None, None


class GatedUnit(torch.autograd.Function):
    """activation(gate) * up, with SiLU or the tanh form of GELU."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, gelu: bool) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.gelu = gelu
        return _activation(gate, gelu).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        gate, up = ctx.saved_tensors
        of_up = _activation(gate, ctx.gelu).mul_(grads[0])
        inner = grads[0] * up
        if ctx.gelu:
            return torch.ops.aten.gelu_backward(inner, gate, approximate="tanh"), of_up, None
        return torch.ops.aten.silu_backward(inner, gate), of_up, None


def _activation(gate: Tensor, gelu: bool) -> Tensor:
    return torch.nn.functional.gelu(gate, approximate="tanh") if gelu else torch.nn.functional.silu(gate)


class PackedAttention(torch.autograd.Function):
    """Causal attention of sequences that lie one after the other in one row.

    Each sequence is computed by itself, so that none can see another. Query heads of one key head form one product.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, bounds: Sequence[int], scale: float, window: int | None
    ) -> Tensor:
        """`query` [heads, tokens, width], `key` and `value` [key heads, tokens, width]; out [tokens, heads, width]."""
        heads, tokens, width = query.shape
        groups = key.shape[0]
        output = query.new_empty(tokens, groups, heads // groups, width)
        probabilities = []
        for begin, end in itertools.pairwise(bounds):
            q = query[:, begin:end].reshape(groups, -1, width)
            scores = torch.bmm(q, key[:, begin:end].transpose(1, 2)).mul_(scale)
            _by_query(scores, end - begin).add_(_hidden(end - begin, window, scores))
            p = torch.softmax(scores, dim=-1)
            probabilities.append(p)
            mixed = torch.bmm(p, value[:, begin:end]).view(groups, -1, end - begin, width)
            output[begin:end] = mixed.permute(2, 0, 1, 3)
        ctx.save_for_backward(query, key, value, *probabilities)
        ctx.bounds, ctx.scale = bounds, scale
        return output.view(tokens, heads, width)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        query, key, value, *probabilities = ctx.saved_tensors
        groups, _, width = key.shape
        of_query, of_key, of_value = (torch.empty_like(part) for part in (query, key, value))
        grad = grads[0].transpose(0, 1)
        for begin, end, p in zip(ctx.bounds, ctx.bounds[1:], probabilities, strict=False):
            q = query[:, begin:end].reshape(groups, -1, width)
            g = grad[:, begin:end].reshape(groups, -1, width)
            of_value[:, begin:end] = torch.bmm(p.transpose(1, 2), g)
            of_p = torch.bmm(g, value[:, begin:end].transpose(1, 2))
            of_scores = torch._softmax_backward_data(of_p, p, -1, p.dtype).mul_(ctx.scale)
            of_query[:, begin:end] = torch.bmm(of_scores, key[:, begin:end]).view(-1, end - begin, width)
            of_key[:, begin:end] = torch.bmm(of_scores.transpose(1, 2), q)
        return of_query, of_key, of_value, None, None, None


def _by_query(scores: Tensor, length: int) -> Tensor:
    """Scores [groups, heads of a group * length, length] as [groups, heads of a group, length, length]."""
    return scores.view(scores.shape[0], -1, length, length)


def _hidden(length: int, window: int | None, like: Tensor) -> Tensor:
    """Added to the scores [length, length]: minus infinity for later tokens and those before the window."""
    hidden = like.new_full((length, length), float("-inf")).triu_(1)
    if window is not None and length > window:
        hidden += like.new_full((length, length), float("-inf")).tril_(-window)
    return hidden


ATTENTION = "minisheep_packed"
_TYPES = ("llama", "qwen2", "qwen3", "gemma3_text", "mistral")
_ACTIVATIONS = {"silu": False, "gelu_pytorch_tanh": True}
_SHARED_INPUT = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))


def can_pack(model: Any) -> bool:
    """Whether `patch_for_cpu` changed this model, so that a row may hold several sequences."""
    return bool(getattr(model.config, "_attn_implementation", "") == ATTENTION)


def patch_for_cpu(model: Any) -> None:
    """Replace the slow parts of a PEFT model on a processor. Leaves alone any model with weights that are not dense or
    an architecture or setting that it does not know."""
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
