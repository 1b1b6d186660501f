"""A GGUF in another number format, by llama.cpp's own quantiser (llama_model_quantize) in a process of its own."""

from __future__ import annotations

import os
from pathlib import Path

from minisheep.errors import ModelFileError
from minisheep.models import native_child

BITS: dict[str, tuple[str, float]] = {
    "Q8_0": ("MOSTLY_Q8_0", 8.5),
    "Q6_K": ("MOSTLY_Q6_K", 6.6),
    "Q5_K_M": ("MOSTLY_Q5_K_M", 5.7),
    "Q5_K_S": ("MOSTLY_Q5_K_S", 5.5),
    "Q5_1": ("MOSTLY_Q5_1", 6.0),
    "Q5_0": ("MOSTLY_Q5_0", 5.5),
    "Q4_K_M": ("MOSTLY_Q4_K_M", 4.9),
    "Q4_K_S": ("MOSTLY_Q4_K_S", 4.6),
    "Q4_1": ("MOSTLY_Q4_1", 5.0),
    "Q4_0": ("MOSTLY_Q4_0", 4.6),
    "IQ4_NL": ("MOSTLY_IQ4_NL", 4.6),
    "IQ4_XS": ("MOSTLY_IQ4_XS", 4.4),
    "Q3_K_L": ("MOSTLY_Q3_K_L", 4.3),
    "Q3_K_M": ("MOSTLY_Q3_K_M", 4.0),
    "Q3_K_S": ("MOSTLY_Q3_K_S", 3.5),
    "Q2_K": ("MOSTLY_Q2_K", 3.2),
}
"""By name: llama.cpp's constant (LLAMA_FTYPE_...) and about how many bits a weight takes in a large model. Formats that
need an importance matrix are left out."""


def quantise(source: Path, output: Path, name: str) -> None:
    """Write the GGUF `source` as `output` in the format `name` of `BITS`; `output` is not yet durable.

    Raises `errors.ModelFileError` where llama.cpp refuses or dies; nothing of `output` remains then.
    """
    try:
        native_child.run(__name__, [str(source), str(output), name], f"Quantising {source.name} to {name}")
    except BaseException:
        output.unlink(missing_ok=True)
        raise


def _work(arguments: list[str]) -> None:
    import ctypes

    import llama_cpp

    from minisheep.engines import native
    from minisheep.models.gguf_header import read_header

    source, output, name = Path(arguments[0]), Path(arguments[1]), arguments[2]
    read_header(source)
    native.start()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_{BITS[name][0]}")
    code = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(output), ctypes.byref(params))
    if code != 0:
        raise ModelFileError(
            f"llama.cpp cannot quantise to {name}: {native.log_line()}.", "Choose another --type, such as Q8_0."
        )
    read_header(output)  # a short write by the C++ side must not become the model


if __name__ == "__main__":
    native_child.main(_work)
