"""Number formats of whole GGUF files: llama.cpp's conversion, the copy for a CPU, and the choice of its format.

A model in a format without a fast kernel gets a copy in one that the CPU multiplies fast, made once, kept beside the
original in the cache, and used for inference on a CPU only: training and export use the original. Q8_0 is a good choice
everywhere and loses next to nothing; a processor that multiplies bfloat16 may be faster with that as long as the model
is small, since batched decoding is then bound by arithmetic and not by reading weights. No rule predicts which, so each
machine tries once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from minisheep.errors import MinisheepError, ModelFileError
from minisheep.formats.gguf_header import read_header
from minisheep.formats.model_facts import parameter_count
from minisheep.machine import cpu, llama_library
from minisheep.machine.worker import WorkerProcess
from minisheep.models import cache
from minisheep.run.events import Emit
from minisheep.run.files import check_room, whole_file, write_json

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
"""llama.cpp's name of each format, and the most bytes for a weight: small models keep a large share in a wider
format."""
AS_IT_IS = "one file"
"""In place of a format: every tensor as it is, those of all parts of a split model together."""


def quantise(source: Path, output: Path, format: str) -> None:
    """Write `source` in a format of `FORMATS`, or `AS_IT_IS`, to `output` (llama_model_quantize), which is checked and
    not yet synced.

    Imports llama_cpp: call it in a worker. Raises `errors.ModelFileError` where llama.cpp refuses or the result is
    broken; the caller then deletes `output`.
    """
    import ctypes

    llama_cpp = llama_library.load()
    params = llama_cpp.llama_model_quantize_default_params()
    if format == AS_IT_IS:
        params.only_copy = True
    else:
        params.ftype, params.allow_requantize = getattr(llama_cpp, FORMATS[format][0]), True
    code = llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(output), ctypes.byref(params))
    if code != 0:
        raise ModelFileError(
            f"llama.cpp cannot write {source} as {format} (code {code}).",
            "Pass a GGUF in Q8_0 or Q4_K_M with --gguf.",
        )
    read_header(output)  # a short write by the C++ side must not become the copy


def requantise(source: Path, output: Path, format: str = "q8_0") -> None:
    """Write `source` in a format of `formats.quantise.FORMATS`, in small letters, to `output`, which appears whole or
    not at all.

    Imports llama_cpp: call it in a worker. Raises ModelFileError if `source` cannot be converted and DiskError if
    there is no space. Takes about a second for 135M weights.
    """
    header = read_header(source)
    weight_bytes = FORMATS[format.upper()][1]
    needed = parameter_count(header) * weight_bytes + 2**26
    fix = "Free some space, or set MINISHEEP_CACHE to a folder on a larger disk."
    with cache.disk_errors("The copy for inference cannot be written"):
        check_room(output, needed, "The copy for inference needs", fix)
        output.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(output) as temporary:
            quantise(source, temporary, format.upper())


DEFAULT = "q8_0"
BF16_PARAMETERS = 1_000_000_000
"""Above this, reading twice the bytes costs more than any arithmetic saves."""
TRIES = 2
"""Of each format, in turns; the best counts, since other work on the machine can only make a try slower."""
WORTH = 1.05
"""A larger format must be faster by this factor: it takes more memory and disk."""


def candidates(flags: frozenset[str], parameters: int) -> tuple[str, ...]:
    """The formats to try on a CPU with these flags (`machine.cpu`), the default first."""
    if parameters <= BF16_PARAMETERS and cpu.multiplies_bfloat16(flags):
        return (DEFAULT, "bf16")
    return (DEFAULT,)


def fastest(rates: Mapping[str, float]) -> str:
    """The format to use, by tokens a second: the default unless another is clearly faster."""
    best = max(rates, key=lambda name: rates[name])
    return best if rates[best] > WORTH * rates.get(DEFAULT, 0.0) else DEFAULT


def choose(
    formats: tuple[str, ...],
    make: Callable[[str], Path],
    rate: Callable[[Path], float],
    record: Path,
    machine: str,
    on_progress: Callable[[str], None],
) -> tuple[str, dict[str, float]]:
    """The format to use and the measured tokens a second of each, from `record` if it knows this `machine`.

    `make` gives the copy in a format, `rate` measures it, in turns, so that a busy minute does not decide;
    `on_progress` gets the result. Slower copies that were made for this are deleted; one that was there before may be
    what another number of threads chose, and a run works with it.
    """
    if len(formats) == 1:
        return formats[0], {}
    if set(rates := recorded(record).get(machine, {})) == set(formats):
        return fastest(rates), rates
    # Two runs that begin at once would choose by chance, and each delete what the other chose.
    with cache.lock(record.stem, on_progress):
        known = recorded(record)
        if set(rates := known.get(machine, {})) == set(formats):
            return fastest(rates), rates
        before = set(record.parent.glob("*"))
        copies = {name: make(name) for name in formats}
        rates = dict.fromkeys(formats, 0.0)
        try:
            for _ in range(TRIES):
                for name, copy in copies.items():
                    rates[name] = max(rates[name], rate(copy))
        except MinisheepError as error:
            on_progress(f"This machine could not compare the formats ({error.message}), so {DEFAULT.upper()} is used.")
            return DEFAULT, {}
        chosen = fastest(rates)
        speeds = ", ".join(f"{name.upper()} {rate:.0f}" for name, rate in rates.items())
        on_progress(f"Tokens/s of a short try on this machine: {speeds}; {chosen.upper()} is used from now on.")
        write_json(record, known | {machine: {name: round(rate, 1) for name, rate in rates.items()}})
        for name, copy in copies.items():
            if name != chosen and copy not in before:
                copy.unlink(missing_ok=True)
        return chosen, rates


def recorded(record: Path) -> dict[str, dict[str, float]]:
    """Measured tokens a second of each format, by machine with its threads; empty where nothing can be read."""
    try:
        data = json.loads(record.read_text(encoding="utf-8"))
        return {str(machine): {str(n): float(rate) for n, rate in rates.items()} for machine, rates in data.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def quantise_in_worker(source: Path, output: Path, format: str) -> None:
    """`quantise` in a process of its own, so that a crash of native code is one line.

    Raises `errors.ModelFileError` where llama.cpp refuses or dies; nothing of `output` remains then.
    """
    try:
        with WorkerProcess("minisheep.formats.quantise:do", died=ModelFileError) as worker:
            job = {"phase": "quantise", "source": str(source), "output": str(output), "format": format}
            worker.do(job, f"Writing {source.name} as {format}")
    except BaseException:
        output.unlink(missing_ok=True)
        raise


def do(job: dict[str, Any], emit: Emit, should_stop: Callable[[], bool]) -> None:
    from minisheep.engines import native

    read_header(Path(job["source"]), part=job["format"] == AS_IT_IS)
    native.start()
    quantise(Path(job["source"]), Path(job["output"]), job["format"])
