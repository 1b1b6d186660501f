"""The result of one check, for ``minisheep doctor`` and ``make gpu-check``. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

OUTCOMES = ("ok", "warn", "fail", "skipped")

Facts = dict[str, Any]
"""A probe's result, JSON-ready. A failed probe has ``error``, perhaps ``fix``, and ``after`` (seconds) where its time
was up. A probe that never started has ``unasked``, the reason."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """`outcome` is one of `OUTCOMES`: `fail` would stop a run or make it hours longer, `warn` is worth knowing,
    `skipped` could not be checked, with the reason in `found`."""

    name: str
    outcome: str
    found: str
    fix: str = ""
    """What to type or change; empty where nothing needs fixing."""
    figures: dict[str, Any] = field(default_factory=dict)
    """Numbers behind `found`, for ``--json``."""

    def to_dict(self) -> dict[str, Any]:
        return {"event": "Check", **asdict(self)}


def ok(name: str, found: str, **figures: Any) -> CheckResult:
    return CheckResult(name, "ok", found, "", figures)


def warn(name: str, found: str, fix: str, **figures: Any) -> CheckResult:
    return CheckResult(name, "warn", found, fix, figures)


def fail(name: str, found: str, fix: str, **figures: Any) -> CheckResult:
    return CheckResult(name, "fail", found, fix, figures)


def broken(name: str, found: str, facts: Facts, fix: str) -> CheckResult:
    """The result of a probe with an ``error``; its own ``fix`` comes first.

    A probe that was cut off after fewer than `HANGS` seconds may only be slow: a first import from a cold disk.
    """
    slow = facts.get("after", HANGS) < HANGS
    return CheckResult(name, "warn" if slow else "fail", found, facts.get("fix") or fix)


HANGS = 60.0
"""Seconds after which a probe counts as hanging."""


def skipped(name: str, found: str, fix: str = "") -> CheckResult:
    return CheckResult(name, "skipped", found, fix)


def failed(results: Sequence[CheckResult]) -> bool:
    return any(result.outcome == "fail" for result in results)


def counted(results: Sequence[CheckResult]) -> dict[str, int]:
    """The number of results with each outcome, zeros included."""
    counts = Counter(result.outcome for result in results)
    return {outcome: counts[outcome] for outcome in OUTCOMES}


def verdict(results: Sequence[CheckResult]) -> str:
    """``20 checks: 14 ok, 2 warn, 0 fail, 4 skipped.``"""
    counts = counted(results)
    return f"{len(results)} checks: {', '.join(f'{number} {outcome}' for outcome, number in counts.items())}."
