"""Worker processes: who is alive when, and that none is left behind. The fake engine, but real processes."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest
from tiny_runs import tiny_run

from minisheep import loop
from minisheep.errors import DiskError, Stopped
from minisheep.host import SignalledStop, WorkerHost
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

    host, said = Watched(), list[str]()
    with pytest.raises(Stopped, match="at once") as stopped, SignalledStop(host, said.append):
        signal.raise_signal(signal.SIGINT)
        assert host.told == ["stop"] and "second Ctrl-C" in said[0]
        signal.raise_signal(signal.SIGINT)
    assert host.told == ["stop", "kill"] and stopped.value.exit_code == 130
