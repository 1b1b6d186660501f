"""Inference on a server that speaks OpenAI's API, which may have many GPUs behind it.

Prompts go as token ids of the run's own vocabulary, so that its template stays in charge and text from data never
becomes a special token. The server keeps its own slots and cache; here, `slots` is how many requests are under way.
Sampled tokens depend on the server: most draw differently when requests run beside others, so two runs with one seed
need not agree. Finished work is on disk all the same, and is not requested again.

A round's adapter gets onto a server by a program of the user's, the hook, which knows how that server takes one.
``--engine-hook "PROGRAM ARGUMENTS"`` runs with one more argument: the folder of the round with the adapter
(``adapter/`` for PEFT, ``adapter.gguf`` for llama.cpp), or the word ``base``. It returns when the server is ready, and
may print the name of the model to use from now on (the last line counts); without one, that is --engine-model. So a
hook restarts llama.cpp's server with ``--lora``, sends ``/v1/load_lora_adapter`` to vLLM or ``/load_lora_adapter`` to
SGLang, and prints the name that it gave the adapter.
"""

from __future__ import annotations

import math
import os
import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from minisheep.config import Settings
from minisheep.engines import base
from minisheep.engines import openai_wire as reading
from minisheep.engines.http import PAUSES, TRIES, Names, Post, ask_all
from minisheep.engines.openai_wire import OPTIONAL, TEXT, Abilities, probe
from minisheep.engines.permission import check_permitted
from minisheep.engines.sampling import LabelTree
from minisheep.errors import EndpointError, UsageError
from minisheep.machine.worker import last_line
from minisheep.rules.plain_text import one_line
from minisheep.rules.templates import Prompt, Segment

if TYPE_CHECKING:
    from minisheep.engines.native import Vocabulary

SECONDS = 1800.0
"""A large model may take this long to load."""


def check_hook(hook: str) -> list[str]:
    """The hook as a list of words, the program first. Raises `errors.UsageError` if it cannot be run."""
    try:
        words = shlex.split(hook)
    except ValueError as error:
        raise UsageError(f"--engine-hook {hook} cannot be read: {error}.") from None
    if not words or shutil.which(words[0]) is None:
        raise UsageError(f"--engine-hook {hook} names no program that can run.", "Give the program's whole path.")
    return words


