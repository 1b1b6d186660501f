"""The usual way to run a GGUF from Python: `Llama.create_completion`, one request after the other.

Only child processes import this module, since it loads the native library.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from minisheep.engines.base import (
    Completion,
    Embedding,
    EmbedRequest,
    EngineInfo,
    GenerateRequest,
    Loglik,
    LoglikRequest,
    ScoreRequest,
    Scores,
)
from minisheep.engines.native import Vocabulary
from minisheep.errors import UsageError
from minisheep.machine import cpu, llama_library
from minisheep.rules.templates import Prompt

llama_cpp = llama_library.load()

PEER_NAME = "Llama.create_completion, one at a time"


class OneAtATime:
    """The generating half of `engines.base.Engine`, so that the same stages run on it.

    Prompts are given as the token ids that minisheep's engine uses, and sampling is the same; everything else is the
    class's default, its reuse of the longest prefix shared with the call before included.
    """

    running = 1

    def __init__(self, gguf: Path, *, context: int, threads: int) -> None:
        if not cpu.usable():
            cpu.avoid()
        self._vocabulary = Vocabulary.from_file(gguf)
        self._llama: Any = llama_cpp.Llama(
            str(gguf), n_ctx=context, n_threads=threads, n_threads_batch=threads, n_gpu_layers=-1, verbose=False
        )
        self.evaluated = 0
        self._info = EngineInfo("llamacpp", PEER_NAME, slots=1, context=context)

    @property
    def info(self) -> EngineInfo:
        return self._info

    def count(self, prompt: Prompt) -> int:
        return len(self._tokens(prompt))

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[Completion]:
        for request in requests:
            sampling = request.sampling
            tokens = self._tokens(request.prompt)
            reply = self._llama.create_completion(
                tokens,
                max_tokens=min(sampling.max_tokens, self._info.context - len(tokens)),
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,
                min_p=0.0,
                stop=list(sampling.stop),
                seed=request.seed,
            )
            self.evaluated += reply["usage"]["total_tokens"]
            choice = reply["choices"][0]
            finish = "length" if choice["finish_reason"] == "length" else "end"
            yield Completion(request.id, choice["text"], finish, reply["usage"]["completion_tokens"])

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[Scores]:
        raise UsageError("This peer only generates.")

    def loglik(self, requests: Sequence[LoglikRequest]) -> Iterator[Loglik]:
        raise UsageError("This peer only generates.")

    def embed(self, requests: Sequence[EmbedRequest]) -> Iterator[Embedding]:
        raise UsageError("This peer only generates.")

    def set_adapter(self, adapter: Path | None) -> None:
        if adapter is not None:
            raise UsageError("This peer runs the base only.")

    def _tokens(self, prompt: Prompt) -> list[int]:
        return self._vocabulary.encode(prompt, bos=True) or [self._vocabulary.start]

    def close(self) -> None:
        self._llama.close()
        self._vocabulary.close()
