"""Tells services of a run while it goes on, without ever holding it up.

``events.jsonl`` is the queue. A process of its own for each service reads it as it grows (`follow`), so a service that
is slow, hangs or dies holds up nothing, and nothing has to be dropped. How many lines a service has been told is kept
in ``tracking/SERVICE.json``, from where a resumed run, or `minisheep log`, goes on, so every step is told once;
TensorBoard's files are ours, and are written anew each time instead. What an event does not hold, a round's sample
answers, is read from its folder when its measures come.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from minisheep import config
from minisheep.api import load_run
from minisheep.config import Settings
from minisheep.errors import MinisheepError, RunLockedError, UsageError, WorkerError
from minisheep.machine.installing import install_extra
from minisheep.rules.log_targets import TARGETS, secrets, tellable, tellable_settings
from minisheep.rules.plain_text import one_line, shell
from minisheep.run.events import Emit, Event, EventTail, Note
from minisheep.run.files import check_links, try_lock
from minisheep.run.folder import RunFolder
from minisheep.run.reading import Round
from minisheep.tracking.services import FOLDER, SERVICES
from minisheep.tracking.shown_values import Samples, ValueFold

LOOK_SECONDS = 1.0
CLOSE_SECONDS, WORD_SECONDS, ORPHAN_SECONDS = 20.0, 2.0, 60.0
"""How long the end of a run waits for a service, after how long that is said, and how long a process whose run was
killed may take to tell the rest."""
LOCK_SECONDS = ORPHAN_SECONDS + 10
MOST_SAMPLES = 20


@dataclass(frozen=True, slots=True)
class Told:
    where: str
    """Where a person sees it."""
    lines: int
    """Of the file of events, in all,"""
    before: int
    """and before this time."""


def follow(run: Path, target: str, over: Callable[[], bool], opened: Callable[[str], None]) -> Told:
    """Tell a service of a run until it is `over` (asked before each look, and it may wait).

    `opened` gets where a person sees it. Raises `errors.RunLockedError` where another process tells the same service
    of this run, and whatever the service raises.
    """
    folder = RunFolder(run)
    settings = config.make(config.read_toml(folder.settings))
    hidden = secrets(os.environ, (settings.engine_key_env,))
    (run / FOLDER).mkdir(exist_ok=True)
    memory = run / FOLDER / f"{target}.json"
    with _only_one(memory.with_suffix(".lock"), target):
        identity, told = _remembered(memory)
        _remember(memory, identity, told)
        service = SERVICES[target](run, identity, tellable_settings(settings.model_dump(mode="json"), hidden))
        opened(service.where)
        before = told = 0 if service.anew else told
        tail, fold = EventTail(folder.events), ValueFold(settings.judge)
        try:
            while True:
                last = over()
                for line, (at, event) in tail.new():
                    shown = fold.shown(event)
                    if line < told or shown is None:
                        continue
                    if shown.measured:
                        shown = replace(shown, samples=_samples(folder, shown.at, hidden))
                    service.put(line, at, shown)
                    _remember(memory, identity, line + 1)
                if tail.lines > told:
                    told = tail.lines
                    service.flush()
                    _remember(memory, identity, told)
                if last:
                    return Told(service.where, told, before)
        finally:
            service.close()


def _remembered(memory: Path) -> tuple[str, int]:
    """A run's name at a service, and the lines it was told; a new name where that is not known."""
    try:
        found = json.loads(memory.read_bytes())
        identity, told = found["id"], found["told"]
        if isinstance(told, int) and isinstance(identity, str) and identity.isalnum() and len(identity) <= 32:
            return identity, max(0, told)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        pass
    return uuid.uuid4().hex[:10], 0


def _remember(memory: Path, identity: str, told: int) -> None:
    """Not synced: after a loss of power the newest lines may be told again."""
    temporary = memory.with_suffix(".tmp")
    temporary.write_text(json.dumps({"id": identity, "told": told}), encoding="utf-8")
    os.replace(temporary, memory)


@contextlib.contextmanager
def _only_one(path: Path, target: str) -> Iterator[None]:
    """Hold a lock: the process of a run that was killed may still be telling the rest."""
    ends = time.monotonic() + LOCK_SECONDS
    with open(path, "ab") as file:
        while not try_lock(file.fileno()):
            if time.monotonic() > ends:
                raise RunLockedError(
                    f"Another process tells {TARGETS[target]} of this run.", "It is told all of it; wait for its end."
                )
            time.sleep(0.2)
        yield


def _samples(folder: RunFolder, number: int, hidden: tuple[str, ...]) -> Samples:
    """Held-out instructions with the answers of the base and of a round; none where the files cannot be read."""
    try:
        base = {row["task"]: row["answer"] for row in Round(0, folder.round(0)).answers}
        rows = Round(number, folder.round(number)).answers[:MOST_SAMPLES]
    except (MinisheepError, OSError):
        return ()

    def told(text: str) -> str:
        return tellable(text, hidden)

    return tuple(
        (
            told("\n\n".join(filter(None, (row["instruction"], row["input"])))),
            told(base.get(row["task"], "")),
            told(row["answer"]),
        )
        for row in rows
    )


