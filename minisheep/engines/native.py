"""What every use of llama.cpp needs first: a quiet log that can be quoted, a loaded model, and its vocabulary.

It loads the native library, so the parent does not import it. Inference and training
both tokenise by `Vocabulary`, so that a model is trained on the very ids that it later runs with.
"""

from __future__ import annotations

import collections
import ctypes
import os
import re
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from minisheep.errors import ModelFileError, UnsupportedModelError
from minisheep.machine import cpu, cuda_setup, llama_library
from minisheep.machine.gpu import find_gpu
from minisheep.models.cache import remedy
from minisheep.rules.templates import Prompt, Segment

llama_cpp = llama_library.load()

_INFO, _WARN, _ERROR = 2, 3, 4
_lines: collections.deque[tuple[int, str]] = collections.deque(maxlen=64)
_warnings: collections.deque[str] = collections.deque(maxlen=64)
"""Apart, since a load writes hundreds of other lines."""


def _collect(level: int, text: bytes, _user_data: object) -> None:
    if level < _INFO:
        return
    line = text.decode("utf-8", "replace").strip()
    if line.strip("."):
        _lines.append((level, line))
    if level == _WARN:
        _warnings.append(line)


# llama.cpp keeps a bare pointer: without a reference for the life of the process it would call freed memory.
_CALLBACK = llama_cpp.llama_log_callback(_collect)
_started = False
_cuda_said = ""


def start() -> None:
    """Initialise llama.cpp once for this process and collect its log, which it would print."""
    global _started, _cuda_said
    llama_cpp.llama_log_set(_CALLBACK, ctypes.c_void_p(0))
    if not _started:
        llama_cpp.llama_backend_init()
        llama_cpp.llama_supports_gpu_offload()  # looks for GPUs, once, and logs what it did not find
        _cuda_said = next((line for line in log_lines() if "ggml_cuda_init" in line and "found" not in line), "")
        _started = True


def offload() -> llama_library.Offload:
    """Whether this llama.cpp can use a GPU, and if not, why."""
    start()
    works = bool(llama_cpp.llama_supports_gpu_offload())
    return llama_library.Offload(works, cuda_setup.cuda_library() is not None, "" if works else _cuda_said)


def gpu_without_offload(gpu_layers: int) -> str:
    """Why a run would leave this machine's GPU idle while it writes; empty where it will not, or is meant to.

    gpu_layers: the setting; 0 asks for the processor.
    """
    return "" if gpu_layers == 0 else llama_library.offload_fault(find_gpu(), offload())


def forget_log() -> None:
    """Drop the collected lines, so that `log_line` is about the next call."""
    _lines.clear()
    _warnings.clear()


def warnings() -> list[str]:
    """What llama.cpp warned of since `forget_log`, each line once and without the function's name; no rules and no
    reminders in capitals, which it puts around a warning."""
    lines = (re.sub(r"^[a-z_0-9]+:\s*", "", line) for line in _warnings)
    return list(dict.fromkeys(line for line in lines if re.search(r"[a-z]", line)))


def log_lines() -> list[str]:
    """The newest lines of llama.cpp's log (information and above), oldest first."""
    return [line for _, line in _lines]


def log_line() -> str:
    """Llama.cpp's reason for a failure: its first error line, else its last warning, else its last line."""
    errors = [line for level, line in _lines if level == _ERROR]
    if errors:
        return errors[0]
    warnings = [line for level, line in _lines if level == _WARN]
    if warnings:
        return warnings[-1]
    return _lines[-1][1] if _lines else "llama.cpp gave no reason"


def decode(context: Any, batch: Any) -> int:
    """llama_decode: 0, or the code of a failure."""
    cpu.restore()
    return int(llama_cpp.llama_decode(context, batch))


def load_model(path: Path, *, gpu_layers: int = 0, vocab_only: bool = False, weightless: bool = False) -> Any:
    """The `llama_model *` of a GGUF, its weights mapped rather than read (llama_model_load_from_file).

    `gpu_layers` below 0 means all. `weightless` checks all but the weights, shapes too, as fast as `vocab_only` loads.
    The caller frees it with `llama_model_free`. Raises ModelFileError where the file is missing, truncated or corrupt,
    UnsupportedModelError where llama.cpp does not know the architecture.
    """
    start()
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = vocab_only
    params.n_gpu_layers = gpu_layers
    if weightless:
        params.no_alloc, params.no_host, params.use_extra_bufts = True, True, False
        params.load_mode = llama_cpp.LLAMA_LOAD_MODE_NONE  # mapped, it would abort
    elif not vocab_only:
        params.use_extra_bufts = cpu.usable() or cpu.avoid()
        params.load_mode = llama_cpp.LLAMA_LOAD_MODE_MMAP
    forget_log()
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
    if model:
        return model
    reason = log_line()
    if "unknown model architecture" in reason or "unknown pre-tokenizer" in reason:
        raise UnsupportedModelError(
            f"llama.cpp cannot run the model {path.name}: {reason}.", "Choose another model (minisheep models)."
        )
    raise ModelFileError(f"llama.cpp cannot load the model {path.name}: {reason}.", remedy(path))


def offloaded(lines: list[str]) -> list[int] | None:
    """``[31, 31]`` of llama.cpp's "offloaded 31/31 layers to GPU" (load_tensors); None without that line."""
    for line in reversed(lines):
        if match := re.search(r"offloaded (\d+)/(\d+) layers to GPU", line):
            return [int(match[1]), int(match[2])]
    return None


_NONE = -1
"""LLAMA_TOKEN_NULL: the vocabulary has no such token."""


