"""The screen as a function of state: what it tells, at every size, and that nothing in a run can act on it."""

from __future__ import annotations

import io
import itertools
import os
import random
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from screen_states import ANSWER, INSTRUCTION, MACHINE, ROUND, START, look, story, told
from test_ui import KINDS, UNSAFE, hostile, hostile_event, metrics_of

from minisheep.rules.plain_text import duration
from minisheep.run import events
from minisheep.run.time_left import Stage, time_left
from minisheep.terminal.screen_charts import Painter, joined, wrap
from minisheep.terminal.screen_draw import draw
from minisheep.terminal.screen_state import LogLine, Look, NewestTexts, State, fold

SNAPSHOTS = Path(__file__).parent / "snapshots"
OURS = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\d+;1H\x1b\[K|\x1b\[2J")
"""What a painter writes: colours, the start of a line that is emptied, and once the whole screen emptied."""
SIZES = [(80, 24), (160, 50)]
ODD_SIZES = [(1, 1), (20, 5), (40, 10), (59, 24), (80, 19), (100, 30), (119, 33), (121, 80), (200, 60), (300, 100)]
NOW = START + 685.0


@pytest.fixture(autouse=True)
def _greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def shown(state: State, width: int, height: int, look: Look, now: float = NOW) -> list[str]:
    return draw(state, width, height, now, look).plain.split("\n")


# What is told


VIEWS: dict[str, tuple[float, Look]] = {
    "preparing": (0, look()),
    "base": (10, look()),
    "train": (400, look(machine=MACHINE)),
    "judge": (1000, look()),
    "help": (1000, look(help=True)),
}


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", VIEWS)
def test_a_screen_is_as_it_was(name: str, size: tuple[int, int]) -> None:
    """MINISHEEP_SNAPSHOTS=write draws them anew, for a look at the difference."""
    until, view = VIEWS[name]
    text = "\n".join(row.rstrip() for row in shown(told(until), *size, view, START + min(until + 2, 685))) + "\n"
    file = SNAPSHOTS / f"screen-{name}-{size[0]}x{size[1]}.txt"
    if os.environ.get("MINISHEEP_SNAPSHOTS") == "write":
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("size", SIZES + ODD_SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", VIEWS)
def test_a_screen_fills_its_size_exactly(name: str, size: tuple[int, int]) -> None:
    until, view = VIEWS[name]
    rows = shown(told(until), *size, view)
    assert len(rows) == size[1]
    assert {cell_len(row) for row in rows} == {size[0]}


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_the_present_stage_is_lit_and_its_count_rate_and_time_left_are_told(size: tuple[int, int]) -> None:
    text = "\n".join(shown(told(), *size, look()))
    assert "[judge]" in text and "[respond]" not in text
    (row,) = re.findall(r"● judge .*", text)
    # 24 of 60 in 20 s, as in the round before, and none in the five seconds since.
    assert "24/60" in row and "1.2/s" in row and "33 s left" in row


@pytest.mark.parametrize("size", [(60, 20), (80, 24), (100, 30), (160, 50)], ids=str)
def test_every_stage_of_a_round_stays_in_sight_with_its_time(size: tuple[int, int]) -> None:
    rows = shown(told(), *size, look())
    for name in ROUND:
        assert any(re.match(rf"[✓●·] {name} ", row) for row in rows), name
    for name in ("train", "evaluate"):
        (row,) = (row for row in rows if row.startswith(f"· {name} "))
        assert "~ 50 s" in row
    base = shown(told(10), *size, look())
    assert any("● base" in row for row in base)
    if size[1] > 20:
        assert any("· evaluate" in row for row in base)


def test_a_long_time_keeps_its_unit() -> None:
    state = told(700)
    for took in (87.0, 687.0, 7387.0):
        state = fold(state, events.PhaseFinished(1, "train", took, {}), NOW)
        text = "\n".join(shown(state, 80, 24, look()))
        assert f"~ {duration(took)} " in text


def test_the_time_left_of_the_run_is_in_the_header() -> None:
    assert "· about " not in shown(told(120), 80, 24, look())[0]
    for width in (60, 80, 160):
        assert "about 3 min 0" in shown(told(), width, 24, look())[0]
    early = replace(told(), outlook=replace(told().outlook, plan=(*told().plan, *((3, n) for n in ROUND)), early=True))
    assert "at most " in shown(early, 80, 24, look())[0]


def test_a_narrow_screen_says_how_fast_it_is() -> None:
    assert any("tokens/s 1,234  slots 14/16" in row for row in shown(told(), 60, 20, look()))


def test_slots_are_told_once_something_is_written() -> None:
    loading = fold(told(), events.Glimpse(2, "judge", slots=16), NOW)
    assert not any("slots" in row for size in SIZES for row in shown(loading, *size, look()))


def test_scores_say_of_how_many_pairs_they_are() -> None:
    behind = fold(told(), events.Progress(2, "judge", 29, 60), NOW)
    assert any("scores 24 of 29" in row for row in shown(behind, 80, 24, look()))


def test_a_large_screen_shows_the_texts_before_the_newest_too() -> None:
    state = told()
    for number in range(3):
        state = fold(state, events.Glimpse(2, "judge", instruction=f"Task {number}?", answer=f"It is {number}."), NOW)
    rows = shown(state, 160, 50, look())
    assert [row.split("│")[1].strip() for row in rows if "Task" in row] == ["Task 2?", "Task 1?", "Task 0?"]


def test_speed_slots_memory_and_the_gpu_are_told() -> None:
    text = "\n".join(shown(told(), 100, 30, look(machine=MACHINE)))
    for part in ("1,234", "14/16", "5.0 of 16.0 GiB", "20.0 of 24.0 GiB", "97 % busy", "71 °C", "312 of 350 W"):
        assert part in text, part


def test_the_newest_texts_and_scores_are_told() -> None:
    text = "\n".join(shown(told(), 100, 30, look()))
    assert INSTRUCTION in text and ANSWER.split()[-1] in text and "score 1.87" in text
    assert "── newest, round 2, judge" in text


def test_the_table_shows_the_rounds_and_marks_the_one_to_use() -> None:
    rows = shown(told(), 100, 30, look())
    assert any(re.match(r"   base +2\.670", row) for row in rows)
    assert any(re.match(r" \* round 1 +2\.620 +-0\.050 \(0\.012\)", row) for row in rows)


def test_the_base_stays_in_the_table_of_many_rounds() -> None:
    state = told()
    for number in range(2, 40):
        measured = metrics_of(number)
        state = fold(state, events.RoundMeasured(number, measured), NOW)
    text = "\n".join(shown(state, 80, 24, look()))
    assert "   base" in text and "round 39" in text and "round 20" not in text


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_a_warning_stays_until_the_end(size: tuple[int, int]) -> None:
    assert "Round 1 repeats itself" in "\n".join(shown(told(), *size, look()))
    many = told()
    for number in range(20):
        many = fold(many, events.Note(f"nothing much, {number}"), NOW)
    assert "Round 1 repeats itself" in "\n".join(shown(many, *size, look()))


def test_the_same_warning_is_counted() -> None:
    state = State()
    for _ in range(3):
        state = fold(state, events.Note("hot", "warning"), NOW)
    assert state.warnings == (LogLine(NOW, None, "hot", 3),)


def test_a_loss_curve_is_drawn_while_training_and_scores_while_judging() -> None:
    training, judging = (shown(told(until), 80, 24, look()) for until in (400, 1000))
    assert any("loss 1." in row for row in training) and any(re.search("[\u2801-\u28ff]", row) for row in training)
    assert any("scores 24" in row for row in judging) and any("█" in row for row in judging)
    both = "\n".join(shown(told(), 200, 60, look()))
    assert "loss 1." in both and "scores 24" in both


@pytest.mark.parametrize("size", [(80, 24), (160, 50)], ids=str)
def test_what_the_model_learned_to_keep_is_drawn_by_kind_and_round(size: tuple[int, int]) -> None:
    state = told(110)
    for number, passed in ((1, 3), (2, 6)):
        found = metrics_of(number)
        counts = {"punctuation:no_comma": (12, passed), "startend:quotation": (8, 2)}
        found["data"] = {"constraints": {k: {"draws": d, "passed": p} for k, (d, p) in counts.items()}}
        state = fold(state, events.RoundMeasured(number, found), START + 400)
    rows = shown(state, *size, look())
    assert any("draws that pass" in row and "r1" in row and "r2" in row for row in rows)
    (line,) = (row for row in rows if "no comma" in row)
    assert line.index(" 25") < line.index(" 50")
    assert any("all kinds" in row and " 25" in row and " 40" in row for row in rows)


def test_a_pause_is_told_from_the_wish_to_its_end() -> None:
    state = told()
    text = "\n".join(shown(state, 80, 24, look(pausing=True)))
    assert "PAUSING" in text and "pausing after the current record" in text
    state = fold(state, events.Paused(2, "judge", True), NOW)
    text = "\n".join(shown(state, 80, 24, look(pausing=True), NOW + 60))
    assert "PAUSED" in text and "‖ judge" in text and "p go on" in text
    state = fold(state, events.Paused(2, "judge", False), NOW + 100)
    state = fold(state, events.Progress(2, "judge", 30, 60), NOW + 100)
    # 30 in the 25 seconds that were no pause.
    assert "1.2/s" in "\n".join(shown(state, 80, 24, look(), NOW + 100))


@pytest.mark.parametrize(
    ("event", "word"),
    [
        (events.RunFinished("runs/sea", 2, 700.0, 1), "FINISHED"),
        (events.RunFinished("runs/sea", 1, 700.0, 0, True), "FINISHED EARLY"),
        (events.Failed("Stopped", "Stopped in round 2.", ""), "STOPPED"),
        (events.Failed("DiskError", "The disk is full.", "Make room."), "FAILED"),
    ],
)
def test_how_the_run_ended_is_told(event: events.Event, word: str) -> None:
    rows = shown(fold(told(), event, NOW), 80, 24, look(alive=False))
    assert word in rows[0]
    assert "q leave" in rows[-1]
    assert any("100%" in row for row in rows) == word.startswith("FINISHED")


def test_a_run_that_is_stopping_says_so_in_its_header_and_what_ctrl_c_does_then() -> None:
    rows = shown(fold(told(), events.Stopping(), NOW), 80, 24, look())
    assert "STOPPING" in rows[0] and "running" not in rows[0]
    assert "Ctrl-C stop now" in rows[-1] and rows[-1].rstrip().endswith("stopping after the current record")
    narrow = shown(fold(told(), events.Stopping(), NOW), 60, 20, look())
    assert "STOPPING" in narrow[0] and narrow[-1].rstrip().endswith("Ctrl-C stop now")


def test_a_run_that_nobody_works_on_says_how_to_go_on() -> None:
    rows = shown(told(), 80, 24, look(alive=False))
    assert "STOPPED" in rows[0] and "minisheep align --run runs/sea" in rows[-1]


# Folding


def test_a_run_that_is_continued_is_no_longer_ended() -> None:
    ended = fold(told(), events.Failed("Stopped", "Stopped.", ""), NOW)
    again = fold(ended, events.RunStarted("runs/sea", "smollm2-135m", 3, "llamacpp", "peft", True), NOW + 9)
    assert ended.outcome == "stopped" and again.outcome == "" and again.rounds == 3
    assert again.stages == ended.stages and again.begun == NOW + 9


def test_what_a_resumed_stage_finds_does_not_count_as_its_speed() -> None:
    state = fold(State(), events.PhaseStarted(1, "respond", 100, 90, "answers"), 1000.0)
    state = fold(state, events.Progress(1, "respond", 95, 100), 1010.0)
    assert state.stages[1, "respond"].rate() == 0.5
    assert time_left(state.course, state.outlook, 1010.0).phase == 10.0


def test_progress_from_before_a_restart_is_not_taken_for_new() -> None:
    state = fold(State(), events.PhaseStarted(1, "judge", 60), 1000.0)
    state = fold(state, events.Progress(1, "judge", 50, 60), 900.0)
    state = fold(state, events.Glimpse(1, "judge", 99.0, 3, 4), 900.0)
    assert state.stages[1, "judge"].done == 0 and state.tokens_per_second == 0.0


def test_steps_that_a_continued_training_does_again_replace_the_old_ones() -> None:
    state = State()
    for step in (1, 2, 3, 2, 3, 4):
        state = fold(state, events.TrainStep(1, step, 4, float(step), 1e-4, 5.0, 1.0), NOW)
    assert [step for step, _ in state.losses.training] == [1, 2, 3, 4]
    assert [step for step, _ in state.losses.validation] == [1, 2, 3, 4]


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 40)), max_size=8))
def test_a_curve_goes_through_its_points_without_gaps(points: list[tuple[int, int]]) -> None:
    drawn = list(joined(points))
    assert set(points) <= set(drawn)
    assert all(max(abs(a - c), abs(b - d)) <= 1 for (a, b), (c, d) in itertools.pairwise(drawn))


