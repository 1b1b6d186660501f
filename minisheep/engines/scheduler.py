"""Continuous batching as pure decisions: which tokens are computed next, in which sequence, and who is done.

Nothing here talks to llama.cpp. `Scheduler.next` says what to do (operations on sequences, then one batch), its caller
does it and reports the sampled tokens with `accept` or `finish`. The rules come from llama.cpp's split KV cache
(``kv_unified=False``: every sequence has a stream of its own, `llama_batch_allocr::split_equal`):

- A batch costs one forward pass only where its sequence ids are consecutive, so the running ids are kept dense: before
  a decode step the highest sequence moves into each hole.
- Sequences of one prefill batch advance in step, so those admitted together are ordered by length.
- Prompts are computed in batches of their own: a decode step keeps one shape, and llama.cpp reuses its graph.
- Sequence 0 is reserved for the prefix that all prompts share. It is computed once and copied, as a whole stream, to
  each sequence that is admitted.
- A batch with too many tokens or output rows aborts the process, so both limits are kept here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

PREFIX_SEQUENCE = 0
LEAST_PREFIX = 16
"""Tokens below which a shared prefix costs more to copy than to compute again."""
REFILL = 8
"""Free slots are refilled when one in this many is free, so that prefills interrupt decoding rarely."""


@dataclass(frozen=True, slots=True)
class Job:
    """One sequence to compute.

    `rows_from` is the index of the first prompt token whose logits are wanted; all later ones are wanted too.
    `max_new` is how many tokens may be sampled after the prompt; with 0 the job is done when its prompt is.
    """

    key: int
    tokens: tuple[int, ...]
    rows_from: int
    max_new: int = 0


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy the whole of sequence `source` to the empty sequence `target`."""

    source: int
    target: int


