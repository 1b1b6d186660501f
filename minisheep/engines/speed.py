"""How fast this machine decodes a model, by trying: for choosing a number format, not for boasting."""

from __future__ import annotations

import time
from pathlib import Path

from minisheep.engines.decode import Decoder
from minisheep.engines.steps import Row, Step

SEQUENCES = 16
PROMPT = 16
STEPS = 6


def decode_rate(gguf: Path, *, threads: int) -> float:
    """Tokens a second of `SEQUENCES` sequences decoded together, in one short try. Raises what `Decoder` raises."""
    decoder = Decoder(gguf, slots=SEQUENCES, context=256, threads=threads, gpu_layers=0)
    try:
        _run(decoder, 0, PROMPT)
        begun = time.perf_counter()
        for step in range(STEPS):
            _run(decoder, PROMPT + step, 1)
        return SEQUENCES * STEPS / (time.perf_counter() - begun)
    finally:
        decoder.close()


def _run(decoder: Decoder, start: int, tokens: int) -> None:
    """Compute `tokens` more tokens of every sequence, with the last one's logits; which tokens is no matter."""
    step = Step("decode", [])
    for sequence in range(1, SEQUENCES + 1):
        for position in range(start, start + tokens):
            step.add((sequence * 31 + position * 7) % decoder.vocabulary.size, position, sequence)
        step.rows.append(Row(len(step.tokens) - 1, sequence, position))
    for _row, index in decoder.run(step):
        decoder.logits(index)