def test_a_loss_that_is_no_number_leaves_the_curve_alone() -> None:
    state = fold(State(), events.TrainStep(1, 1, 4, float("nan"), 1e-4, float("inf"), float("inf")), NOW)
    assert state.losses.training == () and state.losses.validation == () and state.tokens_per_second == 0.0


@pytest.mark.parametrize("value", [None, "x", [], {}, -1, 1e400, True, [[]], {"a": 1}])
def test_an_event_of_odd_values_does_not_break_the_screen(value: Any) -> None:
    state = told()
    for kind in KINDS:
        fields = {name: value for name in kind.__dataclass_fields__}
        for key in ({}, {"round": 2, "phase": "judge"}):
            known = {name: given for name, given in key.items() if name in fields}
            state = fold(state, kind(**{**fields, **known}), NOW)
    for size in (*SIZES, (40, 10)):
        assert len(shown(state, *size, look())) == size[1]


# Hostile text


def test_ten_thousand_hostile_strings_are_only_text_on_the_screen() -> None:
    chance, painter = random.Random(11), Painter(Console(file=io.StringIO(), force_terminal=True, highlight=False))
    strings = 0

    def bad() -> str:
        nonlocal strings
        strings += 1
        return hostile(chance)

    for number in range(360):
        width, height = [*SIZES, (60, 20), (40, 10)][number % 4]
        state = told(chance.choice([10, 400, 1000]))
        state = replace(state, newest=(NewestTexts((1, bad()), bad(), bad()),), run=bad(), model=bad(), engine=bad())
        for _ in range(6):
            state = fold(state, events.Note(bad(), "warning"), NOW)
            state = fold(state, events.Note(bad()), NOW)
        for round in range(3):
            state = fold(state, events.RoundMeasured(round, metrics_of(round, bad())), NOW)
        state = fold(state, events.PhaseFinished(1, bad(), 2.0, {bad(): 1.0}), NOW)
        state = fold(state, events.Glimpse(1, bad(), judge=bad(), edges=[0.0, 1.0], histogram=[2]), NOW)
        state = fold(state, events.PhaseStarted(1, bad(), 5, 0, bad()), NOW)
        if number % 3 == 0:
            state = fold(state, events.Failed(bad(), bad(), bad()), NOW)
        frame = draw(state, width, height, NOW, look(message=bad() if number % 2 else ""))
        rows = frame.plain.split("\n")
        assert len(rows) == height and {cell_len(row) for row in rows} == {width}
        painter.forget()
        rest = OURS.sub("", painter.paint(frame, width, height))
        assert not UNSAFE.search(rest) and "\n" not in rest, ascii(rest)
    assert strings >= 10_000


