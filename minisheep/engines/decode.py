"""Decodes with llama.cpp: model, context, KV cache, logits and adapters.

Split KV (``kv_unified=False``): each of the `slots + 1` sequences has a stream of `context` tokens of its own; sequence
0 is the shared prefix. One thread owns a `Decoder`.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from minisheep.engines import budget, native
from minisheep.engines.embed import BatchArrays, Embedder
from minisheep.engines.native import Vocabulary
from minisheep.engines.sampling import finite
from minisheep.engines.scheduler import PREFIX_SEQUENCE, Copy, Free, LogitRow, Step
from minisheep.errors import UnsupportedModelError, UsageError, WorkerError
from minisheep.machine import cpu, llama_library

llama_cpp = llama_library.load()

Logits = npt.NDArray[np.float32]

MOST_SLOTS = 255
"""LLAMA_MAX_SEQ less the sequence of the shared prefix."""
BATCH = 2048
"""Tokens of one llama_decode."""
NO_SLOT, NO_MEMORY = 1, -2
"""Codes of llama_decode: the KV cache has no room for the batch; there is no memory to compute it."""

FULL = ("out of memory", "failed to allocate", "unable to allocate", "alloc_tensor_range")
"""Parts of what llama.cpp says where memory is full."""
FULL_FIX = "Lower --slots or --context, or close other programs, and give the same command again."


class OutOfRoomError(Exception):
    """llama.cpp has no memory for a batch, not even for parts of it: fewer sequences may still fit."""


class Decoder:
    """A model with its context.

    With `slots` 0 it takes the number that `budget` gives, and one less until the context can be made; the attribute
    `slots` is the result. `offload` says that the cache will lie on a GPU, where room is left for an adapter of
    `adapter_rank`; `kv_type` is as for `budget.cache_type`.
    Raises ModelFileError or UnsupportedModelError for the file, UsageError where the context does not fit the memory.
    """

    def __init__(
        self,
        gguf: Path,
        *,
        slots: int,
        context: int,
        threads: int,
        gpu_layers: int,
        offload: bool = False,
        kv_type: str = "auto",
        adapter_rank: int = 0,
        slot_share: float = 1.0,
    ) -> None:
        if not 0 <= slots <= MOST_SLOTS:
            raise UsageError(
                f"llama.cpp cannot run {slots} slots: it has 1 to {MOST_SLOTS}.", "Set another number with --slots."
            )
        self._model: Any = native.load_model(gguf, gpu_layers=gpu_layers)
        # Read now: the log is forgotten when the context is made.
        self.offloaded = native.offloaded(native.log_lines())
        """Layers on the GPU and layers in all, as llama.cpp told while it loaded; None where it did not."""
        self._context: Any = None
        self._adapter: Any = None
        self._embedder: Embedder | None = None
        self._threads = threads
        bfloat16 = cpu.multiplies_bfloat16(cpu.flags(cpu.cpuinfo()))
        self._cache_type = budget.cache_type(kv_type, offload=offload, bfloat16=bfloat16)
        try:
            self.vocabulary = Vocabulary(self._model)
        except BaseException:
            llama_cpp.llama_model_free(self._model)
            raise
        try:
            trained = llama_cpp.llama_model_n_ctx_train(self._model)
            self._per_sequence = per_sequence = budget.sequence_tokens(context, trained)
            fitting = self._fitting(slots, per_sequence, offload=offload, threads=threads, rank=adapter_rank)
            self._make_context(max(1, int(fitting * slot_share)), shrink=slots == 0)
        except BaseException:
            self.close()
            raise
        self.context: int = llama_cpp.llama_n_ctx_seq(self._context)
        """Tokens that one sequence can hold."""
        self.evaluated = 0
        """Tokens computed so far."""
        self._arrays = BatchArrays(BATCH)
        self._scratch: Logits = np.empty(self.vocabulary.size, dtype=np.float32)

    @property
    def description(self) -> str:
        """The model as llama.cpp names it: architecture, size and quantisation."""
        buffer = ctypes.create_string_buffer(256)
        llama_cpp.llama_model_desc(self._model, buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    def apply(self, operations: Sequence[Copy | Free]) -> None:
        """Copy and empty sequences, in order. llama.cpp moves the cells of a copied stream at the next decode."""
        for operation in operations:
            if isinstance(operation, Free):
                llama_cpp.llama_memory_seq_rm(self._memory, operation.sequence, -1, -1)
            else:
                llama_cpp.llama_memory_seq_cp(self._memory, operation.source, operation.target, -1, -1)

    def clear(self, *, all_sequences: bool = False) -> None:
        """Empty the sequences; the one of the shared prefix only with `all_sequences`."""
        if all_sequences:
            llama_cpp.llama_memory_clear(self._memory, False)
        else:
            self.apply([Free(sequence) for sequence in range(1, self.slots + 1)])

    def keep(self, tokens: int) -> int:
        """Put the first `tokens` of sequence 1 in the place of the shared prefix; returns how many are there."""
        held = min(tokens, llama_cpp.llama_memory_seq_pos_max(self._memory, 1) + 1)
        self.apply([Free(PREFIX_SEQUENCE), Copy(1, PREFIX_SEQUENCE)])
        return self.cut(held)

    def cut(self, tokens: int) -> int:
        """Leave of the shared prefix its first `tokens`, or nothing where a model's memory cannot go back; returns how
        many are left."""
        if tokens > 0 and llama_cpp.llama_memory_seq_rm(self._memory, PREFIX_SEQUENCE, tokens, -1):
            return tokens
        self.apply([Free(PREFIX_SEQUENCE)])
        return 0

    def run(self, step: Step) -> Iterator[tuple[LogitRow, int]]:
        """Apply and decode a step; yield each of its rows with the index that `logits` takes.

        Read a row at once: the next part of the batch overwrites it. Where llama.cpp finds no room for a batch, its
        halves are decoded one after the other. Raises OutOfRoomError where even one token does not fit or memory for
        the computation is missing, and WorkerError where the decode fails.
        """
        for part in self.parts(step):
            yield from part

    def parts(self, step: Step) -> Iterator[list[tuple[LogitRow, int]]]:
        """As `run`, but the rows together that can be read before the next part of the batch overwrites them."""
        n = len(step.tokens)
        # llama.cpp would abort the process.
        if n > BATCH or len(step.rows) > self.outputs:
            raise WorkerError(f"A batch of {n} tokens and {len(step.rows)} rows exceeds llama.cpp's limits.")
        self.apply(step.operations)
        self._arrays.fill(step)
        self.evaluated += n
        rows = iter(step.rows)
        row = next(rows, None)
        for start, stop in self._decode(0, n):
            part = []
            while row is not None and row.index < stop:
                part.append((row, row.index - start))
                row = next(rows, None)
            yield part

    def logits(self, index: int) -> Logits:
        """The logits of a row, float32 of the vocabulary's size: a view that the next decode overwrites. Whether they
        are numbers, `sampling.finite` tells of their highest, which whoever reads them looks for anyway."""
        pointer = llama_cpp.llama_get_logits_ith(self._context, index)
        if not pointer:
            raise WorkerError(f"llama.cpp has no logits at {index}: {native.log_line()}.")
        return np.ctypeslib.as_array(pointer, shape=(self.vocabulary.size,))

    def logprobs(self, index: int, tokens: Sequence[int]) -> list[float]:
        """Natural-log probabilities of `tokens` in a row (log-softmax over the vocabulary, summed in float64).

        Raises ModelFileError where the row's highest is no number.
        """
        row = self.logits(index)
        highest = finite(row.max())
        np.subtract(row, highest, out=self._scratch)
        np.exp(self._scratch, out=self._scratch)
        log_sum = float(highest) + float(np.log(self._scratch.sum(dtype=np.float64)))
        return [float(row[token]) - log_sum for token in tokens]

    def set_adapter(self, path: Path | None) -> None:
        """Put the LoRA of an adapter GGUF, or none, on the model in place of any other; empties every sequence.

        Raises UnsupportedModelError for an adapter that cannot be read or belongs to another model; none is set then.
        """
        self.clear(all_sequences=True)
        self._drop_adapter()
        if path is None:
            return
        native.forget_log()
        adapter = llama_cpp.llama_adapter_lora_init(self._model, os.fsencode(path))
        if not adapter:
            reason = native.log_line()
            if any(word in reason.lower() for word in FULL):
                raise WorkerError(f"There is no memory for the adapter {path}: {reason}.", FULL_FIX)
            raise UnsupportedModelError(
                f"llama.cpp refuses the adapter {path}: {reason}.", "Use it with the model that it was trained on."
            )
        self._adapter = adapter
        if not self._put_adapter(self._context):
            self._drop_adapter()
            raise UnsupportedModelError(f"llama.cpp cannot use the adapter {path}: {native.log_line()}.")

    def embedder(self) -> Embedder:
        """A context for embeddings with the current adapter; close it before another adapter is set."""
        embedder = self._embedder = Embedder(
            self._model,
            context=self.context,
            batch=min(budget.UBATCH, budget.rows_within(self.vocabulary.size)),
            threads=self._threads,
            cache_type=self._cache_type.number,
        )
        if self._adapter is not None:
            self._put_adapter(embedder.context)
        return embedder

    def close(self) -> None:
        """Free contexts, adapter and model, in this order. May be called twice; call nothing else after it."""
        if self._embedder is not None:
            self._embedder.close()
        if self._context is not None:
            self._drop_adapter()
            llama_cpp.llama_free(self._context)
            self._context = None
        self.vocabulary.close()
        if self._model is not None:
            llama_cpp.llama_model_free(self._model)
            self._model = None

    def _put_adapter(self, context: Any) -> bool:
        adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(self._adapter)
        return bool(llama_cpp.llama_set_adapters_lora(context, adapters, 1, (ctypes.c_float * 1)(1.0)) == 0)

    def _drop_adapter(self) -> None:
        # Freed while it is set, it would leave a dangling pointer in the context.
        if self._adapter is not None:
            llama_cpp.llama_set_adapters_lora(self._context, None, 0, None)
            llama_cpp.llama_adapter_lora_free(self._adapter)
            self._adapter = None

    def shrink(self) -> bool:
        """Make a context with fewer slots in place of this one, which frees its memory; all sequences are empty then.

        False where there is one slot only. Raises UsageError where not even a smaller context can be made.
        """
        if self.slots == 1:
            return False
        fewer = budget.fewer(self.slots)
        llama_cpp.llama_free(self._context)
        self._context = None
        self._make_context(fewer, shrink=True)
        if self._adapter is not None and not self._put_adapter(self._context):
            raise WorkerError(f"llama.cpp cannot put the adapter on a smaller context: {native.log_line()}.")
        return True

    def _fitting(self, slots: int, per_sequence: int, *, offload: bool, threads: int, rank: int) -> int:
        """The slots to make: `slots` if their memory is free, with 0 as many as are of use and fit."""
        sequence_bytes = per_sequence * budget.token_bytes(self._model, self._cache_type)
        free = budget.free_bytes(offload=offload)
        if free is not None and not offload:
            # Mapped pages count as available, but every step reads all of them.
            free = max(0, free - llama_cpp.llama_model_size(self._model))
        wanted = slots or budget.wanted_slots(offload=offload, threads=threads, amx=cpu.usable())
        fitting = budget.fitting_slots(
            wanted, budget.shape_of(self._model), per_sequence, self._cache_type,
            sequence_bytes=sequence_bytes, free_bytes=free, offload=offload, rank=rank,
        )  # fmt: skip
        if slots > fitting:
            raise UsageError(
                f"{slots} slots of {per_sequence} tokens need {(slots + 1) * sequence_bytes / 2**30:.1f} GiB, but only "
                f"{(free or 0) / 2**30:.1f} GiB are free beside the model.",
                f"Set --slots {fitting} or fewer, or a smaller --context.",
            )
        return fitting

    def _make_context(self, slots: int, *, shrink: bool) -> None:
        per_sequence, threads = self._per_sequence, self._threads
        while True:
            params = llama_cpp.llama_context_default_params()
            params.n_seq_max = slots + 1
            params.n_ctx = per_sequence * (slots + 1)
            params.n_batch = BATCH
            params.n_ubatch = budget.UBATCH
            self.outputs = budget.output_rows(slots, self.vocabulary.size)
            """Logits rows that one batch may have."""
            params.n_outputs_max = self.outputs
            params.n_threads = threads
            params.n_threads_batch = threads
            params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO
            params.kv_unified = False
            params.type_k = params.type_v = self._cache_type.number
            # A cache of the window alone (Gemma's sliding-window layers) cannot be copied or go back.
            params.swa_full = True
            params.no_perf = True
            native.forget_log()
            self._context = llama_cpp.llama_init_from_model(self._model, params) or None
            self.slots = slots
            """Sequences that run at the same time."""
            if self._context is not None:
                self._memory = llama_cpp.llama_get_memory(self._context)
                return
            reason = native.log_line()
            if self._cache_type.block > 1 and not any(word in reason.lower() for word in FULL):
                # Heads of another size, or without flash attention: no number of slots would help.
                raise UsageError(
                    f"llama.cpp cannot keep this model's KV cache in {self._cache_type.name}: {reason}.",
                    "Set --kv-type f16.",
                )
            if not shrink or slots == 1:
                raise UsageError(
                    f"llama.cpp cannot make {slots} slots of {per_sequence} tokens: {reason}.",
                    "Lower --slots or --context.",
                )
            slots -= 1

    def _decode(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        native.forget_log()
        code = native.decode(self._context, self._arrays.part(start, stop))
        if code == 0:
            yield start, stop
        elif code == NO_SLOT and stop - start > 1:
            middle = (start + stop) // 2
            yield from self._decode(start, middle)
            yield from self._decode(middle, stop)
        elif code in (NO_SLOT, NO_MEMORY):
            raise OutOfRoomError(native.log_line())
        else:
            raise WorkerError(
                f"llama.cpp could not decode a batch of {stop - start} tokens (code {code}): {native.log_line()}.",
                "Run the same command again: it continues after the last finished result.",
            )
