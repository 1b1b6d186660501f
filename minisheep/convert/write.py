"""The GGUF itself: header and vocabulary by the `gguf` package, then the tensors one piece after another."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minisheep.convert.architectures import Design, Value
from minisheep.convert.tensors import Tensor, offset, read_piece
from minisheep.convert.tokenizer import Vocabulary
from minisheep.formats.safetensors_file import pieces
from minisheep.machine.files import megabytes, write_in_pieces
from minisheep.models.cache import REPORT_EVERY, Report
from minisheep.models.gguf_header import padded

FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32}
"""enum llama_ftype of a file whose matrices are of that format."""
_ALIGNMENT = 32
_QUANTISATION_VERSION = 2  # GGML_QNT_VERSION


def write_gguf(
    path: Path,
    title: str,
    design: Design,
    vocabulary: Vocabulary,
    chat_template: str,
    tensors: Sequence[Tensor],
    file_type: int,
    report: Report,
) -> None:
    """Write a whole model to `path`, which must not exist. The caller makes it durable and gives it its name.

    Holds a few pieces of a tensor in memory and the vocabulary. Raises `errors.MinisheepError` as `read_piece` does,
    OSError where the disk refuses.
    """
    keys: dict[str, Value] = {
        "general.type": "model",
        "general.name": title,
        "general.file_type": file_type,
        "general.quantization_version": _QUANTISATION_VERSION,
        f"{design.architecture}.vocab_size": len(vocabulary.tokens),
        **design.keys,
        "tokenizer.ggml.model": vocabulary.model,
        "tokenizer.ggml.pre": vocabulary.pre,
        **{f"tokenizer.ggml.{name}_token_id": number for name, number in vocabulary.ids.items()},
        **{f"tokenizer.ggml.{name}": flag for name, flag in vocabulary.flags.items()},
    }
    if chat_template:
        keys["tokenizer.chat_template"] = chat_template
    start = _write_header(path, design.architecture, keys, vocabulary, tensors)
    _write_tensors(path, start, tensors, report)


def _write_header(
    path: Path, architecture: str, keys: Mapping[str, Value], vocabulary: Vocabulary, tensors: Sequence[Tensor]
) -> int:
    """Everything but the numbers; where these begin, in bytes."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, architecture)
    for name, value in keys.items():
        _add(writer, name, value)
    writer.add_array("tokenizer.ggml.tokens", vocabulary.tokens)
    writer.add_array("tokenizer.ggml.token_type", vocabulary.types)
    writer.add_array("tokenizer.ggml.scores", vocabulary.scores)
    writer.add_array("tokenizer.ggml.merges", vocabulary.merges)
    for tensor in tensors:
        kind = gguf.GGMLQuantizationType[tensor.dtype]
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.bytes, raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()
    return padded(path.stat().st_size, _ALIGNMENT)


def _add(writer: Any, name: str, value: Value) -> None:
    if isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, int):
        writer.add_uint32(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    else:
        writer.add_string(name, value)


def _write_tensors(path: Path, start: int, tensors: Sequence[Tensor], report: Report) -> None:
    places = []
    for tensor in tensors:
        places.append(start)
        start = padded(start + tensor.bytes, _ALIGNMENT)
    total, done, said = sum(tensor.bytes for tensor in tensors), 0, time.monotonic()
    os.truncate(path, start)  # the last tensor is padded too

    def make(job: tuple[Tensor, int, int, int]) -> tuple[int, bytes]:
        tensor, place, first, end = job
        return place + offset(tensor, first), read_piece(tensor, first, end).tobytes()

    jobs = (
        (tensor, place, *piece) for tensor, place in zip(tensors, places, strict=True) for piece in pieces(tensor.shape)
    )
    for length in write_in_pieces(path, jobs, make):
        done += length
        if time.monotonic() - said > REPORT_EVERY:
            report(f"converted {megabytes(done)} of {megabytes(total)}")
            said = time.monotonic()
