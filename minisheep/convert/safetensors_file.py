"""Where each tensor of a folder of safetensors is: headers only, so that a model of any size is listed at once.

The format is 8 bytes of length, a JSON object with dtype, shape and offsets of each tensor, then the numbers. numpy has
no bfloat16, so the `safetensors` package could read these only with torch.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from minisheep.convert.source import AGAIN
from minisheep.errors import ModelFileError, UnsupportedModelError
from minisheep.models.weights_folder import shards

SIZES = {"F32": 4, "F16": 2, "BF16": 2}
"""Bytes of each number format that is read."""
_MAX_HEADER = 100_000_000


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor in a file."""

    path: Path
    name: str
    dtype: str
    """A key of `SIZES`."""
    shape: tuple[int, ...]
    offset: int
    """Bytes from the start of the file."""

    @property
    def bytes(self) -> int:
        return prod(self.shape) * SIZES[self.dtype]


def list_tensors(folder: Path) -> dict[str, Stored]:
    """All tensors of a folder by name. Raises `errors.ModelFileError` for a damaged file, a missing shard or a tensor
    that is there twice, `errors.UnsupportedModelError` for a number format that is not a plain float."""
    found: dict[str, Stored] = {}
    for name in sorted(shards(folder)):
        for tensor in _list(folder / name):
            if tensor.name in found:
                raise ModelFileError(f"{tensor.name} is in two files of {folder}.", AGAIN)
            found[tensor.name] = tensor
    return found


def _list(path: Path) -> list[Stored]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size, _MAX_HEADER):
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(length))
        if not isinstance(header, dict):
            raise ValueError("its header is no JSON object")
        return [_tensor(path, name, told, 8 + length, size) for name, told in header.items() if name != "__metadata__"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError, struct.error) as error:
        raise ModelFileError(f"{path} is no whole safetensors file: {error}.", AGAIN) from None


def _tensor(path: Path, name: str, told: dict[str, Any], start: int, size: int) -> Stored:
    dtype, shape, (begin, end) = told["dtype"], tuple(told["shape"]), told["data_offsets"]
    if dtype not in SIZES:
        raise UnsupportedModelError(
            f"The weights hold {name} as {str(dtype)[:20]}; {', '.join(SIZES)} can be converted.",
            "Give the folder of the original weights.",
        )
    if not all(isinstance(n, int) and n >= 1 for n in (*shape, end)) or not isinstance(begin, int) or begin < 0:
        raise ValueError(f"{name} has no sensible shape")
    tensor = Stored(path, name, dtype, shape, start + begin)
    if end - begin != tensor.bytes or start + end > size:
        raise ValueError(f"{name} does not fit its place")
    return tensor