class Vocabulary:
    """The vocabulary of a GGUF: text to token ids and back, through llama.cpp's own tokenizer.

    Made from a file (`from_file`: only the vocabulary is loaded, a fraction of a second) or from a loaded model, which
    then must outlive it. A context manager; `close` frees what `from_file` loaded and may be called twice. Raises
    UnsupportedModelError for a model without a tokenizer.
    """

    def __init__(self, model: Any, *, owned: bool = False) -> None:
        self._model = model if owned else None
        vocab = llama_cpp.llama_model_get_vocab(model)
        if llama_cpp.llama_vocab_type(vocab) == llama_cpp.LLAMA_VOCAB_TYPE_NONE:
            self.close()  # llama.cpp would abort the process at the first text
            raise UnsupportedModelError("The model has no tokenizer.", "Choose another model (minisheep models).")
        self._vocab = vocab
        self._pieces: dict[int, bytes] = {}
        self.size: int = llama_cpp.llama_vocab_n_tokens(vocab)
        self.bos: int = llama_cpp.llama_vocab_bos(vocab)
        """The begin-of-text token, or -1."""
        self.eos: int = llama_cpp.llama_vocab_eos(vocab)
        """The token that ends a text or a chat turn, or -1."""
        self.add_bos: bool = llama_cpp.llama_vocab_get_add_bos(vocab)
        """Whether this model was trained with a BOS before every text."""
        # SentencePiece vocabularies of the Llama 2 kind put a space before the first word of a text.
        self._space_prefix = self.piece(self._tokenize("a", special=False)[0]).startswith(b" ")

    @classmethod
    def from_file(cls, path: Path, *, checked: bool = False) -> Vocabulary:
        """The vocabulary of the GGUF at `path`; `checked`: of one that llama.cpp could run. Raises as `load_model`."""
        return cls(load_model(path, vocab_only=not checked, weightless=checked), owned=True)

    def close(self) -> None:
        self._vocab = None
        if self._model is not None:
            llama_cpp.llama_model_free(self._model)
            self._model = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def start(self) -> int:
        """The token in place of an empty prompt: BOS, or EOS where there is none."""
        return self.bos if self.bos != _NONE else self.eos

    def encode(self, prompt: Prompt, *, bos: bool, after: int | None = None) -> list[int]:
        """The token ids of a prompt: those of its segments, each tokenised by itself, one after the other.

        So `encode(a + b, bos=x)` equals `(ids := encode(a, bos=x)) + encode(b, bos=False, after=ids[-1])`. Text of a
        segment that is not `special` never becomes a control token. `bos` puts BOS first if the vocabulary asks for it
        (`add_bos`) and the prompt does not begin with it. `after` is the token before the text, if any. Lone surrogates
        become "?".
        """
        ids: list[int] = []
        for segment in prompt:
            ids += self._segment(segment, ids[-1] if ids else after)
        if bos and self.add_bos and self.bos != _NONE and ids[:1] != [self.bos]:
            ids.insert(0, self.bos)
        return ids

    def piece(self, token: int) -> bytes:
        """The bytes of a token, which need not be whole characters; control tokens have none (llama_token_to_piece)."""
        if token not in self._pieces:
            buffer = ctypes.create_string_buffer(32)
            n = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
            if n < 0:
                buffer = ctypes.create_string_buffer(-n)
                n = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
            self._pieces[token] = buffer.raw[: max(n, 0)]
        return self._pieces[token]

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of the tokens; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(map(self.piece, tokens)).decode("utf-8", "replace")

    def token(self, text: str) -> int | None:
        """The one token that `text` of a template becomes; None where it becomes several or none."""
        ids = self.encode((Segment(text, True),), bos=False)
        return ids[0] if len(ids) == 1 else None

    def ends(self, stops: Iterable[str]) -> frozenset[int]:
        """Control tokens among the strings at which a completion stops: these have no text to be found by."""
        tokens = (self.token(text) for text in stops)
        return frozenset(token for token in tokens if token is not None and self.is_control(token))

    def is_end(self, token: int) -> bool:
        """Whether the token ends a generation: EOS, EOT and the like (llama_vocab_is_eog)."""
        return bool(llama_cpp.llama_vocab_is_eog(self._vocab, token))

    def is_control(self, token: int) -> bool:
        """Whether the token steers the model instead of standing for text."""
        return bool(llama_cpp.llama_vocab_is_control(self._vocab, token))

    def _segment(self, segment: Segment, after: int | None) -> list[int]:
        if not segment.text:
            return []
        if self._space_prefix and after is not None and not self.is_control(after):
            # Mid-text, the tokenizer would add a space. A newline in front takes that space; its tokens, which merge
            # with nothing, are cut off again.
            mark = self._tokenize("\n", special=False)
            ids = self._tokenize("\n" + segment.text, special=segment.special)
            if ids[: len(mark)] == mark:
                return ids[len(mark) :]
        return self._tokenize(segment.text, special=segment.special)

    def _tokenize(self, text: str, *, special: bool) -> list[int]:
        if self._vocab is None:
            raise RuntimeError("the vocabulary was closed")  # llama.cpp would abort the process
        data = text.encode("utf-8", "replace")
        room = len(data) + 2
        tokens = (ctypes.c_int32 * room)()
        n = llama_cpp.llama_tokenize(self._vocab, data, len(data), tokens, room, False, special)
        if n < 0:
            tokens = (ctypes.c_int32 * -n)()
            n = llama_cpp.llama_tokenize(self._vocab, data, len(data), tokens, -n, False, special)
        return list(tokens[:n])
