"""Compares two trainers on the same data: their losses, and what each costs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from minisheep.doctor.check_result import CheckResult, fail, ok, warn

ALIKE, DIFFERENT = 0.02, 0.10
"""Limits of the losses' mean relative difference: rounding and another attention kernel stay below the first; above
the second the trainers do not do the same."""


@dataclass(frozen=True, slots=True)
class Training:
    """What one trainer did."""

    trainer: str
    losses: tuple[float, ...]
    """One for each optimizer step: mean nats per supervised token."""
    tokens_per_second: float
    seconds: float
    load_in: str
    peak_bytes: int | None
    """Peak use of the GPU beyond its use before, by the driver; None where it does not say."""
    allocated_bytes: int
    """Peak of PyTorch's tensors."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "trainer": self.trainer,
            "losses": [round(loss, 5) for loss in self.losses],
            "tokens_per_second": round(self.tokens_per_second, 1),
            "seconds": round(self.seconds, 2),
            "load_in": self.load_in,
            "peak_bytes": self.peak_bytes,
            "allocated_bytes": self.allocated_bytes,
        }


def result_of(training: Training) -> CheckResult:
    """One trainer's result."""
    first, last = training.losses[0], training.losses[-1]
    text = f"{len(training.losses)} steps, loss {first:.3f} to {last:.3f}, {training.tokens_per_second:,.0f} tokens/s"
    text += f", base in {training.load_in}"
    if training.peak_bytes is not None:
        text += f", {training.peak_bytes / 2**30:.2f} GiB of VRAM at most"
    return CheckResult(f"train with {training.trainer}", "ok", text, figures=training.to_dict())


def compare(one: Training, other: Training) -> CheckResult:
    """`other`'s losses and cost compared with `one`'s."""
    name = f"{other.trainer} beside {one.trainer}"
    if len(one.losses) != len(other.losses):
        return fail(
            name,
            f"{len(other.losses)} steps against {len(one.losses)}: not the same training",
            "Report it, with docs/gpu-check.json.",
        )
    mean, most = differences(one.losses, other.losses)
    figures: dict[str, Any] = {"mean": round(mean, 5), "most": round(most, 5)}
    text = f"losses differ by {mean:.2%} in the mean and {most:.2%} at most"
    if one.tokens_per_second > 0:
        figures["speed"] = round(other.tokens_per_second / one.tokens_per_second, 3)
        text += f"; {figures['speed']:.2f} times the tokens/s"
    if one.peak_bytes and other.peak_bytes:
        figures["vram"] = round(other.peak_bytes / one.peak_bytes, 3)
        text += f", {figures['vram']:.2f} times the VRAM"
    # `not <=`, so that a mean that is NaN fails.
    if not mean <= DIFFERENT:
        return fail(name, text, "Use --trainer peft, and report it with docs/gpu-check.json.", **figures)
    if not mean <= ALIKE:
        return warn(name, text, "Look at the curves in docs/gpu-check.json.", **figures)
    return ok(name, text, **figures)


def differences(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Mean and largest of the relative differences, step by step; both 0 for no steps."""
    found = [abs(b - a) / max(abs(a), 1e-9) for a, b in zip(one, other, strict=True)]
    return (sum(found) / len(found), max(found)) if found else (0.0, 0.0)
