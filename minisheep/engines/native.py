"""What every use of llama.cpp needs first: a quiet log whose last lines can be quoted, and a loaded model.

Only workers import this module, since it loads the native library.
"""

from __future__ import annotations

import collections
import ctypes
from pathlib import Path
from typing import Any

import llama_cpp

from minisheep.engines import amx
from minisheep.errors import MinisheepError, ModelFileError, UnsupportedModelError

_INFO, _WARN, _ERROR = 2, 3, 4
_lines: collections.deque[tuple[int, str]] = collections.deque(maxlen=64)


def _collect(level: int, text: bytes, _user_data: object) -> None:
    if level < _INFO:
        return
    line = text.decode("utf-8", "replace").strip()
    if line.strip("."):
        _lines.append((level, line))


# llama.cpp keeps a bare pointer to the callback: without a reference for the whole life of the process it would call
# freed memory.
_CALLBACK = llama_cpp.llama_log_callback(_collect)
_started = False


def start() -> None:
    """Initialise llama.cpp once for this process and take over its log, which stays silent."""
    global _started
    llama_cpp.llama_log_set(_CALLBACK, ctypes.c_void_p(0))
    if not _started:
        llama_cpp.llama_backend_init()
        _started = True


def forget_log() -> None:
    """Drop the collected lines, so that `log_line` speaks of what is called next."""
    _lines.clear()


def log_lines() -> list[str]:
    """The newest lines of llama.cpp's log, from its information on, oldest first."""
    return [line for _, line in _lines]


def log_line() -> str:
    """What llama.cpp said last about a failure: its first error line, else its last warning, else its last line."""
    errors = [line for level, line in _lines if level == _ERROR]
    if errors:
        return errors[0]
    warnings = [line for level, line in _lines if level == _WARN]
    if warnings:
        return warnings[-1]
    return _lines[-1][1] if _lines else "llama.cpp gave no reason"


def check_gguf(path: Path, what: str) -> None:
    """Raise ModelFileError unless `path` is a readable file that begins as a GGUF does."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelFileError(
            f"The {what} {path} cannot be read: {error.strerror}.", "Check the path and the permissions."
        ) from error
    if magic != b"GGUF":
        raise ModelFileError(
            f"{path} is not a GGUF file, so it cannot be used as a {what}.", "Delete it and fetch or make it again."
        )


def decode(context: Any, batch: Any) -> int:
    """llama_decode: 0, or a code that says what went wrong."""
    amx.restore()
    return int(llama_cpp.llama_decode(context, batch))


def load_model(path: Path, *, gpu_layers: int = 0, vocab_only: bool = False) -> Any:
    """The `llama_model *` of a GGUF, its weights mapped rather than read (llama_model_load_from_file).

    `gpu_layers` below 0 means all. The caller frees it with `llama_model_free`. Raises ModelFileError where the file is
    missing, truncated or corrupt, UnsupportedModelError where llama.cpp does not know the architecture.
    """
    start()
    check_gguf(path, "model")
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = vocab_only
    params.n_gpu_layers = gpu_layers
    if not vocab_only:
        params.use_extra_bufts = amx.usable() or amx.avoid()
        params.load_mode = llama_cpp.LLAMA_LOAD_MODE_MMAP
    forget_log()
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        raise _refused(path, log_line())
    return model


def _refused(path: Path, reason: str) -> MinisheepError:
    if "unknown model architecture" in reason or "unknown pre-tokenizer" in reason:
        return UnsupportedModelError(
            f"llama.cpp cannot run the model {path.name}: {reason}.", "Choose another model (minisheep models)."
        )
    return ModelFileError(
        f"llama.cpp cannot load the model {path.name}: {reason}.",
        "The file may be truncated or corrupt: delete it and fetch it again.",
    )
