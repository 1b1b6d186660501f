"""The outcome of a comparison by `minisheep versus`, in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minisheep.rules.plain_text import one_line

MANY_UNREADABLE = 0.2
MUCH_ORDER = 0.3
"""Shares above which an outcome comes with a warning."""


def lines(summary: Mapping[str, Any]) -> list[str]:
    """What was compared, the result, how far to trust the judge, and where the judgements are."""
    body = _pair(summary) if summary["mode"] == "pair" else _grade(summary)
    width = max(len(name) for name, _ in body)
    return [
        one_line(
            f"{summary['run']}, {summary['ours']} against {summary['theirs']}, on {summary['prompts']},"
            f" judged by {summary['judge']} at {summary['judge_url']}"
        ),
        *(f"  {name:{width}}  {value}" for name, value in body),
        *warnings(summary),
        one_line(f"Every judgement: {summary['judgements']}"),
    ]


def warnings(summary: Mapping[str, Any]) -> list[str]:
    texts = []
    asked = summary["pairs"] - summary["same_answer"] if summary["mode"] == "pair" else 2 * summary["tasks"]
    if asked and summary["unreadable"] / asked > MANY_UNREADABLE:
        texts.append(
            f"WARNING: {summary['unreadable']} of {asked} could not be read, so this result means little. A judge that"
            " reasons at length needs a higher --judge-max-tokens; its replies are in the file below."
        )
    if summary.get("judged_pairs") and _by_order(summary) / summary["judged_pairs"] > MUCH_ORDER:
        texts.append(
            "WARNING: for many pairs the order of the answers decided; they count as ties. Try a better judge."
        )
    return texts


def _pair(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    rate = summary.get("win_rate")
    won = (
        f"{100 * rate['value']:.1f} % [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}], ties count half"
        if rate
        else "not measured: no reply could be read"
    )
    judged = summary["judged_pairs"]
    share = f" ({_by_order(summary) / judged:.0%})" if judged else ""
    return [
        ("win rate", won),
        ("won, tied, lost", f"{summary['won']}, {summary['tied']} ({summary['same_answer']} the same text),"
         f" {summary['lost']}"),
        ("decided by order", f"{_by_order(summary)} of {judged}{share}: {summary['first_place_twice']} for the first"
         f" place, {summary['second_place_twice']} for the second"),
        ("unreadable", f"{summary['unreadable']} of {summary['pairs'] - summary['same_answer']} pairs"),
        ("words an answer", f"{_lengths(summary)}; the longer one won {summary['longer_won']} of"
         f" {summary['decided_of_different_length']} decided"),
    ]  # fmt: skip


def _grade(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [
        (f"mean grade, {summary[key]}", _mean(summary[f"{key}_grade"]))
        for key in ("ours", "theirs")
        if f"{key}_grade" in summary
    ]
    if not rows:
        rows.append(("mean grade", "not measured: no task has two grades that could be read"))
    if "difference" in summary:
        rows.append(("difference", _mean(summary["difference"], sign="+")))
    return [
        *rows,
        ("unreadable", f"{summary['unreadable']} of {2 * summary['tasks']} replies"),
        ("words an answer", _lengths(summary)),
    ]


def _mean(found: Mapping[str, float], sign: str = "") -> str:
    error = f" (standard error {found['error']:.2f})" if "error" in found else ""
    return f"{found['mean']:{sign}.2f}{error}"


def _lengths(summary: Mapping[str, Any]) -> str:
    return f"{summary['words_ours']:.0f} against {summary['words_theirs']:.0f}"


def _by_order(summary: Mapping[str, Any]) -> int:
    return int(summary["first_place_twice"]) + int(summary["second_place_twice"])
