"""The whole screen: ``draw(state, width, height, now, look)`` is a `Text` of `height` lines of `width` cells. Pure."""

from __future__ import annotations

from rich.text import Text

from minisheep.screen.draw_charts import loss_curve, score_bars
from minisheep.screen.draw_help import explanation
from minisheep.screen.draw_machine import machine
from minisheep.screen.draw_newest import newest
from minisheep.screen.draw_rounds import rounds
from minisheep.screen.draw_said import said
from minisheep.screen.draw_stages import picture, stage_line, stages
from minisheep.screen.lines import ACCENT, BAD, DIM, GOOD, STRONG, WARN, Part, beside, block, clean, ends, line
from minisheep.screen.state import Look, State
from minisheep.ui import words

STAGES = 48
"""Cells of the list of stages, and where there is room for both times,"""
WIDE_STAGES = 62
MACHINE = 40
THREE_COLUMNS = 120
MOST_NEWEST = 14
LITTLE = 20
"""Below so many lines, or"""
NARROW = 60
"""so many cells, only what matters most is shown."""


def draw(state: State, width: int, height: int, now: float, look: Look) -> Text:
    """`now` is in seconds since the epoch."""
    width, height = max(1, width), max(1, height)
    body = height - 2
    if look.help:
        rows = explanation(width, body)
    elif height < LITTLE or width < NARROW:
        rows = _little(state, width, body, now, look)
    else:
        rows = _full(state, width, body, now, look)
    lines = [_header(state, width, now, look), *block(rows, width, max(0, body)), _footer(state, width, look)]
    return Text("\n", no_wrap=True, end="").join(lines[:height])


def _full(state: State, width: int, height: int, now: float, look: Look) -> list[Text]:
    ring = picture(state, width)
    tall = 8 if height < 34 else min(16, height // 4 + 1)
    top = _top(state, width, tall, now, look)
    rest = height - len(ring) - len(top)
    table = rounds(state, width, min(rest // 2, 1 + len(state.measured)))
    for_newest = min(MOST_NEWEST, max(3, rest - len(table) - max(3, rest // 4)))
    texts = block(newest(state.newest, width, for_newest), width, for_newest)
    rows = [*ring, *top, *texts, *table]
    return [*rows, *said(state, width, height - len(rows))]


def _top(state: State, width: int, height: int, now: float, look: Look) -> list[Text]:
    """Stages, machine and charts side by side."""
    left = STAGES if width < WIDE_STAGES + MACHINE + 24 else WIDE_STAGES
    columns = [block(stages(state, left, now), left, height)]
    rest = width - left - 2
    if width >= THREE_COLUMNS:
        columns.append(block(machine(state, look.machine, MACHINE), MACHINE, height))
        rest -= MACHINE + 2
        columns.append(_charts(state, rest, height))
    else:
        about = machine(state, look.machine, rest)[: height - 4]
        columns.append([*about, *_charts(state, rest, height - len(about))])
    return beside(columns)


def _charts(state: State, width: int, height: int) -> list[Text]:
    """Both charts one above the other where there is room, else the one that the present stage is about."""
    losses = state.losses if state.losses.training else None
    if losses and state.histogram and height >= 10:
        half = height // 2
        return [
            *block(score_bars(state.histogram, width, half), width, half),
            *block(loss_curve(losses, width, height - half), width, height - half),
        ]
    training = state.now is not None and state.now[1] in ("train", "evaluate")
    if losses and (training or state.histogram is None or losses.round > state.histogram.round):
        return block(loss_curve(losses, width, height), width, height)
    return block(score_bars(state.histogram, width, height) if state.histogram else [], width, height)


def _little(state: State, width: int, height: int, now: float, look: Look) -> list[Text]:
    rows = [*picture(state, width)[:1], stages(state, width, now)[0], stage_line(state, width, now)]
    rows += machine(state, look.machine, width)[:2]
    rest = height - len(rows)
    warned = 2 if state.warnings and rest >= 6 else 0
    rows += newest(state.newest, width, rest - warned)
    return [*block(rows, width, height - warned), *(said(state, width, warned) if warned else [])]


def _header(state: State, width: int, now: float, look: Look) -> Text:
    left: list[Part] = [
        (" minisheep ", STRONG),
        (f" {clean(state.run, 200)}", ACCENT),
        "  ",
        clean(state.model, 200),
    ]
    spent = words.duration(max(0.0, now - state.begun)) if state.begun and look.alive and not state.ended else ""
    return ends(width, left, [" ", _standing(state, look), f"  {spent} " if spent else " "])


def _standing(state: State, look: Look) -> Part:
    if state.outcome:
        return state.outcome.upper(), {"finished": GOOD, "stopped": WARN}.get(state.outcome, BAD)
    if not look.alive:
        return "NOT RUNNING", BAD
    if state.paused_at is not None:
        return "PAUSED", WARN
    return ("PAUSING", WARN) if look.pausing else ("running", GOOD)


def _footer(state: State, width: int, look: Look) -> Text:
    if look.help:
        return line(width, (" ? back   q leave", DIM))
    lost = "" if look.alive else f"Nobody works on it: minisheep align --run {state.run} goes on."
    text = look.told or state.ended or lost
    if text:
        style = STRONG if state.outcome == "finished" and not look.told else WARN
        return ends(width, [" ", (clean(text, 400), style)], [(" q leave ", DIM)])
    keys: list[Part] = []
    paused = look.pausing or state.paused_at is not None
    for key, what in (("q", "leave"), ("p", "go on" if paused else "pause"), ("?", "explain"), ("Ctrl-C", "stop")):
        keys += [" ", (key, STRONG), (f" {what}  ", DIM)]
    waiting = look.pausing and state.paused_at is None and look.alive
    told: list[Part] = [("pausing after the record in hand ", WARN)] if waiting else []
    return ends(width, keys, told)
