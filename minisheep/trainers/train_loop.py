"""The training loop: steps, validation, checkpoints, and an exact continuation after a kill.

A resumed training equals an uninterrupted one because nothing depends on when a step is done: batches and dropout come
from identity (seed, epoch, step, micro-batch), and weights and AdamW moments are saved unchanged.

AdamW keeps its moments in float32 (torch) or in 8 bits (bitsandbytes): then a moment is a byte an element and a float32
a block of 256 (Dettmers et al., arXiv 2110.02861), and tensors of fewer than 4,096 elements keep float32. Both forms
continue exactly from what `moments` returned.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from minisheep.errors import MinisheepError, Stopped
from minisheep.rules.identity import derive_seed
from minisheep.run.events import Emit, Note, TrainStep
from minisheep.trainers import base
from minisheep.trainers.checkpoint import Array, Checkpoint, newest_checkpoint, save_checkpoint
from minisheep.trainers.lora_model import PeftModel, Precision, loss_sum, sequence_losses
from minisheep.trainers.loss_scale import LossScale
from minisheep.trainers.preference import Portion, preference_loss, sequences

BETAS = (0.9, 0.999)
MOMENTS = ("exp_avg", "exp_avg_sq", "state1", "state2", "absmax1", "absmax2")
"""The tensors of a parameter's state that change, by the names of torch's AdamW and of bitsandbytes' Optimizer2State.
The rest of bitsandbytes' state are tables of its number format."""
_TEXTS = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""Messages of libraries below torch's own allocator, which has a class for its error."""
CLIP = 1.0
"""Highest norm of a step's gradient."""


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
    """Copies of the optimizer's moments of a parameter that it has stepped, float32 or uint8, by name."""
    state = optimizer.state[parameter]
    return {name: np.array(state[name].cpu().numpy()) for name in MOMENTS if name in state}


def restore(
    optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter, kept: Mapping[str, NDArray[Any]], step: int
) -> None:
    """Give the optimizer the moments `kept`, which `moments` returned after `step` steps of one of the same kind."""
    if hasattr(optimizer, "init_state"):
        index = next(i for i, other in enumerate(optimizer.param_groups[0]["params"]) if other is parameter)
        optimizer.init_state(optimizer.param_groups[0], parameter, 0, index)
        optimizer.state[parameter]["step"] = step
        for name, values in kept.items():
            optimizer.state[parameter][name].copy_(torch.from_numpy(values))
    else:
        optimizer.state[parameter] = {
            "step": torch.tensor(float(step), device=parameter.device),
            **{name: torch.from_numpy(values).to(parameter) for name, values in kept.items()},
        }


def is_memory_full(error: BaseException) -> bool:
    """Whether `error` says that memory is full, so that less work at once may succeed."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in _TEXTS)
    )


Measured = TypeVar("Measured")


@dataclass(slots=True)
class _State:
    """The part of a checkpoint that is no tensor."""

    step: int = 0
    evaluated: int = 0
    """The step of the last validation; one is due if it is lower than `step` at an epoch's end."""
    tokens: int = 0
    seconds: float = 0.0
    first_loss: float = math.nan
    last_loss: float = math.nan
    last_rate: float = 0.0
    best_step: int = 0
    best_loss: float | None = None
    micro_batch_size: int = 0
    """The size that fitted the memory; 0 before the first step."""
    loss_scale: float = 0.0
    calm_steps: int = 0
    """See `loss_scale.LossScale`; 0 in checkpoints of before there was one."""


