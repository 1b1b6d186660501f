"""The base's safetensors with a round's adapter added in: the same files, tensors and number format as the base's.

Everything that is not adapted is copied byte by byte; an adapted weight W becomes W + scale * B A, computed in float32
and rounded to the format it had. One tensor is held at a time.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from minisheep.errors import ModelFileError, UnsupportedModelError
from minisheep.models.gguf_weights import to_bfloat16
from minisheep.trainers.lora_gguf import check_config, effective_alpha, read_config, read_tensors

MAX_HEADER = 100_000_000
_HALF = re.compile(r"base_model\.model\.(?P<name>.+)\.lora_(?P<half>[AB])(?:\.default)?\.weight")
# A language model inside one that also sees images is called otherwise in its files than in memory.
_WRAPPED = re.compile(r"^(?:model\.language_model|language_model\.model|model)\.(?=layers\.\d+\.)")
_FIX = "Use --to gguf or --to adapter."

Pair = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor of a safetensors file: where its bytes are."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def merge(source: Path, adapter: Path, output: Path, tell: Callable[[int, int], None]) -> None:
    """Write the safetensors of the folder `source` + the PEFT folder `adapter` into the folder `output`.

    Raises `errors.UnsupportedModelError` for an adapter or a format of weights that cannot be merged,
    `errors.ModelFileError` for broken files, and OSError.
    """
    pairs, scale = read_pairs(adapter)
    files = sorted(source.glob("*.safetensors"))
    left = set(pairs)
    total = sum(len(tensors(path)) for path in files)
    done = 0
    for path in files:
        stored = tensors(path)
        with open(path, "rb") as old, open(output / path.name, "wb") as new:
            start = _head(old)
            old.seek(0)
            new.write(old.read(start))
            for tensor in sorted(stored, key=lambda t: t.begin):
                old.seek(start + tensor.begin)
                data = old.read(tensor.end - tensor.begin)
                pair = pairs.get(_plain(tensor.name))
                if pair is not None:
                    left.discard(_plain(tensor.name))
                    data = added(tensor, data, pair, scale)
                new.seek(start + tensor.begin)
                new.write(data)
                done += 1
                tell(done, total)
    if left:
        raise UnsupportedModelError(f"The adapter changes {min(left)!r}, which the base's weights do not have.", _FIX)


def read_pairs(adapter: Path) -> tuple[dict[str, Pair], float]:
    """A [r, in] and B [out, r] by the weight's plain name, and the scale. Raises as `merge` does."""
    config = read_config(adapter)
    check_config(config)
    halves: dict[str, dict[str, NDArray[np.float32]]] = {}
    for key, tensor in read_tensors(adapter).items():
        match = _HALF.fullmatch(key)
        if match is None:
            raise UnsupportedModelError(f"The adapter holds {key!r}, which cannot be merged.", _FIX)
        halves.setdefault(_plain(f"{match['name']}.weight"), {})[match["half"]] = tensor
    for name, found in halves.items():
        if set(found) != {"A", "B"}:
            raise ModelFileError(f"{adapter} has only one of the two matrices of {name!r}.", "Train the round again.")
    return {name: (found["A"], found["B"]) for name, found in halves.items()}, effective_alpha(config) / config["r"]


def added(tensor: Stored, data: bytes, pair: Pair, scale: float) -> bytes:
    """The bytes of one weight with the adapter in it."""
    a, b = pair
    if tensor.shape != (b.shape[0], a.shape[1]) or a.shape[0] != b.shape[1]:
        raise UnsupportedModelError(
            f"The adapter's {tensor.name!r} is B {b.shape} x A {a.shape}, and the base has {tensor.shape}.", _FIX
        )
    whole = to_float32(tensor, data).reshape(tensor.shape) + np.float32(scale) * (b @ a)
    if not np.isfinite(whole).all():
        raise ModelFileError(f"The merged {tensor.name} holds numbers that are not finite.", "Export another --round.")
    if tensor.dtype == "BF16":
        return to_bfloat16(whole).tobytes()
    return whole.astype(np.float16 if tensor.dtype == "F16" else np.float32).tobytes()


def to_float32(tensor: Stored, data: bytes) -> NDArray[np.float32]:
    """The numbers of a weight. Raises `errors.UnsupportedModelError` for formats that are no floats."""
    if tensor.dtype == "BF16":
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    if tensor.dtype in ("F16", "F32"):
        return np.frombuffer(data, np.float16 if tensor.dtype == "F16" else np.float32).astype(np.float32)
    raise UnsupportedModelError(
        f"The base's weights are stored as {tensor.dtype}, which an adapter cannot be merged into.", _FIX
    )


def tensors(path: Path) -> list[Stored]:
    """What a safetensors file holds, by its header. Raises `errors.ModelFileError`."""
    try:
        with open(path, "rb") as file:
            start = _head(file)
            file.seek(8)
            header: Mapping[str, Any] = json.loads(file.read(start - 8))
        return [
            Stored(name, row["dtype"], tuple(row["shape"]), *row["data_offsets"])
            for name, row in header.items()
            if name != "__metadata__"
        ]
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise ModelFileError(f"{path} cannot be read: {error}.", "Fetch the model's weights again.") from None


def _head(file: IO[bytes]) -> int:
    """Bytes before the first number."""
    file.seek(0)
    (length,) = struct.unpack("<Q", file.read(8))
    if length > MAX_HEADER:
        raise ValueError(f"a header of {length} bytes")
    return 8 + int(length)


def _plain(name: str) -> str:
    return _WRAPPED.sub("", name)