@dataclass(frozen=True, slots=True)
class Free:
    """Empty a sequence."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Row:
    """A row of logits that the batch yields: at which index of the batch, for which job and which of its tokens."""

    index: int
    key: int
    token: int


@dataclass(slots=True)
class Step:
    """Operations to apply in order, then one batch: parallel lists of token, position and sequence."""

    kind: str
    """``prefix``, ``prefill`` or ``decode``."""
    operations: list[Copy | Free]
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    """In ascending order of index."""
    completed: tuple[int, ...] = ()
    """Keys of the jobs without new tokens whose last row is in this batch."""

    def _add(self, token: int, position: int, sequence: int) -> None:
        self.tokens.append(token)
        self.positions.append(position)
        self.sequences.append(sequence)


@dataclass(slots=True)
class _Live:
    job: Job
    past: int
    """Tokens in the KV cache."""
    new: int = 0
    pending: int | None = None
    """The sampled token that is not in the KV cache yet."""

    @property
    def rest(self) -> int:
        """Prompt tokens that are still to be computed."""
        return max(0, len(self.job.tokens) - self.past)


def shared_prefix(jobs: Sequence[Job], least: int = LEAST_PREFIX) -> tuple[int, ...]:
    """The longest token prefix of all jobs that ends before the first wanted row, or () if it is shorter than `least`.

    A single job shares nothing.
    """
    if len(jobs) < 2:
        return ()
    low, high = min(job.tokens for job in jobs), max(job.tokens for job in jobs)
    end = min(min(job.rows_from for job in jobs), len(low), len(high))
    # The lowest and the highest sequence share exactly what all share.
    n = next((i for i in range(end) if low[i] != high[i]), end)
    return low[:n] if n >= least else ()


class Scheduler:
    """Runs jobs through `slots` sequences of `context` tokens each, sequence ids 1 .. slots.

    `batch` and `outputs` bound the tokens and the logits rows of one batch. `prefix` is what all jobs that will be
    submitted begin with; `prefix_ready` says that sequence 0 holds it already. Raises ValueError for limits that cannot
    work, which is a fault of the caller.
    """

    def __init__(
        self,
        *,
        slots: int,
        context: int,
        batch: int,
        outputs: int,
        prefix: Sequence[int] = (),
        prefix_ready: bool = False,
    ) -> None:
        if slots < 1 or batch < slots or outputs < slots:
            raise ValueError(f"{slots} slots do not fit a batch of {batch} tokens and {outputs} rows")
        if len(prefix) > context:
            raise ValueError(f"a prefix of {len(prefix)} tokens does not fit {context}")
        self._slots = slots
        self._context = context
        self._batch = batch
        self._outputs = outputs
        self._prefix = tuple(prefix)
        self._prefix_done = len(self._prefix) if prefix_ready else 0
        self._waiting: deque[Job] = deque()
        self._live: dict[int, _Live] = {}
        self._sequence_of: dict[int, int] = {}
        self._freed: list[Copy | Free] = []
        self._asked: set[int] = set()

    @property
    def prefix(self) -> tuple[int, ...]:
        """The shared prefix; in sequence 0 once the first step of another kind than ``prefix`` is given out."""
        return self._prefix

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._waiting and not self._live

    @property
    def running(self) -> dict[int, int]:
        """The sequence of each running job, by key."""
        return dict(self._sequence_of)

    def submit(self, job: Job) -> None:
        """Queue a job. Its key must be new. Raises ValueError where it can never run: check its size before."""
        room = self._context - (1 if job.max_new else 0)
        if not 0 <= job.rows_from < len(job.tokens) <= room:
            raise ValueError(f"job {job.key}: {len(job.tokens)} tokens do not fit {self._context}")
        if job.max_new and job.rows_from != len(job.tokens) - 1:
            raise ValueError(f"job {job.key}: tokens are sampled after the last row only")
        if len(self._prefix) > job.rows_from or job.tokens[: len(self._prefix)] != self._prefix:
            raise ValueError(f"job {job.key} does not begin with the shared prefix")
        self._waiting.append(job)

    def accept(self, key: int, token: int) -> bool:
        """Report the sampled token of a job. False if it was the last that fits: then the job is done (``length``)."""
        sequence = self._answered(key)
        live = self._live[sequence]
        live.new += 1
        if live.new >= min(live.job.max_new, self._context - len(live.job.tokens)):
            self._release(sequence)
            return False
        live.pending = token
        return True

    def finish(self, key: int) -> None:
        """End a job whose row was just read (end token or stop string)."""
        self._release(self._answered(key))

    def next(self) -> Step | None:
        """What to do now, or None when nothing waits and nothing runs.

        Every row of a job with new tokens must have been answered by `accept` or `finish` before the next call.
        """
        if self._asked:
            raise RuntimeError(f"jobs {sorted(self._asked)} have rows that were not answered")
        if self.idle:
            return None
        if self._prefix_done < len(self._prefix):
            return self._prefix_step()
        operations: list[Copy | Free] = self._freed
        self._freed = []
        if not self._prefilling():
            operations += self._compact()
            operations += self._admit()
        filling = self._prefilling()
        return self._prefill_step(operations, filling) if filling else self._decode_step(operations)

    def _answered(self, key: int) -> int:
        self._asked.remove(key)
        return self._sequence_of[key]

    def _release(self, sequence: int) -> None:
        live = self._live.pop(sequence)
        del self._sequence_of[live.job.key]
        self._freed.append(Free(sequence))

    def _prefilling(self) -> list[int]:
        return sorted(sequence for sequence, live in self._live.items() if live.rest)

    def _compact(self) -> Iterator[Copy | Free]:
        for hole in range(1, len(self._live) + 1):
            if hole not in self._live:
                last = max(self._live)
                live = self._live.pop(last)
                self._live[hole] = live
                self._sequence_of[live.job.key] = hole
                yield Copy(last, hole)
                yield Free(last)

    def _admit(self) -> Iterator[Copy | Free]:
        free = self._slots - len(self._live)
        if self._live and free * REFILL < self._slots:
            return
        group = [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]
        group.sort(key=lambda job: len(job.tokens), reverse=True)
        for sequence, job in enumerate(group, len(self._live) + 1):
            self._live[sequence] = _Live(job, past=len(self._prefix))
            self._sequence_of[job.key] = sequence
            if self._prefix:
                yield Copy(PREFIX_SEQUENCE, sequence)

    def _prefix_step(self) -> Step:
        # What a sequence 0 of an earlier run holds goes first.
        step = Step("prefix", [] if self._prefix_done else [Free(PREFIX_SEQUENCE)])
        end = min(len(self._prefix), self._prefix_done + self._batch)
        for position in range(self._prefix_done, end):
            step._add(self._prefix[position], position, PREFIX_SEQUENCE)
        self._prefix_done = end
        return step

    def _prefill_step(self, operations: list[Copy | Free], filling: list[int]) -> Step:
        step = Step("prefill", operations)
        completed = []
        for sequence in filling:
            live = self._live[sequence]
            job = live.job
            while live.rest and len(step.tokens) < self._batch:
                if live.past >= job.rows_from:
                    if len(step.rows) == self._outputs:
                        break
                    step.rows.append(Row(len(step.tokens), job.key, live.past))
                step._add(job.tokens[live.past], live.past, sequence)
                live.past += 1
            if live.rest:
                break
            if job.max_new:
                self._asked.add(job.key)
            else:
                completed.append(job.key)
                self._release(sequence)
        step.completed = tuple(completed)
        return step

    def _decode_step(self, operations: list[Copy | Free]) -> Step:
        step = Step("decode", operations)
        for sequence in sorted(self._live):
            live = self._live[sequence]
            assert live.pending is not None
            step.rows.append(Row(len(step.tokens), live.job.key, live.past))
            step._add(live.pending, live.past, sequence)
            live.past += 1
            live.pending = None
            self._asked.add(live.job.key)
        return step
