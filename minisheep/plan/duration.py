"""How long work takes: the work over what the hardware can do, over a named efficiency. Pure.

The floors are those of docs/performance.md. A decode step reads all weights and every sequence's KV cache and
multiplies each weight once for each sequence; reading a prompt takes 2 FLOP a weight and token, training an adapter 4,
and 6 where activations are computed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from minisheep.engines.budget import UBATCH
from minisheep.models.shape import Shape
from minisheep.plan.cards import GpuModel
from minisheep.plan.weights import Weights
from minisheep.plan.work import Work

BANDWIDTH, HALF = 0.7, 0.5
"""Of the datasheet's bandwidth and half-precision throughput, the one after the other, in llama.cpp. With these, its
six published rates for an 8B in 4 bits with 16 to 512 tokens a pass on an RTX 4090 come out within 8 %."""
TRAIN = 0.4
"""Of the throughput with float32 sums, in training with 4-bit weights and padded batches. Assumed: published packed and
compiled training reaches 0.7."""
DRAW_SECONDS = 0.0003
"""For one processor core to draw a token from a row of logits, while the GPU waits (docs/log.md: 0.1 to 0.3 ms)."""
LOAD_BYTES = 1.5e9
"""Bytes a second in which weights come from a disk."""
START_SECONDS = 5.0
"""For a worker to begin: Python and its libraries."""
TRAIN_OVER_DECODE = 2.4
"""FLOP a second of torch's training over those of llama.cpp's decoding, on a CPU: SmolLM2 in bfloat16, without AMX in
llama.cpp, in the transcript of the README."""


class Speed(Protocol):
    def seconds(self, work: Work) -> float:
        """What one phase takes."""

    def load_seconds(self) -> float:
        """What loading the model takes, each time that a worker begins."""


@dataclass(frozen=True, slots=True)
class GpuSpeed:
    """A model on a GPU; `token_bytes` are those of the KV cache."""

    gpu: GpuModel
    shape: Shape
    weights: Weights
    token_bytes: int
    slots: int

    def seconds(self, work: Work) -> float:
        trained = work.trained * train_flop(self.shape, again=True) / (self.gpu.training * TRAIN)
        return self._drawing(work) + self._reading(work) + trained

    def load_seconds(self) -> float:
        return START_SECONDS + self.weights.file / LOAD_BYTES

    def step_seconds(self, sequences: int, context: float) -> float:
        """One token for each of `sequences`, each of `context` tokens so far."""
        cells = sequences * context * self.token_bytes
        return self._pass(cells, sequences * decode_flop(self.shape)) + sequences * DRAW_SECONDS

    def _pass(self, cells: float, flop: float) -> float:
        """A forward pass that reads the weights and `cells` bytes of the KV cache."""
        read = self.weights.read_a_step + cells
        return read / (self.gpu.bandwidth * BANDWIDTH) + flop / (self.gpu.half * HALF)

    def _drawing(self, work: Work) -> float:
        together = min(self.slots, max(1, work.sequences))
        return work.drawn / together * self.step_seconds(together, work.prompt + work.new / 2)

    def _reading(self, work: Work) -> float:
        """Prompts, in full passes; the output layer is computed for few of their tokens."""
        cells = work.prompt * self.token_bytes
        return work.read / UBATCH * self._pass(cells, 2 * self.shape.block_weights * UBATCH)


@dataclass(frozen=True, slots=True)
class ProcessorSpeed:
    """A model on a CPU, by the tokens a second that a short try of 16 sequences decoded there (`engines.speed`)."""

    shape: Shape
    weights: Weights
    rate: float

    def seconds(self, work: Work) -> float:
        flops = self.rate * decode_flop(self.shape)
        read = 2 * self.shape.block_weights * work.read / flops
        trained = work.trained * train_flop(self.shape, again=False) / (TRAIN_OVER_DECODE * flops)
        return work.drawn / self.rate + read + trained

    def load_seconds(self) -> float:
        return START_SECONDS + self.weights.file / LOAD_BYTES


def decode_flop(shape: Shape) -> int:
    """For one token, the output layer included."""
    return 2 * (shape.block_weights + shape.head_weights)


def train_flop(shape: Shape, *, again: bool) -> int:
    """For one token: there and back through frozen weights, with activations computed `again` or kept; and the output
    layer, which is never computed again."""
    return (6 if again else 4) * shape.block_weights + 4 * shape.head_weights


def round_seconds(works: Sequence[Work], speed: Speed) -> list[tuple[str, float]]:
    """Phase by phase. The workers that ask and that train each load the model once a round."""
    return [
        (work.phase, speed.seconds(work) + (speed.load_seconds() if work.phase in ("train", "evaluate") else 0.0))
        for work in works
    ]
