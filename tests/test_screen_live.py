"""The screen on a real terminal: leaving, coming back, pausing, stopping, and the terminal given back each time."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from terminals import log_of, terminal, wait_for
from test_ui import UNSAFE
from tiny_runs import flags, minisheep, tiny_run

from minisheep import api, loop
from minisheep.run.run_state import holder
from minisheep.terminal.live_screen import ENTER, LEAVE

LONG = 4000
"""Instructions a round: the fake engine needs some ten seconds for as many."""


def align(run: Path, **settings: object) -> tuple[str, ...]:
    return ("align", "--run", str(run), "--preset", "imitation", *flags(rounds=1, **settings))


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """Where a run may be made; whoever still works there in the end is stopped."""
    path = tmp_path / "run"
    yield path
    found = holder(path)
    if found is not None:
        os.kill(found.process, signal.SIGKILL)
        wait_for(lambda: holder(path) is None)


def over(run: Path) -> bool:
    return holder(run) is None and (run / "manifest.json").exists() and api.load_run(run).next_phase is None


def test_a_run_on_a_terminal_has_a_screen_and_ends_with_its_table(run: Path) -> None:
    with terminal(*align(run, per_round=300)) as screen:
        screen.until(ENTER)
        screen.until("[")
        assert screen.end() == 0
        after = screen.seen.rpartition(LEAVE)[2]
        assert "Finished 1 round in" in after and "Look:  minisheep report" in after
        assert "\x1b[?1049h" not in after and screen.as_before
    assert over(run)


def test_q_leaves_the_run_going_on_and_attach_comes_back(run: Path) -> None:
    with terminal(*align(run, per_round=LONG)) as screen:
        screen.until("/4,000")
        screen.press("q")
        assert screen.end() == 0
        assert f"minisheep attach {run}" in screen.seen.rpartition(LEAVE)[2]
        assert screen.as_before
    assert not over(run)
    with terminal("attach", str(run), size=(100, 30)) as screen:
        screen.until("/4,000")
        screen.press("q")
        assert screen.end() == 0 and screen.as_before
    assert holder(run) is not None and "Failed" not in log_of(run)


def test_a_closed_terminal_does_not_lose_the_run(run: Path) -> None:
    with terminal(*align(run, per_round=600)) as screen:
        screen.until("[generate]")
    wait_for(lambda: over(run))
    assert len(api.load_run(run).rounds[0].instructions) == 600


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_stops_the_run_and_says_how_to_go_on(number: signal.Signals, code: int, run: Path) -> None:
    with terminal(*align(run, per_round=LONG)) as screen:
        screen.until("/4,000")
        if number == signal.SIGINT:
            screen.press("\x03")
        else:
            screen.process.send_signal(number)
        assert screen.end() == code
        assert "same command" in screen.seen.rpartition(LEAVE)[2] and "Traceback" not in screen.seen
        assert screen.as_before
    assert holder(run) is None
    assert '"kind":"Stopped"' in log_of(run)


def test_ctrl_c_on_an_attached_screen_stops_the_run(run: Path) -> None:
    with terminal(*align(run, per_round=LONG)) as screen:
        screen.until("/4,000")
        screen.press("q")
        screen.end()
    with terminal("attach", str(run)) as screen:
        screen.until("[generate]")
        screen.press("\x03")
        screen.until("STOPPED")
        screen.press("q")
        assert screen.end() == 0 and screen.as_before
    assert holder(run) is None


def test_p_pauses_and_goes_on_from_any_screen(run: Path) -> None:
    with terminal(*align(run, per_round=LONG)) as screen:
        screen.until("/4,000")
        screen.press("p")
        screen.until("PAUSED")
        screen.press("q")
        screen.end()
    assert (run / "pause").exists()
    made = (run / "round-1" / "instructions.jsonl").stat().st_size
    with terminal("attach", str(run)) as screen:
        screen.until("PAUSED")
        assert (run / "round-1" / "instructions.jsonl").stat().st_size == made
        screen.press("p")
        screen.until("running")
        wait_for(lambda: (run / "round-1" / "instructions.jsonl").stat().st_size > made)
        screen.press("q")
        screen.end()
    assert not (run / "pause").exists()
    paused = [json.loads(line) for line in log_of(run).splitlines() if '"Paused"' in line]
    assert [event["paused"] for event in paused] == [True, False]


def test_a_stopped_pause_is_over_when_the_command_is_given_again(run: Path) -> None:
    with terminal(*align(run, per_round=LONG)) as screen:
        screen.until("/4,000")
        screen.press("p")
        screen.until("PAUSED")
        screen.press("\x03")
        assert screen.end() == 130
    assert (run / "pause").exists()
    with terminal("align", "--run", str(run)) as screen:
        screen.until("[generate]")
        assert not (run / "pause").exists()


def test_the_question_mark_explains_and_a_resized_screen_is_drawn_anew(run: Path) -> None:
    tiny_run(run, until=loop.Phase(1, "respond"))
    with terminal("attach", str(run)) as screen:
        screen.until("STOPPED")
        screen.press("?")
        screen.until("leave the screen")
        screen.press("\x1b[A?")
        screen.until("newest")
        screen.resize(132, 40)
        screen.until("\x1b[40;1H")
        screen.press("q")
        assert screen.end() == 0 and screen.as_before


def test_sigterm_ends_an_attached_screen_and_not_the_terminal(run: Path) -> None:
    tiny_run(run, until=loop.Phase(1, "respond"))
    with terminal("attach", str(run)) as screen:
        screen.until("STOPPED")
        screen.process.send_signal(signal.SIGTERM)
        assert screen.end() == 143 and screen.as_before and LEAVE in screen.seen


def test_a_mistake_on_a_terminal_is_one_line_without_a_screen(run: Path) -> None:
    with terminal("align", "--run", str(run), "--engine", "fake") as screen:
        assert screen.end() == 2
        assert "fake" in screen.seen and "\x1b" not in screen.seen
    with terminal(*align(run, seeds=str(run / "none.jsonl"))) as screen:
        assert screen.end() == 2
        assert "none.jsonl" in screen.seen and "\x1b" not in screen.seen
        assert len(screen.seen.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("extra", "environment"),
    [(("--plain",), {}), (("--json",), {}), ((), {"NO_COLOR": "1"}), ((), {"TERM": "dumb"})],
    ids=["plain", "json", "NO_COLOR", "dumb"],
)
def test_who_wants_no_screen_gets_no_escape_code(
    extra: tuple[str, ...], environment: dict[str, str], run: Path
) -> None:
    with terminal(*align(run), *extra, **environment) as screen:
        assert screen.end() == 0
        assert not UNSAFE.search(screen.seen.replace("\r\n", "\n"))
    with terminal("attach", str(run), *extra, **environment) as screen:
        assert screen.end() == 0
        assert not UNSAFE.search(screen.seen.replace("\r\n", "\n"))


def test_attach_in_a_pipe_says_what_was_said(run: Path) -> None:
    tiny_run(run, rounds=1)
    done = minisheep("attach", str(run))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Starting ") and "round 1, train done" in done.stdout
    told = [json.loads(line) for line in minisheep("attach", str(run), "--json").stdout.splitlines()]
    kept = [json.loads(line) for line in log_of(run).splitlines()]
    # What is left of the time is added by who tells it.
    left = ("phase_left", "run_left", "at_most")
    bare = [{name: value for name, value in event.items() if name not in left} for event in told]
    assert [event for event in bare if event["event"] != "Progress"] == kept


def test_attach_without_a_run_that_goes_on_says_so() -> None:
    done = minisheep("attach")
    assert done.returncode == 2 and "runs/" in done.stderr
