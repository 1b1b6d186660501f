"""The duration of a phase: its work over the hardware's throughput, over a named efficiency.

Pure but for `read_calibration`.

The floors are those of docs/performance.md. A decode step reads all weights and every sequence's KV cache and
multiplies each weight once for each sequence; reading a prompt takes 2 FLOP a weight and token, training an adapter 4,
and 6 where activations are computed again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from pydantic import TypeAdapter

from minisheep.engines.budget import UBATCH
from minisheep.models.cache import cache_root
from minisheep.models.shape import Shape
from minisheep.phase_times import PhaseTokens
from minisheep.plan.gpu_models import GpuModel
from minisheep.plan.memory_parts import Weights
from minisheep.rules.identity import digest

BANDWIDTH, HALF = 0.7, 0.5
"""Shares of the datasheet's bandwidth and half-precision throughput that llama.cpp reaches. With these, its six
published rates for an 8B in 4 bits with 16 to 512 tokens a pass on an RTX 4090 come out within 8 %."""
TRAIN = 0.4
"""Share of the throughput with float32 sums that training with 4-bit weights and padded batches reaches. Assumed:
published packed and compiled training reaches 0.7."""
DRAW_SECONDS = 0.00007
"""For one processor core to draw a token from a row of logits, while the GPU waits, by compiled code, which the extra
`gpu` brings: measured at 152,000 tokens (docs/performance.md; numpy takes twice that, two threads little over half)."""
LOAD_BYTES = 1.5e9
"""Bytes a second read from a disk."""
START_SECONDS = 5.0
"""A worker's start: Python and its libraries."""
TRAIN_OVER_DECODE = 2.4
"""FLOP a second of torch's training over those of llama.cpp's decoding, on a CPU: SmolLM2 in bfloat16, without AMX in
llama.cpp, in the transcript of the README."""


class Speed(Protocol):
    def seconds(self, work: PhaseTokens) -> float:
        """Duration of one phase."""

    def load_seconds(self) -> float:
        """Duration of loading the model, once for each worker."""


@dataclass(frozen=True, slots=True)
class GpuSpeed:
    """A model on a GPU; `token_bytes` are those of the KV cache."""

    gpu: GpuModel
    shape: Shape
    weights: Weights
    token_bytes: int
    slots: int

    def seconds(self, work: PhaseTokens) -> float:
        trained = work.trained * train_flop(self.shape, again=True) / (self.gpu.training * TRAIN)
        return self._drawing(work) + self._reading(work) + trained

    def load_seconds(self) -> float:
        return load_seconds(self.weights)

    def step_seconds(self, sequences: int, context: float) -> float:
        """One token for each of `sequences`, each of `context` tokens so far."""
        cells = sequences * context * self.token_bytes
        return self._pass(cells, sequences * decode_flop(self.shape)) + sequences * DRAW_SECONDS

    def drawing_share(self, context: float) -> float:
        """The part of a decoding step's time in which a processor core draws tokens and the GPU waits, 0 to 1."""
        return self.slots * DRAW_SECONDS / self.step_seconds(self.slots, context)

    def _pass(self, cells: float, flop: float) -> float:
        """A forward pass that reads the weights and `cells` bytes of the KV cache."""
        read = self.weights.on_gpu + cells
        return read / (self.gpu.bandwidth * BANDWIDTH) + flop / (self.gpu.half * HALF)

    def _drawing(self, work: PhaseTokens) -> float:
        together = min(self.slots, max(1, work.sequences))
        return work.drawn / together * self.step_seconds(together, work.prompt + work.new / 2)

    def _reading(self, work: PhaseTokens) -> float:
        """Prompts, in full passes; the output layer is computed for few of their tokens."""
        cells = work.prompt * self.token_bytes
        return work.read / UBATCH * self._pass(cells, 2 * self.shape.block_weights * UBATCH)


@dataclass(frozen=True, slots=True)
class ProcessorSpeed:
    """A model on a CPU, by its measured tokens a second with 16 sequences (`engines.llamacpp`)."""

    shape: Shape
    weights: Weights
    rate: float

    def seconds(self, work: PhaseTokens) -> float:
        flops = self.rate * decode_flop(self.shape)
        read = 2 * self.shape.block_weights * work.read / flops
        trained = work.trained * train_flop(self.shape, again=False) / (TRAIN_OVER_DECODE * flops)
        return work.drawn / self.rate + read + trained

    def load_seconds(self) -> float:
        return load_seconds(self.weights)