class TrainingLoop:
    """One training, from the newest checkpoint to its end."""

    def __init__(
        self,
        job: base.TrainJob,
        data: base.Tokenised,
        precision: Precision,
        model: PeftModel,
        fingerprint: str,
        emit: Emit,
        should_stop: Callable[[], bool],
        *,
        eight_bit: bool = False,
    ) -> None:
        self.job, self.settings, self.data, self.precision = job, job.settings, data, precision
        self.model, self.fingerprint, self.emit, self.should_stop = model, fingerprint, emit, should_stop
        self.training, self.held = base.split(len(data.pairs), self.settings.validation, self.settings.seed)
        self.per_epoch = base.steps_per_epoch(len(self.training), self.settings.batch_size)
        self.total = self.per_epoch * self.settings.epochs
        self.warmup = base.usable_warmup(self.settings.warmup_steps, self.total)
        self.micro_batch_size = self.settings.micro_batch_size
        self.adapted = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimizer = make_adamw(self.adapted.values(), self.settings.learning_rate, eight_bit=eight_bit)
        self.scaling = LossScale(precision.dtype)
        self.state = _State()
        self.validation_loss: float | None = None
        """Of the last validation, until it is emitted."""
        self.best: dict[str, Array] = {}
        """The parameters with the lowest validation loss so far; without validation, the last."""
        self.saved_step = 0
        self.saved_at = self.started = time.monotonic()
        self.plan: tuple[int, list[base.Indices]] = (-1, [])
        """An epoch and its batches."""
        self.base_losses: dict[base.TokenPair, float] = {}
        """For DPO: the summed loss of each sequence under the base."""

    def run(self) -> base.TrainResult:
        if self.warmup < self.settings.warmup_steps:
            self.emit(Note(f"Warm-up shortened to {self.warmup} of {self.total} steps: the run is short."))
        self._resume()
        if self.settings.loss == "dpo":
            self._measure_base()
        self.model.train()
        while True:
            if self._evaluation_due():
                self._validate()
                self._emit_step(0.0)
            if self.state.step == self.total:
                break
            self._step()
            if time.monotonic() - self.saved_at >= self.settings.checkpoint_seconds:
                self._save()
        if not self.held:
            self.best, self.state.best_step = self._weights(), self.total
        return self._result()

    def _step(self) -> None:
        began, step = time.monotonic(), self.state.step
        batch = self._batch(step)
        loss = self._gradients(batch, step)
        while not self.scaling.unscale(self.adapted.values(), loss):
            self.optimizer.zero_grad()
            loss = self._gradients(batch, step)
        norm = torch.nn.utils.clip_grad_norm_(list(self.adapted.values()), CLIP).item()
        if not math.isfinite(loss) or not math.isfinite(norm):
            what = f"loss became {loss}" if not math.isfinite(loss) else f"gradient became {norm}"
            raise MinisheepError(
                f"The {what} at step {step + 1} of {self.total}; the adapter of round {self.job.round} was not made.",
                "Lower learning_rate, or set load_in to fp32, and continue the run.",
            )
        rate = base.learning_rate(step, self.total, self.warmup, self.settings.learning_rate)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        seen = sum(pair.length for pair in batch)
        state = self.state
        state.first_loss = loss if step == 0 else state.first_loss
        state.step, state.last_loss, state.last_rate, state.tokens = step + 1, loss, rate, state.tokens + seen
        state.loss_scale, state.calm_steps = self.scaling.scale, self.scaling.calm
        # An epoch's last step is emitted after its validation, together with that loss.
        speed = seen / max(time.monotonic() - began, 1e-9)
        if self._evaluation_due():
            self._validate()
        self._emit_step(speed)

    def _batch(self, step: int) -> list[base.TokenPair]:
        """The pairs of a step, shortest first."""
        epoch = step // self.per_epoch
        if self.plan[0] != epoch:
            lengths = [self.data.pairs[index].length for index in self.training]
            self.plan = (epoch, base.plan_epoch(lengths, self.settings.batch_size, self.settings.seed, epoch))
        return [self.data.pairs[self.training[index]] for index in self.plan[1][step % self.per_epoch]]

    def _gradients(self, batch: Sequence[base.TokenPair], step: int) -> float:
        """Accumulate the gradient of the loss of `batch` (for SFT the mean per supervised token); returns that loss.

        Where the memory does not suffice, the step is repeated with half the micro-batch: the batch stays.
        """
        whole = Portion.of(batch)
        while True:
            try:
                loss = self._accumulate(batch, step, whole)
            except RuntimeError as error:
                if not is_memory_full(error):
                    raise
                self.optimizer.zero_grad()
            else:
                self.state.micro_batch_size = self.micro_batch_size
                return loss
            # Outside the handler, which would keep the failed pass's tensors alive.
            self._halve(batch)

    def _halve(self, pairs: Sequence[base.TokenPair]) -> None:
        """Halve the examples of a forward pass. Raises `errors.MinisheepError` where it is one already."""
        if self.micro_batch_size == 1:
            raise MinisheepError(
                f"The memory does not suffice to train on one example of {max(len(p.ids) for p in pairs)} tokens.",
                "Lower max_length, set load_in to 4bit or take a smaller model, and continue the run.",
            )
        self.micro_batch_size //= 2
        if self.precision.device.type == "cuda":
            torch.cuda.empty_cache()
        text = f"Out of memory: training continues with micro-batches of {self.micro_batch_size}; a step still has"
        self.emit(Note(f"{text} {self.settings.batch_size} examples.", "warning"))

    def _accumulate(self, batch: Sequence[base.TokenPair], step: int, whole: Portion) -> float:
        total = 0.0
        for number, micro in enumerate(self._micro_batches(batch)):
            # From identity, so that a resumed run drops the same units.
            torch.manual_seed(derive_seed(self.settings.seed, "dropout", step, number))
            loss = self._loss(micro, whole)
            self.scaling.scaled(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        return total

    def _loss(self, micro: Sequence[base.TokenPair], whole: Portion) -> torch.Tensor:
        """The share of `micro` in the loss of the batch that holds `whole`."""
        if self.settings.loss == "sft":
            return loss_sum(self.model, micro, self.precision.device) / whole.tokens
        texts = sequences(micro)
        losses = sequence_losses(self.model, texts, self.precision.device)
        of_base = None
        if self.settings.loss == "dpo":
            of_base = torch.tensor([self.base_losses[text] for text in texts], device=losses.device)
        return preference_loss(self.settings.loss, self.settings.beta, micro, losses, of_base, whole)

    def _measure_base(self) -> None:
        """The losses of all sequences under the base: this model with its adapter off.

        Measured anew where a training goes on, in an order of its own, so that it then has the same numbers.
        """
        texts = sorted(
            {text for pair in self.data.pairs for text in sequences([pair])}, key=lambda t: (len(t.ids), t.ids)
        )
        self.emit(Note(f"DPO compares with the base: its likelihood of {len(texts)} answers is measured first."))
        self.model.eval()
        with self.model.disable_adapter():
            measured = self._without_gradient(
                texts, lambda some: sequence_losses(self.model, some, self.precision.device).tolist()
            )
        self.base_losses = dict(zip(texts, (loss for losses in measured for loss in losses), strict=True))

    def _micro_batches(self, batch: Sequence[base.TokenPair]) -> Iterator[list[base.TokenPair]]:
        """Parts of `batch`; checks `should_stop` before each, since a step may take minutes. A pair is two examples to
        the memory, so half as many of them are a part."""
        pairs = any(pair.worse for pair in batch)
        for indices in base.cut(
            range(len(batch)), max(1, self.micro_batch_size // 2) if pairs else self.micro_batch_size
        ):
            if self.should_stop():
                self._save()
                raise Stopped(
                    f"Training stopped after step {self.state.step} of {self.total}; all finished steps are saved.",
                    "Run the same command again to continue from there.",
                )
            yield [batch[index] for index in indices]

    def _evaluation_due(self) -> bool:
        step = self.state.step
        return bool(self.held) and step > self.state.evaluated and step % self.per_epoch == 0

    def _validate(self) -> None:
        """The loss of the held-out pairs; keeps the weights if it is the lowest so far."""
        pairs = sorted((self.data.pairs[index] for index in self.held), key=lambda pair: pair.length)
        self.model.eval()
        loss = self._held_out_loss(pairs)
        self.model.train()
        state = self.state
        state.evaluated, self.validation_loss = state.step, loss
        if state.best_loss is None or loss < state.best_loss:
            state.best_loss, state.best_step, self.best = loss, state.step, self._weights()

    def _held_out_loss(self, pairs: Sequence[base.TokenPair]) -> float:
        whole = Portion.of(pairs)
        if self.settings.loss != "sft":
            return sum(self._without_gradient(pairs, lambda micro: self._loss(micro, whole).item()))
        sums = self._without_gradient(pairs, lambda micro: loss_sum(self.model, micro, self.precision.device).item())
        return sum(sums) / whole.tokens

    def _without_gradient(
        self, pairs: Sequence[base.TokenPair], measure: Callable[[list[base.TokenPair]], Measured]
    ) -> list[Measured]:
        """What `measure` finds in each micro-batch; they are smaller where the memory does not suffice."""
        while True:
            try:
                with torch.no_grad():
                    return [measure(micro) for micro in self._micro_batches(pairs)]
            except RuntimeError as error:
                if not is_memory_full(error):
                    raise
            self._halve(pairs)

    def _emit_step(self, speed: float) -> None:
        state, now = self.state, (self.job.round, self.state.step, self.total)
        self.emit(TrainStep(*now, state.last_loss, state.last_rate, speed, self.validation_loss))
        self.validation_loss = None

    def _weights(self) -> dict[str, Array]:
        """A copy of the adapter's parameters, by name."""
        return {name: p.detach().float().cpu().numpy().copy() for name, p in self.adapted.items()}

    def _elapsed(self) -> float:
        return self.state.seconds + time.monotonic() - self.started

    def _save(self) -> None:
        """Write a checkpoint of the last whole step, unless it is written already."""
        self.saved_at = time.monotonic()
        if self.saved_step == self.state.step:
            return
        tensors: dict[str, NDArray[Any]] = {f"weights/{name}": value for name, value in self._weights().items()}
        tensors |= {f"best/{name}": value for name, value in self.best.items()}
        for name, parameter in self.adapted.items():
            for moment, values in moments(self.optimizer, parameter).items():
                tensors[f"{moment}/{name}"] = values
        state = dataclasses.asdict(self.state) | {"seconds": self._elapsed()}
        save_checkpoint(self.job.scratch, self.fingerprint, Checkpoint(self.state.step, state, tensors))
        self.saved_step = self.state.step

    def _resume(self) -> None:
        """Continue from the newest whole checkpoint of this very training, if there is one."""
        checkpoint = newest_checkpoint(self.job.scratch, self.fingerprint)
        if checkpoint is None:
            return
        tensors = checkpoint.tensors
        self.state = _State(**checkpoint.state)
        self.saved_step = self.state.step
        self.scaling.restore(self.state.loss_scale, self.state.calm_steps)
        if self.state.micro_batch_size:
            self.micro_batch_size = min(self.micro_batch_size, self.state.micro_batch_size)
        with torch.no_grad():
            for name, parameter in self.adapted.items():
                parameter.copy_(torch.from_numpy(tensors[f"weights/{name}"]))
                kept = {moment: tensors[f"{moment}/{name}"] for moment in MOMENTS if f"{moment}/{name}" in tensors}
                restore(self.optimizer, parameter, kept, self.state.step)
        self.best = {name: tensors[f"best/{name}"] for name in self.adapted if f"best/{name}" in tensors}
        self.emit(Note(f"Training continues after step {self.state.step} of {self.total}."))

    def _result(self) -> base.TrainResult:
        state = self.state
        return base.TrainResult(
            steps=self.total, examples=len(self.training), validation_examples=len(self.held), tokens=state.tokens,
            seconds=self._elapsed(), first_loss=state.first_loss, last_loss=state.last_loss,
            best_validation_loss=state.best_loss, best_step=state.best_step, load_in=self.precision.load_in,
            truncated=self.data.truncated, left_out=self.data.left_out, micro_batch_size=self.micro_batch_size,
            pairs=sum(bool(self.data.pairs[index].worse) for index in self.training),
        )  # fmt: skip