def run_hook(hook: str, adapter: Path | None, seconds: float = SECONDS) -> str:
    """Put the adapter GGUF of a round (None: none) on the server; returns the model's name from now on, or nothing.

    Raises `errors.EndpointError` if the program fails or takes longer than `seconds`.
    """
    words = check_hook(hook)
    folder = "base" if adapter is None else str(adapter.parent.absolute())
    try:
        done = subprocess.run(
            [*words, folder], stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise EndpointError(f"The hook {words[0]} {folder} had not ended after {seconds:g} s.") from None
    except OSError as error:
        raise EndpointError(f"The hook {words[0]} cannot run: {error.strerror}.") from None
    if done.returncode:
        raise EndpointError(
            f"The hook {words[0]} {folder} ended with code {done.returncode}:"
            f" {one_line(last_line(done.stderr), 200) or 'no message'}."
        )
    return one_line(last_line(done.stdout), 200).strip()


AT_ONCE = 16
"""Requests under way where --slots says nothing."""
CONTINUE = "Run the same command again: it continues where the run stopped."

Q = TypeVar("Q")
R = TypeVar("R")


class RemoteEngine:
    """`engines.base.Engine` on the model of a server, without embeddings.

    `tokens` is the vocabulary of the run's model, which `close` frees; `model` is the server's name for it. `slots` 0
    means `AT_ONCE`; `context` is in tokens for each sequence. With a `hook` adapters can be set. Nothing is sent before
    `set_adapter`, which finds out what the server can do. Verbs raise `errors.EndpointError` where the server fails for
    good, after the results that were under way.
    """

    evaluated = 0
    """Tokens that the server counted, those in its cache included."""
    running = 0

    def __init__(
        self, tokens: Vocabulary, post: Post, model: str, *, slots: int = 0, context: int = 2048, hook: str = ""
    ) -> None:
        self.post = post
        self._base = self._model = model
        self._hook = hook
        self._counting = threading.Lock()
        self._set: list[Path | None] = []
        """The adapter on the server, once that is known."""
        self._signs: dict[Path | None, tuple[float, ...]] = {}
        self.abilities = Abilities(0, "")
        self.info = base.EngineInfo("openai", f"{model} at {self.post.name}", slots or AT_ONCE, context)
        self._tokens = tokens
        self._ends = [token for token in range(tokens.size) if tokens.is_end(token)]

    def count(self, prompt: Prompt) -> int:
        return len(self._prompt(prompt))

    def generate(self, requests: Sequence[base.GenerateRequest]) -> Iterator[base.Completion]:
        prepared = [(request, self._prompt(request.prompt)) for request in requests]
        for request, ids in prepared:
            self._check(request.id, len(ids) + 1)

        def ask(parts: tuple[base.GenerateRequest, list[int]], give_up: threading.Event) -> base.Completion:
            request, ids = parts
            room = self.info.context - len(ids)
            return reading.completion(request, self._ask(reading.to_complete(request, ids, room, self._ends), give_up))

        return self._each(ask, prepared)

    def score(self, requests: Sequence[base.ScoreRequest]) -> Iterator[base.Scores]:
        """A label that is not among the likeliest tokens gets a request of its own, or counts as 0 where the server
        gives no likelihoods of given texts."""
        prepared = [(request, self._prompt(request.prompt), self._tree(request)) for request in requests]
        for request, ids, tree in prepared:
            self._check(request.id, len(ids) + max(map(len, tree.paths)) + 1)

        def ask(parts: tuple[base.ScoreRequest, list[int], LabelTree], give_up: threading.Event) -> base.Scores:
            request, ids, tree = parts
            following = {
                path: self._following([*ids, *path], children, give_up) for path, children in tree.children.items()
            }
            return base.Scores(request.id, tree.probabilities(following))

        return self._each(ask, prepared)

    def loglik(self, requests: Sequence[base.LoglikRequest]) -> Iterator[base.Loglik]:
        prepared = []
        for request in requests:
            prompt = self._prompt(request.prompt)
            continuation = self._tokens.encode(request.continuation, bos=False, after=prompt[-1])
            self._check(request.id, len(prompt) + len(continuation) + 1)
            prepared.append((request.id, prompt, continuation))
        if not self.abilities.loglik:
            raise UsageError(f"{self.post.name} gives no likelihood of a given text.", "Set --judge logits.")

        def ask(parts: tuple[str, list[int], list[int]], give_up: threading.Event) -> base.Loglik:
            name, prompt, continuation = parts
            return base.Loglik(name, self._likelihood(prompt, continuation, give_up))

        return self._each(ask, prepared)

    def embed(self, requests: Sequence[base.EmbedRequest]) -> Iterator[base.Embedding]:
        raise UsageError("--engine openai gives no embeddings.", "Set another --filter.")

    def set_adapter(self, adapter: Path | None) -> None:
        """Raises `errors.EndpointError` for a hook that fails or changes nothing, and the errors of `probe`."""
        if self._set == [adapter]:
            return
        if adapter is not None and not self._hook:
            raise UsageError("--engine openai can put an adapter on a server only with --engine-hook.")
        self._set = []
        with _says_how_to_continue():
            self._put(adapter)
        self._set = [adapter]

    def close(self) -> None:
        self._tokens.close()

    def _put(self, adapter: Path | None) -> None:
        if self._hook:
            self._model = run_hook(self._hook, adapter) or self._base
        never = threading.Event()

        def ask(body: dict[str, Any], once: bool) -> reading.ServerChoice:
            return self._ask(body, never, first=not (once or self._hook), tries=1 if once else TRIES)

        self.abilities = probe(ask, self.post.name, self._tokens, self.info.context)
        self._check_changed(adapter, never)

    def _check_changed(self, adapter: Path | None, never: threading.Event) -> None:
        """Refuse a server without the adapter: on it every round would be the base."""
        if not (self._hook and self.abilities.tops):
            return
        ids = self._prompt((Segment(TEXT),))
        sign = reading.Seen(self._ask(reading.to_see(ids, self.abilities.tops), never)).values
        same = [other for other, known in self._signs.items() if other != adapter and known == sign]
        if same:
            now, before = (path.parent.name if path else "base" for path in (adapter, same[0]))
            raise EndpointError(
                f"After the hook for {now}, {self.post.name} gives the same numbers to the last digit as for {before}:"
                " the adapter is not on it.",
                "Let the hook end when the server is ready, and print the name of the model with the adapter.",
            )
        self._signs[adapter] = sign

    def _following(self, ids: list[int], children: Sequence[int], give_up: threading.Event) -> dict[int, float]:
        """The probability of each of `children` as the next token."""
        found: dict[int, float] = {}
        if self.abilities.tops:
            seen = self._read(self._ask(reading.to_see(ids, self.abilities.tops), give_up), reading.Seen)
            logprobs = {child: seen.of(child, self._tokens.piece(child)) for child in children}
            found = {child: math.exp(value) for child, value in logprobs.items() if value is not None}
        for child in children:
            if child not in found:
                known = self.abilities.loglik
                found[child] = math.exp(self._likelihood(ids, [child], give_up)[0]) if known else 0.0
        return found

    def _likelihood(self, prompt: list[int], continuation: list[int], give_up: threading.Event) -> tuple[float, ...]:
        if not continuation:
            return ()
        whole = [*prompt, *continuation]
        if self.abilities.loglik == "echo":
            reply = self._ask(reading.to_echo(whole), give_up)
            return self._read(reply, lambda reply: reading.echoed(reply, len(prompt), len(whole)))
        logprobs = []
        for place, token in enumerate(continuation, len(prompt)):
            reply = self._ask(reading.to_force(whole[:place], token), give_up)
            piece = self._tokens.piece(token)
            logprobs.append(self._read(reply, lambda reply, t=token, p=piece: reading.forced(reply, t, p)))  # type: ignore[misc]
        return tuple(logprobs)

    def _each(self, ask: Callable[[Q, threading.Event], R], prepared: Sequence[Q]) -> Iterator[R]:
        def counted(request: Q, give_up: threading.Event, _first: bool) -> R:
            with self._counting:
                self.running += 1
            try:
                return ask(request, give_up)
            finally:
                with self._counting:
                    self.running -= 1

        with _says_how_to_continue():
            for _, result in ask_all(counted, prepared, self.info.slots, known=True):
                yield result

    def _ask(
        self, body: dict[str, Any], give_up: threading.Event, *, first: bool = False, tries: int = TRIES
    ) -> reading.ServerChoice:
        reply = self.post.ask({"model": self._model, **body}, give_up, first=first, tries=tries)
        try:
            choice = reading.read(reply.data)
        except ValueError:
            raise self.post.nonsense(reply, "completion") from None
        with self._counting:
            self.evaluated += choice.computed
        return choice

    def _read(self, reply: reading.ServerChoice, read: Callable[[reading.ServerChoice], R]) -> R:
        try:
            return read(reply)
        except ValueError as error:
            raise EndpointError(f"{self.post.name} no longer replies as it did at first: {error}.") from None

    def _prompt(self, prompt: Prompt) -> list[int]:
        return self._tokens.encode(prompt, bos=True) or [self._tokens.start]

    def _tree(self, request: base.ScoreRequest) -> LabelTree:
        after = self._prompt(request.prompt)[-1]
        labels = [self._tokens.encode((Segment(label),), bos=False, after=after) for label in request.labels]
        if not labels or not all(labels):
            raise UsageError(f"Request {request.id} has no labels, or an empty one.", "Give it labels to score.")
        return LabelTree(labels)

    def _check(self, name: str, needed: int) -> None:
        if needed > self.info.context:
            raise UsageError(
                f"Request {name} needs {needed} tokens, and a sequence holds {self.info.context}.",
                "Shorten it or raise --context, and the server's.",
            )


@contextmanager
def _says_how_to_continue() -> Iterator[None]:
    try:
        yield
    except EndpointError as error:
        raise EndpointError(error.message, error.fix or CONTINUE) from None


NAMES = Names("--engine-url", "--engine-key-env VAR", "--engine-model", "The server")


def server(settings: Settings, pauses: tuple[float, ...] = PAUSES) -> Post:
    """``/completions`` of the server in the settings. The key comes from the environment and is stored nowhere.

    Raises `errors.UsageError` for an address that is none, and for a variable that holds no key.
    """
    variable = settings.engine_key_env
    key = os.environ.get(variable, "").strip() if variable else ""
    if variable and not key:
        raise UsageError(
            f"The environment variable {variable} holds no key for the server. Nothing was sent.",
            "Set it, or name another with --engine-key-env.",
        )
    return Post(settings.engine_url, "/completions", NAMES, key, settings.engine_timeout, pauses, OPTIONAL)


def check_server(settings: Settings) -> None:
    """Raise `errors.UsageError` for settings of a server that cannot work. Sends nothing: the parent calls it first."""
    if settings.engine == "openai":
        server(settings)
        if settings.engine_hook:
            check_hook(settings.engine_hook)


def knock(settings: Settings, run: Path) -> None:
    """Ask the server of the folder `run` for one token in plain text, which needs no file of the model.

    With a hook nothing is asked: that starts the server. Raises `errors.EndpointError` where it cannot be reached or
    has no such model, and what `check_permitted` raises.
    """
    check_permitted(settings, run)
    if settings.engine_hook:
        return
    post = server(settings)
    body = {"model": settings.engine_model, "prompt": TEXT, "max_tokens": 1, "temperature": 0.0}
    try:
        reply = post.ask(body, threading.Event(), first=True)
        reading.read(reply.data)
    except EndpointError as error:
        fix = error.fix or "Start the server, or check --engine-url, and give the same command again."
        raise EndpointError(f"{error.message} Nothing was fetched and no run was begun.", fix) from None
    except ValueError:
        raise post.nonsense(reply, "completion") from None
