"""`models.quantise` in a process of its own, so that a crash of native code is one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from minisheep.errors import ModelFileError
from minisheep.events import Emit
from minisheep.machine.worker import WorkerProcess


def quantise_apart(source: Path, output: Path, format: str) -> None:
    """Write the GGUF `source` as `output` in a format of `models.quantise.FORMATS`; `output` is not yet durable.

    Raises `errors.ModelFileError` where llama.cpp refuses or dies; nothing of `output` remains then.
    """
    try:
        with WorkerProcess("minisheep.convert.quantise:do", died=ModelFileError) as worker:
            job = {"phase": "quantise", "source": str(source), "output": str(output), "format": format}
            worker.do(job, f"Quantising {source.name} to {format}")
    except BaseException:
        output.unlink(missing_ok=True)
        raise


def do(job: dict[str, Any], emit: Emit, should_stop: Callable[[], bool]) -> None:
    from minisheep.engines import native
    from minisheep.models.gguf_header import read_header
    from minisheep.models.quantise import quantise

    read_header(Path(job["source"]))
    native.start()
    quantise(Path(job["source"]), Path(job["output"]), job["format"])
