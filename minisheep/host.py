"""Runs phases in worker processes, or in this one (for tests, and for notebooks on the fake engine)."""

from __future__ import annotations

import contextlib
import json
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from minisheep import config
from minisheep.errors import Stopped, TrainerFailedError, WorkerError
from minisheep.loop import Phase
from minisheep.machine.gpu import Baseline, Gpu, Peak, find_gpu
from minisheep.machine.worker import Facts, WorkerProcess, on_stop
from minisheep.models.prepared import PreparedModel
from minisheep.run.events import Emit, Note, Stopping
from minisheep.run.folder import RunFolder

REHEARSALS = ("rehearse writing", "rehearse training")
ALONE = frozenset({"prepare", "train", REHEARSALS[1]})
"""Phases with a worker of their own: nothing else holds a model while they run, and all their memory is given back."""
WARM_UP = "warm up"
"""A job that loads the libraries of the inference phases."""
CRASHES = frozenset({signal.SIGABRT, signal.SIGSEGV, signal.SIGFPE, signal.SIGBUS, signal.SIGILL})
"""How a process ends in which native code met what it cannot handle."""
MOST_ABORTS, KEPT_SHARE = 3, 0.75
"""How often a run goes on after llama.cpp aborted its worker, and the share of the slots that each next worker has."""


def job_for(folder: RunFolder, phase: Phase) -> dict[str, Any]:
    return {"run": str(folder.path), "round": phase.round, "phase": phase.name}


class RunHandler:
    """Does jobs in this process and keeps the model loaded between them. For workers and `InlineHost`."""

    def __init__(self) -> None:
        self._workspace: Any = None

    def do(self, job: dict[str, Any], emit: Emit, should_stop: Callable[[], bool]) -> Facts | None:
        """``{"run": folder, "round": number, "phase": name}``. Raises what the phase raises; a rehearsal has facts."""
        run = Path(job["run"])
        if job["phase"] == WARM_UP:
            warm_up(run)
            return None
        from minisheep.workspace import Workspace

        if self._workspace is None or self._workspace.folder.path != run:
            self.close()
            self._workspace = Workspace(run, slot_share=job.get("slot_share", 1.0))
        if job["phase"] == "prepare":
            from minisheep.prepare import prepare

            prepare(self._workspace.settings, self._workspace.folder.model, emit)
        elif job["phase"] in REHEARSALS:
            from minisheep import rehearsal

            return rehearsal.do(self._workspace, job["phase"], emit, should_stop)
        else:
            from minisheep.phases import do

            do(self._workspace, job["round"], job["phase"], emit, should_stop)
        return None

    def close(self) -> None:
        if self._workspace is not None:
            self._workspace.close()
            self._workspace = None


def warm_up(run: Path) -> None:
    """Load what the inference phases of a run need, but no model. A failure is left to the phase to report."""
    try:
        import minisheep.phases
        from minisheep.workspace import Workspace

        if Workspace(run).settings.engine == "llamacpp":
            import minisheep.engines.llamacpp  # noqa: F401
    except Exception:
        traceback.print_exc()


def falls_back(folder: RunFolder) -> bool:
    """Whether a run that lost its trainer goes on with another one."""
    return bool(PreparedModel.read(folder.model).trainer_failed)


