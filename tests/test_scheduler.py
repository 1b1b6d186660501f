"""The pure batching decisions, against a model of llama.cpp's KV cache that checks every rule it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minisheep.engines.budget import fewer
from minisheep.engines.scheduler import PREFIX_SEQUENCE, Copy, Free, Scheduler, SequenceJob, Step, shared_prefix

PREFIX = tuple(range(1000, 1020))


@dataclass
class Cache:
    """What each sequence holds, and the limits whose violation aborts llama.cpp."""

    slots: int
    context: int
    batch: int
    outputs: int
    held: dict[int, list[int]] = field(default_factory=dict)

    def apply(self, step: Step) -> None:
        for operation in step.operations:
            if isinstance(operation, Free):
                self.held.pop(operation.sequence, None)
            else:
                assert operation.target not in self.held, "copied onto a sequence in use"
                self.held[operation.target] = list(self.held[operation.source])
        assert 0 < len(step.tokens) <= self.batch
        assert len(step.rows) <= self.outputs
        ids = list(dict.fromkeys(step.sequences))
        assert ids == list(range(ids[0], ids[0] + len(ids))), "ids are not consecutive: extra forward passes"
        for token, position, sequence in zip(step.tokens, step.positions, step.sequences, strict=True):
            assert 0 <= sequence <= self.slots
            cells = self.held.setdefault(sequence, [])
            assert position == len(cells), "inconsistent position"
            cells.append(token)
            assert len(cells) <= self.context


@dataclass(frozen=True)
class Plan:
    """A job and when it stops: after so many tokens by an end token, or never by itself."""

    length: int
    rows: int
    max_new: int
    stop_after: int
    arrival: int
    family: int = 0
    shared: int = 0
    """Of its tokens, how many are those of its family."""
    bare: bool = False
    """Whether it begins otherwise than with the prefix."""


plans = st.builds(
    Plan,
    length=st.integers(1, 40),
    rows=st.integers(1, 12),
    max_new=st.integers(0, 12),
    stop_after=st.integers(1, 20),
    arrival=st.integers(0, 12),
    family=st.integers(0, 2),
    shared=st.sampled_from([0, 0, 16, 24, 39, 40]),
    bare=st.booleans(),
)


def job_of(key: int, plan: Plan, prefix: tuple[int, ...]) -> SequenceJob:
    shared = tuple(range(plan.family * 100, plan.family * 100 + min(plan.shared, plan.length)))
    tokens = (
        *(() if plan.bare else prefix),
        *shared,
        *((key + 1) * 100_000 + i for i in range(plan.length - len(shared))),
    )
    rows = 1 if plan.max_new else min(plan.rows, plan.length)
    return SequenceJob(key, tokens, len(tokens) - rows, plan.max_new)


def run(
    scheduler: Scheduler,
    cache: Cache,
    plans: list[Plan],
    prefix: tuple[int, ...],
    failures: frozenset[int] = frozenset(),
    dropped: Mapping[int, int] = {},  # never changed
) -> tuple[dict[int, list[int]], dict[int, str]]:
    """Drive everything to its end; which rows each job yielded, and why it finished. Where memory runs out (ticks in
    `failures`) half of the step's rows were still read. `dropped`: the job that is cancelled before a tick."""
    rows: dict[int, list[int]] = {}
    finished: dict[int, str] = {}
    arriving = sorted(range(len(plans)), key=lambda key: plans[key].arrival)
    sampled: dict[int, int] = {}
    for tick in range(10_000):
        while arriving and (plans[arriving[0]].arrival <= tick or scheduler.idle):
            key = arriving.pop(0)
            scheduler.submit(job_of(key, plans[key], prefix))
        if (gone := dropped.get(tick, len(plans))) < len(plans) and gone not in arriving and gone not in finished:
            scheduler.cancel(gone)
            assert gone not in scheduler.running
            finished[gone] = "dropped"
        step = scheduler.next()
        if step is None:
            assert scheduler.idle
            if arriving:
                continue
            return rows, finished
        cache.apply(step)
        sequences = list(scheduler.running.values())
        assert len(set(sequences)) == len(sequences) <= cache.slots, "a slot is used twice"
        if step.kind == "decode":
            assert step.sequences == list(range(1, len(step.sequences) + 1)), "decoding ids are not dense"
        assert [row.index for row in step.rows] == sorted({row.index for row in step.rows})
        fails = tick in failures and scheduler.slots > 1
        for row in step.rows[: len(step.rows) // 2] if fails else step.rows:
            assert row.key not in finished
            held = cache.held[step.sequences[row.index]]
            job = job_of(row.key, plans[row.key], prefix)
            assert held[: len(job.tokens)] == list(job.tokens)[: len(held)], "the row belongs to another text"
            assert step.positions[row.index] == row.token
            if job.max_new == 0 and row.token == job.rows_from:
                rows[row.key] = []  # all of them, again if it began again
            rows.setdefault(row.key, []).append(row.token)
            if job.max_new:
                sampled[row.key] = sampled.get(row.key, 0) + 1
                if sampled[row.key] == plans[row.key].stop_after:
                    scheduler.finish(row.key)
                    finished[row.key] = "end"
                elif not scheduler.accept(row.key, -sampled[row.key]):
                    finished[row.key] = "length"
        if fails:
            scheduler.shrink(fewer(scheduler.slots), scheduler.slots)
            cache.held.clear()
            cache.slots = scheduler.slots
            continue
        for key in step.completed:
            assert key not in finished
            finished[key] = "done"
    raise AssertionError("the scheduler does not come to an end")


@settings(max_examples=300, deadline=None)
@given(
    plans=st.lists(plans, max_size=30),
    slots=st.integers(1, 9),
    spare_batch=st.integers(0, 40),
    spare_outputs=st.integers(0, 8),
    with_prefix=st.booleans(),
    failures=st.frozensets(st.integers(0, 60), max_size=3),
    dropped=st.dictionaries(st.integers(0, 40), st.integers(0, 29), max_size=6),
)
def test_every_job_finishes_once_with_all_its_rows_and_no_limit_is_broken(
    plans: list[Plan],
    slots: int,
    spare_batch: int,
    spare_outputs: int,
    with_prefix: bool,
    failures: frozenset[int],
    dropped: dict[int, int],
) -> None:
    prefix = PREFIX if with_prefix else ()
    context = 46 + len(prefix)
    cache = Cache(slots, context, slots + spare_batch, slots + spare_outputs)
    scheduler = Scheduler(slots=slots, context=context, batch=cache.batch, outputs=cache.outputs, prefix=prefix)
    rows, finished = run(scheduler, cache, plans, prefix, failures, dropped)
    assert finished.keys() == set(range(len(plans)))
    for key, plan in enumerate(plans):
        if finished[key] == "dropped":
            continue
        job = job_of(key, plan, prefix)
        room = min(plan.max_new, context - len(job.tokens))
        if plan.max_new == 0:
            assert finished[key] == "done"
            wanted = len(job.tokens) - job.rows_from
        else:
            assert finished[key] == ("end" if plan.stop_after <= room else "length")
            wanted = min(plan.stop_after, room)
        assert rows[key] == list(range(job.rows_from, job.rows_from + wanted))


def make(slots: int = 8, prefix: tuple[int, ...] = (), ready: bool = False) -> Scheduler:
    return Scheduler(slots=slots, context=64, batch=32, outputs=16, prefix=prefix, prefix_ready=ready)


def prefilled(scheduler: Scheduler, count: int, max_new: int = 20) -> None:
    for key in range(count):
        scheduler.submit(SequenceJob(key, (7,), 0, max_new))
    step = scheduler.next()
    assert step is not None and step.kind == "prefill"
    for row in step.rows:
        scheduler.accept(row.key, 1)


def decoded(scheduler: Scheduler, finish: set[int]) -> Step:
    step = scheduler.next()
    assert step is not None and step.kind == "decode"
    for row in step.rows:
        if row.key in finish:
            scheduler.finish(row.key)
        else:
            scheduler.accept(row.key, 1)
    return step


def test_the_last_sequence_moves_into_a_hole() -> None:
    scheduler = make()
    prefilled(scheduler, 5)
    decoded(scheduler, finish={1})
    step = decoded(scheduler, finish=set())
    assert step.operations == [Free(2), Copy(5, 2), Free(5)]
    assert scheduler.running == {0: 1, 4: 2, 2: 3, 3: 4}


def test_one_free_slot_in_sixteen_waits_for_a_second() -> None:
    scheduler = make(slots=16)
    prefilled(scheduler, 17)
    decoded(scheduler, finish={3})
    decoded(scheduler, finish={4})
    step = scheduler.next()
    assert step is not None and step.kind == "prefill"
    assert [row.key for row in step.rows] == [16]


def test_who_waits_for_a_copy_of_a_job_that_is_cancelled_begins_again() -> None:
    scheduler = make()
    for key in range(3):
        scheduler.submit(SequenceJob(key, (*PREFIX, *range(20), key), 40, 1))
    first = scheduler.next()
    assert first is not None and [set(first.sequences), first.rows] == [{1}, []]
    scheduler.cancel(0)
    assert not scheduler.running and not scheduler.idle
    second, third, fourth = scheduler.next(), scheduler.next(), scheduler.next()
    assert second is not None and third is not None and fourth is not None
    assert Free(1) in second.operations and (second.positions[0], third.positions[-1]) == (0, 39)
    assert [row.key for row in fourth.rows] == [1, 2] and scheduler.running == {1: 1, 2: 2}


def test_a_group_is_admitted_longest_first() -> None:
    scheduler = make()
    for key, length in enumerate((2, 5, 3)):
        scheduler.submit(SequenceJob(key, tuple(range(length)), length - 1, 1))
    step = scheduler.next()
    assert step is not None
    assert [row.key for row in step.rows] == [1, 2, 0]


def test_a_ready_prefix_is_copied_and_not_computed_again() -> None:
    scheduler = make(prefix=PREFIX, ready=True)
    scheduler.submit(SequenceJob(0, (*PREFIX, 5), len(PREFIX), 1))
    step = scheduler.next()
    assert step is not None
    assert (step.kind, step.operations, step.tokens) == ("prefill", [Copy(PREFIX_SEQUENCE, 1)], [5])
    assert scheduler.prefix == PREFIX


def test_a_long_prefix_is_computed_in_chunks_after_emptying_its_sequence() -> None:
    prefix = tuple(range(40))
    scheduler = make(prefix=prefix)
    scheduler.submit(SequenceJob(0, (*prefix, 5), 40, 1))
    first, second = scheduler.next(), scheduler.next()
    assert first is not None and second is not None
    assert (first.kind, first.operations, len(first.tokens)) == ("prefix", [Free(PREFIX_SEQUENCE)], 32)
    assert (second.kind, second.operations, second.positions) == ("prefix", [], list(range(32, 40)))


def test_nothing_to_do_is_none_even_with_a_prefix() -> None:
    assert make(prefix=PREFIX).next() is None


def test_unanswered_rows_are_a_fault_of_the_caller() -> None:
    scheduler = make()
    scheduler.submit(SequenceJob(0, (7,), 0, 5))
    scheduler.next()
    with pytest.raises(RuntimeError):
        scheduler.next()


@pytest.mark.parametrize(
    "job",
    [
        SequenceJob(0, (), 0),
        SequenceJob(0, tuple(range(65)), 0),
        SequenceJob(0, tuple(range(64)), 63, 1),
        SequenceJob(0, (1, 2), 2),
        SequenceJob(0, (1, 2), -1),
        SequenceJob(0, (1, 2), 0, 1),
    ],
    ids=["empty", "too long", "no room for a token", "row beyond the end", "row before the start", "samples twice"],
)
def test_an_impossible_job_is_refused(job: SequenceJob) -> None:
    with pytest.raises(ValueError, match="job 0"):
        make().submit(job)


@pytest.mark.parametrize("tokens", [(1, 2, 3), PREFIX])
def test_a_job_that_does_not_begin_with_the_prefix_computes_all_of_its_tokens(tokens: tuple[int, ...]) -> None:
    scheduler = make(prefix=PREFIX, ready=True)
    scheduler.submit(SequenceJob(0, tokens, len(tokens) - 1, 1))
    step = scheduler.next()
    assert step is not None and (step.operations, step.tokens) == ([], list(tokens))


@pytest.mark.parametrize(("slots", "batch", "outputs"), [(0, 8, 8), (9, 8, 16), (9, 16, 8)])
def test_limits_below_the_slots_are_refused(slots: int, batch: int, outputs: int) -> None:
    with pytest.raises(ValueError, match="slots"):
        Scheduler(slots=slots, context=64, batch=batch, outputs=outputs)


def test_a_prefix_beyond_the_context_is_refused() -> None:
    with pytest.raises(ValueError, match="prefix"):
        make(prefix=tuple(range(65)))


def jobs_of(*texts: tuple[int, ...]) -> list[SequenceJob]:
    return [SequenceJob(key, text, len(text) - 1) for key, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("texts", "length"),
    [
        ((), 0),
        (((*PREFIX, 1),), 0),
        (((*PREFIX, 1), (*PREFIX, 2, 3)), 20),
        ((PREFIX, PREFIX), 19),
        (((*PREFIX[:15], 1), (*PREFIX[:15], 2)), 0),
        (((*PREFIX[:16], 1), (*PREFIX[:16], 2)), 16),
    ],
    ids=["none", "one", "all of it", "not the last token", "too short", "just long enough"],
)
def test_the_shared_prefix_ends_where_texts_part_or_rows_begin(texts: tuple[tuple[int, ...], ...], length: int) -> None:
    assert shared_prefix(jobs_of(*texts)) == PREFIX[:length]


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8).map(tuple), min_size=2, max_size=6))
def test_the_shared_prefix_is_the_longest_that_all_have(texts: list[tuple[int, ...]]) -> None:
    found = shared_prefix(jobs_of(*texts), least=0)
    longest = next(n for n in range(8, -1, -1) if all(t[:n] == texts[0][:n] and n < len(t) for t in texts))
    assert found == texts[0][:longest]


def test_a_member_that_waits_leaves_no_gap_between_the_ids_of_a_batch() -> None:
    """Two families in a batch so small that one leader is done with the shared part long before the other."""
    plans = [Plan(33, 1, 0, 1, 0, shared=24), Plan(18, 1, 0, 1, 0, shared=24), *[Plan(17, 1, 0, 1, 0, shared=16)] * 2]
    rows, finished = run(Scheduler(slots=4, context=46, batch=4, outputs=4), Cache(4, 46, 4, 4), plans, (), frozenset())
    assert finished == dict.fromkeys(range(4), "done") and all(len(found) == 1 for found in rows.values())
