"""Forward passes: token pairs in, the summed loss over their supervised tokens out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from minisheep.trainers.tokens import TokenPair

IGNORED = -100


def loss_sum(model: Any, pairs: Sequence[TokenPair], device: torch.device) -> torch.Tensor:
    """Summed negative log-likelihood, in nats, of the supervised tokens of one micro-batch; a scalar in float32.

    Sequences are padded on the right, where a causal model cannot see. The output layer, in a small model most of the
    work and in any model most of the memory, runs only at positions that predict a supervised token of some sequence.
    """
    width = max(len(pair.ids) for pair in pairs)
    ids = torch.zeros(len(pairs), width, dtype=torch.long)
    mask = torch.zeros(len(pairs), width, dtype=torch.long)
    targets = torch.full((len(pairs), width), IGNORED, dtype=torch.long)
    for row, pair in enumerate(pairs):
        length = len(pair.ids)
        ids[row, :length] = torch.tensor(pair.ids)
        mask[row, :length] = 1
        targets[row, pair.first - 1 : length - 1] = ids[row, pair.first : length]
    kept = (targets != IGNORED).any(dim=0).nonzero().flatten()
    targets = targets[:, kept]
    rows = targets != IGNORED
    output = model(
        input_ids=ids.to(device), attention_mask=mask.to(device), logits_to_keep=kept.to(device), use_cache=False
    )
    logits = output.logits[rows.to(device)].float()
    return cross_entropy(logits, targets[rows].to(device), reduction="sum")
