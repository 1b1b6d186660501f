"""Keeps small gradients from vanishing in float16, on GPUs without bfloat16 (RTX 20, T4).

The loss is multiplied before the backward pass, so that gradients stay above float16's smallest number, and what
arrives in the adapter's float32 gradients is divided again (Micikevicius et al., arXiv 1710.03740). A step whose
gradients overflow is repeated with half the scale: no update is lost, and the number of steps stays what was planned.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

FIRST = 2.0**14
"""Small gradients of a mean over some thousand tokens become about one."""
LEAST, MOST = 1.0, 2.0**24
GROWTH = 200
"""Steps without an overflow after which the scale is doubled."""


class LossScale:
    """The scale of a training; 1 where it computes in another format than float16, which then changes no bit."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.enabled = dtype == torch.float16
        self.scale = FIRST if self.enabled else 1.0
        self.calm = 0
        """Steps since the last overflow, or since the scale grew."""

    def restore(self, scale: float, calm: int) -> None:
        """Go on as a training that was interrupted with these; 0 for a scale that was not stored."""
        if self.enabled and scale:
            self.scale, self.calm = scale, calm

    def scaled(self, loss: torch.Tensor) -> torch.Tensor:
        return loss * self.scale if self.enabled else loss

    def unscale(self, parameters: Iterable[torch.nn.Parameter], loss: float) -> bool:
        """Divide the gradients by the scale; whether the step can be done.

        False after an overflow: the scale is halved, and the gradients must be computed anew. True, too, where a lower
        scale would not help: the `loss` itself is no finite number, or the scale is at its least.
        """
        if not self.enabled:
            return True
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for gradient in gradients:
            gradient.div_(self.scale)
        if all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
            self.calm += 1
            if self.calm >= GROWTH:
                self.scale, self.calm = min(MOST, self.scale * 2), 0
            return True
        if not math.isfinite(loss) or self.scale <= LEAST:
            return True
        self.scale, self.calm = max(LEAST, self.scale / 2), 0
        return False
