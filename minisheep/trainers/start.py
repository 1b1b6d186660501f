"""The adapter that a training goes on from (the paper's strategy one_last): read, checked and identified.

Light until tensors are read, so that the fake trainer checks by the same rules.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minisheep.errors import ModelFileError
from minisheep.trainers.base import TrainSettings
from minisheep.trainers.lora_gguf import TENSORS, read_config, read_tensors

if TYPE_CHECKING:
    from minisheep.trainers.checkpoint import Array

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
