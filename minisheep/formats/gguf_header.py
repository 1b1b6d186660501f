"""A strict reader of the GGUF header: everything of a model file but the numbers of its tensors.

llama.cpp parses model files in C++ and trusts them more than a downloaded file deserves (its advisories list
overflowing tensor sizes, zero dimensions, a wrong-typed alignment, offsets behind the end). So every file is read here
first, in pure Python, and anything that the format (ggml/docs/gguf.md, ggml/src/gguf.cpp) does not allow is refused.
Any fault is a `ModelFileError`, never another exception.

The header is copied out of the file, at most `MAX_HEADER` bytes, so nothing breaks when the file is replaced later.
Arrays stay packed, and elements are decoded on access: a vocabulary has a quarter of a million strings and few are ever
used, so 262k tokens cost about 0.1 s.
"""

from __future__ import annotations

import re
import stat
import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, overload

from minisheep.errors import ModelFileError
from minisheep.models.cache import remedy
from minisheep.models.fetch import part_error

CODES = {code: struct.Struct("<" + code) for code in "BbHhIifQqd"}
"""The scalar types of GGUF by their codes in `struct`; all are little-endian."""


class GgufArray(Sequence[Any]):
    """One array, decoded one element at a time; bytes of a string that are not UTF-8 become U+FFFD.

    `code` is a key of `CODES`, ``?`` for truth values or ``s`` for strings. `starts` holds the place in `data` where
    the array begins, for strings those where the 8 bytes of each length begin.
    """

    __slots__ = ("_code", "_count", "_data", "_starts")

    def __init__(self, data: bytes, code: str, count: int, starts: array[int]) -> None:
        self._data, self._code, self._count, self._starts = data, code, count, starts

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Any, ...]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(self._count)))
        if not -self._count <= index < self._count:
            raise IndexError(index)
        index %= self._count
        if self._code == "s":
            start = self._starts[index]
            (length,) = CODES["Q"].unpack_from(self._data, start)
            return self._data[start + 8 : start + 8 + length].decode("utf-8", errors="replace")
        packed = CODES["B" if self._code == "?" else self._code]
        (value,) = packed.unpack_from(self._data, self._starts[0] + index * packed.size)
        return bool(value) if self._code == "?" else value

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(self._count))

    def __repr__(self) -> str:
        return f"<{self._count} x {self._code}>"


class Block(NamedTuple):
    """A number format of ggml: the weights that a block holds, and its bytes (ggml.c, type_traits)."""

    name: str
    elements: int
    bytes: int


BLOCKS: dict[int, Block] = {
    0: Block("F32", 1, 4),
    1: Block("F16", 1, 2),
    2: Block("Q4_0", 32, 18),
    3: Block("Q4_1", 32, 20),
    6: Block("Q5_0", 32, 22),
    7: Block("Q5_1", 32, 24),
    8: Block("Q8_0", 32, 34),
    10: Block("Q2_K", 256, 84),
    11: Block("Q3_K", 256, 110),
    12: Block("Q4_K", 256, 144),
    13: Block("Q5_K", 256, 176),
    14: Block("Q6_K", 256, 210),
    16: Block("IQ2_XXS", 256, 66),
    17: Block("IQ2_XS", 256, 74),
    18: Block("IQ3_XXS", 256, 98),
    19: Block("IQ1_S", 256, 50),
    20: Block("IQ4_NL", 32, 18),
    21: Block("IQ3_S", 256, 110),
    22: Block("IQ2_S", 256, 82),
    23: Block("IQ4_XS", 256, 136),
    24: Block("I8", 1, 1),
    25: Block("I16", 1, 2),
    26: Block("I32", 1, 4),
    27: Block("I64", 1, 8),
    28: Block("F64", 1, 8),
    29: Block("IQ1_M", 256, 56),
    30: Block("BF16", 1, 2),
    34: Block("TQ1_0", 256, 54),
    35: Block("TQ2_0", 256, 66),
    39: Block("MXFP4", 32, 17),
    40: Block("NVFP4", 64, 36),
    41: Block("Q1_0", 128, 18),
}
"""By the number in the file. Q8_1 and Q8_K are left out: they are for intermediate results, never for files."""

