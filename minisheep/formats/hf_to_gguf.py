"""A folder of weights converted to a GGUF: read, plan, check the room, write, check the tokens, quantise, publish. And
the parts of a split GGUF joined (`join_parts`).

Tensors are read in pieces of a few million numbers, so that a model of any size takes little memory; the `gguf` package
writes the header and the vocabulary.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minisheep.errors import ModelFileError, UnsupportedModelError, UsageError
from minisheep.formats import safetensors_file, tokenizer
from minisheep.formats.gguf_header import padded, read_header
from minisheep.formats.gguf_to_hf import hf_names
from minisheep.formats.hf_config import AGAIN, Design, Value, read_design, read_source
from minisheep.formats.model_facts import parameter_count
from minisheep.formats.quantise import AS_IT_IS, FORMATS, quantise_in_worker
from minisheep.formats.safetensors_file import EMBEDDING, HEAD, Stored, pieces, row_count, tied_in_truth
from minisheep.formats.tokenizer import GgufVocabulary
from minisheep.models.cache import REPORT_EVERY, Report, disk_errors
from minisheep.models.fetch import part_name
from minisheep.rules.plain_text import megabytes
from minisheep.run.files import check_room, whole_file, write_in_pieces

FLOATS = ("f16", "bf16", "f32")
_RESERVE = 2**28
"""Bytes that stay free."""


@dataclass(frozen=True, slots=True)
class Converted:
    """What was written."""

    path: Path
    architecture: str
    parameters: int
    bytes: int


def type_name(text: str) -> str:
    """The number format that `text` names, of `FLOATS` or `formats.quantise.FORMATS`. Raises UsageError with both."""
    if text.lower() in FLOATS:
        return text.lower()
    if text.upper() in FORMATS:
        return text.upper()
    known = [*FLOATS, *(name for name in FORMATS if name.lower() not in FLOATS)]
    raise UsageError(f"There is no number format {text!r}.", f"Use one of {', '.join(known)}.")


def convert(folder: Path, output: Path, type: str, title: str, report: Report) -> Converted:
    """Write the model in `folder` as the GGUF `output`, which appears whole or not at all.

    `type` is as `type_name` returns it; `report` gets plain lines. Quantised formats are made from a float GGUF in the
    weights' own format, written beside `output` and deleted. Takes little memory for a float format; llama.cpp's
    quantiser holds a tensor or two. Raises `errors.UnsupportedModelError`, `errors.ModelFileError`, `errors.DiskError`,
    or `errors.UsageError` if `output` exists.
    """
    _check_free(output)
    source = read_source(folder)
    design = read_design(source.config)
    stored = safetensors_file.list_tensors(folder)
    dtypes = [tensor.dtype for tensor in stored.values()]
    # Nothing is lost on the way to the quantiser in the format of most tensors.
    dtype = type.upper() if type in FLOATS else max(sorted(set(dtypes)), key=dtypes.count)
    tensors = plan(design, stored, dtype)
    vocabulary = tokenizer.read_vocabulary(source, tensors[0].shape[0])
    for note in (*design.notes, *vocabulary.notes):
        report(note)
    if design.tied and any(tensor.name == "output.weight" for tensor in tensors):
        report("config.json ties the output to the embeddings, but another lm_head is stored: it is converted, too.")
    parameters = sum(prod(tensor.shape) for tensor in tensors)
    size = sum(tensor.bytes for tensor in tensors)
    need = size if type in FLOATS else size + int(parameters * FORMATS[type][1])
    check_room(output, need + _RESERVE, "The conversion needs", _ROOM)
    with disk_errors(f"{output} cannot be written"):
        output.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(output) as finished:
            floats = finished if type in FLOATS else finished.with_suffix(".float.tmp")
            try:
                report(f"converting {folder.name} to {dtype} ({megabytes(size)})")
                write_gguf(floats, title, design, vocabulary, source.chat_template, tensors, FILE_TYPES[dtype], report)
                read_header(floats)
                tokenizer.check_tokens(floats, folder)
                if type not in FLOATS:
                    report(f"quantising to {type}")
                    quantise_in_worker(floats, finished, type)
            finally:
                if floats != finished:
                    floats.unlink(missing_ok=True)
    return Converted(output, design.architecture, parameters, output.stat().st_size)


def join_parts(part: Path, output: Path, report: Report) -> Converted:
    """Write the split model that `part` belongs to as the one GGUF `output`, which appears whole or not at all.

    Its numbers stay as they are. Raises `errors.ModelFileError` where a part is missing or broken, `errors.DiskError`,
    and `errors.UsageError` for a GGUF that is whole or if `output` exists.
    """
    _check_free(output)
    count = read_header(part, part=True).metadata.get("split.count", 1)
    if not isinstance(count, int) or not 1 < count < 100_000:  # 0 after llama.cpp's own tool joined them
        raise UsageError(f"{part} is a GGUF already.", "Give a folder with safetensors, or a hub id.")
    paths = [Path(part_name(str(part), number, count)) for number in range(1, count + 1)]
    missing = [path.name for path in paths if not path.is_file()]
    if missing or len(set(paths)) < count:  # all one path where it has another name than llama.cpp reads
        named = ", ".join(missing[:3] or ["other by a part's name"]) + " ..." * (len(missing) > 3)
        raise ModelFileError(
            f"{part} is one of {count} parts, and beside it there is no {named}.",
            f"Put all parts into one folder, named as they came: {part_name('NAME-00001-of-00001.gguf', 1, count)} ...",
        )
    headers = [read_header(path, part=True) for path in paths]
    for number, (path, header) in enumerate(zip(paths, headers, strict=True)):
        if (header.metadata.get("split.no"), header.metadata.get("split.count")) != (number, count):
            raise ModelFileError(f"{path} is not part {number + 1} of {count}, as its name says.", "Fetch it again.")
    names = [tensor.name for header in headers for tensor in header.tensors]
    if {header.metadata.get("split.tensors.count", len(names)) for header in headers} != {len(set(names))}:
        raise ModelFileError(
            f"The parts beside {part} are not of one model: not all {len(set(names))} tensors belong together.",
            "Fetch all parts again, from one place.",
        )
    size = sum(header.file_bytes for header in headers)
    check_room(output, size + _RESERVE, "The joined model needs", _ROOM)
    report(f"joining {count} parts ({megabytes(size)})")
    with disk_errors(f"{output} cannot be written"):
        output.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(output) as finished:
            finished.touch()  # so that a folder's fault is named by its own words, and not by llama.cpp's number
            quantise_in_worker(paths[0], finished, AS_IT_IS)
    header = read_header(output)
    return Converted(output, header.architecture, parameter_count(header), header.file_bytes)


_ROOM = "Make room, or give --out FILE.gguf on a larger disk."


def _check_free(output: Path) -> None:
    if output.exists():
        raise UsageError(f"{output} exists already.", "Give another --out FILE.gguf, or delete it.")


_LEFT_OUT = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")
"""The part of Gemma 3 that sees images."""
_PREFIXES = (("language_model.model.", "model."), ("model.language_model.", "model."), ("language_model.lm_", "lm_"))
"""The names of the language model inside it, and those of one alone."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor to be written."""

    name: str
    """As llama.cpp calls it."""
    shape: tuple[int, ...]
    """As torch counts: [out, in], or [width]."""
    dtype: str
    """F32, F16 or BF16, in the GGUF."""
    source: Stored | tuple[float, ...]
    """The place of its numbers, or the numbers themselves."""
    heads: int = 0
    """Where above 0, the rows of each head go from halves to pairs (`pairs`)."""
    plus_one: bool = False
    """For Gemma's norms, to which llama.cpp adds no 1."""

    @property
    def bytes(self) -> int:
        return prod(self.shape) * safetensors_file.SIZES[self.dtype]


