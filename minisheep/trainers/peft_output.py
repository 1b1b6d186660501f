"""What a training leaves: a plain PEFT folder that appears whole, and a record of what was trained."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import save

from minisheep.machine.files import publish, write_atomic, write_json
from minisheep.records import digest
from minisheep.trainers.base import TrainJob, TrainResult, another_training
from minisheep.trainers.checkpoint import Array
from minisheep.trainers.lora_gguf import TENSORS
from minisheep.trainers.peft_model import PeftModel, Precision, adapter_tensors
from minisheep.trainers.tokens import Tokenised

RESULT = "training_result.json"
"""In the PEFT folder: the TrainResult and what was trained, so that a repeated job finds it done."""


def training_fingerprint(
    job: TrainJob, data: Tokenised, precision: Precision, *, start: str | None, maker: str = ""
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
    output: Path, model: PeftModel, weights: Mapping[str, Array], fingerprint: str, result: TrainResult
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
        write_atomic(folder / TENSORS, save(adapter_tensors(model), metadata={"format": "pt"}))
        write_json(folder / RESULT, dataclasses.asdict(result) | {"fingerprint": fingerprint})