FAST_ON_CPU = frozenset({"Q4_0", "Q8_0", "Q2_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "MXFP4", "F32", "F16", "BF16"})
"""The formats that the CPU back-end multiplies fast: it repacks them into interleaved int8 kernels
(ggml/src/ggml-cpu/repack.cpp). The others run at half the speed or less."""
SLOW_SHARE = 0.1
"""Share of a file's weights in slow formats from which a copy pays: they take two to three times as long."""


def mostly_fast_on_cpu(weights: Mapping[str, int]) -> bool:
    """Whether fast CPU kernels multiply nearly all of a file's `weights`, given as counts by format.

    The name of a mix does not show it. Where a matrix's rows do not divide into blocks of 256, llama-quantize gives it
    Q5_0 in place of Q4_K: two thirds of the layers of gemma-3-270m's Q4_K_M, which decodes at 0.4 of Q8_0's speed.
    """
    slow = sum(count for format, count in weights.items() if format not in FAST_ON_CPU)
    return slow <= SLOW_SHARE * sum(weights.values())


FILE_TYPES: dict[int, str] = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4", 39: "NVFP4",
    40: "Q1_0",
}  # fmt: skip
"""Names of general.file_type (enum llama_ftype in llama.h): the mix that a whole file was quantised to."""


MAX_HEADER = 64 * 2**20
MAX_ENTRIES = 2**16
"""Most metadata keys or tensors; the largest known models have about a thousand of each."""
MAX_STRINGS = 2**21
"""Most strings in all arrays together; the largest known vocabulary with its merges has under a million."""
MAX_KEY = 2**16 - 1
MAX_TENSOR_NAME = 63  # GGML_MAX_NAME is 64 with the closing NUL
MAX_ALIGNMENT = 2**20

_BOOL, _STRING, _ARRAY = 7, 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", _BOOL: "B", 10: "Q", 11: "q", 12: "d"}
_UINT32 = 4
_ARCHITECTURE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor. `shape` is in ggml's order (the fastest dimension first); `offset` is from the start of the file."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    bytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF says about itself. `metadata` maps keys to int, float, bool, str or `GgufArray`."""

    version: int
    architecture: str
    metadata: Mapping[str, Any]
    tensors: tuple[TensorInfo, ...]
    file_bytes: int

    def token_text(self, index: int) -> str:
        """The text of a vocabulary entry. Raises ModelFileError if the file has no such token."""
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        if not isinstance(tokens, GgufArray) or not 0 <= index < len(tokens) or not isinstance(tokens[index], str):
            raise ModelFileError(f"The model file names token {index}, which its vocabulary does not have.", _ANOTHER)
        text: str = tokens[index]
        return text


_ANOTHER = "Give another file with --gguf."


class _Fault(Exception):
    """The fault of a file, in words."""


class _NeedMore(Exception):
    """The header continues behind the bytes read so far."""


class _Part(Exception):
    """The file is one of the parts of a split model."""

    def __init__(self, number: int, count: int) -> None:
        super().__init__(number, count)
        self.number, self.count = number, count


def read_header(path: Path, *, part: bool = False) -> GgufHeader:
    """Read and check the header of a GGUF of version 2 or 3. Raises ModelFileError naming the fault. A part of a
    split model is one, since no part can be run or trained alone; with `part` it is read all the same, to be joined."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe or a device would block or never end
            raise _Fault("it is not a regular file")
        with path.open("rb") as file:
            file_bytes = file.seek(0, 2)
            for limit in (2**22, MAX_HEADER):
                file.seek(0)
                data = file.read(limit)
                try:
                    return _parse(data, file_bytes, part)
                except _NeedMore:
                    continue
    except FileNotFoundError:
        raise ModelFileError(f"There is no model file {path}.", remedy(path)) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ModelFileError(
            f"The model file {path} cannot be read: {reason}.", "Check the path and its permissions."
        ) from None
    except _Part as part:
        raise part_error(path, part.number, part.count) from None
    except _Fault as fault:
        raise ModelFileError(f"The model file {path} cannot be used: {fault}.", remedy(path)) from None
    raise ModelFileError(f"The model file {path} is corrupt: its header is over {MAX_HEADER} bytes.", remedy(path))


class _Cursor:
    """Reads little-endian values one after another, never past the end."""

    def __init__(self, data: bytes, file_bytes: int) -> None:
        self.data, self.file_bytes, self.at, self.strings = data, file_bytes, 0, 0

    def take(self, count: int) -> int:
        """Step over `count` bytes and return where they start."""
        start = self.at
        if start + count > len(self.data):
            self._fail_past(start + count)
        self.at = start + count
        return start

    def _fail_past(self, end: int) -> None:
        if end > self.file_bytes:
            raise _Fault(f"truncated or corrupt, its header reaches past the end of the file ({self.file_bytes} bytes)")
        raise _NeedMore

    def number(self, code: str) -> Any:
        packed = CODES[code]
        return packed.unpack_from(self.data, self.take(packed.size))[0]

    def text(self, what: str, longest: int = MAX_HEADER) -> str:
        length = self.number("Q")
        if length > longest:
            raise _Fault(f"corrupt, a {what} of {length} bytes")
        start = self.take(length)
        try:
            return self.data[start : self.at].decode("utf-8")
        except UnicodeDecodeError:
            raise _Fault(f"corrupt, a {what} is not UTF-8") from None

    def skip_strings(self, count: int) -> array[int]:
        """Step over `count` strings and return where each starts (at its length)."""
        self.strings += count
        if self.strings > MAX_STRINGS:
            raise _Fault(f"corrupt, arrays with over {MAX_STRINGS} strings")
        if self.at + 8 * count > self.file_bytes:  # before reading the strings that are there
            self._fail_past(self.at + 8 * count)
        starts = array("Q")
        unpack, data, at, end = CODES["Q"].unpack_from, self.data, self.at, len(self.data)
        for _ in range(count):
            if at + 8 > end:
                self._fail_past(at + 8)
            starts.append(at)
            at += 8 + unpack(data, at)[0]
            if at > end:
                self._fail_past(at)
        self.at = at
        return starts


def _parse(data: bytes, file_bytes: int, part: bool) -> GgufHeader:
    cursor = _Cursor(data, file_bytes)
    if data[:4] != b"GGUF":
        if file_bytes < 4:
            raise _Fault(f"truncated, it has {file_bytes} bytes")
        pointer = data.startswith(b"version https://git-lfs")
        raise _Fault("it is a pointer of Git LFS (`git lfs pull` fetches it)" if pointer else "it is not a GGUF file")
    cursor.take(4)
    version = cursor.number("I")
    if version not in (2, 3):
        if version & 0xFFFF == 0:
            raise _Fault("it is a big-endian GGUF, made for another kind of machine")
        raise _Fault(f"it is a GGUF of version {version}, and llama.cpp reads versions 2 and 3")
    tensor_count, key_count = cursor.number("Q"), cursor.number("Q")
    for count, what in ((tensor_count, "tensors"), (key_count, "metadata keys")):
        if count > MAX_ENTRIES:
            raise _Fault(f"corrupt, it counts {count} {what}")
    metadata = _read_metadata(cursor, key_count)
    # Before all else: the later parts have no architecture, and the first lacks tensors.
    parts, place = metadata.get("split.count", 0), metadata.get("split.no", 0)
    if isinstance(parts, int) and parts > 1 and not part:
        raise _Part(place + 1 if isinstance(place, int) else 1, parts)
    alignment = metadata.get("general.alignment", 32)
    if not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise _Fault(f"corrupt, general.alignment is {alignment} and not a power of two")
    architecture = metadata.get("general.architecture", "part" if part else None)
    if not isinstance(architecture, str) or not _ARCHITECTURE.fullmatch(architecture):
        raise _Fault("general.architecture is missing or no identifier")
    raw = [_read_tensor(cursor) for _ in range(tensor_count)]
    start = padded(cursor.at, alignment)
    tensors = _place(raw, start, alignment, file_bytes)
    return GgufHeader(version, architecture, MappingProxyType(metadata), tensors, file_bytes)


def _read_metadata(cursor: _Cursor, count: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for _ in range(count):
        key = cursor.text("metadata key", MAX_KEY)
        if not key or not key.isprintable():
            raise _Fault(f"corrupt, a metadata key is {key[:80]!r}")
        if key in metadata:
            raise _Fault(f"corrupt, the metadata key {key} is there twice")
        kind = cursor.number("I")
        if key == "general.alignment" and kind != _UINT32:
            raise _Fault("corrupt, general.alignment is not of type uint32")
        metadata[key] = _read_array(cursor, key) if kind == _ARRAY else _read_scalar(cursor, key, kind)
    return metadata


def _read_scalar(cursor: _Cursor, key: str, kind: int) -> Any:
    if kind == _STRING:
        return cursor.text(f"value of {key}")
    if kind not in _SCALARS:
        raise _Fault(f"corrupt, {key} has the unknown value type {kind}")
    value = cursor.number(_SCALARS[kind])
    if kind == _BOOL:
        if value > 1:
            raise _Fault(f"corrupt, {key} is a truth value of {value}")
        return bool(value)
    return value


def _read_array(cursor: _Cursor, key: str) -> GgufArray:
    kind, count = cursor.number("I"), cursor.number("Q")
    if kind == _ARRAY:
        raise _Fault(f"corrupt, {key} is an array of arrays")
    if kind == _STRING:
        return GgufArray(cursor.data, "s", count, cursor.skip_strings(count))
    if kind not in _SCALARS:
        raise _Fault(f"corrupt, {key} is an array of the unknown value type {kind}")
    code = _SCALARS[kind]
    start = cursor.take(count * CODES[code].size)
    if kind == _BOOL:
        if cursor.data[start : cursor.at].strip(b"\0\1"):
            raise _Fault(f"corrupt, {key} holds truth values other than 0 and 1")
        code = "?"
    return GgufArray(cursor.data, code, count, array("Q", [start]))


def _read_tensor(cursor: _Cursor) -> TensorInfo:
    """One tensor, its offset still from the start of the data section."""
    name = cursor.text("tensor name", MAX_TENSOR_NAME)
    if not name or not name.isprintable():
        raise _Fault(f"corrupt, a tensor is called {name!r}")
    rank = cursor.number("I")
    if not 1 <= rank <= 4:
        raise _Fault(f"corrupt, tensor {name} has {rank} dimensions")
    shape = tuple(cursor.number("Q") for _ in range(rank))
    kind = BLOCKS.get(cursor.number("I"))
    offset = cursor.number("Q")
    if kind is None:
        raise _Fault(f"tensor {name} is of a type that minisheep does not know")
    if min(shape) < 1:
        raise _Fault(f"corrupt, tensor {name} has a dimension of {min(shape)}")
    if shape[0] % kind.elements:
        raise _Fault(f"corrupt, tensor {name} has rows of {shape[0]}, no multiple of a {kind.name} block")
    elements = 1
    for dimension in shape:
        elements *= dimension
    if elements >= 2**63:
        raise _Fault(f"corrupt, tensor {name} has {elements} elements")
    return TensorInfo(name, shape, kind.name, offset, elements // kind.elements * kind.bytes)


def _place(raw: list[TensorInfo], start: int, alignment: int, file_bytes: int) -> tuple[TensorInfo, ...]:
    """The tensors with offsets in the file. As in gguf.cpp each follows the one before, so none overlap."""
    seen: set[str] = set()
    expected = 0
    placed = []
    for tensor in raw:
        if tensor.name in seen:
            raise _Fault(f"corrupt, two tensors are called {tensor.name}")
        seen.add(tensor.name)
        if tensor.offset != expected:
            raise _Fault(f"corrupt, tensor {tensor.name} is at {tensor.offset} and should be at {expected}")
        if start + tensor.offset + tensor.bytes > file_bytes:
            raise _Fault(f"truncated, tensor {tensor.name} reaches past the end of the file ({file_bytes} bytes)")
        expected = padded(expected + tensor.bytes, alignment)
        placed.append(TensorInfo(tensor.name, tensor.shape, tensor.type, start + tensor.offset, tensor.bytes))
    return tuple(placed)


def padded(at: int, alignment: int) -> int:
    """The first multiple of `alignment` at or behind `at`."""
    return (at + alignment - 1) // alignment * alignment