@pytest.mark.parametrize("text", ["[/INST]", "[red]x", "[bold]", "[/]", "[link=http://x.example]y", ":sheep:"])
def test_markup_is_shown_as_it_is(text: str) -> None:
    state = replace(told(), newest=(NewestTexts((1, "judge"), text, text),), run=text)
    state = fold(state, events.Note(text, "warning"), NOW)
    painter = Painter(Console(file=io.StringIO(), force_terminal=True, highlight=False))
    painted = OURS.sub("", painter.paint(draw(state, 90, 24, NOW, look()), 90, 24))
    assert painted.count(text) == 4


def test_characters_that_join_their_neighbours_do_not_bend_the_screen() -> None:
    text = "👩\u200d🔬\ufe0f a\u200d" * 40 + "\u200d"
    state = replace(told(), newest=(NewestTexts((1, "judge"), text, text),), run=text, engine=text)
    rows = shown(state, 80, 24, look())
    assert {cell_len(row) for row in rows} == {80} and "\u200d" not in "".join(rows)


def test_any_hostile_event_folds_and_draws() -> None:
    chance, state = random.Random(12), told()
    for number in range(600):
        state = fold(state, hostile_event(KINDS[number % len(KINDS)], chance), NOW)
        if number % 20 == 0:
            assert not UNSAFE.search("".join(shown(state, 80, 24, look())))


