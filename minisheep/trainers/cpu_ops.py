"""The other parts of a block on a processor, forward and backward written out: fewer passes over memory, less kept.

Each computes what transformers' module computes, rounding aside; frozen weights get no gradient.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch

Tensor = torch.Tensor


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
    """What is added to the scores [length, length]: minus infinity for what comes later or before the window."""
    hidden = like.new_full((length, length), float("-inf")).triu_(1)
    if window is not None and length > window:
        hidden += like.new_full((length, length), float("-inf")).tril_(-window)
    return hidden
