"""The table of rounds with the metrics that decide. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from rich.cells import cell_len
from rich.text import Text

from minisheep.screen.lines import DIM, GOOD, STRONG, Part, line, right
from minisheep.screen.state import State

COLUMNS = (
    # In the order of the table: title, row of `words.metric_rows`, and how soon it is wanted where room is scarce.
    ("NLL", "held-out NLL per token", 0),
    ("change (s.e.)", "change to base (standard error)", 1),
    ("checks kept", "constraints kept, strict", 2),
    ("points to the best, 95 %", "points to the best before, 95 %", 6),
    ("ends", "greedy answers that end by themselves", 4),
    ("pairs kept", "pairs kept", 5),
    ("of all", "keep rate", 7),
    ("score", "mean judge score", 8),
    ("judge", "judge", 9),
    ("exam AUC", "AUC in its exam", 10),
    ("near-dupl.", "near-duplicate rate", 11),
    ("distinct-2", "distinct-2 of greedy answers", 12),
    ("verdict", "verdict", 3),
)


def rounds(state: State, width: int, height: int) -> list[Text]:
    """A heading, and the base and the newest rounds as far as there is room; `*` marks the one to use."""
    if not state.measured or height < 2:
        return []
    numbers = list(state.measured)
    # The base stays in sight: the others are held against it.
    shown = numbers if len(numbers) < height else [numbers[0], *numbers[len(numbers) - (height - 2) :]][: height - 1]
    names = {number: "base" if number == 0 else f"round {number}" for number in shown}
    first = max(map(len, names.values())) + 3
    columns = _columns({n: state.measured[n] for n in shown}, width - first)
    head: list[Part] = [("── ", DIM), " " * (first - 3)]
    head += [(f"  {right(name, size)}", DIM) for name, _, size in columns]
    rows = [line(width, *head)]
    for number in shown:
        best = number == state.best
        parts: list[Part] = [(f" {'*' if best else ' '} {names[number]:<{first - 3}}", GOOD if best else STRONG)]
        cells = state.measured[number]
        parts += [f"  {right(cells.get(key, '-'), size)}" for _, key, size in columns]
        rows.append(line(width, *parts))
    return rows


def _columns(measured: Mapping[int, Mapping[str, str]], width: int) -> list[tuple[str, str, int]]:
    """The columns that fit, the most wanted first, in the order of the table: title, key and size."""
    room, chosen = width, set()
    sizes = {}
    for name, key, _ in sorted(COLUMNS, key=lambda column: column[2]):
        cells = [cells.get(key, "-") for cells in measured.values()]
        if all(cell == "-" for cell in cells):
            continue
        sizes[key] = max(len(name), *(cell_len(cell) for cell in cells))
        if sizes[key] + 2 <= room:
            room -= sizes[key] + 2
            chosen.add(key)
    return [(name, key, sizes[key]) for name, key, _ in COLUMNS if key in chosen]
