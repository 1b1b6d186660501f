"""Arrays of GGUF metadata, kept packed: a vocabulary has a quarter of a million strings and few are ever asked for."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, overload

CODES = {code: struct.Struct("<" + code) for code in "BbHhIifQqd"}
"""The scalar types of GGUF by their codes in `struct`; all are little-endian."""


class GgufArray(Sequence[Any]):
    """One array, decoded one element at a time; what is not UTF-8 in a string becomes U+FFFD.

    `code` is a key of `CODES`, ``?`` for truth values or ``s`` for strings. `starts` holds where in `data` the array
    begins, for strings where each one's 8 bytes of length begin.
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