def plan(design: Design, stored: Mapping[str, Stored], dtype: str) -> list[Tensor]:
    """All tensors of the GGUF, matrices as `dtype`, vectors as F32 (llama.cpp computes norms and biases in that).

    Raises `errors.UnsupportedModelError` naming a tensor that has no place in the architecture,
    `errors.ModelFileError` naming one that is missing or of a wrong shape.
    """
    here = {
        plain_name(name): tensor
        for name, tensor in stored.items()
        # Old files store the frequencies that config.json gives.
        if not name.startswith(_LEFT_OUT) and not name.endswith("rotary_emb.inv_freq")
    }
    names = hf_names(design.architecture, design.layers)
    if design.tied and EMBEDDING not in here and HEAD in here:
        here[EMBEDDING] = here.pop(HEAD)  # either of two that are tied may be the one that was saved
    if tied_in_truth(here, tied=design.tied):
        names.pop("output.weight")
        here.pop(HEAD, None)
    unknown = sorted(here.keys() - set(names.values()))
    if unknown:
        raise UnsupportedModelError(
            f"The weights hold {unknown[0]}, which has no place in a GGUF of the architecture {design.architecture}"
            + (f" (nor have {len(unknown) - 1} more)." if len(unknown) > 1 else "."),
            "Give the folder of the original weights, or pass a GGUF of the model with --gguf FILE.",
        )
    missing = sorted(set(names.values()) - here.keys())
    if missing:
        raise ModelFileError(f"The weights lack {missing[0]}, which config.json requires.", AGAIN)
    tensors = [_tensor(design, name, here[theirs], dtype) for name, theirs in names.items()]
    _check_shapes(design, {tensor.name: tensor.shape for tensor in tensors})
    if design.divisors:
        tensors.append(Tensor("rope_freqs.weight", (len(design.divisors),), "F32", design.divisors))
    return tensors


def plain_name(name: str) -> str:
    """A tensor's name as that of a language model alone."""
    for prefix, alone in _PREFIXES:
        if name.startswith(prefix):
            return alone + name.removeprefix(prefix)
    return name


