"""What a check says: one plain result, the same for ``minisheep doctor`` and for ``make gpu-check``. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

OUTCOMES = ("ok", "warn", "fail", "skipped")

Facts = dict[str, Any]
"""What a probe found, JSON-ready. One that could not answer has ``error``, in words, and perhaps ``fix``, and ``after``
(seconds) where its time was up. One that was never begun has ``unasked``, the reason."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """`outcome` is one of `OUTCOMES`: `fail` is what would stop a run or make it hours longer, `warn` what is worth
    knowing, `skipped` what could not be looked at, with the reason in `found`."""

    name: str
    outcome: str
    found: str
    fix: str = ""
    """What to type or change; empty where there is nothing to mend."""
    figures: dict[str, Any] = field(default_factory=dict)
    """Numbers behind `found`, for ``--json``."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "event": "Check",
            "name": self.name,
            "outcome": self.outcome,
            "found": self.found,
            "fix": self.fix,
            "figures": self.figures,
        }


def ok(name: str, found: str, **figures: Any) -> CheckResult:
    return CheckResult(name, "ok", found, "", figures)


def warn(name: str, found: str, fix: str, **figures: Any) -> CheckResult:
    return CheckResult(name, "warn", found, fix, figures)


def fail(name: str, found: str, fix: str, **figures: Any) -> CheckResult:
    return CheckResult(name, "fail", found, fix, figures)


def broken(name: str, found: str, facts: Facts, fix: str) -> CheckResult:
    """The result of a probe that has an ``error``; its own ``fix`` comes first.

    One that was merely cut off soon, by ``after`` seconds, may be slow: a first import from a cold disk is no fault.
    """
    soon = "after" in facts and facts["after"] < HANGS
    return CheckResult(name, "warn" if soon else "fail", found, facts.get("fix") or fix)


HANGS = 60.0
"""Seconds after which what has not ended is said to hang."""


def skipped(name: str, found: str, fix: str = "") -> CheckResult:
    return CheckResult(name, "skipped", found, fix)


def failed(results: Sequence[CheckResult]) -> bool:
    return any(result.outcome == "fail" for result in results)


def counted(results: Sequence[CheckResult]) -> dict[str, int]:
    """How many results have each outcome, all four named."""
    found = Counter(result.outcome for result in results)
    return {outcome: found[outcome] for outcome in OUTCOMES}


def verdict(results: Sequence[CheckResult]) -> str:
    """``20 checks: 14 ok, 2 warn, 0 fail, 4 skipped.``"""
    counts = counted(results)
    return f"{len(results)} checks: {', '.join(f'{number} {outcome}' for outcome, number in counts.items())}."