def send(run: Path, target: str) -> Told:
    """Tell a service, now, what it was not told yet of a run.

    Raises what `api.load_run` raises, `errors.UsageError` where the package is missing, `errors.RunLockedError` where
    the run itself tells the service, and `errors.WorkerError` where the service fails.
    """
    load_run(run)
    check_links(run, writing=True)
    if not installed(target):
        raise UsageError(_missing(target), f"Type `{install_extra(target)}`.")
    try:
        return follow(run, target, lambda: True, lambda where: None)
    except MinisheepError:
        raise
    except Exception as error:
        fix = "What it has been told is kept; give the same command again for the rest."
        raise WorkerError(f"{TARGETS[target]} failed: {_reason(run, error)}.", fix) from None


def installed(target: str) -> bool:
    return importlib.util.find_spec(target) is not None


def _missing(target: str) -> str:
    return f"{TARGETS[target]} is not told of this run, since its package ({target}) is not installed here."


def _reason(run: Path, error: Exception) -> str:
    key: tuple[str, ...] = ()
    with contextlib.suppress(MinisheepError):
        key = (config.make(config.read_toml(RunFolder(run).settings)).engine_key_env,)
    text = tellable(one_line(str(error)), secrets(os.environ, key)) or type(error).__name__
    return one_line(text, 300).rstrip(".")


@contextlib.contextmanager
def following(run: Path, settings: Settings, emit: Emit) -> Iterator[Emit]:
    """An `emit` for a run that its settings want shown elsewhere: it also passes on what the services' processes say,
    each fault as one warning. No fault here is one of the run's."""
    trackers: list[Tracker] = []
    for target in settings.log_to.split(","):
        if not installed(target):
            emit(Note(f"{_missing(target)} {_rest(run, target, f'`{install_extra(target)}`, and then ')}", "warning"))
            continue
        try:
            trackers.append(Tracker(run, target))
        except OSError as error:
            emit(Note(f"{TARGETS[target]} is not told of this run: {error}. {_rest(run, target)}", "warning"))

    def passing_on(event: Event) -> None:
        emit(event)
        for tracker in trackers:
            for note in tracker.heard():
                emit(note)

    try:
        yield passing_on
    finally:
        for tracker in trackers:
            tracker.over()
        ends = time.monotonic() + CLOSE_SECONDS
        for tracker in trackers:
            # A full disk, say: the run has told of that itself.
            with contextlib.suppress(MinisheepError):
                for note in tracker.ended(ends):
                    emit(note)


def _rest(run: Path, target: str, before: str = "") -> str:
    return f"The run goes on; {before}`minisheep log {shell(run)} --log-to {target}` tells it the rest."


class Tracker:
    """The process that tells one service, as the run sees it; the end of its stdin means that the run is over."""

    def __init__(self, run: Path, target: str) -> None:
        self._run, self._target, self._name = run, target, TARGETS[target]
        self._pending, self._done = b"", False
        (run / FOLDER).mkdir(exist_ok=True)
        self._log = run / FOLDER / f"{target}.log"
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "minisheep.tracking.following", str(run), target],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
            )  # fmt: skip
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)

    def heard(self) -> Iterator[Note]:
        """What it said since the last call. Never waits."""
        assert self._process.stdout is not None
        while not self._done:
            try:
                data = os.read(self._process.stdout.fileno(), 1 << 16)
            except BlockingIOError:
                return
            if not data:
                yield self._lost(f"its process ended, see {self._log}")
                return
            *lines, self._pending = (self._pending + data).split(b"\n")
            for line in lines:
                yield from self._said(json.loads(line))

    def over(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def ended(self, ends: float) -> Iterator[Note]:
        """Wait for its end until `ends`, a time of the monotonic clock; then it is ended."""
        assert self._process.stdout is not None
        word = time.monotonic() + WORD_SECONDS
        try:
            while not self._done and (left := ends - time.monotonic()) > 0:
                if word is not None and time.monotonic() > word:
                    word = float("inf")
                    yield Note(f"Waiting for {self._name} to take the rest, {left:.0f} s at most.")
                select.select([self._process.stdout], [], [], min(left, 0.5))
                yield from self.heard()
            if not self._done:
                yield self._lost(f"it did not take everything within {CLOSE_SECONDS:.0f} s")
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process.stdout.close()

    def _said(self, what: dict[str, str]) -> Iterator[Note]:
        if "where" in what:
            yield Note(f"Shown in {self._name}: {what['where']}")
        elif "failed" in what:
            yield self._lost(what["failed"])
        else:
            self._done = True

    def _lost(self, why: str) -> Note:
        self._done = True
        return Note(f"{self._name} is no longer told of this run: {why}. {_rest(self._run, self._target)}", "warning")


def main(run: str, target: str) -> None:
    # Libraries print what they like; stdout is for what the run is told.
    out = os.dup(1)
    os.dup2(2, 1)
    # The run has the processor first.
    os.nice(5)

    def say(**what: str) -> None:
        with contextlib.suppress(OSError):
            os.write(out, json.dumps(what).encode() + b"\n")

    def over() -> bool:
        # The run never writes: what can be read is the end.
        if not select.select([0], [], [], LOOK_SECONDS)[0]:
            return False
        signal.alarm(int(ORPHAN_SECONDS))
        return True

    code = 0
    try:
        follow(Path(run), target, over, lambda where: say(where=where))
        say(done="")
    except Exception as error:
        import traceback

        traceback.print_exc()
        say(failed=_reason(Path(run), error))
        code = 1
    # Not by return: a service's threads may hang.
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