class InlineHost:
    """Runs phases in this process."""

    def __init__(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        self._handler = RunHandler()
        self._should_stop = should_stop

    def run(self, folder: RunFolder, phase: Phase, emit: Emit) -> None:
        self._handler.do(job_for(folder, phase), emit, self._should_stop)

    def close(self) -> None:
        self._handler.close()


class WorkerHost:
    """Runs phases in worker processes, one at a time.

    `lock` is the handle of the run's lock: workers inherit it, so the run stays locked until the last of them is gone.
    `tick` is called at least twice a second while a worker is busy.

    While a phase of `ALONE` runs, the worker of the next phases already starts and loads its libraries, but no model:
    after the last training step only the model has to be loaded.
    """

    def __init__(
        self, lock: int, tick: Callable[[], None] = lambda: None, gpu: Callable[[], Gpu | None] = find_gpu
    ) -> None:
        self._gpu = gpu
        self._lock = lock
        self._tick = tick
        self._worker: WorkerProcess | None = None
        """Keeps the inference engine, or is warming up for it."""
        self._alone: WorkerProcess | None = None
        self._stopping = self._told = False
        self._aborts = 0
        self._share = 1.0
        """Of the slots that the memory would allow."""

    def run(self, folder: RunFolder, phase: Phase, emit: Emit) -> None:
        """Raises the error that the phase raised, or `errors.WorkerError` if the worker died."""
        if self._stopping:
            raise Stopped(f"Stopped before round {phase.round}, {phase.name}; everything made so far is safe.")
        try:
            self._run(folder, phase, emit)
            if phase.name == "prepare":
                self._rehearse(folder, emit)
        except BaseException:
            # After a failure the state of a worker is unknown; a clean stop ends it too.
            self.kill()
            self.close()
            raise

    def stop(self) -> None:
        """Ask the worker to finish its record and end. Safe to call from a signal handler."""
        self._stopping = True
        for worker in self._workers():
            worker.send("stop")

    def kill(self) -> None:
        """End the workers at once; what they acknowledged is safe."""
        for worker in self._workers():
            worker.kill()

    def close(self) -> None:
        """Let the workers end by themselves, which frees their memory."""
        for worker in self._workers():
            worker.close()
        self._worker = self._alone = None

    def _run(self, folder: RunFolder, phase: Phase, emit: Emit) -> Facts:
        if phase.name not in ALONE:
            return self._run_inference(folder, phase, emit)
        try:
            return self._run_alone(folder, phase, emit)
        except TrainerFailedError as error:
            # model.json names another trainer now; without that, this one would only fail again.
            if self._stopping or not falls_back(folder):
                raise
            emit(Note(error.message, "warning"))
            return self._run_alone(folder, phase, emit)

    def _rehearse(self, folder: RunFolder, emit: Emit) -> None:
        """Try what will take hours in small, where there is a GPU and it was not tried before (`rehearsal`)."""
        gpu = self._gpu()
        if gpu is None or self._stopping:
            return
        from minisheep import rehearsal

        settings = config.make(config.read_toml(folder.settings))
        if not rehearsal.is_due(folder, settings, gpu):
            self._share = rehearsal.slot_share(folder)
            return

        def part(name: str) -> rehearsal.PartResult:
            self.close()  # what the worker before holds of the GPU would hide as much of this one's growth
            with Peak() as peak:
                facts = self._run(folder, Phase(0, name), emit)
            return rehearsal.PartResult(facts, peak.bytes)

        writing, training = part(REHEARSALS[0]), part(REHEARSALS[1])
        emit(rehearsal.conclude(folder, settings, gpu, writing, training, self._share))

    def _run_inference(self, folder: RunFolder, phase: Phase, emit: Emit) -> Facts:
        """Beside a GPU, a full pool of CUDA's memory aborts the process, and would again: a new worker goes on with
        fewer slots."""
        while True:
            worker = self._worker = self._worker or self._start(folder)
            try:
                return self._do(worker, folder, phase, emit)
            except WorkerError as error:
                aborted = worker.ended_by == signal.SIGABRT and self._gpu() is not None
                if self._stopping or not aborted or self._aborts == MOST_ABORTS:
                    raise
                reason = error.message
            self._aborts += 1
            worker.kill()
            worker.close()
            self._worker = None
            self._share *= KEPT_SHARE
            text = f"{reason} Most often the GPU's memory was full. The phase goes on in a new worker with"
            text += f" {self._share:.0%} of the slots (attempt {self._aborts} of {MOST_ABORTS})"
            emit(Note(f"{text}; what was recorded is safe.", "warning"))

    def _run_alone(self, folder: RunFolder, phase: Phase, emit: Emit) -> Facts:
        self.close()
        baseline = Baseline()
        self._alone = self._start(folder)
        self._worker = self._start(folder)
        self._worker.send(json.dumps({"run": str(folder.path), "phase": WARM_UP}))
        facts = self._do(self._alone, folder, phase, emit)
        self._alone.close()
        self._alone = None
        left = baseline.left_over(frozenset({self._worker.pid}))
        if left:
            emit(Note(left, "warning"))
        return facts

    def _do(self, worker: WorkerProcess, folder: RunFolder, phase: Phase, emit: Emit) -> Facts:
        job = job_for(folder, phase)
        if self._share < 1:
            job["slot_share"] = self._share
        try:
            return worker.do(job, f"Round {phase.round}, {phase.name}", emit, lambda: self._ticked(emit))
        except Stopped:
            self._tell_stop(emit)
            raise
        except WorkerError as error:
            if phase.name == "prepare" and worker.ended_by in CRASHES:
                error.fix = (
                    "The same would happen again: llama.cpp crashed on this model's file, which may be damaged or of a"
                    f" kind that it cannot read. Give another one with --gguf. Its last words are in {folder.scratch}."
                )
            raise

    def _ticked(self, emit: Emit) -> None:
        self._tell_stop(emit)
        self._tick()

    def _tell_stop(self, emit: Emit) -> None:
        """A stop is told here, and not by the signal handler, which may come in the middle of a write."""
        if self._stopping and not self._told:
            self._told = True
            emit(Stopping())

    def _start(self, folder: RunFolder) -> WorkerProcess:
        return WorkerProcess("minisheep.host:RunHandler", folder.scratch / "worker.log", self._lock)

    def _workers(self) -> list[WorkerProcess]:
        return [worker for worker in (self._alone, self._worker) if worker is not None]


@contextlib.contextmanager
def signalled_stop(host: WorkerHost) -> Iterator[None]:
    """First Ctrl-C (or SIGTERM): finish the record and stop. Second: stop at once. Restores the handlers on exit."""
    signals: list[int] = []

    def stop(number: int) -> None:
        if signals:
            host.kill()
            raise Stopped("Stopped at once. Everything recorded before is on disk.", "Give the same command to go on.")
        signals.append(number)
        host.stop()

    try:
        with on_stop(stop):
            yield
    except Stopped as error:
        if signals:
            error.exit_code = 128 + signals[0]
        raise
