"""The loss curve and the histogram of judge scores. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from rich.text import Text

from minisheep.screen.lines import ACCENT, DIM, STRONG, WARN, Part, clean, line, pad, right
from minisheep.screen.state import Histogram, Losses
from minisheep.ui.words import BARS

AXIS = 6
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a Braille character by row and column of its dots."""


def loss_curve(losses: Losses, width: int, height: int) -> list[Text]:
    """Loss against step: the training's as a line, the validation's as rings. A title line and the plot."""
    said: list[Part] = [("loss ", DIM)]
    if losses.training:
        said.append((f"{losses.training[-1][1]:.3f}", STRONG))
    if losses.validation:
        said += [("  held back ", DIM), (f"{losses.validation[-1][1]:.3f}", WARN)]
    said.append((f"  round {losses.round}", DIM))
    rows = height - 1
    points = [value for _, value in (*losses.training, *losses.validation)]
    if rows < 1 or width < AXIS + 4 or not points:
        return [line(width, *said)]
    low, high = min(points), max(points)
    span = (high - low) or 1.0
    columns = width - AXIS
    last = max(losses.total, losses.training[-1][0] if losses.training else 1, 1)
    cells = [[0] * columns for _ in range(rows)]

    def place(step: int, value: float, wide: int, high_: int) -> tuple[int, int]:
        x = round((step - 1) / max(1, last - 1) * (wide - 1))
        y = round((high - value) / span * (high_ - 1))
        return min(max(x, 0), wide - 1), min(max(y, 0), high_ - 1)

    for x, y in joined([place(step, value, 2 * columns, 4 * rows) for step, value in losses.training]):
        cells[y // 4][x // 2] |= DOTS[y % 4][x % 2]
    rings = {place(step, value, columns, rows) for step, value in losses.validation}
    drawn = [line(width, *said)]
    for y, row in enumerate(cells):
        axis = f"{high:.2f}" if y == 0 else f"{low:.2f}" if y == rows - 1 else ""
        parts: list[Part] = [(f"{right(axis, AXIS - 1)} ", DIM)]
        parts += [("○", WARN) if (x, y) in rings else (chr(0x2800 + bits) if bits else " ", ACCENT)
                  for x, bits in enumerate(row)]  # fmt: skip
        drawn.append(line(width, *parts))
    return drawn


def joined(points: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The points and what lies between each and the next, without gaps."""
    yield from points[:1]
    for (x, y), (to_x, to_y) in itertools.pairwise(points):
        steps = max(abs(to_x - x), abs(to_y - y))
        yield from ((x + round((to_x - x) * i / steps), y + round((to_y - y) * i / steps)) for i in range(1, steps + 1))


def score_bars(found: Histogram, width: int, height: int) -> list[Text]:
    """The histogram as bars, from the lowest bin that holds something to the highest. A title, bars and an axis."""
    said: list[Part] = [
        ("scores ", DIM), (f"{sum(found.counts):,}", STRONG), (f"  {clean(found.judge, 40)}, round {found.round}", DIM),
    ]  # fmt: skip
    rows = height - 2
    filled = [place for place, count in enumerate(found.counts) if count > 0]
    if rows < 1 or not filled:
        return [line(width, *said)]
    first, last = filled[0], filled[-1]
    counts, edges = found.counts[first : last + 1], found.edges[first : last + 2]
    each = max(1, min(6, width // len(counts)))
    counts = counts[: width // each]
    drawn = [line(width, *said)]
    heights = [max(1, round(8 * rows * count / max(counts))) if count > 0 else 0 for count in counts]
    for y in range(rows - 1, -1, -1):
        drawn.append(line(width, ("".join(_bar(tall - 8 * y, each) for tall in heights), ACCENT)))
    drawn.append(line(width, (_axis(edges, each * len(counts)), DIM)))
    return drawn


def _bar(eighths: int, cells: int) -> str:
    return BARS[min(8, max(0, eighths))] * cells


def _axis(edges: Sequence[float], width: int) -> str:
    low, high = f"{edges[0]:g}", f"{edges[-1]:g}"
    return pad(low, max(len(low) + 1, width - len(high))) + high
