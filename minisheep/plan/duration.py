"""How long work takes: the work over what the hardware can do, over a named efficiency. Pure.

The floors are those of docs/performance.md. A decode step reads all weights and every sequence's KV cache and
multiplies each weight once for each sequence; reading a prompt takes 2 FLOP a weight and token, training an adapter 4,
and 6 where activations are computed again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from minisheep.config import Settings
from minisheep.engines.budget import UBATCH
from minisheep.models.cache import cache_root
from minisheep.models.shape import Shape
from minisheep.plan.gpu_models import GpuModel
from minisheep.plan.memory_parts import Weights
from minisheep.rules.identity import digest
from minisheep.trainers import base

# How much a round has to do, in tokens, before any was written. Pure.
#
# What a model will write is not known, so lengths are assumptions, each with its name here; they are those of
# docs/performance.md where that has one. A token costs the same whatever it is about, so only these lengths matter.
INSTRUCTION = 50
"""New tokens that a kept instruction costs, with its number, its input and what was dropped beside it."""
SHOT = 60
"""Tokens of a seed task in a few-shot prompt."""
LISTED = 500
"""New tokens after which a list of instructions mostly ends by itself."""
ANSWER = 150
"""Tokens of an answer that nothing cuts off."""
CUT = 0.8
"""Of the tokens allowed, what answers take where that is less."""
QUESTION = 40
"""Tokens of a prompt that it shares with no other: an instruction."""
ASKED = 30
"""Tokens that a grade of one criterion is asked with, behind the pair."""
REPLY = 40
"""New tokens of a judge that replies in words."""
LOGLIK = 80
"""Tokens of a held-out task with its answer."""
SPOILED = 7
"""Answers to a task of the exam: the right one, and one for each way of spoiling."""


@dataclass(frozen=True, slots=True)
class PhaseTokens:
    """Tokens of one phase: drawn one after the other, read at once, trained on; and how many sequences there are."""

    phase: str
    drawn: int = 0
    read: int = 0
    trained: int = 0
    sequences: int = 0
    prompt: int = QUESTION
    """Tokens before a sequence's first drawn one."""

    @property
    def new(self) -> float:
        """Tokens drawn for a sequence."""
        return self.drawn / max(1, self.sequences)


def round_work(settings: Settings) -> list[PhaseTokens]:
    """The phases of a round, in order; that of measuring is also what the base model gets before the first."""
    found = [_generate(settings), _respond(settings)]
    pairs = settings.per_round * settings.answers
    if settings.judges and settings.exam_tasks:
        answers = settings.exam_tasks * SPOILED // 2
        found.insert(
            0, PhaseTokens("exam", read=answers * (_judged(settings) * 2 if settings.judge == "auto" else 150))
        )
    if settings.judges or settings.filter != "score":
        drawn = pairs * REPLY * len(settings.criteria) if settings.judges and settings.judge == "sample" else 0
        found.append(
            PhaseTokens(
                "judge", drawn, pairs * _judged(settings), sequences=drawn // REPLY, prompt=QUESTION + _answer(settings)
            )
        )
    return [*found, _train(settings), evaluation(settings)]


def evaluation(settings: Settings) -> PhaseTokens:
    sequences = settings.eval_answers + settings.eval_verifiable
    drawn = settings.eval_answers * _length(settings.eval_max_tokens)
    drawn += settings.eval_verifiable * _length(settings.eval_verifiable_max_tokens)
    return PhaseTokens("evaluate", drawn, settings.eval_tasks * LOGLIK + sequences * QUESTION, sequences=sequences)


def kept_examples(settings: Settings) -> int:
    """Pairs that a round trains on. The paper's threshold keeps about three tenths, as `top:0.3` does."""
    if settings.judges:
        share = settings.keep.value if settings.keep.kind == "top" else 0.3
    else:
        share = 0.3 if "density" in settings.filter else 0.9
    return max(1, min(settings.max_examples, round(settings.per_round * share)))


def example_tokens(settings: Settings) -> int:
    return min(settings.max_length, QUESTION + _answer(settings))


