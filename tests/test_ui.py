"""What a person sees: nothing that a model wrote can act on the terminal, and something is said all the time."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import random
import re
import subprocess
import time
from itertools import pairwise
from typing import Any

import pytest
from rich.console import Console

from minisheep import api
from minisheep.rules import plain_text
from minisheep.rules.plain_text import one_line, sanitise
from minisheep.run import events
from minisheep.run.time_left import Outlook
from minisheep.terminal import words
from minisheep.terminal.views import QUIET_SECONDS, JsonView, LiveView, PlainView, choose_view, metrics_table

PIECES = [
    "\x1b]52;c;cGF5bG9hZA==\x07",
    "\x1b[2J\x1b[H",
    "\x1b]0;owned\x07",
    "\x1b]8;;http://x.example\x1b\\link\x1b]8;;\x1b\\",
    "\x9b31m",
    "\x9d0;t\x9c",
    "\x90q\x9c",
    "\r",
    "\r\n",
    "\n",
    "\t",
    "\x00",
    "\x07",
    "\x08\x08",
    "\x7f",
    "\x85",
    "\u2028",
    "\u202egnp.exe",
    "\u2066",
    "\u200f",
    "\ufeff",
    "\ud800",
    "\U000e0041",
    "[red]",
    "[/INST]",
    "[/]",
    "[link=x]",
    "[bold",
    "{0}",
    "%s",
    "\\",
    "word",
    "été",
    "羊",
    "🐑",
    "e\u0301",
]
SAFE_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Zmhl]")
"""What rich itself writes: colours and cursor movements."""
UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)


def hostile(chance: random.Random) -> str:
    return "".join(chance.choice(PIECES) for _ in range(chance.randint(1, 6)))


def hostile_event(kind: type[Any], chance: random.Random) -> Any:
    """An event with hostile text wherever its type allows text."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if field.name == "metrics":
            values[field.name] = metrics_of(1, hostile(chance))
            values[field.name]["model"]["end_nll"] = 1.5  # a number, or it is no event at all
        elif field.name == "counts":
            values[field.name] = {hostile(chance): 3.0, "seconds": 1.0}
        elif field.type == "str":
            values[field.name] = hostile(chance)
        elif field.type in ("float", "float | None"):
            values[field.name] = chance.choice([0.0, 1.5, 1e9, float("nan"), float("inf")])
            if field.name == "seconds":
                values[field.name] = 3.0
        elif field.type == "bool":
            values[field.name] = True
        elif field.type.startswith("dict"):
            values[field.name] = {hostile(chance): hostile(chance)}
        elif field.type.startswith("list"):
            values[field.name] = [chance.randint(0, 9)]
        else:
            values[field.name] = chance.randint(0, 9)
    return kind(**values)


def metrics_of(number: int, text: str = "pmi") -> dict[str, Any]:
    return {
        "round": number,
        "model": {
            "held_out_nll": 2.5,
            "end_nll": text,
            "ended": 0.5,
            "answer_words": 40.0,
            "distinct_2": None,
            "nll_change": {"mean": -0.1, "standard_error": 0.02},
        },
        "data": {
            "instructions": 48,
            "kept": 24,
            "keep_rate": 0.5,
            "scores": {"judge": text, "mean": 0.4, "histogram": {"edges": [0, 1, 2], "counts": [0, 3]}},
        },
    }


KINDS = list(events.KINDS.values())


def test_ten_thousand_hostile_strings_leave_no_control_characters_in_a_line() -> None:
    chance = random.Random(1)
    for number in range(10_000):
        event = hostile_event(KINDS[number % len(KINDS)], chance)
        line = words.line(event)
        assert not UNSAFE.search(line) and "\n" not in line, ascii(line)


def test_a_plain_log_of_hostile_events_holds_text_alone() -> None:
    chance, stream, clock = random.Random(2), io.StringIO(), iter(range(0, 100_000, 9))
    view = PlainView(stream, lambda: next(clock))
    for number in range(2_000):
        view(hostile_event(KINDS[number % len(KINDS)], chance))
        view.tick()
    view.say("\x1b]0;title\x07 said")
    shown = stream.getvalue()
    assert not UNSAFE.search(shown) and "\ufffd]0;title\ufffd said" in shown
    assert shown.count("\n") > 1_000


