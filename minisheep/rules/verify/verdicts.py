"""Verdicts: one constraint, all constraints of an item, the lenient reading of an answer, two models' side by side."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from minisheep.errors import ConfigError
from minisheep.rules.verify.items import Check, Item
from minisheep.rules.verify.kinds import KINDS

Rows = list[list[bool]]
READINGS = ("strict", "loose", "own")
"""How an answer is read: as it is, leniently, and as it is but where it says its instruction back."""


def verify(kind: str, arguments: Mapping[str, Any], prompt: str, response: str) -> bool:
    """Whether `response` keeps one constraint; a blank one keeps none.

    `prompt` is what ``combination:repeat_prompt`` wants repeated where its arguments do not say. Raises
    `errors.ConfigError` for an unknown kind or malformed arguments.
    """
    found = resolve(Check(kind, arguments), prompt, "A constraint")
    return bool(response.strip()) and KINDS[kind].decide(response, **found)


def strict(item: Item, response: str) -> tuple[bool, ...]:
    """A verdict on each constraint of the item. Raises `errors.ConfigError` naming the item."""
    return _verdicts(item, (response,))


def loose(item: Item, response: str) -> tuple[bool, ...]:
    """A verdict on each constraint, kept if any variant of the answer keeps it (IFEval's upper bound)."""
    return _verdicts(item, variants(response))


def paired(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, tuple[Rows, Rows]]:
    """By reading, and for `ended` and `copied`: two models' verdicts on the items that both answered, a row an item.

    ours, theirs: the ``verifiable_by_item`` of their metrics. Empty where they share no item; what an earlier version
    did not measure is left out.
    """
    common = [name for name in ours if name in theirs and len(ours[name]["strict"]) == len(theirs[name]["strict"])]
    if not common:
        return {}
    first, second = (verdict_rows({name: verdicts[name] for name in common}) for verdicts in (ours, theirs))
    return {name: (rows, second[name]) for name, rows in first.items() if name in second}


def verdict_rows(verdicts: Mapping[str, Any]) -> dict[str, Rows]:
    """By reading, one row of verdicts an item; the end of an answer and whether it is a copy as rows of one verdict.

    What not all of them hold, since an earlier version did not measure it, is left out.
    """

    def row(verdict: Any) -> list[bool]:
        return verdict if isinstance(verdict, list) else [verdict]

    names = [name for name in (*READINGS, "ended", "copied") if all(name in v for v in verdicts.values())]
    return {name: [row(verdict[name]) for verdict in verdicts.values()] for name in names}


def variants(response: str) -> tuple[str, ...]:
    """The answer without its first line, last line or both, each also without asterisks: 8 with the answer itself."""
    lines = response.split("\n")
    cut = [response, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return (*cut, *(text.replace("*", "") for text in cut))


def resolve(check: Check, prompt: str, name: str) -> dict[str, Any]:
    """The arguments of a constraint as its decision takes them; an argument that is None counts as not given.

    Raises `errors.ConfigError` that begins with `name`.
    """
    if check.kind not in KINDS:
        near = difflib.get_close_matches(check.kind, KINDS, n=1)
        raise ConfigError(
            f"{name}: there is no constraint {check.kind!r}{f' (nearest: {near[0]})' if near else ''}.",
            f"There are {', '.join(KINDS)}.",
        )
    kind = KINDS[check.kind]
    given = {key: value for key, value in check.arguments.items() if value is not None}
    if kind.defaults_to_prompt:
        given.setdefault(kind.defaults_to_prompt, prompt)
    fix = f"{check.kind} takes {', '.join(kind.arguments) or 'no arguments'}."
    for wrong in [f"has no argument {key!r}" for key in given if key not in kind.arguments] + [
        f"needs the argument {key!r}" for key in kind.arguments if key not in given
    ]:
        raise ConfigError(f"{name}: {check.kind} {wrong}.", fix)
    found = {}
    for key, reader in kind.arguments.items():
        try:
            found[key] = reader(given[key])
        except ValueError as error:
            raise ConfigError(f"{name}: {check.kind}: {key} {given[key]!r} {error}.", fix) from None
    if found.get("nth_paragraph", 0) > found.get("num_paragraphs", 0):
        raise ConfigError(f"{name}: {check.kind}: nth_paragraph lies beyond num_paragraphs.", fix)
    return found


def _verdicts(item: Item, responses: tuple[str, ...]) -> tuple[bool, ...]:
    found = []
    for check in item.checks:
        arguments = resolve(check, item.prompt, f"Item {item.id}")
        decide = KINDS[check.kind].decide
        found.append(any(text.strip() and decide(text, **arguments) for text in responses))
    return tuple(found)
