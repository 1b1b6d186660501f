"""Training weights for a model that exists only as a GGUF: its tensors, dequantised once and kept as bfloat16.

They are exactly what the GGUF holds, quantisation error included, so the adapter is trained on the very model that it
is later loaded onto. Written from header and tensors alone: transformers' own reader of GGUF files decodes the
vocabulary token by token, which training never needs and which took ten times as long as the tensors.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import prod
from pathlib import Path

from minisheep.errors import UnsupportedModelError
from minisheep.events import Emit, Note
from minisheep.formats.safetensors_file import head, pieces, row_count
from minisheep.machine.files import check_room, publish, write_in_pieces, write_json
from minisheep.models.gguf_config import FIX, config_json
from minisheep.models.gguf_header import read_header
from minisheep.models.gguf_weights import Weight, plan_weights, read_piece
from minisheep.trainers.lora_gguf import BaseFacts, read_base


def dequantise(gguf: Path, output: Path, emit: Emit) -> None:
    """Write config.json and bfloat16 safetensors of `gguf` into the folder `output`, which appears whole or not at all.

    Nothing is done if `output` exists. Takes 2 bytes of disk a parameter and little memory. Raises
    `errors.UnsupportedModelError` where the weights would be a slightly different model than the GGUF,
    `errors.ModelFileError` where it cannot be read, `errors.DiskError` where the disk is too small.
    """
    if output.exists():
        return
    base = read_base(gguf)
    refuse_lossy(base)
    need = 2 * sum(map(prod, base.shapes.values())) + 2**28
    check_room(output, need, "Training weights need", "Make room and give the same command again.")
    started = time.monotonic()
    emit(Note(f"Making training weights from {gguf.name} (once for this model)."))
    header = read_header(gguf)
    config, weights = config_json(header), plan_weights(header)
    with publish(output) as folder:
        write_json(folder / "config.json", config)
        _write_safetensors(folder / "model.safetensors", gguf, weights)
    emit(Note(f"Training weights are in {output.name} after {time.monotonic() - started:.0f} s."))


def _write_safetensors(path: Path, gguf: Path, weights: Sequence[Weight]) -> None:
    text, begins = head([(weight.name, weight.shape) for weight in weights], "BF16")
    path.write_bytes(text)

    def make(job: tuple[Weight, int, int, int]) -> tuple[int, bytes]:
        weight, begin, first, end = job
        row = 2 * prod(weight.shape) // row_count(weight.shape)
        return begin + first * row, read_piece(gguf, weight, first, end).tobytes()

    jobs = [
        (weight, begin, *piece) for weight, begin in zip(weights, begins, strict=True) for piece in pieces(weight.shape)
    ]
    for _ in write_in_pieces(path, jobs, make):
        pass


def refuse_lossy(base: BaseFacts) -> None:
    """Raise `errors.UnsupportedModelError` for what the conversion is known to lose: Llama 3's scaled rotary embedding,
    which a GGUF keeps as a tensor and transformers' reader ignores."""
    if "rope_freqs.weight" in base.shapes:
        raise UnsupportedModelError(
            "This GGUF scales its rotary embedding (rope_freqs), which training weights made from it would lose.", FIX
        )
