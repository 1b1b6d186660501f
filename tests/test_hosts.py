"""Worker processes: who is alive when, and that none is left behind. The fake engine, but real processes."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest
from tiny_runs import tiny_run
from worker_stand_ins import pretend

from minisheep import loop
from minisheep.errors import DiskError, Stopped, WorkerError
from minisheep.host import WorkerHost, signalled_stop
from minisheep.machine.gpu import Gpu
from minisheep.machine.worker import WorkerProcess
from minisheep.run.events import Event, Note
from minisheep.run.folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run whose base is not measured yet."""
    run, _ = tiny_run(tmp_path / "run", until=loop.Phase(0, "evaluate"))
    return RunFolder(run.path)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_while_a_phase_runs_alone_the_next_worker_warms_up_and_is_then_used(folder: RunFolder) -> None:
    with tempfile.TemporaryFile() as lock:
        host = WorkerHost(lock.fileno())
        host.run(folder, loop.PREPARE, lambda event: None)
        assert host._alone is None and host._worker is not None
        warm = host._worker
        host.run(folder, loop.Phase(1, "generate"), lambda event: None)
        assert host._worker is warm
        host.close()
        assert not alive(warm.pid)


def test_a_killed_host_leaves_no_worker(folder: RunFolder) -> None:
    with tempfile.TemporaryFile() as lock:
        host = WorkerHost(lock.fileno())
        host.run(folder, loop.PREPARE, lambda event: None)
        assert host._worker is not None
        pid = host._worker.pid
        host.kill()
        host.close()
        assert not alive(pid)


GPU = Gpu("NVIDIA GeForce RTX 3060", (8, 6), 12 * 2**30, 11 * 2**30)


def stand_in_host(monkeypatch: pytest.MonkeyPatch, lock: int, source: str, gpu: Gpu | None = GPU) -> WorkerHost:
    script = pretend(monkeypatch, source)
    monkeypatch.setattr(WorkerHost, "_start", lambda self, folder: WorkerProcess(script))
    return WorkerHost(lock, gpu=lambda: gpu)


@pytest.mark.parametrize(("enough", "workers"), [(0.8, 2), (0.5, 4)])
def test_after_an_abort_a_new_worker_goes_on_with_fewer_slots_and_that_is_told(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, enough: float, workers: int
) -> None:
    source = f"os.abort() if job.get('slot_share', 1.0) > {enough} else emit(Note(str(job['slot_share'])))"
    said: list[Event] = []
    with tempfile.TemporaryFile() as lock:
        host = stand_in_host(monkeypatch, lock.fileno(), source)
        host.run(folder, loop.Phase(1, "respond"), said.append)
        host.run(folder, loop.Phase(1, "judge"), said.append)
        host.close()
    notes = [event for event in said if isinstance(event, Note)]
    assert [note.level for note in notes] == ["warning"] * (workers - 1) + ["info"] * 2
    assert "SIGABRT" in notes[0].text and "75% of the slots" in notes[0].text
    assert notes[-1].text == notes[-2].text == str(0.75 ** (workers - 1))


@pytest.mark.parametrize(
    ("source", "gpu", "deaths"),
    [("os.abort()", GPU, 4), ("os.kill(os.getpid(), signal.SIGSEGV)", GPU, 1), ("os.abort()", None, 1)],
)
def test_what_aborts_again_and_again_or_dies_otherwise_ends_the_run(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, source: str, gpu: Gpu | None, deaths: int
) -> None:
    said: list[Event] = []
    with tempfile.TemporaryFile() as lock:
        host = stand_in_host(monkeypatch, lock.fileno(), source, gpu)
        with pytest.raises(WorkerError):
            host.run(folder, loop.Phase(1, "respond"), said.append)
    assert len(said) == deaths - 1


@pytest.mark.parametrize(("phase", "blamed"), [(loop.PREPARE, True), (loop.Phase(1, "respond"), False)])
def test_a_crash_over_a_models_file_is_blamed_on_the_file_and_not_to_be_repeated(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, phase: loop.Phase, blamed: bool
) -> None:
    with tempfile.TemporaryFile() as lock:
        host = stand_in_host(monkeypatch, lock.fileno(), f"job['phase'] == {phase.name!r} and os.abort()", None)
        with pytest.raises(WorkerError, match="SIGABRT") as died:
            host.run(folder, phase, lambda event: None)
    assert ("--gguf" in died.value.fix) is blamed and ("same command" in died.value.fix) is not blamed


def test_after_a_stop_nothing_more_is_begun(folder: RunFolder) -> None:
    with tempfile.TemporaryFile() as lock:
        host = WorkerHost(lock.fileno())
        host.stop()
        with pytest.raises(Stopped, match="round 1, generate"):
            host.run(folder, loop.Phase(1, "generate"), lambda event: None)
        host.close()


def test_the_worker_of_a_phase_that_failed_is_not_used_again(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINISHEEP_FAULT", "full:generate:1")
    with tempfile.TemporaryFile() as lock:
        host = WorkerHost(lock.fileno())
        with pytest.raises(DiskError):
            host.run(folder, loop.Phase(1, "generate"), lambda event: None)
        assert host._worker is None and host._alone is None
        monkeypatch.delenv("MINISHEEP_FAULT")
        host.run(folder, loop.Phase(1, "generate"), lambda event: None)
        host.close()


def test_the_first_interrupt_asks_and_the_second_kills() -> None:
    class Watched(WorkerHost):
        def __init__(self) -> None:
            super().__init__(-1)
            self.told: list[str] = []

        def stop(self) -> None:
            self.told.append("stop")

        def kill(self) -> None:
            self.told.append("kill")

    host = Watched()
    with pytest.raises(Stopped, match="at once") as stopped, signalled_stop(host):
        signal.raise_signal(signal.SIGINT)
        assert host.told == ["stop"]
        signal.raise_signal(signal.SIGINT)
    assert host.told == ["stop", "kill"] and stopped.value.exit_code == 130
