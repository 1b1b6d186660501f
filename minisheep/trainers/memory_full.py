"""How torch says that memory is full: one class for its own allocator, texts for the libraries below it."""

from __future__ import annotations

import torch

_TEXTS = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def is_memory_full(error: BaseException) -> bool:
    """Whether less work at once may succeed where `error` was raised."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in _TEXTS)
    )
