"""QLoRA and LoRA training in plain torch, transformers and PEFT, on a GPU or without one.

Its own loop (`train_loop`), so that three things hold that usual trainers do not promise: a killed run continues to the
very same adapter, a checkpoint is whole or absent, and a loss that is no number ends the run with advice. The settings
are the paper's (appendix E): LoRA on all linear layers, AdamW, a cosine schedule with warm-up, loss on the response
only, the best checkpoint by held-out loss. The adapter may begin as that of the round before (strategy one_last).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.numpy import save

from minisheep.engines.native import Vocabulary
from minisheep.errors import MinisheepError, ModelFileError, StarvedError
from minisheep.formats import lora_gguf
from minisheep.rules.identity import digest
from minisheep.run.events import Emit, Note
from minisheep.run.files import publish, write_atomic, write_json
from minisheep.trainers import lora_model
from minisheep.trainers.base import (
    Tokenised,
    TrainExample,
    TrainJob,
    TrainResult,
    another_training,
    join_pairs,
    settings_of,
)
from minisheep.trainers.checkpoint import Array, check_fit, clear, read_start
from minisheep.trainers.train_loop import TrainingLoop, is_memory_full

RESULT = "training_result.json"
"""In the PEFT folder: the TrainResult and the training's fingerprint, so that a repeated job finds it done."""


def training_fingerprint(
    job: TrainJob, data: Tokenised, precision: lora_model.Precision, *, start: str | None, maker: str = ""
) -> str:
    """The identity of a training: its data, start and libraries, without settings that change only speed and saving.

    `start` is the digest of the adapter that it begins with, `maker` is `Maker.name`.
    """
    settings = settings_of(job.settings)
    for name in ("micro_batch_size", "checkpoint_seconds", "load_in"):
        del settings[name]
    rows = [[pair.prompt, pair.ids, *([pair.worse] if pair.worse else [])] for pair in data.pairs]
    ids = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    model = (job.weights / "config.json").read_text() if (job.weights / "config.json").is_file() else ""
    content: dict[str, Any] = {
        "settings": settings,
        "pairs": ids,
        "load_in": precision.load_in,
        "dtype": str(precision.dtype),
    }
    if start is not None:
        content["start"] = start
    if maker:
        content["maker"] = maker
    return digest("training", {**content, "model": model, "round": job.round})


def finished(output: Path, fingerprint: str) -> TrainResult | None:
    """The result in an output folder, or None where there is no folder. Raises `errors.CorruptRunError` where it holds
    another training: nothing is overwritten."""
    if not output.exists():
        return None
    try:
        result = json.loads((output / RESULT).read_bytes())
        if result.pop("fingerprint") == fingerprint:
            return TrainResult(**result)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise another_training(output)


def write_output(
    output: Path, model: lora_model.PeftModel, weights: Mapping[str, Array], fingerprint: str, result: TrainResult
) -> None:
    """Publish `model` with the given parameters as a PEFT folder. Raises `errors.DiskError`."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in weights:
                parameter.copy_(torch.from_numpy(weights[name]))
    config: dict[str, Any] = model.peft_config["default"].to_dict() | {"inference_mode": True}
    # A set has another order in every process; the same training should write the same bytes.
    config = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    with publish(output) as folder:
        write_json(folder / "adapter_config.json", config)
        write_atomic(folder / lora_gguf.TENSORS, save(lora_model.adapter_tensors(model), metadata={"format": "pt"}))
        write_json(folder / RESULT, result.to_dict() | {"fingerprint": fingerprint})


class Maker(Protocol):
    """Makes the model that a `PeftTrainer` trains."""

    name: str
    """Part of a training's identity: under another maker it begins anew. Empty: `LibraryMaker`."""
    eight_bit: bool
    """Whether AdamW keeps its moments in 8 bits."""

    def make(self, job: TrainJob, precision: lora_model.Precision) -> lora_model.PeftModel:
        """The base of `job.weights` on its device with a fresh adapter, A random by the seed, B zero.

        Raises `errors.ModelFileError` where the folder holds no such model.
        """
        ...


class LibraryMaker:
    """The model of transformers and PEFT; on a processor with our own layers."""

    name = ""
    eight_bit = False

    def make(self, job: TrainJob, precision: lora_model.Precision) -> lora_model.PeftModel:
        return lora_model.add_lora(lora_model.load_base(job.weights, precision), job.settings, job.weights.name)


