"""Which jobs begin alike, so that what they share is computed once and copied. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LEAST_SHARED = 16
"""Tokens below which a shared beginning costs more to copy than to compute again."""


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
class Family:
    """Neighbouring jobs whose first `common` tokens are the same; a single job shares nothing (`common` 0)."""

    common: int
    jobs: tuple[Job, ...]


def shared_prefix(jobs: Sequence[Job], least: int = LEAST_SHARED) -> tuple[int, ...]:
    """The longest token prefix of all jobs that ends before the first wanted row, or () if it is shorter than `least`.

    A single job shares nothing.
    """
    if len(jobs) < 2:
        return ()
    # The lowest and the highest sequence share exactly what all share.
    low, high = min(job.tokens for job in jobs), max(job.tokens for job in jobs)
    n = _common(low, high, min(job.rows_from for job in jobs))
    return low[:n] if n >= least else ()


def families(jobs: Sequence[Job], known: int, least: int = LEAST_SHARED) -> list[Family]:
    """Split `jobs`, in their order, where neighbours stop sharing.

    `known` tokens at the beginning of every job are in the cache already. A family shares at least `least` tokens more,
    and at least half of what its first member still needs: its members wait for that one, so a small gain costs more
    than it brings. A family ends before the first wanted row of any member.
    """
    found: list[Family] = []
    members: list[Job] = []
    common = 0
    for job in jobs:
        if members:
            first = members[0]
            n = _common(first.tokens, job.tokens, min(common, job.rows_from))
            if n - known >= max(least, (len(first.tokens) - known) / 2):
                members.append(job)
                common = n
                continue
            found.append(_family(members, common))
        members, common = [job], job.rows_from
    if members:
        found.append(_family(members, common))
    return found


def arrange(jobs: Sequence[Job], known: int) -> list[Job]:
    """Jobs that sample nothing in the order in which they are best computed: families together, the longest first, so
    that what is computed at the same time is of like length."""
    alike = families(sorted(jobs, key=lambda job: job.tokens), known)
    alike.sort(key=lambda family: max(len(job.tokens) for job in family.jobs), reverse=True)
    return [job for family in alike for job in family.jobs]


def _family(members: list[Job], common: int) -> Family:
    return Family(common if len(members) > 1 else 0, tuple(members))


def _common(first: Sequence[int], second: Sequence[int], end: int) -> int:
    end = min(end, len(first), len(second))
    return next((i for i in range(end) if first[i] != second[i]), end)
