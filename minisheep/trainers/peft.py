"""QLoRA and LoRA training in plain torch, transformers and PEFT, on a GPU or without one.

Its own loop (peft_loop), so that three things hold that usual trainers do not promise: a killed run continues to the
very same adapter, a checkpoint is whole or absent, and a loss that is no number ends the run with advice. The settings
are the paper's (appendix E): LoRA on all linear layers, AdamW, a cosine schedule with warm-up, loss on the answer only,
the best checkpoint by held-out loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from minisheep.engines.vocabulary import Vocabulary
from minisheep.errors import MinisheepError, ModelFileError, StarvedError
from minisheep.events import Emit, Note
from minisheep.trainers import lora_gguf, tokens
from minisheep.trainers.base import TrainExample, TrainJob, TrainResult
from minisheep.trainers.checkpoint import clear
from minisheep.trainers.memory_full import is_memory_full
from minisheep.trainers.peft_loop import TrainingLoop
from minisheep.trainers.peft_model import (
    PeftModel,
    Precision,
    adapter_tensors,
    add_lora,
    load_base,
    set_adapter_tensors,
    this_machine,
)
from minisheep.trainers.peft_output import finished, training_fingerprint, write_output
from minisheep.trainers.start import check_fit, read_start


class Maker(Protocol):
    """Makes the model that a `PeftTrainer` trains."""

    name: str
    """Goes into the identity of a training: one that was begun by another maker begins anew. Empty: `LibraryMaker`."""
    eight_bit: bool
    """Whether AdamW keeps its moments in 8 bits."""

    def make(self, job: TrainJob, precision: Precision) -> PeftModel:
        """The base of `job.weights` on its device with a fresh adapter, A random by the seed, B zero.

        Raises `errors.ModelFileError` where the folder holds no such model.
        """
        ...


class LibraryMaker:
    """The model as transformers and PEFT build it; on a processor with our own layers."""

    name = ""
    eight_bit = False

    def make(self, job: TrainJob, precision: Precision) -> PeftModel:
        return add_lora(load_base(job.weights, precision), job.settings, job.weights.name)


class PeftTrainer:
    """See `trainers.base.Trainer`."""

    def __init__(self, maker: Maker | None = None) -> None:
        self._maker: Maker = maker or LibraryMaker()

    def train(self, job: TrainJob, emit: Emit, should_stop: Callable[[], bool]) -> TrainResult:
        """Train from the base, or from `job.start` on it; `job.output` becomes a plain PEFT folder.

        Raises `errors.Stopped` after a checkpoint; `errors.StarvedError` where no example is left to learn from;
        `errors.ModelFileError` or `errors.UnsupportedModelError` where GGUF, weights and start are damaged, unknown or
        not of the same model; `errors.DiskError`; `errors.MinisheepError` where the loss stops being a number.
        """
        base = lora_gguf.read_base(job.gguf)
        data = tokenise(job.gguf, job.examples, job.settings.max_length)
        if not data.pairs:
            raise StarvedError(
                f"No example of round {job.round} fits into {job.settings.max_length} tokens: nothing can be trained.",
                "Raise max_length and continue the run.",
            )
        precision = this_machine(job.settings.load_in)
        start = read_start(job.start, job.settings) if job.start else None
        fingerprint = training_fingerprint(
            job, data, precision, start=start.digest if start else None, maker=self._maker.name
        )
        done = finished(job.output, fingerprint)
        if done is not None:
            return done
        _say_what_is_used(job, data, precision, self._maker.name, emit)
        model = _made(self._maker, job, precision)
        _check_pair(model, base, data, job.weights)
        if start is not None:
            check_fit(start, {name: tensor.shape for name, tensor in adapter_tensors(model).items()})
            set_adapter_tensors(model, start.tensors)
            emit(Note(f"The adapter begins as the one in {start.folder}."))
        loop = TrainingLoop(
            job, data, precision, model, fingerprint, emit, should_stop, eight_bit=self._maker.eight_bit
        )
        result = loop.run()
        write_output(job.output, model, loop.best, fingerprint, result)
        clear(job.scratch)
        return result


def _made(maker: Maker, job: TrainJob, precision: Precision) -> PeftModel:
    try:
        return maker.make(job, precision)
    except RuntimeError as error:
        if not is_memory_full(error):
            raise
        where = "GPU" if precision.device.type == "cuda" else "computer"
    # Outside the handler, which would keep what was loaded alive.
    raise MinisheepError(
        f"The memory of this {where} does not hold {job.weights.name} for training; the adapter of round {job.round}"
        " was not made.",
        "Close what else uses it, or take a smaller model (`minisheep plan`), and continue the run.",
    )


def tokenise(gguf: Path, examples: Sequence[TrainExample], max_length: int) -> tokens.Tokenised:
    """The examples as the ids that inference uses: the vocabulary of the base GGUF."""
    with Vocabulary.from_file(gguf) as vocabulary:
        pairs = []
        for example in examples:
            prompt = vocabulary.encode(example.prompt, bos=True)
            after = prompt[-1] if prompt else None
            pairs.append((prompt, vocabulary.encode(example.completion, bos=False, after=after)))
    return tokens.join_pairs(pairs, max_length)


def _say_what_is_used(job: TrainJob, data: tokens.Tokenised, precision: Precision, maker: str, emit: Emit) -> None:
    if precision.note:
        emit(Note(precision.note, "warning"))
    form = {"4bit": "4-bit NF4", "bf16": "bfloat16", "fp32": "float32"}[precision.load_in]
    through = f" through {maker.capitalize()}" if maker else ""
    emit(Note(f"Training{through} on {precision.device.type}, base in {form}, {len(data.pairs)} examples."))
    if data.left_out:
        emit(Note(f"{data.left_out} examples left out: longer than {job.settings.max_length} tokens.", "warning"))
    if data.truncated:
        emit(Note(f"{data.truncated} answers cut at {job.settings.max_length} tokens."))


def _check_pair(model: PeftModel, base: lora_gguf.BaseFacts, data: tokens.Tokenised, weights: Path) -> None:
    """Refuse weights that are not those of the GGUF before, not after, they are trained."""
    lora_gguf.map_layers(adapter_tensors(model), base)
    known = model.get_input_embeddings().weight.shape[0]
    highest = max(max(pair.ids) for pair in data.pairs)
    if highest >= known:
        raise ModelFileError(
            f"The training weights in {weights} know {known} tokens, but the GGUF uses token {highest}.",
            "Give training weights and a GGUF of the same model.",
        )
