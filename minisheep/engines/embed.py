"""The mean last-layer vector of texts: a second llama.cpp context on a decoder's model.

Its cache is unified, so one forward pass takes texts of any lengths, each attending to itself alone. llama.cpp gives a
vector for each token (LLAMA_POOLING_TYPE_NONE) and the mean is taken here: llama.cpp's own mean covers one forward pass
only, so it would drop all but the last part of a text of several passes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from minisheep.engines import native
from minisheep.engines.scheduler import Step
from minisheep.errors import WorkerError
from minisheep.machine import llama_library

llama_cpp = llama_library.load()


class BatchArrays:
    """The arrays behind a llama_batch of at most `size` tokens, owned by numpy; any slice of them is a batch too."""

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
        """Copy the tokens of a step; its rows get output, with `all_rows` every token."""
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


@dataclass(frozen=True, slots=True)
class Piece:
    """The tokens `start` .. `stop` of the text `key`."""

    key: int
    start: int
    stop: int


def pack(lengths: Sequence[int], *, batch: int, cells: int, texts: int) -> Iterator[list[Piece]]:
    """Batches that hold every token of the texts once, in order; `lengths` are in tokens. Pure.

    A batch has at most `batch` tokens and pieces of at most `texts` texts. A text that does not end in it continues at
    the beginning of the next, where its earlier tokens still take room in the cache: together at most `cells`. Raises
    ValueError for a text that is empty or longer than that.
    """
    if not all(0 < length <= cells for length in lengths):
        raise ValueError(f"texts of {min(lengths)} to {max(lengths)} tokens do not fit {cells}")
    pieces: list[Piece] = []
    room = min(batch, cells)
    for key, length in enumerate(lengths):
        start = 0
        while start < length:
            if room == 0 or len(pieces) == texts:
                yield pieces
                pieces, room = [], min(batch, cells - start)
            stop = min(length, start + room)
            pieces.append(Piece(key, start, stop))
            room -= stop - start
            start = stop
    if pieces:
        yield pieces


TEXTS = 64
"""Texts in one forward pass, which must have room for at least one token of each."""


class Embedder:
    """A context for embeddings on a loaded model, which must outlive it.

    `context` is in tokens: the longest text, and all that the cache holds. `batch` limits the tokens of a forward pass:
    llama.cpp computes logits for each of them, unread, and must have room for these. Raises WorkerError where the
    context does not fit the memory.
    """

    def __init__(self, model: Any, *, context: int, batch: int, threads: int, cache_type: int) -> None:
        self._cells = context
        self._batch = min(context, max(TEXTS, batch))
        self._width: int = llama_cpp.llama_model_n_embd_out(model)
        params = llama_cpp.llama_context_default_params()
        params.embeddings = True
        params.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_NONE
        params.n_seq_max = TEXTS
        params.n_ctx = context
        params.n_batch = params.n_ubatch = self._batch
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO
        params.kv_unified = True
        params.type_k = params.type_v = cache_type
        params.swa_full = True
        params.no_perf = True
        native.forget_log()
        self.context: Any = llama_cpp.llama_init_from_model(model, params) or None
        """The llama_context, or None once it was closed."""
        if self.context is None:
            raise WorkerError(
                f"llama.cpp has no memory for embeddings beside the slots: {native.log_line()}.",
                "Run the same command again with fewer --slots.",
            )
        self._memory = llama_cpp.llama_get_memory(self.context)
        self._arrays = BatchArrays(self._batch)

    def run(self, texts: Sequence[Sequence[int]]) -> Iterator[tuple[int, tuple[float, ...]]]:
        """The index of each text and its mean vector (after the final norm, not normalised), as they finish.

        A text is 1 .. `context` token ids. Raises WorkerError where llama.cpp fails.
        """
        total = np.zeros(self._width)
        for pieces in pack([len(text) for text in texts], batch=self._batch, cells=self._cells, texts=TEXTS):
            rows = self._decode(pieces, texts)
            finished = []
            begin = 0
            for piece in pieces:
                if piece.start == 0:
                    total[:] = 0
                end = begin + piece.stop - piece.start
                total += rows[begin:end].sum(axis=0, dtype=np.float64)
                begin = end
                if piece.stop == len(texts[piece.key]):
                    llama_cpp.llama_memory_seq_rm(self._memory, _sequence(piece), -1, -1)
                    finished.append((piece.key, tuple((total / piece.stop).tolist())))
            yield from finished

    def close(self) -> None:
        """Free the context. May be called twice."""
        if self.context is not None:
            llama_cpp.llama_free(self.context)
            self.context = None

    def _decode(self, pieces: Sequence[Piece], texts: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """The vector of each token, (tokens, width): a view that the next decode overwrites."""
        if self.context is None:
            raise RuntimeError("the engine was closed")
        step = Step("prefill", [])
        for piece in pieces:
            for position in range(piece.start, piece.stop):
                step.add(texts[piece.key][position], position, _sequence(piece))
        n = len(step.tokens)
        self._arrays.fill(step, all_rows=True)
        native.forget_log()
        code = native.decode(self.context, self._arrays.part(0, n))
        if code != 0:
            raise WorkerError(
                f"llama.cpp could not embed a batch of {n} tokens (code {code}): {native.log_line()}.",
                "Run the same command again, with fewer --slots if memory is short.",
            )
        return np.ctypeslib.as_array(llama_cpp.llama_get_embeddings(self.context), shape=(n, self._width))


def _sequence(piece: Piece) -> int:
    # The texts of a batch follow each other, so no two of them get the same sequence.
    return piece.key % TEXTS