# Painting


def test_only_lines_that_changed_are_painted() -> None:
    painter = Painter(Console(file=io.StringIO(), force_terminal=True, highlight=False))
    first = painter.paint(draw(told(), 80, 24, NOW, look()), 80, 24)
    again = painter.paint(draw(told(), 80, 24, NOW, look()), 80, 24)
    later = painter.paint(draw(told(), 80, 24, NOW + 3, look()), 80, 24)
    assert first.count("\x1b[K") == 24 and again == "" and 1 <= later.count("\x1b[K") <= 3


def test_another_size_is_painted_from_nothing() -> None:
    painter = Painter(Console(file=io.StringIO(), force_terminal=True, highlight=False))
    painter.paint(draw(told(), 80, 24, NOW, look()), 80, 24)
    wider = painter.paint(draw(told(), 81, 24, NOW, look()), 81, 24)
    assert "\x1b[2J" in wider and wider.count("\x1b[K") == 24


@pytest.mark.parametrize("width", [2, 7, 40])
@pytest.mark.parametrize("text", [ANSWER, "x" * 300, "羊" * 100, "e\u0301" * 90, "", "a 🐑 b " * 30])
def test_wrapped_text_keeps_within_its_room(text: str, width: int) -> None:
    rows = wrap(text, width, 3)
    assert len(rows) <= 3 and all(cell_len(row) <= width for row in rows)
    assert bool(rows) == bool(text)


def test_drawing_is_quick_enough_for_four_a_second() -> None:
    """Within the screen's share of a core at one drawing a second on a slow machine: 30 ms."""
    state, view = told(), look()
    painter = Painter(Console(file=io.StringIO(), force_terminal=True, highlight=False))
    took = []
    for number in range(12):
        begun = time.thread_time()
        painter.paint(draw(state, 160, 50, NOW + number, view), 160, 50)
        took.append(time.thread_time() - begun)
    assert min(took) < 0.03


def test_a_stage_without_a_second_of_work_has_no_rate() -> None:
    assert Stage(100.0, total=10, done=5, at=100.5).rate() is None


def test_the_story_is_in_order() -> None:
    times = [at for at, _ in story()]
    assert times == sorted(times)
