"""Continuous batching as pure decisions: which tokens are computed next, in which sequence, and which jobs are done.

Nothing here calls llama.cpp. `Scheduler.next` returns a `Step` (operations on sequences, then one batch); its caller
executes it and reports the sampled tokens with `accept` or `finish`. The rules come from llama.cpp's split KV cache
(``kv_unified=False``: every sequence has a stream of its own, `llama_batch_allocr::split_equal`):

- A batch costs one forward pass only where its sequence ids are consecutive, so the running ids are kept dense: before
  a decode step the highest sequence moves into each hole.
- Sequences of one prefill batch advance in step, so those admitted together are ordered by length.
- Prompts are computed in batches of their own: a decode step keeps one shape, and llama.cpp reuses its graph.
- Sequence 0 is reserved for the prefix that all prompts share. It is computed once and copied, as a whole stream, to
  each sequence that is admitted. Jobs that share more (samples of one prompt, one response under two criteria) are a
  family: its first member computes the shared part, the others wait and get a copy.
- A batch with too many tokens or output rows aborts the process, so both limits are kept here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

LEAST_SHARED = 16
"""Tokens below which a shared beginning costs more to copy than to compute again."""


@dataclass(frozen=True, slots=True)
class SequenceJob:
    """One sequence to compute.

    `rows_from` is the index of the first prompt token whose logits are wanted; all later ones are wanted too.
    `max_new` is how many tokens may be sampled after the prompt; with 0 the job is done when its prompt is.
    """

    key: int
    tokens: tuple[int, ...]
    rows_from: int
    max_new: int = 0


@dataclass(frozen=True, slots=True)
class PrefixGroup:
    """Neighbouring jobs whose first `common` tokens are the same; a single job shares nothing (`common` 0)."""

    common: int
    jobs: tuple[SequenceJob, ...]


def shared_prefix(jobs: Sequence[SequenceJob], least: int = LEAST_SHARED) -> tuple[int, ...]:
    """The longest token prefix of all jobs that ends before the first wanted row; () if it is shorter than `least` or
    there is a single job."""
    if len(jobs) < 2:
        return ()
    # The lowest and the highest sequence share exactly what all share.
    low, high = min(job.tokens for job in jobs), max(job.tokens for job in jobs)
    n = common_length(low, high, min(job.rows_from for job in jobs))
    return low[:n] if n >= least else ()


def families(jobs: Sequence[SequenceJob], known: int, least: int = LEAST_SHARED) -> list[PrefixGroup]:
    """Split `jobs`, in their order, where neighbours stop sharing.

    `known` tokens at the beginning of every job are in the cache already. A family shares at least `least` tokens more,
    and at least half of those that its first member still needs: the others wait for it, so a small gain costs more
    than it brings. The shared part ends before the first wanted row of any member.
    """
    groups: list[PrefixGroup] = []
    members: list[SequenceJob] = []
    common = 0
    for job in jobs:
        if members:
            first = members[0]
            n = common_length(first.tokens, job.tokens, min(common, job.rows_from))
            if n - known >= max(least, (len(first.tokens) - known) / 2):
                members.append(job)
                common = n
                continue
            groups.append(_family(members, common))
        members, common = [job], job.rows_from
    if members:
        groups.append(_family(members, common))
    return groups


def arrange(jobs: Sequence[SequenceJob], known: int) -> list[SequenceJob]:
    """Jobs that sample nothing in the best order to compute: families together, the longest first, so that a batch has
    texts of like length."""
    alike = families(sorted(jobs, key=lambda job: job.tokens), known)
    alike.sort(key=lambda family: max(len(job.tokens) for job in family.jobs), reverse=True)
    return [job for family in alike for job in family.jobs]


def _family(members: list[SequenceJob], common: int) -> PrefixGroup:
    return PrefixGroup(common if len(members) > 1 else 0, tuple(members))


def common_length(first: Sequence[int], second: Sequence[int], end: int) -> int:
    """How many of their first `end` tokens are the same, from the first on."""
    end = min(end, len(first), len(second))
    return next((i for i in range(end) if first[i] != second[i]), end)


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
class LogitRow:
    """A row of logits that the batch yields: its index in the batch, its job, and its token of that job."""

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
    rows: list[LogitRow] = field(default_factory=list)
    """In ascending order of index."""
    completed: tuple[int, ...] = ()
    """Keys of the jobs without new tokens whose last row is in this batch."""

    def add(self, token: int, position: int, sequence: int) -> None:
        self.tokens.append(token)
        self.positions.append(position)
        self.sequences.append(sequence)


PREFIX_SEQUENCE = 0
REFILL = 8
"""Slots are refilled when one in this many is free, so that prefills rarely interrupt decoding."""


@dataclass(slots=True)
class _Live:
    job: SequenceJob
    tokens: list[int]
    """The prompt and the tokens sampled since."""
    past: int
    """Tokens in the KV cache."""
    rows_from: int
    """Index of the next token whose logits are wanted."""
    filling: bool = True
    """Whether it is still computing the tokens it was admitted with; after that it decodes, token by token."""
    followers: list[int] = field(default_factory=list)
    """Sequences that wait for this one to reach `common`, to be copied from it."""
    common: int = 0
    held: bool = False
    """Whether it is such a follower."""

    @property
    def end(self) -> int:
        """Where computing must stop for now."""
        return self.common if self.followers else len(self.tokens)


@dataclass(slots=True)
class _Waiting:
    """A queued job, new or put back by `Scheduler.shrink`."""

    job: SequenceJob
    sampled: list[int] = field(default_factory=list)


class Scheduler:
    """Runs jobs through `slots` sequences of `context` tokens each, sequence ids 1 .. slots.

    `batch` and `outputs` bound the tokens and the logits rows of one batch. Jobs that begin with `prefix` get a copy of
    it, the others compute all of their tokens; `prefix_ready` says that sequence 0 holds it already. Raises ValueError
    for limits that cannot work.
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
        self.slots = slots
        """Sequences that run at the same time; `shrink` lowers it."""
        self._context = context
        self._batch = batch
        self._outputs = outputs
        self.prefix = tuple(prefix)
        """The shared prefix; sequence 0 holds it once `next` has returned a step of another kind than ``prefix``."""
        self._prefix_done = len(self.prefix) if prefix_ready else 0
        self._waiting: deque[_Waiting] = deque()
        self._live: dict[int, _Live] = {}
        self._sequence_of: dict[int, int] = {}
        self._freed: list[Copy | Free] = []
        self._sampling: set[int] = set()
        self._completed: list[SequenceJob] = []

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._live

    @property
    def running(self) -> dict[int, int]:
        """The sequence of each running job, by key."""
        return dict(self._sequence_of)

    def submit(self, job: SequenceJob) -> None:
        """Queue a job with a new key. Raises ValueError where it can never run: check its size before."""
        room = self._context - (1 if job.max_new else 0)
        if not 0 <= job.rows_from < len(job.tokens) <= room:
            raise ValueError(f"job {job.key}: {len(job.tokens)} tokens do not fit {self._context}")
        if job.max_new and job.rows_from != len(job.tokens) - 1:
            raise ValueError(f"job {job.key}: tokens are sampled after the last row only")
        self._waiting.append(_Waiting(job))

    def accept(self, key: int, token: int) -> bool:
        """Report the sampled token of a job. False if it was the last that fits: the job is then done (``length``)."""
        sequence = self._reported(key)
        live = self._live[sequence]
        live.tokens.append(token)
        prompt = len(live.job.tokens)
        if len(live.tokens) - prompt >= min(live.job.max_new, self._context - prompt):
            self._release(sequence)
            return False
        return True

    def finish(self, key: int) -> None:
        """End a job whose row was just read (end token or stop string)."""
        self._release(self._reported(key))

    def cancel(self, key: int) -> None:
        """Forget a job between two steps, wherever it is; those that wait for a copy of it begin again, first in the
        queue. A job that is done, or was never submitted, is none to forget."""
        sequence = self._sequence_of.get(key)
        if sequence is None:
            self._waiting = deque(waiting for waiting in self._waiting if waiting.job.key != key)
            return
        for follower in reversed(self._live[sequence].followers):
            waiting = self._live[follower]
            self._waiting.appendleft(_Waiting(waiting.job, waiting.tokens[len(waiting.job.tokens) :]))
            self._release(follower)
        for live in self._live.values():
            live.followers = [follower for follower in live.followers if follower != sequence]
        self._release(sequence)

    def next(self) -> Step | None:
        """The step to execute now, or None when nothing waits and nothing runs.

        Report every row of a job with new tokens by `accept` or `finish` before the next call.
        """
        if self._sampling:
            raise RuntimeError(f"jobs {sorted(self._sampling)} have rows without a reported token")
        self._completed = []
        if self.idle:
            return None
        if self._prefix_done < len(self.prefix):
            return self._prefix_step()
        operations: list[Copy | Free] = self._freed
        self._freed = []
        if self._filling():
            operations += self._follow()
        else:
            operations += self._compact()
            operations += self._admit()
        filling = self._filling()
        return self._prefill_step(operations, filling) if filling else self._decode_step(operations)

    def shrink(self, slots: int, outputs: int) -> None:
        """After a step that could not be computed, go on with fewer slots and restart the running jobs.

        All sequences must be empty by now, the prefix too. Accepted tokens stay accepted, so nothing is sampled twice;
        a job that samples nothing yields all its rows again.
        """
        if not 1 <= slots < self.slots or outputs < slots:
            raise ValueError(f"{slots} slots with {outputs} rows in place of {self.slots}")
        self.slots, self._outputs = slots, outputs
        again = [_Waiting(job) for job in self._completed]
        for _, live in sorted(self._live.items()):
            again.append(_Waiting(live.job, live.tokens[len(live.job.tokens) :]))
        self._waiting.extendleft(reversed(again))
        self._live.clear()
        self._sequence_of.clear()
        self._sampling.clear()
        self._completed, self._freed, self._prefix_done = [], [], 0

    def _reported(self, key: int) -> int:
        self._sampling.remove(key)
        return self._sequence_of[key]

    def _release(self, sequence: int) -> None:
        live = self._live.pop(sequence)
        del self._sequence_of[live.job.key]
        self._freed.append(Free(sequence))

    def _filling(self) -> list[int]:
        return sorted(sequence for sequence, live in self._live.items() if live.filling)

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
        free = self.slots - len(self._live)
        if self._live and free * REFILL < self.slots:
            return
        group = {w.job.key: w for w in (self._waiting.popleft() for _ in range(min(free, len(self._waiting))))}
        alike = families([waiting.job for waiting in group.values()], len(self.prefix))
        # First those that begin at once, longest first, then those that wait for one of them: so the ids of each
        # batch are consecutive, and the texts in it of like length.
        alike.sort(key=lambda family: (len(family.jobs) > 1, -len(family.jobs[0].tokens)))
        first = len(self._live) + 1
        following = first + len(alike)
        for sequence, family in enumerate(alike, first):
            leader = self._begin(sequence, group[family.jobs[0].key])
            leader.common = family.common
            if leader.past:
                yield Copy(PREFIX_SEQUENCE, sequence)
            for job in family.jobs[1:]:
                self._begin(following, group[job.key]).held = True
                leader.followers.append(following)
                following += 1

    def _begin(self, sequence: int, waiting: _Waiting) -> _Live:
        job = waiting.job
        tokens = [*job.tokens, *waiting.sampled]
        rows_from = len(tokens) - 1 if job.max_new else job.rows_from
        has_prefix = len(self.prefix) <= job.rows_from and job.tokens[: len(self.prefix)] == self.prefix
        live = _Live(job, tokens, past=len(self.prefix) if has_prefix else 0, rows_from=rows_from)
        self._live[sequence] = live
        self._sequence_of[job.key] = sequence
        return live

    def _follow(self) -> Iterator[Copy | Free]:
        """Copy the shared part of a family to its waiting members."""
        for sequence, live in sorted(self._live.items()):
            if live.followers and live.past == live.common:
                for follower in live.followers:
                    self._live[follower].past = live.common
                    self._live[follower].held = False
                    yield Copy(sequence, follower)
                live.followers = []

    def _prefix_step(self) -> Step:
        # An earlier run may have left something in sequence 0.
        step = Step("prefix", [] if self._prefix_done else [Free(PREFIX_SEQUENCE)])
        end = min(len(self.prefix), self._prefix_done + self._batch)
        for position in range(self._prefix_done, end):
            step.add(self.prefix[position], position, PREFIX_SEQUENCE)
        self._prefix_done = end
        return step

    def _prefill_step(self, operations: list[Copy | Free], filling: list[int]) -> Step:
        step = Step("prefill", operations)
        completed = []
        for sequence in filling:
            live = self._live[sequence]
            if live.held:
                continue
            if step.tokens and sequence > step.sequences[-1] + 1:
                # One between them waits or is done already: a batch with a gap would cost another forward pass.
                break
            while live.past < live.end and len(step.tokens) < self._batch:
                if live.past >= live.rows_from:
                    if len(step.rows) == self._outputs:
                        break
                    step.rows.append(LogitRow(len(step.tokens), live.job.key, live.past))
                step.add(live.tokens[live.past], live.past, sequence)
                live.past += 1
            if live.past < live.end:
                break
            if live.followers:
                continue
            live.filling = False
            if live.job.max_new:
                self._sampling.add(live.job.key)
            else:
                completed.append(live.job.key)
                self._completed.append(live.job)
                self._release(sequence)
        step.completed = tuple(completed)
        return step

    def _decode_step(self, operations: list[Copy | Free]) -> Step:
        step = Step("decode", operations)
        for sequence in sorted(self._live):
            live = self._live[sequence]
            step.rows.append(LogitRow(len(step.tokens), live.job.key, live.past))
            step.add(live.tokens[live.past], live.past, sequence)
            live.past += 1
            self._sampling.add(live.job.key)
        return step
