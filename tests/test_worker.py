"""The one protocol between a parent and its workers: real processes, with handlers of the tests' own."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from worker_stand_ins import SCRIPT, pretend

import minisheep
from minisheep.cli.main import VERBS
from minisheep.errors import DiskError, ModelFileError, RunLockedError, Stopped, TimeUpError, UsageError, WorkerError
from minisheep.machine.worker import Silence, WorkerProcess, load
from minisheep.run.events import Event, Found, Note
from minisheep.run.folder import Lock

JOB = {"phase": "try"}
ROOT = Path(minisheep.__file__).parent
BENCHMARKS = ROOT.parent / "benchmarks"


def told(monkeypatch: pytest.MonkeyPatch, source: str, **given: Any) -> tuple[dict[str, Any], list[Event]]:
    """The facts that a worker doing `source` returns, and its events."""
    events: list[Event] = []
    with WorkerProcess(pretend(monkeypatch, source), died=given.pop("died", WorkerError)) as worker:
        return worker.do(JOB, "Doing it", events.append, **given), events


def gone(pid: int) -> bool:
    """Whether a process has ended, within five seconds."""
    for _ in range(100):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or ") Z" in state.read_text():
            return True
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    return False


def test_every_handler_and_every_verb_that_is_named_by_a_text_exists() -> None:
    texts = [file.read_text(encoding="utf-8") for room in (ROOT, BENCHMARKS) for file in room.rglob("*.py")]
    handlers = {name for text in texts for name in re.findall(r'"((?:minisheep|benchmarks)(?:\.\w+)+:\w+)"', text)}
    assert len(handlers) >= 10
    for handler in handlers:
        assert all(map(callable, load(handler))), handler
    for verb, (module, _) in VERBS.items():
        load(f"{module}:{verb}")


def test_events_and_facts_cross_over_and_what_is_printed_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    source = "print('noise', flush=True); emit(Found('a', {'b': 1})); facts = {'phase': job['phase']}"
    assert told(monkeypatch, source) == ({"phase": "try"}, [Found("a", {"b": 1})])


def test_an_error_crosses_over_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no") as raised:
        told(monkeypatch, "raise UsageError('no.', 'yes')")
    assert raised.value.fix == "yes"
    with pytest.raises(DiskError, match="refused"):
        told(monkeypatch, "open('/does/not/exist')")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "Doing it failed: .*SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "memory"),
        ("print('what it said last', flush=True); os._exit(3)", "code 3: what it said last"),
        ("raise RuntimeError('a fault')", "a fault"),
    ],
)
def test_a_death_is_one_line(monkeypatch: pytest.MonkeyPatch, source: str, said: str) -> None:
    with pytest.raises(ModelFileError, match=said):
        told(monkeypatch, source, died=ModelFileError)


def test_a_log_that_is_kept_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    handler = pretend(monkeypatch, "print('said', flush=True); os._exit(1)")
    with WorkerProcess(handler, tmp_path / "log") as worker, pytest.raises(WorkerError) as raised:
        worker.do(JOB, "Doing it")
    assert str(tmp_path / "log") in raised.value.fix and (tmp_path / "log").read_text() == "said\n"


def test_what_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    with pytest.raises(TimeUpError, match="Doing it"):
        told(monkeypatch, "time.sleep(60)", seconds=0.5)
    assert time.monotonic() - began < 10


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("how", ["ended", "killed"])
def test_the_children_of_a_worker_end_with_it(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    source = "import subprocess\nfacts = {'pid': subprocess.Popen(['sleep', '60']).pid}"
    with WorkerProcess(pretend(monkeypatch, source)) as worker:
        pid = worker.do(JOB, "Doing it")["pid"]
        if how == "killed":
            worker.kill()
    assert gone(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_orphan_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "emit(Found('pid', {'pid': os.getpid()})); time.sleep(60)")
    code = (
        "import os\nfrom minisheep.machine.worker import WorkerProcess\n"
        "def hear(event):\n    print(event.facts['pid'], flush=True)\n    os._exit(0)\n"
        f"WorkerProcess({SCRIPT!r}).do({JOB!r}, 'Doing it', hear)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert gone(int(done.stdout))


def test_every_worker_counts_gpus_as_the_driver_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    with WorkerProcess(pretend(monkeypatch, "facts['order'] = os.environ['CUDA_DEVICE_ORDER']")) as worker:
        assert worker.do({"phase": "x"}, "x") == {"order": "PCI_BUS_ID"}


def test_a_stop_reaches_the_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    source = "emit(Found('begun', {}))\nwhile not should_stop(): time.sleep(0.01)\nraise Stopped('Stopped.')"
    with WorkerProcess(pretend(monkeypatch, source)) as worker, pytest.raises(Stopped):
        worker.do(JOB, "Doing it", lambda event: worker.send("stop"), seconds=30)


def test_a_worker_holds_the_lock_of_its_parent_and_is_named_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The parent is gone, as the note in the lock's file says, and its worker still works in the folder."""
    lock = Lock(tmp_path)
    gone = subprocess.Popen(["true"])
    gone.wait()
    (tmp_path / ".lock").write_text(f"process {gone.pid} on {socket.gethostname()}\n")
    with WorkerProcess(pretend(monkeypatch, ""), tmp_path / "log", lock.handle) as worker:
        worker.do(JOB, "Doing it")
        lock.release()
        with pytest.raises(RunLockedError) as refused:
            Lock(tmp_path, wait_seconds=0)
        assert f"process {worker.pid}, a worker of process {gone.pid}, which has ended" in refused.value.message
    Lock(tmp_path, wait_seconds=1).release()


def test_a_worker_ends_when_its_stdin_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a job, without a signal: all that an orphan gets."""
    with WorkerProcess(pretend(monkeypatch, "emit(Found('begun', {})); time.sleep(60)")) as worker:
        begun = time.monotonic()
        with pytest.raises(WorkerError):
            worker.do(JOB, "Doing it", lambda event: worker._process.stdin.close(), seconds=30)  # type: ignore[union-attr]
        assert time.monotonic() - begun < 20


def test_a_silent_worker_is_told_ever_more_rarely_and_ended_only_when_asked() -> None:
    silence = Silence(0.0)
    told = [now for now in range(2000) if silence.verdict(float(now), None, halted=False) == "tell"]
    assert told == [120, 240, 480, 960, 1920]
    silence.heard_of(2000.0)
    assert not silence.verdict(2059.0, 2000.0, halted=False)
    assert silence.verdict(2060.0, 2000.0, halted=False) == "end"
    assert silence.verdict(2010.0, 2004.0, halted=True) == "end"


def test_a_pause_is_no_silence_and_a_halted_worker_is_told_at_once() -> None:
    silence = Silence(0.0)
    assert silence.verdict(6.0, None, halted=True) == "tell"
    silence.heard_of(10.0, paused=True)
    assert not silence.verdict(9000.0, None, halted=False)


def test_a_worker_that_the_system_holds_is_told_and_ended_after_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minisheep.machine.worker.HALTED_SECONDS", 0.2)
    source = "emit(Found('x', {})); os.kill(os.getpid(), signal.SIGSTOP)"
    with pytest.raises(Stopped, match="was ended"), WorkerProcess(pretend(monkeypatch, source)) as worker:

        def on_event(event: Event) -> None:
            if isinstance(event, Note):
                assert f"kill -CONT {worker.pid}" in event.text
                worker.send("stop")

        worker.do(JOB, "Doing it", on_event, seconds=30)
    assert gone(worker.pid)
