"""Number formats of whole GGUF files, and llama.cpp's conversion from one to another."""

from __future__ import annotations

import os
from pathlib import Path

from minisheep.errors import ModelFileError
from minisheep.models.gguf_header import read_header

FORMATS = {
    "F16": ("LLAMA_FTYPE_MOSTLY_F16", 2.0),
    "BF16": ("LLAMA_FTYPE_MOSTLY_BF16", 2.0),
    "Q8_0": ("LLAMA_FTYPE_MOSTLY_Q8_0", 34 / 32),
    "Q6_K": ("LLAMA_FTYPE_MOSTLY_Q6_K", 0.9),
    "Q5_K_M": ("LLAMA_FTYPE_MOSTLY_Q5_K_M", 0.8),
    "Q4_K_M": ("LLAMA_FTYPE_MOSTLY_Q4_K_M", 0.75),
    "Q4_0": ("LLAMA_FTYPE_MOSTLY_Q4_0", 0.7),
    "Q3_K_M": ("LLAMA_FTYPE_MOSTLY_Q3_K_M", 0.65),
}
"""llama.cpp's name of each format, and at most so many bytes for a weight: small models keep a large share of theirs in
a wider format."""


def quantise(source: Path, output: Path, format: str) -> None:
    """Write `source` in a format of `FORMATS` to `output` (llama_model_quantize), which is checked and not yet synced.

    Imports llama_cpp: call it in a worker. Raises `errors.ModelFileError` where llama.cpp refuses or the result is
    broken; what there is of `output` is then for the caller to delete.
    """
    import ctypes

    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, FORMATS[format][0])
    params.allow_requantize = True
    code = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(output), ctypes.byref(params))
    if code != 0:
        raise ModelFileError(
            f"llama.cpp cannot convert {source} to {format} (code {code}).",
            "Pass a GGUF in Q8_0 or Q4_K_M with --gguf.",
        )
    read_header(output)  # a short write by the C++ side must not become the copy
