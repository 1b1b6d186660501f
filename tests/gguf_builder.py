"""Tiny GGUF files for tests, byte by byte, with nothing but the standard library."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

TYPES = {"u8": 0, "i8": 1, "u16": 2, "i16": 3, "u32": 4, "i32": 5, "f32": 6, "bool": 7, "str": 8, "arr": 9}
TYPES |= {"u64": 10, "i64": 11, "f64": 12}
CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
TENSOR_TYPES = {"F32": (0, 1, 4), "F16": (1, 1, 2), "Q4_0": (2, 32, 18), "Q4_1": (3, 32, 20), "Q8_0": (8, 32, 34)}


def text(value: str | bytes) -> bytes:
    """A GGUF string: 8 bytes of length, then UTF-8 (or the given bytes, whatever they are)."""
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def value(kind: str, content: Any) -> bytes:
    """A value without its type. For an array: `content` is the type of its elements and the elements."""
    if kind == "str":
        return text(content)
    if kind == "arr":
        inner, items = content
        return struct.pack("<IQ", TYPES[inner], len(items)) + b"".join(value(inner, item) for item in items)
    return struct.pack("<" + CODES[TYPES[kind]], content)


def pair(key: str | bytes, kind: str, content: Any) -> bytes:
    return text(key) + struct.pack("<I", TYPES[kind]) + value(kind, content)


def tensor_info(name: str | bytes, shape: Sequence[int], kind: int, offset: int, rank: int | None = None) -> bytes:
    dimensions = b"".join(struct.pack("<Q", size) for size in shape)
    return (
        text(name)
        + struct.pack("<I", len(shape) if rank is None else rank)
        + dimensions
        + struct.pack("<IQ", kind, offset)
    )


def assemble(
    pairs: Sequence[bytes],
    infos: Sequence[bytes],
    data: bytes,
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    alignment: int = 32,
    tensor_count: int | None = None,
    pair_count: int | None = None,
) -> bytes:
    """A file from its pieces; the counts are the true ones unless given."""
    counts = (len(infos) if tensor_count is None else tensor_count, len(pairs) if pair_count is None else pair_count)
    head = magic + struct.pack("<IQQ", version, *counts) + b"".join(pairs) + b"".join(infos)
    return head + bytes(-len(head) % alignment) + data


@dataclass
class Tiny:
    """A model with made-up numbers that a strict reader accepts; change the fields to make one that it must not."""

    architecture: str = "llama"
    layers: int = 2
    file_type: int = 7
    tokens: tuple[str, ...] = ("<s>", "</s>", "a", "é", "<|im_end|>")
    template: str = "{{ messages[0].content }}"
    tensors: tuple[tuple[str, tuple[int, ...], str], ...] = (
        ("token_embd.weight", (64, 5), "F32"),
        ("blk.0.ffn_up.weight", (64, 8), "Q8_0"),
        ("output_norm.weight", (64,), "F32"),
    )
    more: tuple[bytes, ...] = field(default=())

    def pairs(self) -> list[bytes]:
        arch = self.architecture
        return [
            pair("general.architecture", "str", arch),
            pair("general.name", "str", "Tiny"),
            pair("general.file_type", "u32", self.file_type),
            pair(f"{arch}.block_count", "u32", self.layers),
            pair(f"{arch}.context_length", "u32", 128),
            pair(f"{arch}.embedding_length", "u32", 64),
            pair(f"{arch}.attention.head_count", "u32", 4),
            pair(f"{arch}.attention.head_count_kv", "arr", ("i32", [1, 2])),
            pair(f"{arch}.rope.freq_base", "f32", 10_000.0),
            pair("tokenizer.ggml.add_bos_token", "bool", 1),
            pair("tokenizer.ggml.tokens", "arr", ("str", self.tokens)),
            pair("tokenizer.ggml.scores", "arr", ("f32", [0.5] * len(self.tokens))),
            pair("tokenizer.ggml.special", "arr", ("bool", [1, 1, 0, 0, 1])),
            pair("tokenizer.ggml.bos_token_id", "u32", 0),
            pair("tokenizer.ggml.eos_token_id", "u32", 4),
            pair("tokenizer.chat_template", "str", self.template),
            *self.more,
        ]

    def layout(self) -> tuple[list[bytes], bytes]:
        infos, data = [], b""
        for name, shape, kind in self.tensors:
            number, block, size = TENSOR_TYPES[kind]
            elements = 1
            for dimension in shape:
                elements *= dimension
            infos.append(tensor_info(name, shape, number, len(data)))
            data += bytes(elements // block * size)
            data += bytes(-len(data) % 32)
        return infos, data

    def build(self, **changes: Any) -> bytes:
        infos, data = self.layout()
        return assemble(self.pairs(), infos, data, **changes)


def tiny_gguf() -> bytes:
    return Tiny().build()
