"""Training weights for a model that exists only as a GGUF: its tensors, dequantised once and kept as bfloat16.

They are exactly what the GGUF holds, quantisation error included, so the adapter is trained on the very model that it
is later loaded onto.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from minisheep.errors import DiskError, ModelFileError, UnsupportedModelError
from minisheep.events import Emit, Note
from minisheep.trainers.folders import publish
from minisheep.trainers.lora_gguf import BaseFacts, read_base

_FIX = "Give a folder with the model's original config.json and safetensors as its training weights."


def dequantise(gguf: Path, output: Path, emit: Emit) -> None:
    """Write config.json and bfloat16 safetensors of `gguf` into the folder `output`, which appears whole or not at all.

    Nothing is done if `output` exists. Takes about 4 bytes of memory and 2 bytes of disk a parameter. Raises
    `errors.UnsupportedModelError` where transformers would read the GGUF as a slightly different model,
    `errors.ModelFileError` where it cannot be read, `errors.DiskError` where the disk is too small.
    """
    if output.exists():
        return
    base = read_base(gguf)
    refuse_lossy(base)
    _check_room(output, base)
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("TQDM_DISABLE", "1")
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    started = time.monotonic()
    emit(Note(f"Making training weights from {gguf.name} (once for this model)."))
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.bfloat16,
            # Without it the model counts as quantised: it can be neither trained nor saved.
            quantization_config=transformers.GgufConfig(dequantize=True),
            local_files_only=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelFileError(f"{gguf.name} cannot be turned into training weights: {error}", _FIX) from error
    head = getattr(model.config.get_text_config(), "head_dim", None)
    if base.key_length is not None and head is not None and head != base.key_length:
        raise UnsupportedModelError(
            f"{gguf.name} has attention heads of {base.key_length}, which the conversion would read as {head}.", _FIX
        )
    with publish(output) as folder:
        model.save_pretrained(folder)
    emit(Note(f"Training weights are in {output.name} after {time.monotonic() - started:.0f} s."))


def refuse_lossy(base: BaseFacts) -> None:
    """Raise `errors.UnsupportedModelError` for what the conversion is known to lose: Llama 3's scaled rotary embedding,
    which a GGUF keeps as a tensor and transformers' reader ignores."""
    if "rope_freqs.weight" in base.shapes:
        raise UnsupportedModelError(
            "This GGUF scales its rotary embedding (rope_freqs), which training weights made from it would lose.", _FIX
        )


def _check_room(output: Path, base: BaseFacts) -> None:
    """Raise `errors.DiskError` before an hour's work where two bytes a parameter and a reserve do not fit."""
    folder = next(parent for parent in output.absolute().parents if parent.exists())
    stats = os.statvfs(folder)
    free = stats.f_bavail * stats.f_frsize
    parameters = 0
    for shape in base.shapes.values():
        size = 1
        for length in shape:
            size *= length
        parameters += size
    need = 2 * parameters + 2**28
    if free < need:
        raise DiskError(
            f"Training weights need {need / 1e9:.1f} GB in {folder}; {free / 1e9:.1f} GB are free.",
            "Make room and give the same command again.",
        )
