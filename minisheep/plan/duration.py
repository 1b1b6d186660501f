"""The work of a round and its duration: work over the hardware's throughput, over a named efficiency.

Pure but for `read_calibration`.

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

from pydantic import TypeAdapter

from minisheep.config import Settings
from minisheep.engines.budget import UBATCH
from minisheep.models.cache import cache_root
from minisheep.models.shape import Shape
from minisheep.plan.gpu_models import GpuModel
from minisheep.plan.memory_parts import Weights
from minisheep.rules.identity import digest
from minisheep.trainers import base

# The work of a round, in tokens. What a model will write is not known, so these lengths are assumptions; they are those
# of docs/performance.md where that has one.
INSTRUCTION = 50
"""New tokens for one kept instruction, with its number, its input and its share of the dropped ones."""
SHOT = 60
"""Tokens of a seed task in a few-shot prompt."""
LISTED = 500
"""New tokens after which a list of instructions usually ends."""
ANSWER = 150
"""Tokens of a complete answer."""
CUT = 0.8
"""Share of the allowed tokens that answers take, where that is less."""
QUESTION = 40
"""Tokens of a prompt that it does not share: an instruction."""
SOLVED = 100
"""Tokens of a seed task that is shown with its answer."""
CHECKED = 0.6
"""Share of the instructions with a constraint that have an answer to keep."""
ASKED = 30
"""Tokens of the question about one criterion, after the pair."""
REPLY = 40
"""New tokens of a judge's reply in words."""
LOGLIK = 80
"""Tokens of a held-out task with its answer."""
SPOILED = 7
"""Answers to one exam task: the right one and one for each corruption."""


@dataclass(frozen=True, slots=True)
class PhaseTokens:
    """Tokens of one phase (drawn one by one, read at once, trained on) and its number of sequences."""

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
    """The phases of a round, in order; the base model gets the last one too, before the first round."""
    phases = [_generate(settings), _respond(settings)]
    # Of the answers with a constraint, those that keep it are judged: about half.
    pairs = settings.answers_drawn[0] + (settings.answers_drawn[1] // 2 if settings.judges else 0)
    if settings.judges and settings.exam_tasks:
        answers = settings.exam_tasks * SPOILED // 2
        each = 2 * _judged(settings) if settings.judge == "auto" else 150
        phases.insert(0, PhaseTokens("exam", read=answers * each))
    if settings.judges or settings.filter != "score":
        drawn = pairs * REPLY * len(settings.criteria) if settings.judges and settings.judge == "sample" else 0
        prompt = QUESTION + _answer(settings)
        phases.append(PhaseTokens("judge", drawn, pairs * _judged(settings), sequences=drawn // REPLY, prompt=prompt))
    return [*phases, _train(settings), evaluation(settings)]


def evaluation(settings: Settings) -> PhaseTokens:
    sequences = settings.eval_answers + settings.eval_verifiable
    drawn = settings.eval_answers * _length(settings.eval_max_tokens)
    drawn += settings.eval_verifiable * _length(settings.eval_verifiable_max_tokens)
    return PhaseTokens("evaluate", drawn, settings.eval_tasks * LOGLIK + sequences * QUESTION, sequences=sequences)


GRADED = 0.03
"""Share that the paper's threshold of 8 keeps at 7B: 229 to 318 of 10,000 (its table of data sizes)."""
BEST = 0.3
"""Share that `--keep auto` keeps by ranks, of a judge without grades."""


def kept_examples(settings: Settings) -> int:
    """Pairs that a round trains on; of instructions with a constraint most have an answer that keeps it."""
    if not settings.judges:
        share = BEST if "density" in settings.filter else 0.9
    elif settings.keep.kind == "top":
        share = settings.keep.value
    else:
        graded = settings.keep.kind == "threshold" or settings.judge in ("logits", "sample")
        share = GRADED if graded and settings.judge != "pmi" else BEST
    share += (CHECKED - share) * settings.constraints
    return max(1, min(settings.max_examples, round(settings.per_round * share)))


def _generate(settings: Settings) -> PhaseTokens:
    listed = _length(settings.generate_max_tokens, LISTED)
    drafts = -(-settings.per_round * INSTRUCTION // listed)
    prompts = -(-drafts // settings.samples_per_prompt)
    prompt = SHOT * (settings.shots + 1)
    return PhaseTokens("generate", drafts * listed, prompts * prompt, sequences=drafts, prompt=prompt)


def _respond(settings: Settings) -> PhaseTokens:
    unshown = settings.loss != "sft" and settings.prefer == "shown"
    answers = sum(settings.answers_drawn) + settings.per_round * unshown
    # Solved tasks are read once for all that share them, but every sequence holds them.
    shown = SOLVED * settings.answer_shots if settings.show == "every" else 0
    return PhaseTokens(
        "respond",
        answers * _answer(settings),
        settings.per_round * QUESTION,
        sequences=answers,
        prompt=QUESTION + shown,
    )


def _train(settings: Settings) -> PhaseTokens:
    examples = round(kept_examples(settings) / (1 - settings.mix_seeds))
    held = len(base.split(examples, settings.validation, settings.seed)[1])
    # Validation is only a forward pass: a third of the work.
    passes = settings.epochs * (examples - held + held / 3)
    if settings.loss != "sft":
        # Each with a worse answer at most; DPO reads all once more, without the adapter.
        passes = 2 * (passes + (examples / 3 if settings.loss == "dpo" else 0))
    return PhaseTokens("train", trained=round(passes * min(settings.max_length, QUESTION + _answer(settings))))


def _judged(settings: Settings) -> int:
    """Tokens read for one pair. Both questions share what comes first; likelihoods read the answer twice."""
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
"""Shares of the datasheet's bandwidth and half-precision throughput that llama.cpp reaches. With these, its six
published rates for an 8B in 4 bits with 16 to 512 tokens a pass on an RTX 4090 come out within 8 %."""
TRAIN = 0.4
"""Share of the throughput with float32 sums that training with 4-bit weights and padded batches reaches. Assumed:
published packed and compiled training reaches 0.7."""
DRAW_SECONDS = 0.0003
"""For one processor core to draw a token from a row of logits, while the GPU waits (docs/log.md: 0.1 to 0.3 ms)."""
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
        drawn = self.estimate.seconds(dataclasses.replace(work, read=0, trained=0))
        read = self.estimate.seconds(dataclasses.replace(work, drawn=0, trained=0))
        trained = self.estimate.seconds(dataclasses.replace(work, drawn=0, read=0))
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
