"""AdamW for an adapter, its moments in float32 (torch) or 8 bits (bitsandbytes), and what a checkpoint keeps of it.

In 8 bits a moment is a byte an element and a float32 a block of 256 (Dettmers et al., arXiv 2110.02861); tensors of
fewer than 4,096 elements keep float32. Both forms go on exactly from what `moments` returned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

BETAS = (0.9, 0.999)
MOMENTS = ("exp_avg", "exp_avg_sq", "state1", "state2", "absmax1", "absmax2")
"""The tensors of a parameter's state that change, by the names of torch's AdamW and of bitsandbytes' Optimizer2State.
What else bitsandbytes holds there are tables of its number format."""


def make_adamw(parameters: Iterable[torch.nn.Parameter], rate: float, *, eight_bit: bool) -> torch.optim.Optimizer:
    """AdamW without weight decay."""
    if eight_bit:
        import bitsandbytes

        made: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(
            list(parameters), lr=rate, betas=BETAS, weight_decay=0.0
        )
        return made
    return torch.optim.AdamW(list(parameters), lr=rate, betas=BETAS, weight_decay=0.0, fused=True)


def moments(optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter) -> dict[str, NDArray[Any]]:
    """Copies of what the optimizer remembers of a parameter that it has stepped, float32 or uint8, by name."""
    state = optimizer.state[parameter]
    return {name: np.array(state[name].cpu().numpy()) for name in MOMENTS if name in state}


def restore(
    optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter, kept: Mapping[str, NDArray[Any]], step: int
) -> None:
    """Make the optimizer remember `kept`, which `moments` returned after `step` steps of one of the same kind."""
    if hasattr(optimizer, "init_state"):
        optimizer.init_state(optimizer.param_groups[0], parameter, 0, _index(optimizer, parameter))
        optimizer.state[parameter]["step"] = step
        for name, values in kept.items():
            optimizer.state[parameter][name].copy_(torch.from_numpy(values))
    else:
        optimizer.state[parameter] = {
            "step": torch.tensor(float(step), device=parameter.device),
            **{name: torch.from_numpy(values).to(parameter) for name, values in kept.items()},
        }


def _index(optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter) -> int:
    return next(i for i, other in enumerate(optimizer.param_groups[0]["params"]) if other is parameter)
