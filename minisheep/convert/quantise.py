"""`models.quantise` in a process of its own, so that a crash of native code is one line."""

from __future__ import annotations

from pathlib import Path

from minisheep.models import native_child


def quantise_apart(source: Path, output: Path, format: str) -> None:
    """Write the GGUF `source` as `output` in a format of `models.quantise.FORMATS`; `output` is not yet durable.

    Raises `errors.ModelFileError` where llama.cpp refuses or dies; nothing of `output` remains then.
    """
    try:
        native_child.run(__name__, [str(source), str(output), format], f"Quantising {source.name} to {format}")
    except BaseException:
        output.unlink(missing_ok=True)
        raise


def _work(arguments: list[str]) -> None:
    from minisheep.engines import native
    from minisheep.models.gguf_header import read_header
    from minisheep.models.quantise import quantise

    source, output, format = Path(arguments[0]), Path(arguments[1]), arguments[2]
    read_header(source)
    native.start()
    quantise(source, output, format)


if __name__ == "__main__":
    native_child.main(_work)
