"""QLoRA and LoRA training in plain torch, transformers and PEFT, on a GPU or without one.

Its own loop (peft_loop), so that three things hold that usual trainers do not promise: a killed run continues to the
very same adapter, a checkpoint is whole or absent, and a loss that is no number ends the run with advice. The settings
are the paper's (appendix E): LoRA on all linear layers, AdamW, a cosine schedule with warm-up, loss on the answer only,
the best checkpoint by held-out loss.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.numpy import save

from minisheep.engines.native import Vocabulary
from minisheep.errors import MinisheepError, ModelFileError, StarvedError
from minisheep.formats import lora_gguf
from minisheep.formats.lora_gguf import TENSORS, read_config, read_tensors
from minisheep.rules.identity import digest
from minisheep.run.events import Emit, Note
from minisheep.run.files import publish, write_atomic, write_json
from minisheep.trainers import base as trainer_base
from minisheep.trainers import lora_model
from minisheep.trainers.base import Tokenised, TrainExample, TrainJob, TrainResult, TrainSettings, another_training
from minisheep.trainers.checkpoint import Array, clear
from minisheep.trainers.train_loop import TrainingLoop, is_memory_full

# What a training leaves: a plain PEFT folder that appears whole, and a record of what was trained.
RESULT = "training_result.json"
"""In the PEFT folder: the TrainResult and what was trained, so that a repeated job finds it done."""


def training_fingerprint(
    job: TrainJob, data: Tokenised, precision: lora_model.Precision, *, start: str | None, maker: str = ""
) -> str:
    """What is trained, from where, and by which libraries: `start` is the digest of the adapter that it begins with,
    `maker` is `trainers.peft.Maker.name`.

    Settings that change only speed and saving are left out.
    """
    settings = dataclasses.asdict(job.settings)
    for name in ("micro_batch_size", "checkpoint_seconds", "load_in"):
        del settings[name]
    ids = hashlib.sha256(json.dumps([[pair.prompt, pair.ids] for pair in data.pairs]).encode()).hexdigest()
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
    """The result in an output folder that is already there, or None where there is none.

    Raises `errors.CorruptRunError` where the folder holds another training: nothing is overwritten.
    """
    if not output.exists():
        return None
    try:
        found = json.loads((output / RESULT).read_bytes())
        if found.pop("fingerprint") == fingerprint:
            return TrainResult(**found)
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
        write_atomic(folder / TENSORS, save(lora_model.adapter_tensors(model), metadata={"format": "pt"}))
        write_json(folder / RESULT, dataclasses.asdict(result) | {"fingerprint": fingerprint})


# The adapter that a training goes on from (the paper's strategy one_last): read, checked and identified.
#
# Light until tensors are read, so that the fake trainer checks by the same rules.
_FIX = "Move it away and train that round again, or start a new run with --strategy one-base."


@dataclass(frozen=True, slots=True)
class Start:
    folder: Path
    tensors: dict[str, Array]
    """A [r, in] and B [out, r] of each layer by PEFT's names, float32."""
    digest: str
    """SHA-256 of the tensors' file: trainings with different starts are different trainings."""


def read_start(folder: Path, settings: TrainSettings) -> Start:
    """The PEFT folder `folder`, to begin a training with `settings` from.

    Raises `errors.ModelFileError` where it cannot be read, has another rank or scale, or holds what is no number.
    """
    import numpy as np

    read_scale(folder, settings)
    tensors = read_tensors(folder)
    spoilt = next((name for name, tensor in tensors.items() if not np.isfinite(tensor).all()), None)
    if spoilt is not None:
        raise ModelFileError(f"The adapter in {folder} cannot be gone on from: {spoilt} holds infinity or NaN.", _FIX)
    with open(folder / TENSORS, "rb") as file:
        return Start(folder, tensors, hashlib.file_digest(file, "sha256").hexdigest())


def read_scale(folder: Path, settings: TrainSettings) -> dict[str, Any]:
    """The folder's PEFT configuration, where its rank and scale are those of `settings`.

    With another scale the same tensors are another adapter. Raises `errors.ModelFileError`.
    """
    config = read_config(folder)
    found = _scale(config["r"], float(config["lora_alpha"]), bool(config.get("use_rslora")))
    wanted = _scale(settings.lora_rank, settings.lora_alpha, settings.rslora)
    if found != wanted:
        raise ModelFileError(f"The adapter in {folder} has {found}, but this training {wanted}.", _FIX)
    return config