def _tensor(design: Design, name: str, source: Stored, dtype: str) -> Tensor:
    part = name.split(".")[-2]
    heads = {"attn_q": design.heads, "attn_k": design.kv_heads}.get(part, 0) if design.architecture == "llama" else 0
    matrix = len(source.shape) > 1
    gemma_norm = design.architecture == "gemma3" and part.endswith("norm")
    return Tensor(name, source.shape, dtype if matrix else "F32", source, heads, gemma_norm)


def _check_shapes(design: Design, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ModelFileError where a tensor's shape is not that of config.json."""

    def fact(name: str) -> int:
        return int(design.keys[f"{design.architecture}.{name}"])

    width, inner, head = fact("embedding_length"), fact("feed_forward_length"), fact("attention.key_length")
    query, value = design.heads * head, design.kv_heads * head
    rows = design.vocabulary or shapes["token_embd.weight"][0]
    expected = {
        "token_embd": (rows, width), "output": (rows, width), "attn_q": (query, width),
        "attn_k": (value, width), "attn_v": (value, width), "attn_output": (width, query), "ffn_gate": (inner, width),
        "ffn_up": (inner, width), "ffn_down": (width, inner), "attn_q_norm": (head,), "attn_k_norm": (head,),
    }  # fmt: skip
    for name, shape in shapes.items():
        part = name.split(".")[-2]
        wanted = expected.get(part, (width,))
        if shape != (wanted[:1] if name.endswith(".bias") else wanted):
            raise ModelFileError(f"The weights hold {name} as {shape}, but config.json says {wanted}.", AGAIN)


def offset(tensor: Tensor, first: int) -> int:
    """Bytes from a tensor's start in the GGUF to its row `first`."""
    return first * (tensor.bytes // row_count(tensor.shape))


def read_piece(tensor: Tensor, first: int, end: int) -> NDArray[Any]:
    """Rows `first` to `end` of a tensor as its bytes in the GGUF: float32, float16, or the bits of bfloat16 (uint16).

    Raises `errors.UnsupportedModelError` for numbers that float16 cannot hold, `errors.ModelFileError` for NaN.
    """
    if isinstance(tensor.source, tuple):
        return np.array(tensor.source, np.float32)
    wanted = pairs(tensor.shape[0], tensor.heads)[first:end] if tensor.heads else slice(first, end)
    part = safetensors_file.read_rows(tensor.source, wanted)
    values = safetensors_file.as_float32(part)
    if not np.isfinite(values).all():
        raise ModelFileError(f"{tensor.source.name} holds numbers that are infinite or none (NaN).", AGAIN)
    if tensor.dtype == tensor.source.dtype and not tensor.plus_one:
        return part
    made = safetensors_file.from_float32(values + np.float32(1) if tensor.plus_one else values, tensor.dtype)
    if tensor.dtype == "F16" and not np.isfinite(made).all():
        raise UnsupportedModelError(
            f"{tensor.name} has numbers that float16 cannot hold.", "Convert with --type bf16 instead."
        )
    return made


def pairs(rows: int, heads: int) -> NDArray[np.intp]:
    """For each row of a q or k matrix in llama.cpp's order, its row in transformers.

    transformers rotates the first half of a head against the second, llama.cpp neighbours (`permute` in llama.cpp's
    conversion of LlamaModel); `formats.gguf_to_hf.halves` is the inverse.
    """
    return np.arange(rows).reshape(heads, 2, rows // heads // 2).swapaxes(1, 2).reshape(rows)


FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32}
"""enum llama_ftype of a file whose matrices are of that format."""
_ALIGNMENT = 32
_QUANTISATION_VERSION = 2  # GGML_QNT_VERSION


def write_gguf(
    path: Path,
    title: str,
    design: Design,
    vocabulary: GgufVocabulary,
    chat_template: str,
    tensors: Sequence[Tensor],
    file_type: int,
    report: Report,
) -> None:
    """Write a whole model to `path`, which must not exist; the caller makes it durable and gives it its name.

    Raises `errors.MinisheepError` as `read_piece` does, OSError where the disk refuses.
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
    path: Path, architecture: str, keys: Mapping[str, Value], vocabulary: GgufVocabulary, tensors: Sequence[Tensor]
) -> int:
    """Write everything but the numbers; returns where these begin, in bytes."""
    import gguf

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
    total, done, reported = sum(tensor.bytes for tensor in tensors), 0, time.monotonic()
    os.truncate(path, start)  # the last tensor is padded too

    def make(job: tuple[Tensor, int, int, int]) -> tuple[int, bytes]:
        tensor, place, first, end = job
        return place + offset(tensor, first), read_piece(tensor, first, end).tobytes()

    jobs = (
        (tensor, place, *piece) for tensor, place in zip(tensors, places, strict=True) for piece in pieces(tensor.shape)
    )
    for length in write_in_pieces(path, jobs, make):
        done += length
        if time.monotonic() - reported > REPORT_EVERY:
            report(f"converted {megabytes(done)} of {megabytes(total)}")
            reported = time.monotonic()
