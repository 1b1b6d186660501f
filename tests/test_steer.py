"""Runs that are seen and steered from another terminal: their state by name, and pause, resume and stop."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from terminals import log_of, terminal, wait_for
from tiny_runs import TINY, flags, outcome, tiny_run

from minisheep import api, config, loop, opening
from minisheep.cli import steer
from minisheep.cli.main import cli
from minisheep.errors import MinisheepError, RunLockedError, Stopped, UsageError, WorkerError
from minisheep.host import WorkerHost
from minisheep.run import events, run_state
from minisheep.run.folder import Lock, RunFolder
from minisheep.run.run_state import holder
from minisheep.terminal import run_list

LONG: dict[str, Any] = {"rounds": 1, "per_round": 4000}
SHORT: dict[str, Any] = {"rounds": 1, "per_round": 6}


@contextmanager
def going_on(run: Path, until: str = "round 1, generate", **settings: Any) -> Iterator[subprocess.Popen[str]]:
    """A run in a process of its own that has come to `until`; killed at the end, if it is still there."""
    command = [sys.executable, "-m", "minisheep", "align", "--run", str(run), "--preset", "imitation", "--plain"]
    process = subprocess.Popen(
        [*command, *flags(**{**LONG, **settings})], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if until in line:
            break
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
        wait_for(lambda: holder(run) is None)


def call(*args: object, code: int = 0) -> str:
    """What a command says, in this process; its exit code must be `code`."""
    result = CliRunner().invoke(cli, [str(arg) for arg in args])
    if isinstance(result.exception, MinisheepError):
        assert result.exception.exit_code == code, result.exception
        return result.output + str(result.exception)
    assert (result.exit_code, result.exception) == (code, None), result
    return result.output


def told(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(call("status", run, "--json"))
    return found


# The state by name


def test_a_state_has_one_name_whatever_is_true() -> None:
    """The rules that hold for each of all combinations."""
    flags = ("alive", "stopping", "paused", "pausing", "over", "early", "begun")
    for ended in ("", "finished", "stopped", "failed"):
        for values in itertools.product((False, True), repeat=len(flags)):
            fact = dict(zip(flags, values, strict=True))
            name = run_state.name_of(outcome=ended, **fact)
            assert (name in run_state.GOING_ON) == (fact["alive"] and not ended)
            if not fact["alive"]:
                assert (name in ("finished", "finished early")) == (fact["over"] or ended == "finished")
                assert name != "failed" or ended == "failed"
            elif not ended and fact["stopping"]:
                assert name == "stopping"
    assert run_state.name_of(alive=False, begun=False) == "not started"
    assert run_state.name_of(alive=False, over=True, early=True, outcome="failed") == "finished early"


def test_a_run_is_told_by_its_newest_start_alone(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    said = [
        events.RunStarted("r", "m", 1, "fake", "fake"), events.PhaseStarted(1, "judge", 30, 0, "pairs"),
        events.Failed("DiskError", "The disk is full.", "Make room."),
        events.RunStarted("r", "m", 1, "fake", "fake", True), events.PhaseStarted(1, "judge", 30, 10, "pairs"),
    ]  # fmt: skip
    folder.events.write_text("".join(json.dumps({"time": 5.0, **events.to_dict(event)}) + "\n" for event in said[:3]))
    assert run_list.now(folder).name == "failed"
    assert run_list.sentence(tmp_path, run_list.now(folder)) == f"{tmp_path}: failed. The disk is full. Make room."
    folder.events.write_text("".join(json.dumps({"time": 5.0, **events.to_dict(event)}) + "\n" for event in said))
    found = run_list.now(folder)
    assert found.name == "stopped" and "its process ended without a word" in run_list.sentence(tmp_path, found)
    lock = Lock(tmp_path)
    try:
        assert run_list.now(folder).name == "running"
        assert f"running in round 1, judge: 10 of 30 pairs (process {os.getpid()})." in run_list.sentence(
            tmp_path, run_list.now(folder)
        )
        folder.pause.touch()
        assert run_list.now(folder).name == "pausing"
    finally:
        lock.release()


def test_a_host_tells_a_stop_once_and_not_from_the_signal(tmp_path: Path) -> None:
    host, said = WorkerHost(-1), list[events.Event]()
    host._ticked(said.append)
    host.stop()
    host._ticked(said.append)
    host._ticked(said.append)
    assert said == [events.Stopping()]


# Steering


def test_pause_resume_and_stop_from_another_terminal(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with going_on(run) as process:
        paused = call("pause", run)
        assert f"{run}: paused in round 1, generate: " in paused and f"Resume: minisheep resume {run}" in paused
        assert told(run)["state"] == "paused" and told(run)["doing"]["total"] == 4000
        seen = call("status", run)
        assert "paused: " in seen and f"minisheep attach {run}" in seen and "Continue:" not in seen
        made = (run / "round-1" / "drafts.jsonl").stat().st_size
        again = call("pause", run)
        assert "paused in round 1" in again and (run / "round-1" / "drafts.jsonl").stat().st_size == made
        assert "running in round 1, generate" in call("resume", run)
        assert "is running, not paused" in call("resume", run)
        wait_for(lambda: (run / "round-1" / "drafts.jsonl").stat().st_size > made)
        stopped = call("stop", run)
        assert "Stopped in round 1, generate" in stopped and f"Continue: minisheep align --run {run}" in stopped
        assert process.wait(10) == 130 and holder(run) is None
    seen = call("status", run)
    assert "begun: " in seen and "Continue: minisheep align" in seen


@pytest.mark.parametrize(("verb", "code"), [("stop", 0), ("pause", 2), ("resume", 2)])
def test_a_run_that_is_not_running_is_told_so_in_one_line(verb: str, code: int, tmp_path: Path) -> None:
    run, _ = tiny_run(tmp_path / "run", until=loop.Phase(0, "evaluate"), per_round=4)
    said = call(verb, run.path, code=code)
    assert len(said.splitlines()) == 1 and f"There is nothing to {verb}." in said
    assert verb == "stop" or f"minisheep align --run {run.path}" in said
    assert not (run.path / "pause").exists()


def test_two_stops_at_once_are_one_stop(tmp_path: Path) -> None:
    """A second signal would mean at once: the record in hand would be lost, and the run would say so."""
    run = tmp_path / "run"
    with going_on(run) as process:
        call("pause", run)
        stops = [
            subprocess.Popen([sys.executable, "-m", "minisheep", "stop", str(run)], stdout=subprocess.PIPE, text=True)
            for _ in range(3)
        ]
        assert [stop.communicate(timeout=60)[0].count("Stopped in round 1") for stop in stops] == [1, 1, 1]
        assert process.wait(10) == 130
    assert log_of(run).count('"Stopping"') == 1 and "Stopped at once" not in log_of(run)


def test_stop_now_ends_a_process_that_takes_no_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    with going_on(run) as process:
        os.kill(process.pid, signal.SIGSTOP)
        assert "--now" in call("stop", run, "--wait", 0.5, code=3)
        monkeypatch.setattr(steer, "KILL_SECONDS", 1.0)
        monkeypatch.setattr(steer, "ASK_SECONDS", 0.2)
        assert "its process ended without a word" in call("stop", run, "--now") and holder(run) is None
        assert process.wait(10) == -signal.SIGKILL
    assert told(run)["state"] == "stopped"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    run, _ = tiny_run(tmp_path_factory.mktemp("undisturbed") / "run", **SHORT)
    return outcome(run.path)


@pytest.mark.parametrize("phase", ["generate", "respond", "judge", "train", "evaluate"])
def test_a_stop_in_any_phase_loses_nothing(phase: str, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """Paused in the phase, so that it cannot end before it is stopped; then the same run as one undisturbed."""
    folder = RunFolder(tmp_path / "run")
    order = [(one.round, one.name) for one in loop.phases(config.make({**TINY, **SHORT}, "imitation"))]
    before = order[order.index((1, phase)) - 1]

    def watch(event: events.Event) -> None:
        # Before the phase is asked for: a fake one may be over by the time that its start is heard of.
        if isinstance(event, events.PhaseFinished) and (event.round, event.phase) == before:
            folder.pause.touch()
        if isinstance(event, events.Paused) and event.paused:
            assert run_list.now(folder).name == "paused"
            found = holder(folder.path)
            assert found is not None and found.ask() == ""

    with pytest.raises(Stopped, match=f"round 1, {phase}|Training stopped"):
        api.align(folder.path, preset="imitation", emit=watch, **{**TINY, **SHORT})
    assert run_list.now(folder).name == "stopped"
    tiny_run(folder.path)
    assert outcome(folder.path) == undisturbed


@pytest.mark.parametrize("asked", ["pause", "stop"])
def test_a_process_killed_while_paused_or_stopping_is_a_stopped_run(asked: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with going_on(run) as process:
        call("pause", run)
        if asked == "stop":
            # Held, so that it is killed in the midst of stopping.
            os.kill(process.pid, signal.SIGSTOP)
            assert "round 1, generate" in call("stop", run, "--wait", 0.5, code=3)
        process.kill()
        wait_for(lambda: holder(run) is None)
    assert told(run)["state"] == "stopped"
    assert f"`minisheep align --run {run}` goes on." in call("resume", run, code=2)
    with going_on(run):
        assert not (run / "pause").exists() and told(run)["state"] == "running"


# Locks


def test_a_lock_is_told_with_what_shows_and_stops_its_holder(tmp_path: Path) -> None:
    run, _ = tiny_run(tmp_path / "run", until=loop.Phase(0, "evaluate"), per_round=4)
    lock = Lock(run.path)
    try:
        with pytest.raises(RunLockedError) as met:
            Lock(run.path, wait_seconds=0.0)
        assert f"`minisheep attach {run.path}`" in met.value.fix and f"`minisheep stop {run.path}`" in met.value.fix
        (run.path / ".lock").write_text("process 1 on another-host\n")
        said = call("stop", run.path, code=2)
        assert "on another-host, which shares this folder" in said and f"`minisheep pause {run.path}`" in said
    finally:
        lock.release()


def test_a_number_that_is_another_process_by_now_gets_no_signal(tmp_path: Path) -> None:
    """The noted process is gone, and its orphaned worker still holds the lock."""
    lock, waiting = Lock(tmp_path), [sys.executable, "-c", "import time; time.sleep(60)"]
    innocent, worker = subprocess.Popen(waiting), subprocess.Popen(waiting, pass_fds=[lock.handle])
    try:
        (tmp_path / ".lock").write_text(f"process {innocent.pid} on {os.uname().nodename}\n")
        found = holder(tmp_path)
        assert found is not None and found.process == innocent.pid and found.ask(signal.SIGKILL) == ""
        time.sleep(0.2)
        assert innocent.poll() is None
    finally:
        for process in (innocent, worker):
            process.kill()
            process.wait()
        lock.release()


def test_the_lock_of_a_file_that_is_gone_keeps_nobody_out_and_is_not_taken(tmp_path: Path) -> None:
    first = Lock(tmp_path)
    (tmp_path / ".lock").unlink()
    second = Lock(tmp_path, wait_seconds=0.0)
    with pytest.raises(RunLockedError):
        Lock(tmp_path, wait_seconds=0.0)
    first.release()
    second.release()


# A first try that fails


@pytest.mark.parametrize("error", [UsageError("No such server.", "Start it."), WorkerError("It died.")])
def test_an_attempt_that_made_nothing_leaves_no_settings(
    error: MinisheepError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"

    def refuse(*_: object) -> None:
        (run / "scratch" / "worker.log").write_text("its last words")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("minisheep.prepare.prepare", refuse)
        with pytest.raises(type(error)):
            tiny_run(run, seed=5)
        kept = isinstance(error, WorkerError)
        assert run.exists() == kept and (run / "scratch" / "worker.log").exists() == kept
        assert not (run / "run.toml").exists() and not (run / "manifest.json").exists()
        # What stood there before the attempt stands there again.
        RunFolder(run).create()
        opening.write(RunFolder(run), opening.resolve({"seed": 7, "engine": "fake", "trainer": "fake"}), {})
        with pytest.raises(type(error)):
            tiny_run(run, seed=5)
        assert api.load_run(run).settings.seed == 7
    done, _ = tiny_run(run, **{**TINY, **SHORT})
    assert done.settings.seed == 7 and done.next_phase is None


def test_an_attempt_that_was_stopped_keeps_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"

    def stopped(*_: object) -> None:
        raise Stopped("Stopped while fetching.")

    with monkeypatch.context() as patch:
        patch.setattr("minisheep.prepare.prepare", stopped)
        with pytest.raises(Stopped):
            tiny_run(run, seed=5)
    assert api.load_run(run).settings.seed == 5
    assert run_list.listed(run).now.name == "stopped"


def test_a_server_that_is_not_there_is_asked_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*_: object) -> None:
        raise AssertionError("fetched first")

    monkeypatch.setattr("minisheep.prepare._prepare_real", fetch)
    monkeypatch.setattr("minisheep.prepare._check_offload", lambda settings: None)
    server = {"engine": "openai", "engine_url": "http://127.0.0.1:9/v1", "engine_model": "m", "judge": "logits"}
    with pytest.raises(MinisheepError, match=r"127\.0\.0\.1:9.*no run was begun"):
        api.align(tmp_path / "run", preset="imitation", inline=True, **server)
    assert not (tmp_path / "run").exists()


# On the screen


def test_leaving_a_paused_run_says_that_it_stays_paused_and_a_stop_is_in_the_header(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with terminal("align", "--run", str(run), "--preset", "imitation", *flags(**LONG)) as screen:
        screen.until("/4,000")
        screen.press("p")
        screen.until("PAUSED")
        screen.press("q")
        assert screen.end() == 0
        left = screen.seen[-300:]
        assert "stays paused" in left and f"minisheep resume {run}" in left and "goes on" not in left
    try:
        with terminal("attach", str(run)) as screen:
            screen.until("PAUSED")
            found = holder(run)
            assert found is not None
            os.kill(found.process, signal.SIGSTOP)
            with RunFolder(run).events.open("a") as log:
                log.write(json.dumps({"time": time.time(), "event": "Stopping"}) + "\n")
            screen.until("STOPPING")
            os.kill(found.process, signal.SIGCONT)
            screen.press("q")
            screen.end()
    finally:
        call("stop", run, "--now")
