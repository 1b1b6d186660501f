"""Files of safetensors: where each tensor is, its numbers in pieces, and the head of a new file.

The format is 8 bytes of length, a JSON object with dtype, shape and offsets of each tensor, then the numbers. numpy has
no bfloat16, so the `safetensors` package, which checks a file's head here, could load and save it only with torch.
Bfloat16 is held as its bits, in uint16.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minisheep.errors import ModelFileError, UnsupportedModelError
from minisheep.models.hub import shards

KINDS: dict[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
"""The number formats whose values are read, and what numpy holds them in."""
SIZES = {"F32": 4, "F16": 2, "BF16": 2}
"""Bytes of a number in each."""
PIECE = 2**21
"""Numbers that are converted at once: some tens of megabytes with the results, and few calls."""
_AGAIN = "Fetch the model's files again, or pass others with --gguf or --weights."


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor in a file."""

    path: Path
    name: str
    dtype: str
    """As safetensors calls it: a key of `KINDS`, or a format whose values are not read."""
    shape: tuple[int, ...]
    offset: int
    """Bytes from the start of the file."""
    bytes: int


def list_tensors(folder: Path) -> dict[str, Stored]:
    """All tensors of a folder by name. Raises `errors.ModelFileError` for a damaged file, a missing shard or a tensor
    that is there twice, `errors.UnsupportedModelError` for a number format that is not a plain float."""
    found: dict[str, Stored] = {}
    for name in sorted(shards(folder)):
        for tensor in tensors_of(folder / name):
            if tensor.name in found:
                raise ModelFileError(f"{tensor.name} is in two files of {folder}.", _AGAIN)
            if tensor.dtype not in KINDS:
                raise UnsupportedModelError(
                    f"The weights hold {tensor.name} as {tensor.dtype}; {', '.join(KINDS)} can be converted.",
                    "Give the folder of the original weights.",
                )
            if not prod(tensor.shape) or not tensor.shape:
                raise ModelFileError(f"{tensor.name} in {folder / name} has no numbers.", _AGAIN)
            found[tensor.name] = tensor
    return found


def tensors_of(path: Path) -> list[Stored]:
    """The tensors of one file, in its order, which leaves no holes. Reads the head only; raises
    `errors.ModelFileError`."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy"):  # checks the head against the file: sizes, shapes, no holes, nothing left over
            pass
        with open(path, "rb") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(start - 8))
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelFileError(f"{path} is not a whole safetensors file: {error}.", _AGAIN) from None
    header.pop("__metadata__", None)
    tensors = [
        Stored(path, name, entry["dtype"], tuple(entry["shape"]), start + begin, end - begin)
        for name, entry in header.items()
        for begin, end in (entry["data_offsets"],)
    ]
    return sorted(tensors, key=lambda tensor: tensor.offset)


def row_count(shape: tuple[int, ...]) -> int:
    """Rows of a tensor of this shape, as torch counts; a vector is one row."""
    return shape[0] if len(shape) > 1 else 1


def pieces(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """A tensor of this shape cut into ranges of rows (first, behind the last) that are converted at once."""
    rows = row_count(shape)
    step = max(1, PIECE * rows // prod(shape))
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]


def read_rows(tensor: Stored, rows: slice | NDArray[np.intp]) -> NDArray[Any]:
    """Some rows of a tensor [rows, in] as they are stored, in the type that `KINDS` says."""
    count = row_count(tensor.shape)
    raw: Any = np.memmap(tensor.path, KINDS[tensor.dtype], "r", tensor.offset, (count, prod(tensor.shape) // count))
    return np.array(raw[rows])


def same_numbers(one: Stored, other: Stored) -> bool:
    """Whether two tensors hold the same numbers; reads both, in pieces."""
    if one.shape != other.shape:
        return False
    for first, end in pieces(one.shape):
        ours, theirs = (as_float32(read_rows(tensor, slice(first, end))) for tensor in (one, other))
        if not np.array_equal(ours, theirs):
            return False
    return True


EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def tied_in_truth(tensors: Mapping[str, Stored], *, tied: bool) -> bool:
    """Whether transformers computes with one matrix for embedding and output, where config.json says `tied` or not.

    Of two that are stored it ties only equal ones, whatever config.json says (transformers, `tie_weights`): a head that
    was trained by itself and saved beside the embedding stays another.
    """
    if not tied or HEAD not in tensors or EMBEDDING not in tensors:
        return tied
    return same_numbers(tensors[EMBEDDING], tensors[HEAD])


def as_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    """Values that are held as `KINDS` says, as float32; exact."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values.astype(np.float32, copy=False)


def from_float32(values: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """`values` in a format of `KINDS`; what float16 cannot hold becomes infinite."""
    if dtype == "BF16":
        return to_bfloat16(values)
    with np.errstate(over="ignore"):
        return values.astype(KINDS[dtype], copy=False)


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of finite values as bfloat16, rounded to the nearest, ties to even, as torch does."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    odd = bits >> np.uint32(16)
    odd &= np.uint32(1)
    odd += np.uint32(0x7FFF)
    odd += bits
    odd >>= np.uint32(16)
    return odd.astype(np.uint16)


def head(tensors: Iterable[tuple[str, tuple[int, ...]]], dtype: str) -> tuple[bytes, list[int]]:
    """How a file of these tensors (name, shape) begins, all in one format, and where in it each one's numbers start."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begins, end = [], 0
    for name, shape in tensors:
        begins.append(end)
        end += prod(shape) * SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": (begins[-1], end)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)  # the numbers are mapped: they begin where vectors are best aligned
    return struct.pack("<Q", len(text)) + text, [8 + len(text) + begin for begin in begins]
