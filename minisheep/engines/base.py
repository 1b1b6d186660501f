"""What an inference engine is: four batched verbs over prompts.

A prompt is a list of segments, not a string: text that comes from data is never tokenised into special tokens, text
that comes from a chat template is. Results come as they finish, in any order, each with the id of its request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from minisheep.rules.templates import Prompt


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. `temperature` 0 is greedy. `top_k` comes first, since a full sort of a large vocabulary
    costs milliseconds a token; 1024 keeps nearly all of a nucleus."""

    temperature: float = 1.0
    top_p: float = 0.95
    top_k: int = 1024
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    """Strings that end the completion; they are not part of it."""


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    id: str
    prompt: Prompt
    sampling: Sampling
    seed: int = 1
    """Derived from what is asked, never from the order of requests: see `rules.identity.derive_seed`."""


@dataclass(frozen=True, slots=True)
class Completion:
    id: str
    text: str
    finish: str
    """``end`` (end-of-generation token), ``stop`` (a stop string) or ``length`` (token or context limit)."""
    tokens: int
    """New tokens that were sampled, the end token not counted."""


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Ask for the probability of each label as the continuation of the prompt (after one prefill).

    Where one label begins another ("1" and "10"), its probability is that of the label *not* being continued to a
    longer one, so that the labels exclude each other.
    """

    id: str
    prompt: Prompt
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scores:
    id: str
    probabilities: tuple[float, ...]
    """One for each label, in order; their sum is the probability of any valid answer (at most 1)."""


@dataclass(frozen=True, slots=True)
class LoglikRequest:
    """Ask for the log-probability of each token of `continuation` after `prompt`."""

    id: str
    prompt: Prompt
    continuation: Prompt


@dataclass(frozen=True, slots=True)
class Loglik:
    id: str
    logprobs: tuple[float, ...]
    """Natural log, one for each token of the continuation."""


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """Ask for the mean of the last layer's vectors over the tokens of `text`."""

    id: str
    text: Prompt


@dataclass(frozen=True, slots=True)
class Embedding:
    id: str
    vector: tuple[float, ...]
    """Not normalised; as many numbers as the model is wide."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """The engine in use; shown to the user and stored in the run."""

    backend: str
    """``llamacpp``, ``openai`` or ``fake``."""
    description: str
    slots: int
    context: int
    """Tokens that one sequence can hold."""
    warning: str = ""
    """What makes it slower than it could be here, with what mends it."""


class Engine(Protocol):
    """Inference on one base model with at most one adapter.

    All verbs take a finite batch, and raise `errors.UsageError` for a request that can never fit the context.
    Closing the returned iterator early drops what is still in flight.
    """

    @property
    def info(self) -> EngineInfo: ...

    @property
    def evaluated(self) -> int:
        """Tokens computed since the engine was made; a part that several requests share counts once."""
        ...

    @property
    def running(self) -> int:
        """Slots in use now."""
        ...

    def count(self, prompt: Prompt) -> int:
        """The tokens that a prompt takes in a context."""
        ...

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[Completion]: ...

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[Scores]: ...

    def loglik(self, requests: Sequence[LoglikRequest]) -> Iterator[Loglik]: ...

    def embed(self, requests: Sequence[EmbedRequest]) -> Iterator[Embedding]:
        """Texts longer than the context are cut to it."""
        ...

    def set_adapter(self, adapter: Path | None) -> None:
        """Hot-load an adapter GGUF onto the unchanged base, or go back to the base with None."""

    def close(self) -> None: ...


OnText = Callable[[str, str], None]
"""Called after every token with the id of the request and the text that became certain since the last call.

That text may be empty: bytes may not be whole characters yet, or may begin a stop string. All parts of a completion
together are its text, and all of them come before it is returned. An exception from the callback ends the run.
"""


class OpenBatch(Protocol):
    """Completions that others may join and leave while they run. One thread uses it."""

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing waits; `step` is then not to be called."""
        ...

    def add(self, requests: Sequence[GenerateRequest]) -> None:
        """Have requests begin with the next free slots; no two that run may have one id.

        Raises `errors.UsageError` where one of them can never run, and adds none."""

    def drop(self, id: str) -> None:
        """Forget a request, so that its slot is free; nothing where it is not there."""

    def step(self) -> list[Completion]:
        """Compute one batch: a token of each that runs, or prompts. Returns the completions that ended with it."""
        ...


class StreamingEngine(Engine, Protocol):
    """An engine that can pass on the text of a completion while it grows, for a person who waits.

    With `keep`, what a single request computed stays in the cache, however it ends, and the next such request computes
    only what comes after their common beginning: a conversation goes on, or its last answer is drawn again.
    """

    def generate(
        self, requests: Sequence[GenerateRequest], on_text: OnText | None = None, *, keep: bool = False
    ) -> Iterator[Completion]: ...

    def open_batch(
        self, on_text: OnText, requests: Sequence[GenerateRequest] = ()
    ) -> AbstractContextManager[OpenBatch]:
        """A batch of `requests` and of those that come one by one; the engine can do nothing else until it is closed.

        A text that is computed alone stays in the cache, as with `keep`.
        """
        ...
