"""The whole conversion: read, plan, check the room, write, check the tokens, quantise, publish."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from minisheep.errors import UsageError
from minisheep.machine.files import check_room, megabytes, whole_file
from minisheep.models.cache import Report, disk_errors
from minisheep.models.quantise import FORMATS

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
    """The number format that is meant: one of `FLOATS` or of `quantise.FORMATS`. Raises UsageError listing both."""
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
    from minisheep.convert.architectures import read_design
    from minisheep.convert.check import check_tokens
    from minisheep.convert.quantise import quantise_apart
    from minisheep.convert.source import read_source
    from minisheep.convert.tensors import plan
    from minisheep.convert.tokenizer import read_vocabulary
    from minisheep.convert.write import FILE_TYPES, write_gguf
    from minisheep.formats.safetensors_file import list_tensors
    from minisheep.models.gguf_header import read_header

    if output.exists():
        raise UsageError(f"{output} is there already.", "Give another --out FILE.gguf, or delete it.")
    source = read_source(folder)
    design = read_design(source.config)
    stored = list_tensors(folder)
    dtype = type.upper() if type in FLOATS else _own_format([tensor.dtype for tensor in stored.values()])
    tensors = plan(design, stored, dtype)
    vocabulary = read_vocabulary(source, tensors[0].shape[0])
    for note in (*design.notes, *vocabulary.notes):
        report(note)
    parameters = sum(prod(tensor.shape) for tensor in tensors)
    size = sum(tensor.bytes for tensor in tensors)
    need = size if type in FLOATS else size + int(parameters * FORMATS[type][1])
    check_room(output, need + _RESERVE, "The conversion needs", "Make room, or give --out FILE.gguf on a larger disk.")
    with disk_errors(f"{output} cannot be written"):
        output.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(output) as finished:
            floats = finished if type in FLOATS else finished.with_suffix(".float.tmp")
            try:
                report(f"converting {folder.name} to {dtype} ({megabytes(size)})")
                write_gguf(floats, title, design, vocabulary, source.chat_template, tensors, FILE_TYPES[dtype], report)
                read_header(floats)
                check_tokens(floats, folder)
                if type not in FLOATS:
                    report(f"quantising to {type}")
                    quantise_apart(floats, finished, type)
            finally:
                if floats != finished:
                    floats.unlink(missing_ok=True)
    return Converted(output, design.architecture, parameters, output.stat().st_size)


def _own_format(dtypes: Sequence[str]) -> str:
    """The format in which nothing is lost on the way to the quantiser: that of most tensors."""
    return max(sorted(set(dtypes)), key=list(dtypes).count)
