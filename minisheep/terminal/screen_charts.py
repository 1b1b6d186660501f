"""The parts of the screen, each as lines of exact width: charts, ring, stages; and the painter of frames. Pure.

Lines are rich `Text`, in which no markup is read. Text that comes from a run goes through `clean` first.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence

from rich.cells import cell_len, chop_cells, set_cell_size
from rich.console import Console
from rich.text import Text

from minisheep.rules import plain_text
from minisheep.rules.constraints import kind_in_words
from minisheep.run import run_state
from minisheep.run.time_left import Key, Stage, expected, time_left
from minisheep.run.verdict import curve_totals
from minisheep.terminal.screen_state import ROUND, Histogram, Losses, State

Part = str | tuple[str, str]
"""A piece of a line, with its style if it has one."""

DIM, STRONG, GOOD, WARN, BAD, ACCENT = "dim", "bold", "green", "yellow", "red", "cyan"
LIT = "bold black on cyan"
_JOINERS = re.compile(
    "[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200d\u2060-\u2064\u3164\ufe00-\ufe0f"
    "\uffa0\U0001f3fb-\U0001f3ff\U000e0100-\U000e01ef]"
)
"""Characters that change the width of their neighbours, differently on each terminal."""


def clean(text: str, most: int = 2000) -> str:
    """`text` on one line, harmless, of the same width on every terminal, and not too long."""
    return plain_text.one_line(_JOINERS.sub("", text[:most]))


def line(width: int, *parts: Part) -> Text:
    """The parts side by side, cut or filled to `width` cells."""
    return fit(Text.assemble(*parts, no_wrap=True), width)


def fit(text: Text, width: int) -> Text:
    """`text` cut or filled to `width` cells, in place."""
    if width < 1:
        return Text("")
    text.truncate(width, overflow="ellipsis", pad=True)
    return text


def ends(width: int, left: Sequence[Part], right: Sequence[Part]) -> Text:
    """`left` at the left end and `right` at the right one; `left` is cut where both do not fit."""
    last = Text.assemble(*right)
    if last.cell_len > width:
        return line(width, *left)
    first = fit(Text.assemble(*left, no_wrap=True), width - last.cell_len)
    return first.append_text(last)


def title(width: int, name: str, right: Sequence[Part] = ()) -> Text:
    head: list[Part] = [("── ", DIM), (name, STRONG), " "]
    tail: list[Part] = [" ", *right, " ", ("──", DIM)] if right else []
    used = sum(cell_len(part if isinstance(part, str) else part[0]) for part in (*head, *tail))
    return line(width, *head, ("─" * max(0, width - used), DIM), *tail)


def pad(text: str, width: int) -> str:
    """`text` cut or filled to `width` cells at the right."""
    return set_cell_size(text, max(0, width))


def right(text: str, width: int) -> str:
    """`text` cut at the right or filled to `width` cells at the left."""
    size = cell_len(text)
    return " " * (width - size) + text if size <= width else pad(text, width)


def block(rows: Sequence[Text], width: int, height: int) -> list[Text]:
    """The first `height` rows, with empty ones where there are fewer."""
    blank = height - len(rows)
    return [*rows[:height], *(Text(" " * width) for _ in range(blank))]


def beside(columns: Sequence[Sequence[Text]], gap: int = 2) -> list[Text]:
    """Columns of as many lines each, side by side."""
    return [Text(" " * gap).join(row) for row in zip(*columns, strict=True)]


def wrap(text: str, width: int, height: int) -> list[str]:
    """`text` in at most `height` lines of at most `width` cells, broken at spaces; the rest is an ellipsis."""
    if width < 2 or height < 1:
        return []
    rows: list[str] = []
    row, size = "", 0
    # A line of text never holds more characters than twice its cells, but for those of no width.
    for word in text[: 4 * width * height].split():
        for piece in chop_cells(word, width) if cell_len(word) > width else [word]:
            length = cell_len(piece)
            if row and size + 1 + length > width:
                rows.append(row)
                row, size = "", 0
                if len(rows) > height:
                    break
            row, size = (f"{row} {piece}", size + 1 + length) if row else (piece, length)
    rows += [row] if row else []
    if len(rows) > height:
        rows = [*rows[: height - 1], pad(rows[height - 1], min(width - 1, cell_len(rows[height - 1]))).rstrip() + "…"]
    return rows


def bar(width: int, share: float) -> tuple[str, str]:
    """A bar that is filled to `share` (0 .. 1): what is done of it, and the rest."""
    filled = round(min(1.0, max(0.0, share)) * width)
    return "━" * filled, "╌" * (width - filled)


AXIS = 6
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a Braille character by row and column of its dots."""