@pytest.mark.parametrize("width", [100, 40])
def test_a_live_screen_of_hostile_events_holds_only_its_own_escapes(width: int) -> None:
    chance, stream = random.Random(3), io.StringIO()
    view = LiveView(Console(file=stream, force_terminal=True, width=width, highlight=False))
    try:
        for number in range(300):
            view(hostile_event(KINDS[number % len(KINDS)], chance))
            view.tick()
    finally:
        view.close()
    shown = stream.getvalue()
    for payload in ("\x1b]", "\x9b", "\x9d", "\x90", "\x07", "\x1b\\", "\u202e", "\x08", "\x00"):
        assert payload not in shown, ascii(payload)
    rest = SAFE_ESCAPES.sub("", shown).replace("\r", "")
    assert not UNSAFE.search(rest), ascii(UNSAFE.search(rest))


@pytest.mark.parametrize("text", ["[/INST]", "[red]x", "[bold]", "[/]", "[link=http://x.example]y", ":sheep:"])
def test_markup_in_what_a_model_wrote_is_shown_as_it_is(text: str) -> None:
    stream = io.StringIO()
    view = LiveView(Console(file=stream, force_terminal=True, width=100, highlight=False, color_system=None))
    view(events.Note(text))
    view(events.PhaseStarted(1, "respond", 3))
    view(events.Progress(1, "respond", 1, 3, text))
    view.close()
    assert SAFE_ESCAPES.sub("", stream.getvalue()).count(text) >= 2
    plain = io.StringIO()
    PlainView(plain)(events.Note(text))
    assert plain.getvalue() == f"{text}\n"


def test_hostile_metrics_make_a_table_all_the_same() -> None:
    chance = random.Random(4)
    for _ in range(40):
        stream = io.StringIO()
        metrics = [metrics_of(number, hostile(chance)) for number in range(3)]
        Console(file=stream, width=100, force_terminal=False).print(metrics_table(metrics))
        histogram = "".join(words.score_histogram(metrics))
        assert not UNSAFE.search(stream.getvalue() + histogram)


@pytest.mark.parametrize("width", [40, 80, 140])
def test_the_table_names_base_and_rounds_at_any_width(width: int) -> None:
    stream = io.StringIO()
    Console(file=stream, width=width, force_terminal=False).print(metrics_table([metrics_of(n) for n in range(3)]))
    shown = stream.getvalue()
    assert "base" in shown and "2.500" in shown
    assert all(len(line) <= width for line in shown.splitlines())


def test_measures_that_nothing_has_are_left_out() -> None:
    titles, rows = words.metric_rows([{"round": 0, "model": {"held_out_nll": 1.0}}, metrics_of(1)])
    assert titles == ["base", "round 1"]
    named = dict(rows)
    assert named["held-out NLL per token"] == ["1.000", "2.500"]
    assert named["keep rate"] == ["-", "50%"]
    assert "distinct-2 of greedy answers" not in named


