"""The whole screen: ``draw(state, width, height, now, look)`` is a `Text` of `height` lines of `width` cells. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from rich.cells import cell_len
from rich.text import Text

from minisheep.machine.gpu import Gpu
from minisheep.machine.system import MachineLoad
from minisheep.rules import plain_text
from minisheep.rules.plain_text import shell
from minisheep.run import run_state
from minisheep.run.time_left import time_left
from minisheep.terminal import screen_charts, words
from minisheep.terminal.screen_charts import DIM, STRONG, WARN, Part, block, clean, line, right, title, wrap
from minisheep.terminal.screen_state import LogLine, Look, NewestTexts, State

KEYS = (
    ("q", "leave the screen; the run goes on, and `minisheep attach RUN` shows it again"),
    ("p", "pause after the current record, or go on; models stay in memory"),
    ("?", "this explanation, or back"),
    ("Ctrl-C", "stop the run after the current record; a second one stops at once. The same command goes on"),
)
PARTS = (
    ("the ring", "the stages of a round: the lit one is being done, the green ones are done"),
    ("the stages", "how much is done, how fast, and the time left; ~ is the time that it took last time"),
    ("tokens/s", "tokens that the model computes in a second, prompts included; slots are texts written side by side"),
    ("loss", "nats per token in training, against the step; rings are the validation examples"),
    ("scores", "how many pairs got which score from the judge; the scale depends on the judge"),
    ("draws", "answers drawn for training that keep their constraint, by kind and round"),
    ("newest", "the newest instruction that the model wrote, its answer, and the judge's scores"),
    ("the table", "base and rounds on held-out tasks: NLL is nats per token (lower is better), change has its standard"
     " error, checks are constraints that a program can check, `ends` are answers that end by themselves;"
     " * is the round to use"),
    ("warnings", "they stay until the run ends"),
)  # fmt: skip


def explanation(width: int, height: int) -> list[Text]:
    """Keys first, then what is shown; what does not fit is cut off."""
    rows = [line(width), title(width, "keys")]
    size = max(len(name) for name, _ in (*KEYS, *PARTS)) + 4
    rows += _rows(KEYS, width, size)
    rows += [line(width), title(width, "what is shown")]
    rows += _rows(PARTS, width, size)
    return rows[:height]


def _rows(pairs: tuple[tuple[str, str], ...], width: int, size: int) -> list[Text]:
    return [
        line(width, (f"  {name if number == 0 else '':<{size - 2}}", STRONG), row)
        for name, text in pairs
        for number, row in enumerate(wrap(text, max(20, width - size - 2), 4))
    ]


MARK = " │ "


def newest(texts: NewestTexts | None, width: int, height: int, heading: str = "newest") -> list[Text]:
    """A title with the scores, the instruction in at most two fifths of the lines, and the answer in the rest."""
    if texts is None:
        return [title(width, "newest"), line(width, ("   no text to show yet", DIM))]
    scores: list[Part] = []
    for name, value in texts.scores:
        scores += [" " if scores else "", (f"{name} ", DIM), (f"{value:.2f}", STRONG)]
    rows = [title(width, f"{heading}, {words.where(*texts.where)}", scores)]
    room = width - len(MARK)
    for_it = max(1, 2 * (height - 1) // 5) if texts.answer else height - 1
    prompt = wrap(clean(texts.instruction), room, for_it)
    rows += [line(width, (MARK, screen_charts.ACCENT), (row, STRONG)) for row in prompt]
    answered = wrap(clean(texts.answer), room, height - len(rows))
    return [*rows, *(line(width, (MARK, DIM), row) for row in answered)]


def samples(texts: Sequence[NewestTexts], width: int, height: int) -> list[Text]:
    """The newest texts, and those before them as far as there is room for a title and two lines of each."""
    rows = newest(texts[0] if texts else None, width, height)
    for before in texts[1:]:
        room = height - len(rows)
        if room < 3:
            break
        rows += newest(before, width, room, "before that")
    return rows


def messages(state: State, width: int, height: int) -> list[Text]:
    """A title, the newest warnings in at least half of the lines, and under them the newest other lines."""
    warnings, others = list(reversed(state.warnings)), list(reversed(state.lines))
    if height < 1 or not (warnings or others):
        return []
    named: list[Part] = [(f"{len(warnings)} warning{'s' * (len(warnings) != 1)}", WARN)] if warnings else []
    rows = [title(width, "messages", named)]
    room = height - 1
    for_warnings = room if not others else max(1, room * 2 // 3)
    for warning in warnings:
        if len(rows) - 1 >= for_warnings:
            break
        rows += _lines(warning, width, min(2, for_warnings - len(rows) + 1), WARN)
    for other in others:
        if len(rows) >= height:
            break
        rows += _lines(other, width, 1, "")
    return rows


def _lines(entry: LogLine, width: int, height: int, style: str) -> list[Text]:
    clock = time.strftime("%H:%M", time.localtime(entry.at))
    again = f" ({entry.times} times)" if entry.times > 1 else ""
    rows = wrap(clean(entry.text, 600) + again, width - 9, height)
    return [
        line(width, (f" {clock if number == 0 else '     '} ", DIM), ("! " if style and number == 0 else "  ", STRONG),
             (row, style))
        for number, row in enumerate(rows)
    ]  # fmt: skip


COLUMNS = (
    # In the order of the table: title, row of `terminal.words.metric_rows`, and its priority where room is scarce.
    ("NLL", "held-out NLL per token", 0),
    ("change (s.e.)", "change to base (standard error)", 1),
    ("checks kept", "constraints kept, strict", 2),
    ("trained kinds", "of trained kinds", 2.3),
    ("unseen kinds", "of unseen kinds", 2.6),
    ("from the best, 95 %", "change from the best earlier round (95 % CI)", 6),
    ("ends", "greedy answers that end by themselves", 4),
    ("pairs kept", "pairs kept", 5),
    ("draws pass", "draws that keep their constraint", 5.5),
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
    names = {number: plain_text.round_name(number) for number in shown}
    first = max(map(len, names.values())) + 3
    columns = _columns({n: state.measured[n] for n in shown}, width - first)
    head: list[Part] = [("── ", DIM), " " * (first - 3)]
    head += [(f"  {right(name, size)}", DIM) for name, _, size in columns]
    rows = [line(width, *head)]
    for number in shown:
        best = number == state.best
        parts: list[Part] = [
            (f" {'*' if best else ' '} {names[number]:<{first - 3}}", screen_charts.GOOD if best else STRONG)
        ]
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


FULL = 0.92
"""Share of a memory from which it is shown as a warning."""
LABEL = 9


def machine(state: State, load: MachineLoad, width: int) -> list[Text]:
    """Two lines, one for each GPU, and what the engine is."""
    rows = [line(width, *_speed(state))]
    if load.ram_used is not None and load.ram_total:
        rows.append(line(width, *_memory("RAM", load.ram_used, load.ram_total, width)))
    for number, gpu in enumerate(load.gpus):
        name = f"VRAM {number}" if len(load.gpus) > 1 else "VRAM"
        rows.append(line(width, *_memory(name, gpu.used, gpu.total, width)))
        activity = _gpu(gpu)
        if activity:
            rows.append(line(width, " " * LABEL, activity))
    if state.engine:
        rows.append(line(width, (clean(state.engine, 200), DIM)))
    return rows


def _speed(state: State) -> list[Part]:
    speed = f"{state.tokens_per_second:,.0f}" if state.tokens_per_second else "-"
    parts: list[Part] = [("tokens/s ", DIM), (speed, STRONG)]
    if state.slots > 1 and state.running:
        parts += [("  slots ", DIM), f"{state.running}/{state.slots}"]
    return parts


def _memory(name: str, used: int, total: int, width: int) -> list[Part]:
    amount = f"{used / 2**30:.1f} of {total / 2**30:.1f} GiB "
    full, rest = screen_charts.bar(max(0, min(20, width - LABEL - len(amount))), used / total)
    style = WARN if used / total > FULL else ""
    return [(f"{name:<{LABEL}}", DIM), (amount, style), (full, style), (rest, DIM)]


def _gpu(gpu: Gpu) -> str:
    parts = []
    if gpu.busy is not None:
        parts.append(f"{gpu.busy} % busy")
    if gpu.temperature is not None:
        parts.append(f"{gpu.temperature} °C")
    if gpu.watts is not None:
        parts.append(f"{gpu.watts:.0f} of {gpu.limit:.0f} W" if gpu.limit else f"{gpu.watts:.0f} W")
    return "  ".join(parts)


STAGES = 48
"""Cells of the list of stages, and with room for both times,"""
WIDE_STAGES = 62
MACHINE = 40
THREE_COLUMNS = 120
LEAST_CHART = 24
"""Cells of the smallest chart beside the stages."""
ROOMY = 100
"""Below this, the time that was spent gives way to the time left."""
MOST_NEWEST = 14
LITTLE = 20
"""Below this many lines, or"""
FOOTER = 78
"""Cells of the last line from which it also says what a pause or a stop waits for."""
NARROW = 60
"""this many cells, only what matters most is shown."""


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
    ring = screen_charts.picture(state, width)
    listed = screen_charts.listed(state)
    tall = listed + 1 if width < STAGES + 2 + LEAST_CHART else 8 if height < 34 else min(16, height // 4 + 1)
    tall = min(max(tall, listed), height - len(ring) - 6)
    top = _top(state, width, tall, now, look)
    rest = height - len(ring) - len(top)
    table = rounds(state, width, min(rest // 2, 1 + len(state.measured)))
    for_newest = min(MOST_NEWEST, max(3, rest - len(table) - max(3, rest // 4)))
    texts = block(samples(state.newest, width, for_newest), width, for_newest)
    rows = [*ring, *top, *texts, *table]
    return [*rows, *messages(state, width, height - len(rows))]


def _top(state: State, width: int, height: int, now: float, look: Look) -> list[Text]:
    """Stages, machine and charts side by side; with little width the stages alone, over a line about the machine."""
    left = STAGES if width < WIDE_STAGES + MACHINE + 24 else WIDE_STAGES
    if width < STAGES + 2 + LEAST_CHART:
        return [*block(screen_charts.stages(state, width, now), width, height - 1), line(width, *_speed(state))]
    columns = [block(screen_charts.stages(state, left, now), left, height)]
    rest = width - left - 2
    if width >= THREE_COLUMNS:
        columns.append(block(machine(state, look.machine, MACHINE), MACHINE, height))
        rest -= MACHINE + 2
        columns.append(_charts(state, rest, height))
    else:
        about = machine(state, look.machine, rest)[: height - 4]
        columns.append([*about, *_charts(state, rest, height - len(about))])
    return screen_charts.beside(columns)


def _charts(state: State, width: int, height: int) -> list[Text]:
    """Both charts one above the other where there is room, else the one that the present stage is about."""
    losses = state.losses if state.losses.training else None
    judging = state.now is not None and state.now[1] == "judge"
    learning = bool(state.draws) and not (judging and state.histogram)
    newest = max((number for by_round in state.draws.values() for number in by_round), default=0)

    def about_data(size: int) -> list[Text]:
        if learning:
            return block(screen_charts.pass_rates(state.draws, width, size), width, size)
        if state.histogram is None:
            return block([], width, size)
        judge = state.stages.get((state.histogram.round, "judge"))
        bars = screen_charts.score_bars(state.histogram, width, size, judge.done if judge else 0)
        return block(bars, width, size)

    if losses and (state.histogram or learning) and height >= 10:
        half = height // 2
        curve = screen_charts.loss_curve(losses, width, height - half)
        return [*about_data(half), *block(curve, width, height - half)]
    training = state.now is not None and state.now[1] in ("train", "evaluate")
    known = newest if learning else state.histogram.round if state.histogram else 0
    if losses and (training or losses.round > known):
        return block(screen_charts.loss_curve(losses, width, height), width, height)
    return about_data(height)


def _little(state: State, width: int, height: int, now: float, look: Look) -> list[Text]:
    rows = [
        *screen_charts.picture(state, width)[:1],
        screen_charts.stages(state, width, now)[0],
        screen_charts.stage_line(state, width, now),
    ]
    rows += machine(state, look.machine, width)[:2]
    rest = height - len(rows)
    warned = 2 if state.warnings and rest >= 6 else 0
    rows += newest(state.newest[0] if state.newest else None, width, rest - warned)
    return [*block(rows, width, height - warned), *(messages(state, width, warned) if warned else [])]


def _header(state: State, width: int, now: float, look: Look) -> Text:
    left: list[Part] = [
        (" minisheep ", STRONG),
        (f" {clean(state.run, 200)}", screen_charts.ACCENT),
        "  ",
        clean(state.model, 200),
    ]
    told: list[Part] = [" ", _standing(state, look), " "]
    if state.begun and look.alive and not state.ended:
        ahead = time_left(state.course, state.outlook, now).run_in_words()
        if not ahead or width >= ROOMY:
            told.append(f" {plain_text.duration(max(0.0, now - state.begun))} ")
        if ahead:
            told += ["· ", (f"{ahead} left ", STRONG)]
    return screen_charts.ends(width, left, told)


def state_name(state: State, look: Look) -> str:
    """The run's state by name (see `run.run_state.name_of`)."""
    paused = state.paused_at is not None
    return run_state.name_of(
        alive=look.alive, outcome=state.outcome, stopping=state.stopping, paused=paused, pausing=look.pausing
    )


