"""The loop as a picture, and the stages of the round with count, rate and time. Pure."""

from __future__ import annotations

from rich.cells import cell_len
from rich.text import Text

from minisheep.screen.lines import ACCENT, DIM, GOOD, LIT, STRONG, WARN, Part, bar, clean, line, pad, right
from minisheep.screen.state import ROUND, Key, Stage, State
from minisheep.ui import words

NAME, COUNT, RATE, TIME = 8, 13, 8, 11


def picture(state: State, width: int) -> list[Text]:
    """The round as a ring of its stages, the present one lit: two lines, or one where there is no room."""
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
    told = f" {_where(state)} "
    left = max(0, (size - 4 - cell_len(told)) // 2)
    rest = max(0, size - 4 - cell_len(told) - left)
    back: list[Part] = [(" ╰" + "─" * left, DIM), (told, STRONG), ("─" * max(0, rest - 1) + "◀─╯", DIM)]
    return [line(width, *parts), line(width, *back)]


def _where(state: State) -> str:
    if state.now is None and not state.stages and not state.ended:
        return "preparing the model"
    return "base model" if state.round == 0 else f"round {state.round} of {state.rounds}"


def _names(state: State) -> list[str]:
    """The stages of a round, those that this run leaves out aside."""
    planned = {name for round, name in state.plan if round}
    return [name for name in ROUND if not planned or name in planned]


def stages(state: State, width: int, now: float) -> list[Text]:
    """A bar for the present stage, and a line for each stage of the round."""
    present = state.stages.get(state.now) if state.now else None
    wide = width >= 2 + NAME + COUNT + RATE + 2 * TIME + 7
    return [_bar(state, present, width), *(_row(state, key, width, now, wide) for key in _keys(state))]


def stage_line(state: State, width: int, now: float) -> Text:
    """The present stage alone."""
    return _row(state, state.now, width, now, False) if state.now else line(width)


def _keys(state: State) -> list[Key]:
    """The stages to list: those of the round; before the first, the base model's and the first round's."""
    names, round = _names(state), state.round
    if round == 0:
        return [(0, "evaluate"), *((1, name) for name in names)]
    return [(round, name) for name in names if not state.plan or (round, name) in state.plan or name != "evaluate"]


def _bar(state: State, present: Stage | None, width: int) -> Text:
    share = present.done / present.total if present and present.total else 0.0
    percent = f" {share:4.0%}" if present and present.total else "     "
    full, rest = bar(max(0, width - len(percent)), share)
    return line(width, (full, WARN if state.paused_at is not None else ACCENT), (rest, DIM), (percent, STRONG))


def _row(state: State, key: Key, width: int, now: float, wide: bool) -> Text:
    stage = state.stages.get(key)
    name = "base" if key[0] == 0 else key[1]
    if stage is None:
        expected = _expected(state, key)
        told = f"~ {words.duration(expected)}" if expected is not None else ""
        blank = " " * (COUNT + RATE + 1 + (TIME + 1 if wide else 0))
        return line(width, ("· ", DIM), (pad(name, NAME), DIM), blank, (right(told, TIME), DIM))
    count, rate = right(_count(stage), COUNT), right(_rate(stage.rate()), RATE)
    if stage.took is not None:
        took = right(words.duration(stage.took), TIME)
        return line(width, ("✓ ", GOOD), pad(name, NAME), count, (rate, DIM), " ", took)
    here = key == state.now
    until = state.paused_at if state.paused_at is not None else now
    spent = right(words.duration(max(0.0, until - stage.begun - stage.paused)), TIME)
    left = stage.left(until)
    told = right(words.duration(left), TIME) if left is not None else right("", TIME)
    mark = ("‖ ", WARN) if here and state.paused_at is not None else ("● " if here else "○ ", ACCENT)
    ends: list[Part] = [(spent, DIM), " ", (told, STRONG), " left"] if wide else [(told, STRONG)]
    if left is not None and not wide:
        ends.append(" left")
    return line(width, mark, (pad(name, NAME), STRONG if here else ""), count, rate, " ", *ends)


def _expected(state: State, key: Key) -> float | None:
    """What the same stage took in the round before."""
    before = [s.took for (round, name), s in state.stages.items() if name == key[1] and round < key[0]]
    return before[-1] if before else None


def _count(stage: Stage) -> str:
    if stage.took is None and stage.total:
        return f"{stage.done:,}/{stage.total:,}"
    return f"{stage.done:,}" if stage.done else ""


def _rate(rate: float | None) -> str:
    """``45/s``, ``1.4/s``, ``8.5/min``, ``3.2/h``."""
    if rate is None:
        return ""
    for unit, seconds in (("s", 1), ("min", 60), ("h", 3600)):
        if rate * seconds >= 1 or unit == "h":
            value = rate * seconds
            return f"{value:.0f}/{unit}" if value >= 10 else f"{value:.1f}/{unit}"
    raise AssertionError("the last unit takes every rate")
