"""What a phase tells for the screen, and how it waits: `phase_report.Report` and the files that a screen reads."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from scripted_engine import Scripted
from tiny_runs import TINY, outcome, tiny_run

from minisheep import api, phase_report
from minisheep.errors import Stopped
from minisheep.phase_report import Report
from minisheep.run import events
from minisheep.run.folder import Lock, RunFolder
from minisheep.run.records import Verdict
from minisheep.run.run_state import holder
from minisheep.terminal.screen_state import Follow


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phase_report, "PAUSE_SECONDS", 0.0)


def test_a_step_waits_until_the_pause_is_lifted_and_says_so_twice() -> None:
    answers = iter([False, True, True, True, False, False])
    said: list[events.Event] = []
    report = Report(1, "judge", said.append, lambda: False, lambda: next(answers))
    report.step(1, 5)
    report.step(2, 5)
    report.step(3, 5)
    paused = [event.paused for event in said if isinstance(event, events.Paused)]
    assert paused == [True, False]


def test_a_stop_ends_a_pause_too() -> None:
    report = Report(1, "judge", lambda event: None, lambda: True, lambda: True)
    with pytest.raises(Stopped, match="2 of 5"):
        report.step(2, 5)


def test_paused_time_is_not_counted_as_work(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.sleep", lambda seconds: now.__setitem__(0, now[0] + 50))
    said: list[events.Event] = []
    answers = iter([True, True, False])
    report = Report(1, "judge", said.append, lambda: False, lambda: next(answers))
    report.start(5)
    now[0] += 3
    report.finish()
    (finished,) = [event for event in said if isinstance(event, events.PhaseFinished)]
    assert finished.seconds == 3.0


def test_a_batch_that_brings_no_record_for_long_still_shows_that_the_engine_computes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(phase_report, "GLIMPSE_SECONDS", 0.02)
    engine = Scripted({})
    engine.evaluated, engine.running = 0, 3
    said: list[events.Event] = []
    report = Report(1, "generate", said.append, lambda: False, engine=lambda: engine)
    with report.looking():
        for _ in range(20):
            engine.evaluated += 50
            time.sleep(0.02)
        computing = len(said)
        time.sleep(0.2)
    # A worker that hangs must be noticed by its silence.
    assert computing >= 3 and len(said) <= computing + 1
    newest = said[-1]
    assert isinstance(newest, events.Glimpse) and newest.tokens_per_second > 0 and newest.running == 3
    ended = len(said)
    engine.evaluated += 50
    time.sleep(0.1)
    assert len(said) == ended


def test_glimpses_come_once_a_second_with_the_newest_texts_and_all_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    engine = Scripted({})
    engine.evaluated, engine.running = 1000, 7
    said: list[events.Event] = []
    report = Report(1, "judge", said.append, lambda: False, engine=lambda: engine)
    for number in range(40):
        now[0] += 0.1
        engine.evaluated += 25
        report.show(f"task {number}", "x" * 9000, Verdict(f"r{number}", "pmi", None, None, 0.1 * number, {}))
        report.step(number, 40)
    seen = [event for event in said if isinstance(event, events.Glimpse)]
    assert len(seen) == 3 or len(seen) == 4
    last = seen[-1]
    assert last.tokens_per_second == pytest.approx(250, rel=0.15) and last.running == 7
    assert last.instruction.startswith("task ") and len(last.answer) == phase_report.SHOWN
    assert last.judge == "pmi" and sum(last.histogram) == int(last.instruction.split()[1]) + 1
    assert len(last.edges) == len(last.histogram) + 1


def test_a_run_waits_while_the_pause_file_is_there(tmp_path: Path) -> None:
    """Paused in the middle by another thread, as a screen would, and let go on: the same records as undisturbed."""
    path = tmp_path / "run"
    folder = RunFolder(path)
    waits: list[events.Event] = []

    def watch(event: events.Event) -> None:
        if isinstance(event, events.PhaseStarted) and event.phase == "respond":
            folder.pause.touch()
        if isinstance(event, events.Paused):
            waits.append(event)
            if event.paused:
                threading.Timer(0.05, lambda: folder.pause.unlink(missing_ok=True)).start()

    api.align(path, preset="imitation", emit=watch, inline=True, **TINY)
    assert [event.paused for event in waits if isinstance(event, events.Paused)] == [True, False] * 2
    undisturbed, _ = tiny_run(tmp_path / "undisturbed")
    assert outcome(path) == outcome(undisturbed.path)


def test_the_present_holds_the_newest_of_each_kind_and_the_log_neither(tmp_path: Path) -> None:
    run, said = tiny_run(tmp_path / "run", rounds=1)
    found = [event for _, event in events.read(RunFolder(run.path).present)]
    assert found[-1:] == [event for event in said if isinstance(event, events.Progress)][-1:]
    logged = {json.loads(line)["event"] for line in (run.path / "events.jsonl").read_text().splitlines()}
    assert not logged & {"Progress", "Glimpse"}
    assert not any(isinstance(event, events.Glimpse) for event in said)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'[{"event":"Nothing"}]', b"\xff", b'{"event":"Note"}'])
def test_half_a_present_is_nothing_to_see(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "present.json").write_bytes(content)
    assert events.read(tmp_path / "present.json") == []


def test_following_takes_whole_lines_alone_and_each_once(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.scratch.mkdir()
    follow = Follow(folder)
    assert follow.new() == []
    folder.events.write_bytes(b'{"time":1,"event":"Note","text":"a"}\nrubbish\n{"time":2,"event":"Note","te')
    assert follow.new() == [(1.0, events.Note("a"))]
    with folder.events.open("ab") as file:
        file.write(b'xt":"b"}\n')
    assert follow.new() == [(2.0, events.Note("b"))]
    events.Present(folder.present)(events.Progress(1, "judge", 1, 2))
    assert [event for _, event in follow.new()] == [events.Progress(1, "judge", 1, 2)]
    assert follow.new() == []


def test_who_works_in_a_folder_is_known_without_disturbing_him(tmp_path: Path) -> None:
    assert holder(tmp_path) is None
    lock = Lock(tmp_path)
    found: Any = holder(tmp_path)
    assert found.process == os.getpid()
    lock.release()
    assert holder(tmp_path) is None


def test_a_run_that_fails_says_so_in_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINISHEEP_FAULT", "full:judge:1")
    monkeypatch.setattr("minisheep.run.events._seen", {})
    with pytest.raises(Exception, match="No space left"):
        tiny_run(tmp_path / "run")
    last = json.loads((tmp_path / "run" / "events.jsonl").read_text().splitlines()[-1])
    assert (last["event"], last["kind"]) == ("Failed", "DiskError")