def _standing(state: State, look: Look) -> Part:
    name = state_name(state, look)
    good = name in (run_state.RUNNING, *run_state.DONE)
    style = screen_charts.GOOD if good else screen_charts.BAD if name == run_state.FAILED else WARN
    return name if name == run_state.RUNNING else name.upper(), style


def _footer(state: State, width: int, look: Look) -> Text:
    if look.help:
        return line(width, (" ? back   q leave", DIM))
    lost = "" if look.alive else f"It is not running. To continue: minisheep align --run {shell(state.run)}"
    text = look.message or state.ended or lost
    if text:
        style = STRONG if state.outcome in run_state.DONE and not look.message else WARN
        return screen_charts.ends(width, [" ", (clean(text, 400), style)], [(" q leave ", DIM)])
    keys: list[Part] = []
    name, paused = state_name(state, look), look.pausing or state.paused_at is not None
    stopping = name == run_state.STOPPING
    pause = () if stopping else (("p", "go on" if paused else "pause"),)
    end = "stop now" if stopping else "stop"
    for key, what in (("q", "leave"), *pause, ("?", "explain"), ("Ctrl-C", end)):
        keys += [" ", (key, STRONG), (f" {what}  ", DIM)]
    # The header says it too, so that keys matter more where there is little room.
    after = name in (run_state.PAUSING, run_state.STOPPING) and width >= FOOTER
    notice: list[Part] = [(f"{name} after the current record ", WARN)] if after else []
    return screen_charts.ends(width, keys, notice)
