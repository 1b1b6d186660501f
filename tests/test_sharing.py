"""What jobs share: families of neighbours, and the order that brings them together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from minisheep.engines.scheduler import LEAST_SHARED, PrefixGroup, Scheduler, SequenceJob, arrange, families

BODY = tuple(range(100, 140))


def job(key: int, *tokens: int, rows: int = 1) -> SequenceJob:
    return SequenceJob(key, tokens, len(tokens) - rows)


def shape(found: list[PrefixGroup]) -> list[tuple[int, tuple[int, ...]]]:
    return [(family.common, tuple(job.key for job in family.jobs)) for family in found]


def test_two_endings_of_one_text_are_a_family() -> None:
    assert shape(families([job(0, *BODY, 1, 2), job(1, *BODY, 3)], 0)) == [(40, (0, 1))]


def test_samples_of_one_prompt_share_all_but_the_token_whose_logits_are_wanted() -> None:
    assert shape(families([job(0, *BODY), job(1, *BODY), job(2, *BODY)], 0)) == [(39, (0, 1, 2))]


def test_a_family_ends_before_the_first_wanted_row_of_any_member() -> None:
    assert shape(families([job(0, *BODY), job(1, *BODY, rows=5)], 0)) == [(35, (0, 1))]


def test_a_short_common_beginning_is_not_worth_waiting_for() -> None:
    few = BODY[: LEAST_SHARED - 1]
    assert shape(families([job(0, *few, 1), job(1, *few, 2)], 0)) == [(0, (0,)), (0, (1,))]


def test_what_is_in_the_cache_already_does_not_count() -> None:
    assert shape(families([job(0, *BODY, 1), job(1, *BODY, 2)], known=30)) == [(0, (0,)), (0, (1,))]


def test_less_than_half_in_common_is_not_worth_waiting_for() -> None:
    long = tuple(range(1000, 1100))
    assert shape(families([job(0, *BODY, *long), job(1, *BODY, 2)], 0)) == [(0, (0,)), (0, (1,))]


def test_arranging_brings_families_together_the_longest_first() -> None:
    other = tuple(range(200, 260))
    jobs = [job(0, *BODY, 1), job(1, *other, 1), job(2, *BODY, 2), job(3, 5), job(4, *other, 2)]
    assert [one.key for one in arrange(jobs, 0)] == [1, 4, 0, 2, 3]


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=60), max_size=12), st.integers(0, 3))
def test_families_keep_every_job_and_what_they_share_is_the_same(texts: list[list[int]], rows: int) -> None:
    jobs = [job(key, *tokens, rows=min(rows + 1, len(tokens))) for key, tokens in enumerate(texts)]
    found = families(jobs, 0)
    assert [one.key for family in found for one in family.jobs] == [one.key for one in jobs]
    for family in found:
        assert len({one.tokens[: family.common] for one in family.jobs}) == 1
        assert all(family.common <= one.rows_from for one in family.jobs)
    assert sorted(one.key for one in arrange(jobs, 0)) == [one.key for one in jobs]


def test_what_a_family_shares_is_computed_once() -> None:
    scheduler = Scheduler(slots=4, context=64, batch=128, outputs=8)
    jobs = [job(0, *BODY, 1), job(1, *BODY, 2), job(2, *BODY, 3, 4)]
    for one in jobs:
        scheduler.submit(one)
    computed = 0
    while (step := scheduler.next()) is not None:
        computed += len(step.tokens)
    assert computed == 40 + 1 + 1 + 2