def test_plain_output_is_never_silent_for_long() -> None:
    now, stream = [0.0], io.StringIO()
    view = PlainView(stream, lambda: now[0])
    view(events.PhaseStarted(1, "respond", 100))
    said = [0.0]
    for step in range(400):
        now[0] = step * 0.5
        before = len(stream.getvalue())
        if step % 40 == 0:
            view(events.Progress(1, "respond", step // 4, 100))
        view.tick()
        if len(stream.getvalue()) > before:
            said.append(now[0])
    gaps = [b - a for a, b in pairwise(said)]
    assert max(gaps) <= QUIET_SECONDS
    assert "round 1, respond: 90 of 100, 3 min 1" in stream.getvalue()


def test_plain_output_speaks_before_the_first_event_too() -> None:
    now, stream = [0.0], io.StringIO()
    view = PlainView(stream, lambda: now[0])
    now[0] = QUIET_SECONDS
    view.tick()
    assert stream.getvalue() == "working, 8 s\n"


def test_plain_lines_and_json_tell_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now, plain, machine = [1_000.0], io.StringIO(), io.StringIO()
    monkeypatch.setattr(time, "time", lambda: now[0])
    outlook = Outlook(((1, "respond"), (2, "respond"), (3, "respond")), early=True)
    monkeypatch.setattr(api, "outlook", lambda folder: outlook)
    shown = (PlainView(plain, lambda: now[0]), JsonView(machine, lambda: now[0]))
    told: list[tuple[float, events.Event]] = [
        (1_000.0, events.RunStarted("runs/x", "m", 3, "llamacpp", "peft")),
        (1_000.0, events.PhaseStarted(1, "respond", 100)),
        (1_050.0, events.PhaseFinished(1, "respond", 50.0, {})),
        (1_050.0, events.PhaseStarted(2, "respond", 100)),
        (1_070.0, events.Progress(2, "respond", 40, 100)),
    ]
    for now[0], event in told:
        for view in shown:
            view(event)
    for view in shown:
        view.tick()
    assert (
        "round 2, respond: 40 of 100, 20 s; left: about 30 s of this phase, at most 1 min 20 s of the run"
        in plain.getvalue()
    )
    last = json.loads(machine.getvalue().splitlines()[-1])
    assert (last["phase_left"], last["run_left"], last["at_most"]) == (30.0, 80.0, True)


def test_progress_is_not_said_line_by_line() -> None:
    stream = io.StringIO()
    view = PlainView(stream, lambda: 0.0)
    for number in range(100):
        view(events.Progress(1, "respond", number, 100))
        view(events.TrainStep(1, number, 100, 2.0, 1e-4, 10.0))
    assert stream.getvalue() == ""
    view(events.TrainStep(1, 1, 100, 2.0, 1e-4, 10.0, 2.25))
    assert "validation loss 2.250" in stream.getvalue()


def test_json_is_one_object_a_line() -> None:
    chance, stream = random.Random(5), io.StringIO()
    view = JsonView(stream)
    for number in range(500):
        view(hostile_event(KINDS[number % len(KINDS)], chance))
    view.say("said")
    view.tick()
    view.close()
    lines = stream.getvalue().split("\n")
    assert lines[-1] == "" and len(lines) == 502
    assert {json.loads(line)["event"] for line in lines[:-1]} == set(events.KINDS)
    assert stream.getvalue().isascii()


def test_json_of_old_events_tells_the_time_that_was_left_then() -> None:
    stream = io.StringIO()
    view = JsonView(stream)
    view(events.PhaseStarted(1, "judge", 100), 1000.0)
    view(events.Progress(1, "judge", 50, 100), 1050.0)
    told = json.loads(stream.getvalue().splitlines()[-1])
    assert told["time"] == 1050.0 and told["phase_left"] == pytest.approx(50, rel=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_survives_its_line(kind: type[Any]) -> None:
    event = hostile_event(kind, random.Random(6))
    back = events.from_dict(json.loads(json.dumps(events.to_dict(event))))
    # NaN equals nothing, itself included.
    assert repr(back) == repr(event)


@pytest.mark.parametrize("data", [{}, {"event": "Nothing"}, {"event": "Note"}, {"event": "Note", "txt": "x"}])
def test_what_is_no_event_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        events.from_dict(data)


def test_a_pipe_gets_plain_lines_and_json_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(choose_view(plain=False, as_json=False), PlainView)
    assert isinstance(choose_view(plain=True, as_json=True), JsonView)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    view = choose_view(plain=False, as_json=False)
    view.close()
    assert isinstance(view, LiveView)
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert isinstance(choose_view(plain=False, as_json=False), PlainView)


def test_safe_text_is_left_alone_and_cut_to_its_width() -> None:
    assert sanitise("é羊🐑 [/INST]\nnext") == "é羊🐑 [/INST]\nnext"
    assert one_line("a\r\nb\tc  d") == "a b c d"
    assert one_line("x" * 50, 10) == "x" * 7 + "..."


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7800, "2 h 10 min"),
        (3599.7, "1 h 00 min"),
    ],
)
def test_a_duration_is_told_in_words(seconds: float, told: str) -> None:
    assert plain_text.duration(seconds) == told


def test_a_name_in_a_hint_is_one_word_and_no_option() -> None:
    assert [plain_text.shell(name) for name in ("runs/a", "my run", "-r", "-r f", "half \ud800")] == [
        "runs/a", "'my run'", "./-r", "./'-r f'", "'half ?'",
    ]  # fmt: skip


@pytest.mark.parametrize("name", [b"two\nlines", b"caf\xe9", b"e\x1b[31m it's \\", "r\u202e😀".encode(), b"-\x07"])
def test_a_name_that_no_terminal_shows_can_be_copied_from_a_hint(name: bytes) -> None:
    word = plain_text.shell(os.fsdecode(name))
    assert plain_text.sanitise(word) == word and "\n" not in word
    done = subprocess.run(["/bin/bash", "-c", f"printf %s {word}"], capture_output=True, check=True)
    assert done.stdout.removeprefix(b"./") == name
