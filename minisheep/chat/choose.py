"""Which models of a run can answer, by what its folder says at this moment."""

from __future__ import annotations

from minisheep import api
from minisheep.errors import UsageError
from minisheep.loop import Phase


def trained(run: api.Run) -> list[int]:
    """Rounds whose adapter is finished."""
    done = run.phases_done
    return [r.number for r in run.rounds if Phase(r.number, "train").key in done and r.adapter_gguf.exists()]


def resolve(run: api.Run, told: str) -> int:
    """The round that ``best``, ``last``, ``base`` or a number means; 0 is the base.

    ``best`` is the last one where none was measured. Raises `errors.UsageError` where there is none.
    """
    if told in ("base", "0"):
        return 0
    rounds = trained(run)
    if told == "best" and run.best is not None and run.best in (0, *rounds):
        return run.best
    if told in ("best", "last") and rounds:
        return rounds[-1]
    if told.isascii() and told.isdigit() and int(told) in rounds:
        return int(told)
    there = f"has trained round {', '.join(map(str, rounds))}" if rounds else "has trained no round yet"
    raise UsageError(f"Round {told or '(none given)'}: {run.path} {there}.", _instead(rounds))


def sides(run: api.Run, round: str | None, *, base: bool, compare: bool) -> tuple[int, ...]:
    """Who answers: one round (0: the base), or the base and a round to compare. Raises `errors.UsageError`."""
    if base and (round or compare):
        raise UsageError("--base talks to the base alone.", "Leave out --round and --compare, or --base.")
    if base:
        return (0,)
    chosen = resolve(run, round or "best")
    if not compare:
        return (chosen,)
    if chosen == 0 and round is None and trained(run):
        # No round was better beyond chance; what training did can be looked at all the same.
        chosen = trained(run)[-1]
    if chosen == 0:
        raise UsageError("--compare sets a round against the base, and the base against itself says nothing.", _ROUND)
    return (0, chosen)


_ROUND = "Give --round N."


def _instead(rounds: list[int]) -> str:
    return "Give one of them, best, last or base." if rounds else "--base talks to the base model."
