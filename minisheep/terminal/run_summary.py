"""The end of a run on a terminal: the sentence, the short table, answers before and after, the learning curve.

Lines of plain text, no wider than asked for. What they say is made in `run.verdict`; here it is only laid out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from minisheep import api
from minisheep.rules.constraints import kind_in_words
from minisheep.run import verdict
from minisheep.run.verdict import BeforeAfter, Conclusion
from minisheep.terminal.columns import Column, laid_out
from minisheep.terminal.screen_charts import clean, pad, wrap

LEAST, MOST = 40, 140
"""Cells of a line: a narrower terminal breaks lines by itself, and longer ones are hard to read."""
PROMPT_LINES, ANSWER_LINES = 2, 5
SIDE_BY_SIDE = 70
"""Cells from which two answers stand beside each other."""


def room(width: int) -> int:
    """The width to lay out for."""
    return max(LEAST, min(MOST, width))


def sentence(found: Conclusion | None, width: int) -> list[str]:
    return wrap(clean(verdict.sentence(found)), room(width), 12)


def examples(run: api.Run, found: Conclusion) -> list[BeforeAfter]:
    """Answers of the base and of the round that `found` is about. Raises `errors.CorruptRunError`."""
    base, later = run.base, run.round(found.round)
    return verdict.before_after(
        (base.answers, later.answers), (base.verifiable, later.verifiable), (found.base, found.model)
    )


def numbers(found: Conclusion | None, metrics: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """The short table and what to know of it; nothing before a round was measured."""
    titles, rows = verdict.short_table(found, metrics)
    if not rows:
        return []
    width = room(width)
    lines = table(titles, rows, width)
    if len(lines) > 1 + len(rows):
        # Rather fewer rounds than a table in pieces.
        lines = table(*verdict.short_table(found, metrics, most=1), width)
    return [*lines, *wrap(verdict.LEGEND, width, 4)]


def before_after(run: api.Run, found: Conclusion | None, width: int) -> list[str]:
    """Answers of the base and of the round that the sentence is about. Raises `errors.CorruptRunError`."""
    shown = [] if found is None else examples(run, found)
    if found is None or not shown:
        return []
    width = room(width)
    lines = wrap("Answers before and after, chosen by a fixed rule, not by how good they are:", width, 3)
    for example in shown:
        lines += ["", *_answers(example, found.round, width)]
    return lines


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """A table whose first column stands in each block."""
    first, *others = (
        Column((title,), [row[place] for row in rows], right=0 < place < len(titles) - 1)
        for place, title in enumerate(titles)
    )
    return laid_out([first], others, width)


def _answers(example: BeforeAfter, number: int, width: int) -> Iterator[str]:
    yield from (f"> {row}" for row in wrap(clean(example.prompt), width - 2, PROMPT_LINES))
    if example.note:
        yield f"  ({clean(example.note)})"
    named = (("base model", example.base), (f"round {number}", example.round))
    if width < SIDE_BY_SIDE:
        for title, answer in named:
            yield f"  {title}:"
            yield from (f"  {row}" for row in wrap(clean(answer), width - 2, ANSWER_LINES) or ["(nothing)"])
        return
    column = (width - 5) // 2
    sides = [[title, *(wrap(clean(answer), column, ANSWER_LINES) or ["(nothing)"])] for title, answer in named]
    for place in range(max(map(len, sides))):
        left, right = (side[place] if place < len(side) else "" for side in sides)
        yield f"  {pad(left, column)} │ {right}".rstrip()


def curve(metrics: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """Of the answers drawn for training, how many kept their constraint, by round and kind. Empty for a run without
    constraints."""
    found = verdict.curve(metrics)
    if not found:
        return []
    by_name = {"all kinds": verdict.curve_totals(found), **found}
    rounds = sorted(by_name["all kinds"])
    rows = [
        (clean(kind_in_words(name)), *(passed(by_round.get(r)) for r in rounds), "")
        for name, by_round in by_name.items()
    ]
    titles = ("draws that keep their constraint", *(f"round {r}" for r in rounds), "")
    return table(titles, rows, room(width))


def passed(counts: tuple[int, int] | None) -> str:
    """``62 % of 60``."""
    return "-" if counts is None else f"{100 * counts[1] / counts[0]:.0f} % of {counts[0]}"
