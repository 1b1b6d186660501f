"""Where a training continues from: its own checkpoints, and the adapter of an earlier round (strategy one_last).

Checkpoints are written whole, verified before use, and deleted if torn:

    scratch/step-00000012/tensors.safetensors     adapter weights, AdamW moments, best weights so far
    scratch/step-00000012/manifest.json           step, state, size and SHA-256 of the tensors, digest of itself

The folder takes its name only when both files are on disk, so a kill leaves a temporary folder and no torn checkpoint;
sizes and digests catch what a failing disk or a copy does. Numpy only: no torch, no pickle.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from minisheep.errors import ModelFileError
from minisheep.formats import lora_gguf
from minisheep.run.files import publish, sha256_of, write_atomic, write_json
from minisheep.trainers.base import START_FIX, TrainSettings, read_scale

TENSORS = "tensors.safetensors"
MANIFEST = "manifest.json"

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    step: int
    """Optimizer steps that are done."""
    state: dict[str, Any]
    """JSON-ready: losses, counts, seconds."""
    tensors: dict[str, NDArray[Any]]


def save_checkpoint(scratch: Path, fingerprint: str, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint, then delete the older ones, which remain where it raises `errors.DiskError`.

    `fingerprint` stands for data, settings and base: only the same training may continue from the checkpoint.
    """
    target = scratch / f"step-{checkpoint.step:08d}"
    shutil.rmtree(target, ignore_errors=True)
    data = save(checkpoint.tensors)
    with publish(target) as folder:
        write_atomic(folder / TENSORS, data)
        manifest = {
            "step": checkpoint.step,
            "fingerprint": fingerprint,
            "state": checkpoint.state,
            "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        write_json(folder / MANIFEST, {**manifest, "digest": _digest(manifest)})
    for other in _folders(scratch):
        if other != target:
            shutil.rmtree(other, ignore_errors=True)
    return target


def newest_checkpoint(scratch: Path, fingerprint: str) -> Checkpoint | None:
    """The newest whole checkpoint of this training, or None. Torn and foreign ones are deleted."""
    for unfinished in scratch.glob(".step-*.tmp"):
        shutil.rmtree(unfinished, ignore_errors=True)
    for folder in sorted(_folders(scratch), reverse=True):
        checkpoint = _read(folder, fingerprint)
        if checkpoint is not None:
            return checkpoint
        shutil.rmtree(folder, ignore_errors=True)
    return None


def clear(scratch: Path) -> None:
    """Delete all checkpoints, once the output of the training is on disk."""
    for folder in _folders(scratch):
        shutil.rmtree(folder, ignore_errors=True)


def _folders(scratch: Path) -> list[Path]:
    return [path for path in scratch.glob("step-*") if path.is_dir()]


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _read(folder: Path, fingerprint: str) -> Checkpoint | None:
    """The checkpoint in `folder`, or None where anything in it has changed since it was written."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        digest = manifest.pop("digest")
        if digest != _digest(manifest) or manifest["fingerprint"] != fingerprint:
            return None
        data = (folder / TENSORS).read_bytes()
        if len(data) != manifest["size"] or hashlib.sha256(data).hexdigest() != manifest["sha256"]:
            return None
        return Checkpoint(int(manifest["step"]), manifest["state"], load(data))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
        return None


@dataclass(frozen=True, slots=True)
class Start:
    """The adapter that a training begins with."""

    folder: Path
    tensors: dict[str, Array]
    """A [r, in] and B [out, r] of each layer by PEFT's names, float32."""
    digest: str
    """SHA-256 of the tensors' file: trainings with different starts are different trainings."""


def read_start(folder: Path, settings: TrainSettings) -> Start:
    """The adapter in a PEFT folder, for a training with `settings`.

    Raises `errors.ModelFileError` where it cannot be read, has another rank or scale, or holds infinity or NaN.
    """
    read_scale(folder, settings)
    tensors = lora_gguf.read_tensors(folder)
    broken = next((name for name, tensor in tensors.items() if not np.isfinite(tensor).all()), None)
    if broken is not None:
        raise ModelFileError(
            f"Training cannot begin with the adapter in {folder}: {broken} has infinity or NaN.", START_FIX
        )
    return Start(folder, tensors, sha256_of(folder / lora_gguf.TENSORS))


def check_fit(start: Start, wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Raise `errors.ModelFileError` saying what differs unless names and shapes are exactly those of `wanted`."""
    faults = differences({name: tensor.shape for name, tensor in start.tensors.items()}, wanted)
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise ModelFileError(f"The adapter in {start.folder} does not fit this model: {faults[0]}{more}.", START_FIX)


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