def load_seconds(weights: Weights) -> float:
    return START_SECONDS + weights.file / LOAD_BYTES


def decode_flop(shape: Shape) -> int:
    """For one token, with the output layer."""
    return 2 * (shape.block_weights + shape.head_weights)


def train_flop(shape: Shape, *, again: bool) -> int:
    """For one token: forward and backward through frozen weights, with activations computed `again` or kept, and the
    output layer, which is never computed again."""
    return (6 if again else 4) * shape.block_weights + 4 * shape.head_weights


def round_seconds(works: Sequence[PhaseTokens], speed: Speed) -> list[tuple[str, float]]:
    """Duration of each phase. Two workers, for inference and for training, load the model once a round."""
    return [
        (work.phase, speed.seconds(work) + (speed.load_seconds() if work.phase in ("train", "evaluate") else 0.0))
        for work in works
    ]


NEW = 48
"""Tokens that the calibration draws for each sequence."""
PROMPT = 30
"""Tokens of its prompts, roughly."""
MANY = 100_000
"""Tokens of the work that turns an estimate into a rate."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """A model's measured speed on this machine.

    Rates are tokens a second. Bytes are peak VRAM with CUDA's own, None on a machine without a GPU.
    """

    machine: str
    slots: int
    """Sequences that were decoded at once."""
    kv_type: str
    drawn: float
    read: float
    trained: float
    """0 where the training weights were not cached."""
    trainer: str
    inference_bytes: int | None
    training_bytes: int | None
    date: str

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Calibration:
        """Raises ValueError for data that `dataclasses.asdict` did not make."""
        found = TypeAdapter(cls).validate_python(data)
        if not (found.drawn > 0 and found.read > 0 and found.trained >= 0 and found.slots > 0):
            raise ValueError(f"impossible rates: {data}")
        return found


@dataclass(frozen=True, slots=True)
class Calibrated:
    """An estimate corrected by a calibration: the estimate shows how times depend on the settings, and the calibration
    how fast this machine is."""

    estimate: Speed
    drawn: float
    read: float
    trained: float
    """Factors on seconds."""

    def seconds(self, work: PhaseTokens) -> float:
        drawn = self.estimate.seconds(replace(work, read=0, trained=0))
        read = self.estimate.seconds(replace(work, drawn=0, trained=0))
        trained = self.estimate.seconds(replace(work, drawn=0, read=0))
        return self.drawn * drawn + self.read * read + self.trained * trained

    def load_seconds(self) -> float:
        return self.estimate.load_seconds()


def calibrated(calibration: Calibration, estimate: Callable[[int], Speed], slots: int) -> Calibrated:
    """`estimate(slots)`, corrected by a calibration with its own slots."""
    same = estimate(calibration.slots)

    def factor(work: PhaseTokens, rate: float) -> float:
        """Measured seconds over estimated ones; 1 for what was not measured."""
        return MANY / rate / same.seconds(work) if rate else 1.0

    return Calibrated(
        estimate(slots),
        drawn=factor(PhaseTokens("try", drawn=MANY, sequences=MANY // NEW, prompt=PROMPT), calibration.drawn),
        read=factor(PhaseTokens("try", read=MANY), calibration.read),
        trained=factor(PhaseTokens("try", trained=MANY), calibration.trained),
    )


def calibration_path(gguf: Path) -> Path:
    """The calibration's file; a changed GGUF has another one. Raises OSError if there is no GGUF."""
    gguf = gguf.resolve()
    stat = gguf.stat()
    name = digest("tried", {"path": str(gguf), "bytes": stat.st_size, "changed": stat.st_mtime_ns})
    return cache_root() / "plan" / f"{name}.json"


def read_calibration(gguf: Path) -> Calibration | None:
    """The calibration of this GGUF; None where there is none, or its file cannot be read."""
    try:
        return Calibration.from_dict(json.loads(calibration_path(gguf).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
