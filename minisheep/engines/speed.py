"""How fast this machine decodes a model, by trying: for choosing a number format, not for boasting."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from minisheep.engines.decode import Decoder
from minisheep.engines.steps import Row, Step

SEQUENCES = 16
PROMPT = 16
STEPS = 6


def decode_rate(gguf: Path, *, threads: int, repeats: int = 2, clock: Callable[[], float] = time.perf_counter) -> float:
    """Tokens a second of `SEQUENCES` sequences decoded together, the best of `repeats` short tries: whatever else the
    machine does can only make a try slower.

    Raises what `Decoder` raises.
    """
    decoder = Decoder(gguf, slots=SEQUENCES, context=256, threads=threads, gpu_layers=0)
    try:
        best = 0.0
        for _ in range(repeats):
            decoder.clear()
            _run(decoder, 0, PROMPT)
            begun = clock()
            for step in range(STEPS):
                _run(decoder, PROMPT + step, 1)
            best = max(best, SEQUENCES * STEPS / (clock() - begun))
        return best
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
