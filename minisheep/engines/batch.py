"""The arrays behind a llama_batch, owned by numpy."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp
import numpy as np

from minisheep.engines.steps import Step


class BatchArrays:
    """Room for `size` tokens: filled at once, and any slice of it is a batch too."""

    def __init__(self, size: int) -> None:
        self.token = np.zeros(size, dtype=np.int32)
        self.pos = np.zeros(size, dtype=np.int32)
        self.n_seq_id = np.ones(size, dtype=np.int32)
        self.seq = np.zeros(size, dtype=np.int32)
        # llama.cpp wants, for each token, a pointer to its sequence ids.
        self.seq_id = np.arange(size, dtype=np.uintp) * self.seq.itemsize + self.seq.ctypes.data
        self.logits = np.zeros(size, dtype=np.int8)
        self._batch = llama_cpp.llama_batch()

    def fill(self, step: Step, *, all_rows: bool = False) -> None:
        """Take over the tokens of a step; output is asked for at its rows, or at every token with `all_rows`."""
        n = len(step.tokens)
        self.token[:n] = step.tokens
        self.pos[:n] = step.positions
        self.seq[:n] = step.sequences
        self.logits[:n] = all_rows
        self.logits[[row.index for row in step.rows]] = 1

    def part(self, start: int, stop: int) -> Any:
        """The llama_batch of the tokens `start` .. `stop`; valid until `part` is called again."""
        batch = self._batch
        batch.n_tokens = stop - start
        for name in ("token", "pos", "n_seq_id", "seq_id", "logits"):
            array = getattr(self, name)
            address = array.ctypes.data + start * array.itemsize
            setattr(batch, name, ctypes.cast(address, type(getattr(batch, name))))
        return batch
