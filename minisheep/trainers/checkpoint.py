"""Checkpoints of a training run: written whole, verified before use, torn ones deleted.

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

from minisheep.run.files import publish, write_atomic, write_json

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
    """Write a checkpoint, then delete the older ones. Raises `errors.DiskError`; the older ones then remain.

    `fingerprint` says what is being trained (data, settings, base): only the same training may go on from it.
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
    """Delete all checkpoints: the training has ended and its output is on disk."""
    for folder in _folders(scratch):
        shutil.rmtree(folder, ignore_errors=True)


def _folders(scratch: Path) -> list[Path]:
    return [path for path in scratch.glob("step-*") if path.is_dir()]


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _read(folder: Path, fingerprint: str) -> Checkpoint | None:
    """The checkpoint in `folder`, or None where anything about it is not as it was written."""
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
