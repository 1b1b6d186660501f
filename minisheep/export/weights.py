"""The base's safetensors with a round's adapter added in: the same files, tensors and number format as the base's.

Everything that is not adapted is copied byte by byte; an adapted weight W becomes W + scale * B A, computed in float32
and rounded to the format it had. One tensor is held at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from minisheep.convert.tensors import plain_name
from minisheep.errors import ModelFileError, UnsupportedModelError
from minisheep.formats.safetensors_file import KINDS, Stored, as_float32, from_float32, tensors_of
from minisheep.trainers.lora_gguf import check_config, effective_alpha, pairs_of, read_config, read_tensors

_FIX = "Use --to gguf or --to adapter."

Pair = tuple[NDArray[np.float32], NDArray[np.float32]]


def merge(source: Path, adapter: Path, output: Path, tell: Callable[[int, int], None]) -> None:
    """Write the safetensors of the folder `source` + the PEFT folder `adapter` into the folder `output`.

    Raises `errors.UnsupportedModelError` for an adapter or a format of weights that cannot be merged,
    `errors.ModelFileError` for broken files, and OSError.
    """
    pairs, scale = read_pairs(adapter)
    files = {path: tensors_of(path) for path in sorted(source.glob("*.safetensors"))}
    left = set(pairs)
    total, done = sum(map(len, files.values())), 0
    for path, stored in files.items():
        with open(path, "rb") as old, open(output / path.name, "wb") as new:
            new.write(old.read(stored[0].offset if stored else -1))
            for tensor in stored:
                data = old.read(tensor.bytes)
                pair = pairs.get(plain_name(tensor.name))
                if pair is not None:
                    left.discard(plain_name(tensor.name))
                    data = added(tensor, data, pair, scale)
                new.write(data)
                done += 1
                tell(done, total)
    if left:
        raise UnsupportedModelError(f"The adapter changes {min(left)!r}, which the base's weights do not have.", _FIX)


def read_pairs(adapter: Path) -> tuple[dict[str, Pair], float]:
    """A [r, in] and B [out, r] by the weight's plain name, and the scale. Raises as `merge` does."""
    config = read_config(adapter)
    check_config(config)
    pairs = {f"model.{module}.weight": pair for module, pair in pairs_of(read_tensors(adapter)).items()}
    return pairs, effective_alpha(config) / config["r"]


def added(tensor: Stored, data: bytes, pair: Pair, scale: float) -> bytes:
    """The bytes of one weight with the adapter in it."""
    a, b = pair
    if tensor.shape != (b.shape[0], a.shape[1]) or a.shape[0] != b.shape[1]:
        raise UnsupportedModelError(
            f"The adapter's {tensor.name!r} is B {b.shape} x A {a.shape}, and the base has {tensor.shape}.", _FIX
        )
    if tensor.dtype not in KINDS:
        raise UnsupportedModelError(
            f"The base's weights are stored as {tensor.dtype}, which an adapter cannot be merged into.", _FIX
        )
    values = as_float32(np.frombuffer(data, KINDS[tensor.dtype])).reshape(tensor.shape)
    whole = values + np.float32(scale) * (b @ a)
    if not np.isfinite(whole).all():
        raise ModelFileError(f"The merged {tensor.name} holds numbers that are not finite.", "Export another --round.")
    return from_float32(whole, tensor.dtype).tobytes()
