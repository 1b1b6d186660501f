"""Which models of a run can answer, by what its folder says at this moment."""

from __future__ import annotations

from collections.abc import Callable

from minisheep.errors import UsageError
from minisheep.run.reading import Run, resolve_round


def sides(
    run: Run, round: str | None, *, base: bool, compare: bool, tell: Callable[[str], None] = lambda text: None
) -> tuple[int, ...]:
    """Who answers: one round (0: the base), or the base and a round to compare.

    `tell` hears where ``best``, which is what answers unless said, is the base. Raises `errors.UsageError`.
    """
    if base and (round or compare):
        raise UsageError("--base talks to the base alone.", "Leave out --round and --compare, or --base.")
    if base:
        return (0,)
    trained = run.trained
    chosen = resolve_round(run, round or "best", trained, tell=tell)
    if not compare:
        return (chosen,)
    if chosen == 0 and round is None and trained:
        # No round was better beyond chance; what training did can be looked at all the same.
        chosen = trained[-1]
    if chosen == 0:
        raise UsageError(
            "--compare sets a round against the base, and the base against itself says nothing.", "Give --round N."
        )
    return (0, chosen)