def loss_curve(losses: Losses, width: int, height: int) -> list[Text]:
    """Loss against step: the training's as a line, the validation's as rings. A title line and the plot."""
    heading: list[Part] = [("loss ", DIM)]
    if losses.training:
        heading.append((f"{losses.training[-1][1]:.3f}", STRONG))
    if losses.validation:
        heading += [
            ("  validation loss " if width >= 34 else "  validation ", DIM),
            (f"{losses.validation[-1][1]:.3f}", WARN),
        ]
    heading.append((f"  round {losses.round}", DIM))
    rows = height - 1
    points = [value for _, value in (*losses.training, *losses.validation)]
    if rows < 1 or width < AXIS + 4 or not points:
        return [line(width, *heading)]
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
    drawn = [line(width, *heading)]
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


def score_bars(histogram: Histogram, width: int, height: int, judged: int = 0) -> list[Text]:
    """The histogram as bars, from the lowest bin that holds something to the highest. A title, bars and an axis.
    `judged` pairs may be more than have a score."""
    scored = sum(histogram.counts)
    heading: list[Part] = [("scores ", DIM), (f"{scored:,}", STRONG)]
    if judged > scored:
        heading.append((f" of {judged:,}", DIM))
    heading.append((f"  {clean(histogram.judge, 40)}, round {histogram.round}", DIM))
    rows = height - 2
    filled = [place for place, count in enumerate(histogram.counts) if count > 0]
    if rows < 1 or not filled:
        return [line(width, *heading)]
    first, last = filled[0], filled[-1]
    counts, edges = histogram.counts[first : last + 1], histogram.edges[first : last + 2]
    each = max(1, min(6, width // len(counts)))
    counts = counts[: width // each]
    drawn = [line(width, *heading)]
    heights = [max(1, round(8 * rows * count / max(counts))) if count > 0 else 0 for count in counts]
    for y in range(rows - 1, -1, -1):
        eighths = (min(8, max(0, tall - 8 * y)) for tall in heights)
        drawn.append(line(width, ("".join(plain_text.BARS[eighth] * each for eighth in eighths), ACCENT)))
    drawn.append(line(width, (_axis(edges, each * len(counts)), DIM)))
    return drawn


def _axis(edges: Sequence[float], width: int) -> str:
    low, high = f"{edges[0]:g}", f"{edges[-1]:g}"
    return pad(low, max(len(low) + 1, width - len(high))) + high


LAST_ROUNDS = 3
"""Columns of the learning curve."""


def pass_rates(draws: Mapping[str, Mapping[int, tuple[int, int]]], width: int, height: int) -> list[Text]:
    """The learning curve: of the answers drawn, per cent that kept their constraint in the newest rounds; all kinds,
    then those of which most were drawn."""
    totals = curve_totals(draws)
    rounds = sorted(totals)[-LAST_ROUNDS:]
    by_size = sorted(draws, key=lambda kind: (-sum(drawn for drawn, _ in draws[kind].values()), kind))
    room = max(4, width - 5 * len(rounds) - 1)
    heading = "".join(right(f"r{number}", 5) for number in rounds)
    rows = [line(width, (pad("draws that pass, %", room), DIM), (heading, DIM))]
    for kind in ("all kinds", *by_size)[: max(0, height - 1)]:
        counts = totals if kind == "all kinds" else draws[kind]
        cells = "".join(right(_percent(counts.get(number)), 5) for number in rounds)
        rows.append(line(width, pad(clean(kind_in_words(kind)), room), (cells, STRONG if kind == "all kinds" else "")))
    return rows


def _percent(counts: tuple[int, int] | None) -> str:
    return f"{100 * counts[1] / counts[0]:.0f}" if counts and counts[0] > 0 else "-"


NAME, COUNT, RATE, TIME = 8, 13, 8, 11
LEFT = " left"


def picture(state: State, width: int) -> list[Text]:
    """The round as a ring of its stages with the present one lit: two lines, or one if there is no room."""
    names = _names(state)
    lit = state.now[1] if state.now else ""
    parts: list[Part] = [(" ╭─▶", DIM)]
    for number, name in enumerate(names):
        done = (state.round, name) in state.stages and state.stages[state.round, name].took is not None
        if number:
            parts.append(("─▶", DIM))
        parts.append((f"[{name}]", LIT) if name == lit else (f" {name} ", GOOD if done else ""))
    parts.append(("─╮", DIM))
    size = sum(cell_len(part if isinstance(part, str) else part[0]) for part in parts)
    if size > width:
        place = f", stage {names.index(lit) + 1} of {len(names)}" if lit in names else ""
        return [line(width, " ", (clean(_where(state)), STRONG), (f": [{lit}]" if lit else "", LIT), place)]
    name = f" {_where(state)} "
    left = max(0, (size - 4 - cell_len(name)) // 2)
    rest = max(0, size - 4 - cell_len(name) - left)
    back: list[Part] = [(" ╰" + "─" * left, DIM), (name, STRONG), ("─" * max(0, rest - 1) + "◀─╯", DIM)]
    return [line(width, *parts), line(width, *back)]


def _where(state: State) -> str:
    if state.now is None and not state.stages and not state.ended:
        return "preparing the model"
    return "base model" if state.round == 0 else f"round {state.round} of {state.rounds}"


def _names(state: State) -> list[str]:
    """The stages of a round that this run has."""
    planned = {name for round, name in state.plan if round}
    return [name for name in ROUND if not planned or name in planned]


def stages(state: State, width: int, now: float) -> list[Text]:
    """A bar for the present stage, and a line for each stage of the round."""
    present = state.stages.get(state.now) if state.now else None
    wide = width >= 2 + NAME + COUNT + RATE + 2 * TIME + 7
    return [_bar(state, present, width), *(_row(state, key, width, now, wide) for key in _keys(state))]


def stage_line(state: State, width: int, now: float) -> Text:
    return _row(state, state.now, width, now, False) if state.now else line(width)


def listed(state: State) -> int:
    """Lines that `stages` has."""
    return 1 + len(_keys(state))


def _keys(state: State) -> list[Key]:
    """The stages to list: those of the round; before the first, the base model's and the first round's."""
    names, round = _names(state), state.round
    if round == 0:
        return [(0, "evaluate"), *((1, name) for name in names)]
    return [(round, name) for name in names if not state.plan or (round, name) in state.plan or name != "evaluate"]


def _bar(state: State, present: Stage | None, width: int) -> Text:
    known = present is not None and present.total > 0
    share = present.done / present.total if present and known else float(state.outcome in run_state.DONE)
    percent = f" {share:4.0%}" if known or share else "     "
    full, rest = bar(max(0, width - len(percent)), share)
    return line(width, (full, WARN if state.paused_at is not None else ACCENT), (rest, DIM), (percent, STRONG))


def _row(state: State, key: Key, width: int, now: float, wide: bool) -> Text:
    stage = state.stages.get(key)
    name = "base" if key[0] == 0 else key[1]
    if stage is None:
        seconds = expected(state.course, state.outlook, key)
        guess = f"~ {plain_text.duration(max(1.0, seconds))}" if seconds is not None else ""
        blank = " " * (COUNT + RATE + 1 + (TIME + 1 if wide else 0))
        return line(width, ("· ", DIM), (pad(name, NAME), DIM), blank, (right(guess, TIME + len(LEFT)), DIM))
    count, rate = right(_count(stage), COUNT), right(_rate(stage.rate()), RATE)
    if stage.took is not None:
        took = right(plain_text.duration(stage.took), TIME)
        return line(width, ("✓ ", GOOD), pad(name, NAME), count, (rate, DIM), " ", took)
    here = key == state.now
    until = state.paused_at if state.paused_at is not None else now
    spent = right(plain_text.duration(max(0.0, until - stage.begun - stage.paused)), TIME)
    left = time_left(state.course, state.outlook, now).phase if here else None
    remaining = right(plain_text.duration(left), TIME) if left is not None else right("", TIME)
    mark = ("‖ ", WARN) if here and state.paused_at is not None else ("● " if here else "○ ", ACCENT)
    # A clock that goes on shows that something is done where nothing else does yet.
    ends: list[Part] = [(spent, DIM), " "] if wide or left is None else []
    ends += [(remaining, STRONG), LEFT] if wide or left is not None else []
    return line(width, mark, (pad(name, NAME), STRONG if here else ""), count, rate, " ", *ends)


def _count(stage: Stage) -> str:
    if stage.took is None and stage.total:
        return f"{stage.done:,}/{stage.total:,}"
    return f"{stage.done:,}" if stage.done else ""


def _rate(rate: float | None) -> str:
    """``45/s``, ``1.4/s``, ``8.5/min``, ``3.2/h``."""
    if rate is None:
        return ""
    unit, value = ("s", rate) if rate >= 1 else ("min", 60 * rate) if 60 * rate >= 1 else ("h", 3600 * rate)
    return f"{value:.0f}/{unit}" if value >= 10 else f"{value:.1f}/{unit}"


class Painter:
    """Turns frames into what a terminal must be sent: only lines that changed. `console` knows its colours."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lines: list[str] = []
        self._size = (0, 0)

    def forget(self) -> None:
        """The terminal no longer shows what was painted."""
        self._size = (0, 0)

    def paint(self, frame: Text, width: int, height: int) -> str:
        """What makes a terminal of this size show `frame`, after what was painted before."""
        self._console.width = width
        with self._console.capture() as caught:
            self._console.print(frame, no_wrap=True, overflow="crop", end="")
        lines = caught.get().split("\n")
        same = (width, height) == self._size
        before = self._lines if same else []
        self._lines, self._size = lines, (width, height)
        parts = [] if same else ["\x1b[0m\x1b[2J"]
        for number, line in enumerate(lines[:height]):
            if number >= len(before) or before[number] != line:
                # Emptied first, since a character may be wider or narrower here than rich believes.
                parts.append(f"\x1b[{number + 1};1H\x1b[K{line}")
        return "".join(parts)