def _generate(settings: Settings) -> PhaseTokens:
    listed = _length(settings.generate_max_tokens, LISTED)
    drafts = -(-settings.per_round * INSTRUCTION // listed)
    prompts = -(-drafts // settings.samples_per_prompt)
    prompt = SHOT * (settings.shots + 1)
    return PhaseTokens("generate", drafts * listed, prompts * prompt, sequences=drafts, prompt=prompt)


def _respond(settings: Settings) -> PhaseTokens:
    answers = settings.per_round * settings.answers
    return PhaseTokens("respond", answers * _answer(settings), settings.per_round * QUESTION, sequences=answers)


def _train(settings: Settings) -> PhaseTokens:
    examples = kept_examples(settings)
    held = len(base.split(examples, settings.validation, settings.seed)[1])
    # Validation is a forward pass alone: a third of the work.
    passes = settings.epochs * (examples - held + held / 3)
    return PhaseTokens("train", trained=round(passes * example_tokens(settings)))


def _judged(settings: Settings) -> int:
    """Tokens read for one pair: what both questions share is read once; likelihoods read the answer twice."""
    if settings.filter != "score":
        return QUESTION + _answer(settings)
    if settings.judge in ("pmi", "auto"):
        return QUESTION + 2 * _answer(settings)
    return QUESTION + _answer(settings) + ASKED * len(settings.criteria)


def _answer(settings: Settings) -> int:
    return _length(settings.answer_max_tokens)


def _length(most: int, usual: int = ANSWER) -> int:
    return min(usual, max(1, round(CUT * most)))


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
    def seconds(self, work: PhaseTokens) -> float:
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

    def seconds(self, work: PhaseTokens) -> float:
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

    def _drawing(self, work: PhaseTokens) -> float:
        together = min(self.slots, max(1, work.sequences))
        return work.drawn / together * self.step_seconds(together, work.prompt + work.new / 2)

    def _reading(self, work: PhaseTokens) -> float:
        """Prompts, in full passes; the output layer is computed for few of their tokens."""
        cells = work.prompt * self.token_bytes
        return work.read / UBATCH * self._pass(cells, 2 * self.shape.block_weights * UBATCH)


@dataclass(frozen=True, slots=True)
class ProcessorSpeed:
    """A model on a CPU, by the tokens a second that a short try of 16 sequences decoded there (`engines.llamacpp`)."""

    shape: Shape
    weights: Weights
    rate: float

    def seconds(self, work: PhaseTokens) -> float:
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


def round_seconds(works: Sequence[PhaseTokens], speed: Speed) -> list[tuple[str, float]]:
    """Phase by phase. The workers that ask and that train each load the model once a round."""
    return [
        (work.phase, speed.seconds(work) + (speed.load_seconds() if work.phase in ("train", "evaluate") else 0.0))
        for work in works
    ]


# What a model did in a short try on this machine, and how that corrects an estimate of times. Pure but for `read`.
NEW = 48
"""Tokens that the try draws for each sequence."""
PROMPT = 30
"""Tokens of its prompts, about."""
MANY = 100_000
"""Tokens of the work by which a rate is taken from an estimate."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Rates are tokens a second; bytes are the most of VRAM, with CUDA's own, None on a machine without a GPU."""

    machine: str
    slots: int
    """Sequences that were decoded at once."""
    kv_type: str
    drawn: float
    read: float
    trained: float
    """0 where the training weights were not at hand."""
    trainer: str
    inference_bytes: int | None
    training_bytes: int | None
    date: str

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Calibration:
        """Raises ValueError, KeyError or TypeError for what `dataclasses.asdict` did not make."""
        found = cls(
            machine=str(data["machine"]),
            slots=int(data["slots"]),
            kv_type=str(data["kv_type"]),
            drawn=float(data["drawn"]),
            read=float(data["read"]),
            trained=float(data["trained"]),
            trainer=str(data["trainer"]),
            inference_bytes=_count(data["inference_bytes"]),
            training_bytes=_count(data["training_bytes"]),
            date=str(data["date"]),
        )
        if not (found.drawn > 0 and found.read > 0 and found.trained >= 0 and found.slots > 0):
            raise ValueError(f"rates that cannot be: {data}")
        return found


def _count(value: Any) -> int | None:
    return None if value is None else int(value)


@dataclass(frozen=True, slots=True)
class Calibrated:
    """An estimate whose parts are corrected by what the try found: it knows how times depend on the settings, and the
    try how fast this machine is."""

    estimate: Speed
    drawn: float
    read: float
    trained: float
    """Factors on seconds."""

    def seconds(self, work: PhaseTokens) -> float:
        drawn = dataclasses.replace(work, read=0, trained=0)
        read = dataclasses.replace(work, drawn=0, trained=0)
        trained = dataclasses.replace(work, drawn=0, read=0)
        return (
            self.drawn * self.estimate.seconds(drawn)
            + self.read * self.estimate.seconds(read)
            + self.trained * self.estimate.seconds(trained)
        )

    def load_seconds(self) -> float:
        return self.estimate.load_seconds()


def calibrated(tried: Calibration, estimate: Callable[[int], Speed], slots: int) -> Calibrated:
    """`estimate(slots)`, corrected by the try. `estimate` is asked for the try's own slots too."""
    same = estimate(tried.slots)

    def factor(work: PhaseTokens, rate: float) -> float:
        """Measured seconds over estimated ones; 1 for what was not tried."""
        return MANY / rate / same.seconds(work) if rate else 1.0

    return Calibrated(
        estimate(slots),
        drawn=factor(PhaseTokens("try", drawn=MANY, sequences=MANY // NEW, prompt=PROMPT), tried.drawn),
        read=factor(PhaseTokens("try", read=MANY), tried.read),
        trained=factor(PhaseTokens("try", trained=MANY), tried.trained),
    )


def place(gguf: Path) -> Path:
    """Where the try of a GGUF is kept: another file in its place has another name. Raises OSError if there is none."""
    found = gguf.resolve()
    about = found.stat()
    name = digest("tried", {"path": str(found), "bytes": about.st_size, "changed": about.st_mtime_ns})
    return cache_root() / "plan" / f"{name}.json"


def read(gguf: Path) -> Calibration | None:
    """What a try of this GGUF found, None where there was none or its record cannot be read."""
    try:
        return Calibration.from_dict(json.loads(place(gguf).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None
