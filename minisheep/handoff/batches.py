"""The numbers that other programs take in a form of their own: a batch over several GPUs, a whole alpha. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from minisheep.errors import UsageError


@dataclass(frozen=True, slots=True)
class Batches:
    """`micro` examples in a forward pass of each GPU, `accumulate` of these in a step."""

    micro: int
    accumulate: int


def spread(batch_size: int, micro_batch_size: int, gpus: int) -> Batches:
    """The same batch on `gpus` GPUs, in forward passes of at most `micro_batch_size`.

    Raises `errors.UsageError` where the GPUs do not divide the batch: another batch would be another training.
    """
    each, rest = divmod(batch_size, gpus)
    if rest:
        fitting = ", ".join(str(n) for n in range(1, batch_size + 1) if batch_size % n == 0)
        raise UsageError(f"--gpus {gpus} does not divide the run's batch of {batch_size}.", f"Give one of {fitting}.")
    micro = max(n for n in range(1, min(each, micro_batch_size) + 1) if each % n == 0)
    return Batches(micro, each // micro)


def whole_alpha(alpha: float) -> int:
    """The LoRA alpha, of which both programs take whole numbers alone. Raises `errors.UsageError`."""
    if alpha % 1:
        raise UsageError(
            f"A handoff needs a whole number for alpha, and the run's is {alpha:g}.", "Nothing was written."
        )
    return int(alpha)