def check_fit(start: Start, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Raise `errors.ModelFileError` saying what differs unless names and shapes are exactly those of `wanted`."""
    faults = differences({name: tensor.shape for name, tensor in start.tensors.items()}, wanted)
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise ModelFileError(f"The adapter in {start.folder} does not fit this model: {faults[0]}{more}.", _FIX)


def differences(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What is missing, not known or of another shape in `found`, one phrase a tensor."""
    return [
        *(f"{name} is missing" for name in wanted if name not in found),
        *(f"{name} is not in the model" for name in found if name not in wanted),
        *(
            f"{name} is {list(shape)}, not {list(wanted[name])}"
            for name, shape in found.items()
            if wanted.get(name, shape) != shape
        ),
    ]


def _scale(rank: int, alpha: float, stabilised: bool) -> str:
    return f"rank {rank} and {'rank-stabilised ' if stabilised else ''}alpha {alpha:g}"


class Maker(Protocol):
    """Makes the model that a `PeftTrainer` trains."""

    name: str
    """Goes into the identity of a training: one that was begun by another maker begins anew. Empty: `LibraryMaker`."""
    eight_bit: bool
    """Whether AdamW keeps its moments in 8 bits."""

    def make(self, job: TrainJob, precision: lora_model.Precision) -> lora_model.PeftModel:
        """The base of `job.weights` on its device with a fresh adapter, A random by the seed, B zero.

        Raises `errors.ModelFileError` where the folder holds no such model.
        """
        ...


class LibraryMaker:
    """The model as transformers and PEFT build it; on a processor with our own layers."""

    name = ""
    eight_bit = False

    def make(self, job: TrainJob, precision: lora_model.Precision) -> lora_model.PeftModel:
        return lora_model.add_lora(lora_model.load_base(job.weights, precision), job.settings, job.weights.name)


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
        precision = lora_model.this_machine(job.settings.load_in)
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
        "Close what else uses it, or take a smaller model (`minisheep plan`), and continue the run.",
    )


def tokenise(gguf: Path, examples: Sequence[TrainExample], max_length: int) -> trainer_base.Tokenised:
    """The examples as the ids that inference uses: the vocabulary of the base GGUF."""
    with Vocabulary.from_file(gguf) as vocabulary:
        pairs = []
        for example in examples:
            prompt = vocabulary.encode(example.prompt, bos=True)
            after = prompt[-1] if prompt else None
            pairs.append((prompt, vocabulary.encode(example.completion, bos=False, after=after)))
    return trainer_base.join_pairs(pairs, max_length)


def _say_what_is_used(
    job: TrainJob, data: trainer_base.Tokenised, precision: lora_model.Precision, maker: str, emit: Emit
) -> None:
    if precision.note:
        emit(Note(precision.note, "warning"))
    form = {"4bit": "4-bit NF4", "bf16": "bfloat16", "fp32": "float32"}[precision.load_in]
    through = f" through {maker.capitalize()}" if maker else ""
    emit(Note(f"Training{through} on {precision.device.type}, base in {form}, {len(data.pairs)} examples."))
    if data.left_out:
        emit(Note(f"{data.left_out} examples left out: longer than {job.settings.max_length} tokens.", "warning"))
    if data.truncated:
        emit(Note(f"{data.truncated} answers cut at {job.settings.max_length} tokens."))


def _check_pair(
    model: lora_model.PeftModel, base: lora_gguf.BaseFacts, data: trainer_base.Tokenised, weights: Path
) -> None:
    """Refuse weights that are not those of the GGUF before, not after, they are trained."""
    lora_gguf.map_layers(lora_model.adapter_tensors(model), base)
    known = model.get_input_embeddings().weight.shape[0]
    highest = max(max(pair.ids) for pair in data.pairs)
    if highest >= known:
        raise ModelFileError(
            f"The training weights in {weights} know {known} tokens, but the GGUF uses token {highest}.",
            "Give training weights and a GGUF of the same model.",
        )
