"""The real engine: generation, label scores, log-likelihoods and embeddings, batched, on llama.cpp."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from minisheep.engines import base, native
from minisheep.engines.decode import BATCH, Decoder, OutOfRoomError
from minisheep.engines.llama_batch import LlamaBatch, SampledStream
from minisheep.engines.native import Vocabulary
from minisheep.engines.sampling import Draw, LabelTree, draw, keep_pages, sample
from minisheep.engines.scheduler import LogitRow, Scheduler, SequenceJob, Step, arrange, common_length, shared_prefix
from minisheep.errors import UsageError, WorkerError
from minisheep.machine import cpu, llama_library
from minisheep.machine.installing import install_extra
from minisheep.models.cache import cache_root
from minisheep.rules.plain_text import one_line
from minisheep.rules.templates import Prompt, Segment

llama_cpp = llama_library.load()


@dataclass(slots=True)
class _LabelScore:
    """A score request: its labels as a tree, and the probabilities read so far."""

    request: base.ScoreRequest
    prompt: list[int]
    tree: LabelTree
    missing: int
    read: dict[tuple[int, ...], dict[int, float]] = field(default_factory=dict)


class LlamaCppEngine:
    """`engines.base.Engine` on one GGUF that stays mapped, with at most one adapter GGUF on top.

    `slots` 0 means as many as keep the machine busy and fit its free memory (`budget`); `context` is in tokens for each
    slot, at most the model's trained context; `threads` 0 means every core that this process may use; `gpu_layers`
    below 0 means all; `kv_type` is the format of the KV cache (`budget.cache_type`); on a GPU, room is left for an
    adapter of `adapter_rank`; a `slot_share` below 1 takes that part of the slots. Raises ModelFileError,
    UnsupportedModelError and UsageError.

    One run at a time: a verb raises RuntimeError while the iterator of another is neither exhausted nor closed. A
    sampled token depends only on the seed and the logits; where the batch differs, these differ only by rounding.
    """

    def __init__(
        self,
        gguf: Path,
        *,
        adapter: Path | None = None,
        slots: int = 0,
        context: int = 2048,
        threads: int = 0,
        gpu_layers: int = -1,
        kv_type: str = "auto",
        adapter_rank: int = 0,
        slot_share: float = 1.0,
    ) -> None:
        # By way of `native`, which collects what llama.cpp says when it first looks for a GPU.
        offload = gpu_layers != 0 and native.offload().works
        threads = threads or cpu.cores()
        self._decoder = Decoder(
            gguf, slots=slots, context=context, threads=threads, gpu_layers=gpu_layers, offload=offload,
            kv_type=kv_type, adapter_rank=adapter_rank, slot_share=slot_share,
        )  # fmt: skip
        # Beside a GPU, drawing takes longer than computing; a processor's cores have the next step to compute, which
        # takes them so much longer than drawing that to load numba, half a second for each worker, would gain nothing.
        self._draw, warning = way_of_drawing(threads) if offload else (draw, "")
        keep_pages()
        self._prefix: tuple[int, ...] = ()
        self._scheduler_now: Scheduler | None = None
        self._busy = False
        self._closed = False
        device = "GPU" if offload else "CPU with AMX" if cpu.usable() else "CPU"
        self.info = base.EngineInfo(
            backend="llamacpp",
            description=f"llama.cpp {llama_cpp.__version__}, {device}, {threads} threads, {self._decoder.description}",
            slots=self._decoder.slots,
            context=self._decoder.context,
            warning=warning,
        )
        if adapter is not None:
            try:
                self.set_adapter(adapter)
            except BaseException:
                self.close()
                raise

    @property
    def offloaded(self) -> list[int] | None:
        """Layers on the GPU, and layers in all; None where llama.cpp does not say."""
        return self._decoder.offloaded

    @property
    def evaluated(self) -> int:
        return self._decoder.evaluated

    @property
    def running(self) -> int:
        return 0 if self._scheduler_now is None else len(self._scheduler_now.running)

    @property
    def vocabulary(self) -> Vocabulary:
        """The model's vocabulary; usable until `close`."""
        return self._decoder.vocabulary

    def count(self, prompt: Prompt) -> int:
        return len(self._prompt(prompt))

    def generate(
        self, requests: Sequence[base.GenerateRequest], on_text: base.OnText | None = None, *, keep: bool = False
    ) -> Iterator[base.Completion]:
        """Completions as they finish. A prompt that leaves no room for one token raises UsageError at once; one that
        leaves room for fewer than `max_tokens` ends at the context with ``length``. `keep`: `base.StreamingEngine`."""
        jobs = self.sampling_jobs(requests)
        return self._generate(requests, jobs, on_text, keep=keep and len(jobs) == 1)

    def score(self, requests: Sequence[base.ScoreRequest]) -> Iterator[base.Scores]:
        """Label probabilities, each request after one prefill of its prompt and of the first tokens of long labels.

        Labels that differ only after several tokens cost one prefill for each such branch.
        """
        pending: dict[int, _LabelScore] = {}
        jobs: list[SequenceJob] = []
        for request in requests:
            score = self._label_score(request)
            for path in score.tree.paths:
                tokens = (*score.prompt, *path)
                self._check(request.id, len(score.prompt), len(tokens))
                pending[len(jobs)] = score
                jobs.append(SequenceJob(len(jobs), tokens, len(score.prompt) - 1))
        return self._score(pending, jobs)

    def loglik(self, requests: Sequence[base.LoglikRequest]) -> Iterator[base.Loglik]:
        """An empty continuation has no log-probabilities; an empty prompt is the start of a text."""
        jobs = []
        texts: dict[int, tuple[int, ...]] = {}
        for key, request in enumerate(requests):
            prompt = self._prompt(request.prompt)
            continuation = self.vocabulary.encode(request.continuation, bos=False, after=prompt[-1])
            if continuation:
                texts[key] = (*prompt, *continuation)
                self._check(request.id, len(prompt), len(texts[key]) - 1)
                jobs.append(SequenceJob(key, texts[key][:-1], len(prompt) - 1))
        return self._loglik(list(requests), texts, jobs)

    def embed(self, requests: Sequence[base.EmbedRequest]) -> Iterator[base.Embedding]:
        """Mean last-layer vectors as they finish, see `Embedder`. A text beyond the context is cut to it; an empty one
        is the start of a text (`Vocabulary.start`)."""
        texts = [self._prompt(request.text)[: self.info.context] for request in requests]
        return self._embed(list(requests), texts)

    def set_adapter(self, adapter: Path | None) -> None:
        """Hot-load an adapter GGUF, or return to the base; raises as `Decoder.set_adapter` does."""
        self._check_free()
        self._prefix = ()
        self._decoder.set_adapter(adapter)

    def close(self) -> None:
        """Free everything native. May be called twice; do not advance an open iterator after it."""
        self._closed = True
        self._decoder.close()

    @contextmanager
    def open_batch(self, on_text: base.OnText, requests: Sequence[base.GenerateRequest] = ()) -> Iterator[LlamaBatch]:
        """As `base.StreamingEngine`; what requests share is computed once for those that are added together."""
        jobs = self.sampling_jobs(requests)
        with self._exclusive(), self._batch(requests, jobs, on_text, kept=True) as batch:
            yield batch

    def sampling_jobs(self, requests: Sequence[base.GenerateRequest], first: int = 0) -> list[SequenceJob]:
        """Jobs that sample, keyed from `first` on. Raises `errors.UsageError` for one that can never run."""
        jobs = []
        for key, request in enumerate(requests, first):
            if request.sampling.max_tokens < 1:
                raise UsageError(f"Request {request.id} asks for no tokens.", "Set max_tokens to 1 or more.")
            tokens = self._prompt(request.prompt)
            self._check(request.id, len(tokens), len(tokens) + 1)
            jobs.append(SequenceJob(key, tuple(tokens), len(tokens) - 1, request.sampling.max_tokens))
        return jobs

    def _generate(
        self,
        requests: Sequence[base.GenerateRequest],
        jobs: list[SequenceJob],
        on_text: base.OnText | None,
        *,
        keep: bool,
    ) -> Iterator[base.Completion]:
        with self._exclusive(), self._batch(requests, jobs, on_text, kept=keep) as batch:
            while not batch.idle:
                yield from batch.step()

    @contextmanager
    def _batch(
        self,
        requests: Sequence[base.GenerateRequest],
        jobs: list[SequenceJob],
        on_text: base.OnText | None,
        *,
        kept: bool,
    ) -> Iterator[LlamaBatch]:
        """A batch that begins with `jobs`. With `kept`, a text that was computed alone stays in the cache, however it
        ended, for one that begins the same."""
        batch = LlamaBatch(self, self._scheduler(jobs, kept=kept and len(jobs) == 1), requests, jobs, on_text)
        try:
            yield batch
        finally:
            if kept and not self._closed and (tokens := batch.alone):
                self._prefix = tokens[: self._decoder.keep(len(tokens))]

    def draw(
        self, scheduler: Scheduler, streams: Callable[[int], SampledStream]
    ) -> Iterator[tuple[int, SampledStream, int]]:
        """Execute a step: each job whose row it yields, its stream, and the token that is drawn for it."""
        step = self._next(scheduler)
        for part in self._parts(scheduler, step) if step is not None else ():
            rows = [(row.key, streams(row.key)) for row, _ in part]
            logits = [self._decoder.logits(index) for _, index in part]
            tokens = sample([stream.sampler for _, stream in rows], logits, self._draw)
            yield from ((key, stream, token) for (key, stream), token in zip(rows, tokens, strict=True))

    def _score(self, pending: dict[int, _LabelScore], jobs: list[SequenceJob]) -> Iterator[base.Scores]:
        def on_row(row: LogitRow, index: int) -> None:
            score = pending[row.key]
            path = jobs[row.key].tokens[len(score.prompt) : row.token + 1]
            children = score.tree.children[path]
            logprobs = self._decoder.logprobs(index, children)
            score.read[path] = {token: math.exp(logprob) for token, logprob in zip(children, logprobs, strict=True)}

        for key in self._prefill(jobs, on_row):
            score = pending[key]
            score.missing -= 1
            if score.missing == 0:
                yield base.Scores(score.request.id, score.tree.probabilities(score.read))

    def _loglik(
        self, requests: list[base.LoglikRequest], texts: dict[int, tuple[int, ...]], jobs: list[SequenceJob]
    ) -> Iterator[base.Loglik]:
        # By position, since a row may come again (`Scheduler.shrink`).
        logprobs: dict[int, dict[int, float]] = {key: {} for key in texts}

        def on_row(row: LogitRow, index: int) -> None:
            (logprobs[row.key][row.token],) = self._decoder.logprobs(index, [texts[row.key][row.token + 1]])

        for key, request in enumerate(requests):
            if key not in texts:
                yield base.Loglik(request.id, ())
        for key in self._prefill(jobs, on_row):
            rows = logprobs.pop(key)
            yield base.Loglik(requests[key].id, tuple(rows[token] for token in sorted(rows)))

    def _embed(self, requests: list[base.EmbedRequest], texts: list[list[int]]) -> Iterator[base.Embedding]:
        # Opened for each run: that takes some tens of milliseconds, and its memory is free in between.
        with self._exclusive(), closing(self._decoder.embedder()) as embedder:
            for key, vector in embedder.run(texts):
                self._decoder.evaluated += len(texts[key])
                yield base.Embedding(requests[key].id, vector)

    def _prefill(self, jobs: list[SequenceJob], on_row: Callable[[LogitRow, int], None]) -> Iterator[int]:
        """Run jobs that sample nothing; their keys as they complete."""
        with self._exclusive():
            scheduler = self._scheduler(jobs, rearrange=True)
            while (step := self._next(scheduler)) is not None:
                for row, index in self._run(scheduler, step):
                    on_row(row, index)
                yield from step.completed

    def _run(self, scheduler: Scheduler, step: Step) -> Iterator[tuple[LogitRow, int]]:
        for part in self._parts(scheduler, step):
            yield from part

    def _parts(self, scheduler: Scheduler, step: Step) -> Iterator[list[tuple[LogitRow, int]]]:
        """`Decoder.parts`; where memory runs out, the scheduler continues with fewer slots, and the step yields
        less."""
        try:
            yield from self._decoder.parts(step)
        except OutOfRoomError as error:
            self._prefix = ()
            step.completed = ()
            if not self._decoder.shrink():
                raise WorkerError(
                    f"llama.cpp has no memory for a single sequence: {error}.",
                    "Lower --context, or close other programs, and run the same command again.",
                ) from None
            scheduler.shrink(self._decoder.slots, self._decoder.outputs)
            self.info = dataclasses.replace(self.info, slots=self._decoder.slots)

    def _scheduler(self, jobs: list[SequenceJob], *, rearrange: bool = False, kept: bool = False) -> Scheduler:
        if kept:
            (job,) = jobs
            same = common_length(self._prefix, job.tokens, job.rows_from)
            self._prefix = self._prefix[: self._decoder.cut(same)]
        prefix = self._prefix if kept else shared_prefix(jobs)
        ready = prefix == self._prefix
        if prefix and not ready:
            self._prefix = ()
        scheduler = Scheduler(
            slots=self.info.slots,
            context=self.info.context,
            batch=BATCH,
            outputs=self._decoder.outputs,
            prefix=prefix,
            prefix_ready=ready,
        )
        for job in arrange(jobs, len(prefix)) if rearrange else jobs:
            scheduler.submit(job)
        self._scheduler_now = scheduler
        return scheduler

    def _next(self, scheduler: Scheduler) -> Step | None:
        if self._closed:
            raise RuntimeError("the engine was closed")
        step = scheduler.next()
        if step is not None and step.kind != "prefix" and scheduler.prefix:
            # Every step of the prefix has been decoded by now: the next run may use it.
            self._prefix = scheduler.prefix
        return step

    def _prompt(self, prompt: Prompt) -> list[int]:
        return self.vocabulary.encode(prompt, bos=True) or [self.vocabulary.start]

    def _label_score(self, request: base.ScoreRequest) -> _LabelScore:
        prompt = self._prompt(request.prompt)
        labels = [self.vocabulary.encode((Segment(label),), bos=False, after=prompt[-1]) for label in request.labels]
        if not labels or not all(labels):
            raise UsageError(f"Request {request.id} has no labels, or an empty one.", "Give it labels to score.")
        tree = LabelTree(labels)
        return _LabelScore(request, prompt, tree, missing=len(tree.paths))

    def _check(self, name: str, prompt: int, needed: int) -> None:
        if needed > self.info.context:
            raise UsageError(
                f"Request {name} needs {needed} tokens (its prompt alone has {prompt}), "
                f"but a sequence holds {self.info.context}.",
                "Shorten it, or raise --context.",
            )

    def _check_free(self) -> None:
        if self._closed:
            raise RuntimeError("the engine was closed")
        if self._busy:
            raise RuntimeError("another run of this engine is neither exhausted nor closed")

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Hold the context for one run and leave its sequences empty, however the run ends."""
        self._check_free()
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
            self._scheduler_now = None
            if not self._closed:
                self._decoder.clear()


SEQUENCES = 16
PROMPT = 16
STEPS = 6


def decode_rate(gguf: Path, *, threads: int) -> float:
    """Tokens a second of `SEQUENCES` sequences decoded together, from one short try: enough to choose a number format
    by. Raises what `Decoder` raises."""
    decoder = Decoder(gguf, slots=SEQUENCES, context=256, threads=threads, gpu_layers=0)
    try:
        _run(decoder, 0, PROMPT)
        begun = time.perf_counter()
        for step in range(STEPS):
            _run(decoder, PROMPT + step, 1)
        return SEQUENCES * STEPS / (time.perf_counter() - begun)
    finally:
        decoder.close()


def _run(decoder: Decoder, start: int, tokens: int) -> None:
    """Compute `tokens` more tokens of every sequence, whichever, with the last one's logits."""
    step = Step("decode", [])
    for sequence in range(1, SEQUENCES + 1):
        for position in range(start, start + tokens):
            step.add((sequence * 31 + position * 7) % decoder.vocabulary.size, position, sequence)
        step.rows.append(LogitRow(len(step.tokens) - 1, sequence, position))
    for _row, index in decoder.run(step):
        decoder.logits(index)


def way_of_drawing(threads: int) -> tuple[Draw, str]:
    """Compiled code where numba can compile it, else numpy, and what to warn of then. Compiling takes seconds, once for
    each machine: now, and not amid a phase."""
    try:
        from minisheep.engines import drawing

        return drawing.CompiledDraw(cache_root() / "compiled", threads), ""
    except Exception as error:  # numba is missing, or whatever is wrong with it: a run goes on without
        return draw, (
            "Tokens are drawn with numpy, the same ones in twice the time: numba cannot compile the faster way here"
            f" ({one_line(f'{type(error).__name__}: {error}', 200)}). {install_extra('fast')} may mend it."
        )
