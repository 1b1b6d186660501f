"""QLoRA through Unsloth on an NVIDIA GPU: its kernels, our training loop.

Unsloth makes the model; steps, checkpoints, exact continuation, validation and output are those of the `peft` trainer
(`train_loop`), which Unsloth's own trainers would not give. Unsloth changes transformers and PEFT for the whole process
and must be imported before them, so only a training worker imports it, where the training begins.
"""

from __future__ import annotations

import json
import os
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minisheep.errors import MinisheepError, ModelFileError, TrainerFailedError
from minisheep.rules.identity import derive_seed
from minisheep.run.events import Emit, Event, TrainStep
from minisheep.run.files import disk_errors, write_json
from minisheep.trainers.base import TrainJob, TrainResult

PEFT_INSTEAD = "Continue the run with --trainer peft, which trains in 4-bit as well."
STAND_IN = "unsloth-tokenizer"
"""Unsloth needs a tokenizer beside a model; training works on ids, so it gets one of four words."""


class UnslothTrainer:
    """See `trainers.base.Trainer`."""

    def train(self, job: TrainJob, emit: Emit, should_stop: Callable[[], bool]) -> TrainResult:
        """As `trainers.peft.PeftTrainer.train`.

        Raises `errors.TrainerFailedError` where Unsloth cannot be started, or fails by an error of its own before the
        first step of this training is finished: its kernels are compiled then, by tools that may be missing.
        """
        stepped = any(job.scratch.glob("step-*"))

        def listen(event: Event) -> None:
            nonlocal stepped
            stepped = stepped or isinstance(event, TrainStep)
            emit(event)

        unsloth = start_unsloth(job.scratch.parent / "unsloth")
        from minisheep.trainers.peft import PeftTrainer

        try:
            return PeftTrainer(UnslothMaker(unsloth)).train(job, listen, should_stop)
        except MinisheepError:
            raise
        except Exception as error:  # Triton's, torch's, a compiler's: of any kind
            if stepped:
                raise
            traceback.print_exc()
            raise TrainerFailedError(
                f"Unsloth failed before its first finished step: {_reason(error)}.", PEFT_INSTEAD
            ) from error


def start_unsloth(cache: Path) -> Any:
    """The module `unsloth`, imported offline and with its compiled code in `cache`, an empty or earlier folder."""
    environment = {
        "HF_HUB_OFFLINE": "1",
        # Without this, Unsloth looks up a file of its own on the Hub at every load, to count loads.
        "UNSLOTH_DISABLE_STATISTICS": "1",
        "UNSLOTH_COMPILE_LOCATION": str(cache.absolute()),
    }
    os.environ.update(environment)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        import unsloth
    except Exception as error:  # a missing GPU, driver or library makes it raise errors of any kind
        raise TrainerFailedError(
            f"Unsloth cannot start, so nothing was trained: {_reason(error)}.", PEFT_INSTEAD
        ) from error
    return unsloth


def _reason(error: BaseException) -> str:
    first = (str(error).strip().splitlines() or [""])[0].rstrip(".")[:300]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


class UnslothMaker:
    """Makes models for `trainers.peft.PeftTrainer` with the module `unsloth`."""

    name = "unsloth"
    eight_bit = True

    def __init__(self, unsloth: Any) -> None:
        self._unsloth = unsloth

    def make(self, job: TrainJob, precision: Any) -> Any:
        """See `trainers.peft.Maker`. Gradient checkpointing keeps activations in RAM (Unsloth's own form of it)."""
        from minisheep.formats.lora_gguf import PROJECTIONS
        from minisheep.trainers.lora_model import PADDING_FREE

        settings = job.settings
        if not (job.weights / "config.json").is_file():
            raise ModelFileError(f"{job.weights} has no training weights (config.json).", "Fetch the model again.")
        fast = self._unsloth.FastLanguageModel
        try:
            config = json.loads((job.weights / "config.json").read_bytes())
            longest = int(config["max_position_embeddings"])
            tokenizer = stand_in_tokenizer(job.scratch.parent / STAND_IN, config.get("pad_token_id"))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model, _ = fast.from_pretrained(
                    model_name=str(job.weights.absolute()),
                    tokenizer_name=str(tokenizer),
                    # With more than the model was made for, Unsloth would stretch its rotary embedding.
                    max_seq_length=min(settings.max_length, longest),
                    dtype=precision.dtype,
                    load_in_4bit=precision.load_in == "4bit",
                    load_in_16bit=precision.load_in != "4bit",
                    device_map={"": 0} if precision.device.type == "cuda" else "cpu",
                    use_exact_model_name=True,
                    use_gradient_checkpointing="unsloth",
                    fix_tokenizer=False,
                    trust_remote_code=False,
                    # Into RAM where the GPU lacks room for a training step: 1.2 GiB of a 7B with 152k tokens.
                    offload_embedding="auto",
                    local_files_only=True,
                )
                model = fast.get_peft_model(
                    model,
                    r=settings.lora_rank,
                    target_modules=list(PROJECTIONS),
                    lora_alpha=settings.lora_alpha,
                    lora_dropout=settings.lora_dropout,
                    bias="none",
                    use_gradient_checkpointing="unsloth",
                    random_state=derive_seed(settings.seed, "lora"),
                    use_rslora=settings.rslora,
                    init_lora_weights=True,
                )
        except (OSError, ValueError, KeyError) as error:
            # Where the weights themselves are at fault, PEFT says so next.
            raise TrainerFailedError(
                f"Unsloth cannot load the training weights in {job.weights}: {_reason(error)}.", PEFT_INSTEAD
            ) from error
        fast.for_training(model)
        adapter = model.peft_config["default"]
        adapter.base_model_name_or_path = job.weights.name
        # Names classes of this process; a plain PEFT folder has none.
        adapter.auto_mapping = None
        setattr(model, PADDING_FREE, True)
        return model


def stand_in_tokenizer(folder: Path, padding: int | None = None) -> Path:
    """`folder`, absolute, with a tokenizer of a few words in it. Raises `errors.DiskError`.

    Its padding token is not the model's `padding`: Unsloth zeroes that row of an untied embedding
    (zero_pad_embedding_rows), which of this tokenizer would be the row of an ordinary token.
    """
    words = {"<unk>": 0, "<s>": 1, "</s>": 2}
    words |= {"<free>": 3, "<pad>": 4} if padding == 3 else {"<pad>": 3}
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    added = [
        {"id": number, "content": word, "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for word, number in words.items()
    ]
    model = {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"}
    parts = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    write_json(folder / "tokenizer.json", {"version": "1.0", "added_tokens": added, "model": model, **parts})
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **special})
    return folder.absolute()