class PeftTrainer:
    """See `trainers.base.Trainer`."""

    def __init__(self, maker: Maker | None = None) -> None:
        self._maker: Maker = maker or LibraryMaker()

    def train(self, job: TrainJob, emit: Emit, should_stop: Callable[[], bool]) -> TrainResult:
        """Train from the base, or from `job.start`; `job.output` becomes a plain PEFT folder.

        Raises `errors.Stopped` after a checkpoint; `errors.StarvedError` where no example is left to learn from;
        `errors.ModelFileError` or `errors.UnsupportedModelError` where GGUF, weights and start are damaged, unknown or
        not of the same model; `errors.DiskError`; `errors.MinisheepError` where the loss stops being a number.
        """
        base = lora_gguf.read_base(job.gguf)
        data = tokenise(job.gguf, job.examples, job.settings.max_length)
        if not data.pairs:
            raise StarvedError(
                f"No example of round {job.round} fits into {job.settings.max_length} tokens, so there is nothing to"
                " train on.",
                "Raise max_length and continue the run.",
            )
        precision = lora_model.this_machine(
            job.settings.load_in, needs_gpu=job.needs_gpu, architecture=base.architecture
        )
        start = read_start(job.start, job.settings) if job.start else None
        fingerprint = training_fingerprint(
            job, data, precision, start=start.digest if start else None, maker=self._maker.name
        )
        done = finished(job.output, fingerprint)
        if done is not None:
            return done
        _emit_setup(job, data, precision, self._maker.name, emit)
        model = _made(self._maker, job, precision)
        _check_pair(model, base, data, job.weights)
        if start is not None:
            check_fit(start, {name: tensor.shape for name, tensor in lora_model.adapter_tensors(model).items()})
            lora_model.set_adapter_tensors(model, start.tensors)
            emit(Note(f"The adapter begins as the one in {start.folder}."))
        loop = TrainingLoop(
            job, data, precision, model, fingerprint, emit, should_stop, eight_bit=self._maker.eight_bit
        )
        result = loop.run()
        write_output(job.output, model, loop.best, fingerprint, result)
        clear(job.scratch)
        return result


def _made(maker: Maker, job: TrainJob, precision: lora_model.Precision) -> lora_model.PeftModel:
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
        "Close other programs that use it, or choose a smaller model (`minisheep plan`), and continue the run.",
    )


def tokenise(gguf: Path, examples: Sequence[TrainExample], max_length: int) -> Tokenised:
    """The examples as the ids that inference uses: by the vocabulary of the base GGUF."""
    with Vocabulary.from_file(gguf) as vocabulary:
        pairs: list[tuple[list[int], list[int], list[int]]] = []
        for example in examples:
            prompt = vocabulary.encode(example.prompt, bos=True)
            after = prompt[-1] if prompt else None
            chosen = vocabulary.encode(example.completion, bos=False, after=after)
            rejected = vocabulary.encode(example.rejected, bos=False, after=after) if example.rejected else []
            pairs.append((prompt, chosen, rejected))
    return join_pairs(pairs, max_length)


def _emit_setup(job: TrainJob, data: Tokenised, precision: lora_model.Precision, maker: str, emit: Emit) -> None:
    if precision.note:
        emit(Note(precision.note, "warning"))
    sixteen = "float16" if precision.dtype == torch.float16 else "bfloat16"
    form = {"4bit": "4-bit NF4", "bf16": sixteen, "fp32": "float32"}[precision.load_in]
    through = f" through {maker.capitalize()}" if maker else ""
    paired = sum(bool(pair.worse) for pair in data.pairs)
    by = f", {paired} of them with a rejected answer, by {job.settings.loss.upper()}" if paired else ""
    emit(Note(f"Training{through} on {precision.device.type}, base in {form}, {len(data.pairs)} examples{by}."))
    if data.left_out:
        emit(Note(f"{data.left_out} examples left out: longer than {job.settings.max_length} tokens.", "warning"))
    if data.truncated:
        emit(Note(f"{data.truncated} answers cut at {job.settings.max_length} tokens."))


def _check_pair(model: lora_model.PeftModel, base: lora_gguf.BaseFacts, data: Tokenised, weights: Path) -> None:
    """Refuse weights that are not those of the GGUF before they are trained, not after."""
    lora_gguf.map_layers(lora_model.adapter_tensors(model), base)
    known = model.get_input_embeddings().weight.shape[0]
    highest = max(max((*pair.ids, *pair.worse)) for pair in data.pairs)
    if highest >= known:
        raise ModelFileError(
            f"The training weights in {weights} know {known} tokens, but the GGUF uses token {highest}.",
            "Give training weights and a GGUF of the same model.",
        )
