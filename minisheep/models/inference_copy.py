"""A copy of a model in a format that the CPU multiplies fast, made once and kept beside the original in the cache.

Only for inference on a CPU, and never inside the loop: training and export go by the original.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from minisheep.errors import DiskError, ModelFileError
from minisheep.models import cache
from minisheep.models.facts import parameter_count
from minisheep.models.gguf_header import read_header

FORMATS = {"q8_0": ("LLAMA_FTYPE_MOSTLY_Q8_0", 34 / 32), "bf16": ("LLAMA_FTYPE_MOSTLY_BF16", 2.0)}
"""llama.cpp's name of each format that copies are made in, and its bytes for each weight."""


def requantise(source: Path, output: Path, format: str = "q8_0") -> None:
    """Write `source` in a format of `FORMATS` to `output`, which appears whole or not at all (llama_model_quantize).

    Imports llama_cpp: call it in a worker. Raises ModelFileError if `source` cannot be converted and DiskError if
    there is no space. About a second for 135M weights.
    """
    header = read_header(source)
    file_type, weight_bytes = FORMATS[format]
    needed = int(parameter_count(header) * weight_bytes) + 2**26
    with cache.disk_errors("The copy for inference cannot be written"):
        output.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(output.parent).free
    if free < needed:
        raise DiskError(
            f"The copy for inference needs {cache.megabytes(needed)} in {output.parent}, and only "
            f"{cache.megabytes(free)} are free.",
            "Free some space, or set MINISHEEP_CACHE to a folder on a larger disk.",
        )

    import ctypes

    import llama_cpp

    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, file_type)
    params.allow_requantize = True
    try:
        code = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(temporary), ctypes.byref(params))
        if code != 0:
            raise ModelFileError(
                f"llama.cpp cannot convert {source} to {format.upper()} (code {code}).",
                "Pass a GGUF in Q8_0 or Q4_K_M with --gguf.",
            )
        read_header(temporary)  # a short write by the C++ side must not become the copy
        with cache.disk_errors("The copy for inference cannot be written"):
            cache.publish(temporary, output)
    finally:
        with suppress(OSError):
            temporary.unlink()
