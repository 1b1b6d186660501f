"""Forward passes: token pairs in, the summed loss over their supervised tokens out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from minisheep.trainers.cpu_model import can_pack
from minisheep.trainers.tokens import TokenPair

HEAD_ELEMENTS = 2**24
"""Logits that exist at once: 64 MB in float32. All of a batch's would be gigabytes with a vocabulary of 262k."""


PADDING_FREE = "_minisheep_padding_free"
"""An attribute of models whose attention keeps sequences of one row apart by `packed_seq_lengths` (Unsloth,
unsloth/utils/packing.py) or, where it is transformers' own, by positions that begin again at 0."""


def loss_sum(model: Any, pairs: Sequence[TokenPair], device: torch.device) -> torch.Tensor:
    """Summed negative log-likelihood, in nats, of the supervised tokens of one micro-batch; a scalar in float32.

    On a processor, and in a model that Unsloth made, the sequences lie in one row, each seeing itself alone; elsewhere
    they are padded on the right, where a causal model cannot see. The output layer, in a small model most of the work
    and in any model most of the memory, runs only at positions that predict a supervised token.
    """
    if can_pack(model):
        hidden = _packed(model, pairs)
    elif getattr(model, PADDING_FREE, False):
        hidden = _in_a_row(model, pairs, device)
    else:
        hidden = _padded(model, pairs, device)
    targets = torch.tensor([token for pair in pairs for token in pair.ids[pair.first :]], device=hidden.device)
    total: torch.Tensor = HeadLoss.apply(hidden, model.get_output_embeddings().weight, targets)  # type: ignore[no-untyped-call]
    return total


def _packed(model: Any, pairs: Sequence[TokenPair]) -> torch.Tensor:
    """Hidden states [supervised tokens, width] at the positions that predict one."""
    ids, places, kept, bounds = _one_row(pairs)
    hidden: torch.Tensor = _body(model)(
        input_ids=ids, position_ids=places, bounds=bounds, use_cache=False
    ).last_hidden_state
    return hidden[0, kept]


def _in_a_row(model: Any, pairs: Sequence[TokenPair], device: torch.device) -> torch.Tensor:
    ids, places, kept, _ = _one_row(pairs)
    lengths = torch.tensor([len(pair.ids) for pair in pairs], dtype=torch.int32)
    hidden: torch.Tensor = _body(model)(
        input_ids=ids.to(device),
        position_ids=places.to(device),
        packed_seq_lengths=lengths.to(device),
        use_cache=False,
    ).last_hidden_state
    return hidden[0, kept.to(device)]


def _one_row(pairs: Sequence[TokenPair]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple[int, ...]]:
    """Token ids [1, tokens], their positions [1, tokens], the indices that predict a supervised token, and where
    sequences begin, with the number of tokens at the end."""
    bounds: list[int] = [0]
    kept: list[int] = []
    for pair in pairs:
        kept += range(bounds[-1] + pair.first - 1, bounds[-1] + len(pair.ids) - 1)
        bounds.append(bounds[-1] + len(pair.ids))
    ids = torch.tensor([[token for pair in pairs for token in pair.ids]])
    places = torch.cat([torch.arange(len(pair.ids)) for pair in pairs])[None]
    return ids, places, torch.tensor(kept), tuple(bounds)


def _padded(model: Any, pairs: Sequence[TokenPair], device: torch.device) -> torch.Tensor:
    width = max(len(pair.ids) for pair in pairs)
    ids = torch.zeros(len(pairs), width, dtype=torch.long)
    mask = torch.zeros(len(pairs), width, dtype=torch.long)
    kept = torch.zeros(len(pairs), width, dtype=torch.bool)
    for row, pair in enumerate(pairs):
        length = len(pair.ids)
        ids[row, :length] = torch.tensor(pair.ids)
        mask[row, :length] = 1
        kept[row, pair.first - 1 : length - 1] = True
    hidden: torch.Tensor = _body(model)(
        input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False
    ).last_hidden_state
    return hidden[kept.to(device)]


def _body(model: Any) -> Any:
    """The model without its output layer."""
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    return whole.model


class HeadLoss(torch.autograd.Function):
    """Output layer and cross-entropy in pieces, the gradient made on the way: logits are computed once, never kept."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """`hidden` [tokens, width], `head` [vocabulary, width] (frozen), `targets` [tokens]."""
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        step = max(1, HEAD_ELEMENTS // head.shape[0])
        for begin in range(0, len(targets), step):
            rows, target = hidden[begin : begin + step], targets[begin : begin + step, None]
            logits = torch.nn.functional.linear(rows.to(head.dtype), head).float()
            high = logits.amax(dim=-1)
            wanted = logits.gather(1, target)[:, 0]
            p = torch.softmax(logits, dim=-1)
            # log(sum(exp(x))) = max(x) - log(max(p)), exact where the wanted token's own p has underflowed.
            total += (high - p.amax(dim=-1).log() - wanted).sum()
            if gradient is not None:
                p.scatter_add_(1, target, torch.full_like(wanted, -1)[:, None])
                gradient[begin : begin + step] = p.to(head.dtype) @ head
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0], None, None
