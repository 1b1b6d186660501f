"""Linear layers with LoRA on a processor, forward and backward written out.

PEFT computes each adapted layer by itself and its small matrices in float32: every input is copied to float32, dropped
and multiplied for each of seven layers of a block, which costs more than the frozen weights' own products. Here the
layers that read the same input (q, k and v; gate and up) share one draw of dropout and one product with their stacked
A, all in the base's number format, and the backward pass keeps nothing but the input, the mask and the narrow middle.
The parameters stay PEFT's own, in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

Tensor = torch.Tensor


def draw_dropped(shape: Sequence[int], probability: float) -> tuple[Tensor | None, float]:
    """Which values are dropped (bool, None for none), and the probability that was really used: in 256ths.

    One byte a value, from a generator that torch's own seeds: torch itself draws a mask a variable at a time, which was
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
        probability = float(getattr(first.lora_dropout["default"], "p", 0.0)) if first.training else 0.0
        frozen = [(layer.base_layer.weight, layer.base_layer.bias) for layer in self.layers]
        adapters = []
        for layer in self.layers:
            adapters += [layer.lora_A["default"].weight, layer.lora_B["default"].weight]
        scale = float(first.scaling["default"])
        outputs = _JointLora.apply(x.reshape(-1, x.shape[-1]), scale, probability, frozen, *adapters)  # type: ignore[no-untyped-call]
        return [output.view(*x.shape[:-1], -1) for output in outputs]
