"""``minisheep pause``, ``resume`` and ``stop``: a run that goes on, steered from another terminal.

A pause is a file in the run folder, so it reaches a run on any computer that shares the folder. A stop is Ctrl-C's
signal to the process that holds the lock, and is for its own computer. Each waits until it has had its effect.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator

import click

from minisheep import api
from minisheep.cli.status import going_on
from minisheep.errors import DiskError, MinisheepError, TimeUpError, UsageError
from minisheep.rules.plain_text import duration, one_line, shell
from minisheep.run import run_state
from minisheep.run.files import open_lock, try_lock, who_has_open
from minisheep.run.folder import RunFolder
from minisheep.terminal import run_list
from minisheep.terminal.run_list import Now

LOOK_SECONDS = 0.1
SIGN_SECONDS = 5.0
"""A sign of life comes this often while a command waits."""
PAUSE_SECONDS = 10.0
"""A record takes no longer as a rule; a pause that is asked for stays so without anybody waiting."""
ASK_SECONDS = 2.0
"""How soon a run has told that it was asked to stop;"""
KILL_SECONDS = 10.0
"""how long it may take to end at once, before the system ends it."""


@click.command()
@click.argument("run", required=False)
def pause(run: str | None) -> None:
    """Let RUN wait after the record in hand; models stay in memory. Without RUN: the one in runs/ that is going on.

    \b
    minisheep pause runs/mine
    minisheep resume runs/mine
    """
    folder = _folder(run)
    found = _going_on(folder, "pause")
    if found.name == run_state.STOPPING:
        raise UsageError(f"{folder.path} is stopping already.", f"It can be continued: {_align(folder)}.")
    _set_pause(folder, on=True)
    paused = _wait(folder, lambda now: now.name in (run_state.PAUSED, *_OVER), PAUSE_SECONDS, "pausing")
    found = run_list.now(folder)
    _say(run_list.sentence(folder.path, found))
    if not paused:
        _say("It pauses after the record in hand; in a phase that only fetches or loads, when that is done.")
    if found.going_on:
        _say(f"Resume: minisheep resume {shell(folder.path)}")


@click.command()
@click.argument("run", required=False)
def resume(run: str | None) -> None:
    """Let a paused RUN go on. Without RUN: the one in runs/ that is going on.

    \b
    minisheep resume runs/mine
    """
    folder = _folder(run)
    found = _going_on(folder, "resume")
    if found.name not in (run_state.PAUSED, run_state.PAUSING):
        _say(f"{folder.path} is {found.name}, not paused.")
        return
    _set_pause(folder, on=False)
    _wait(folder, lambda now: now.name != run_state.PAUSED, PAUSE_SECONDS, "going on")
    _say(run_list.sentence(folder.path, run_list.now(folder)))


@click.command()
@click.argument("run", required=False)
@click.option("--now", "at_once", is_flag=True, help="at once, without the record in hand; what is recorded is safe")
@click.option("--wait", type=click.FloatRange(min=0), default=120.0, metavar="SECONDS", help="at most [120]")
def stop(run: str | None, at_once: bool, wait: float) -> None:
    """Stop RUN after the record in hand, as Ctrl-C where it was started, and wait until it has ended. The same command
    that began it goes on later. Without RUN: the one in runs/ that is going on.

    \b
    minisheep stop runs/mine
    minisheep stop runs/mine --now
    """
    folder = _folder(run)
    held = run_state.holder(folder.path)
    if held is None:
        # The wish is true already, so this is no error.
        _say(f"{run_list.sentence(folder.path, _whole(folder))} There is nothing to stop.")
        return
    if not held.process:
        raise UsageError(held.ask(), f"`minisheep pause {shell(folder.path)}` works from here, too.")
    ended = _stop_now(folder) if at_once else _stop_gently(folder, wait)
    if not ended:
        raise TimeUpError(
            one_line(run_list.sentence(folder.path, run_list.now(folder))),
            f"`minisheep stop {shell(folder.path)} --now` ends it at once; what is recorded is safe.",
        )
    _say(run_list.sentence(folder.path, found := _whole(folder)))
    if found.name not in run_state.DONE:
        _say(f"Continue: {_align(folder)}")


_OVER = (run_state.STOPPED, run_state.FAILED, *run_state.DONE, run_state.NEW)


def _stop_gently(folder: RunFolder, seconds: float) -> bool:
    """Ask once, however many commands do at the same time: a second signal would mean at once."""
    with _alone(folder) as alone:
        held = run_state.holder(folder.path)
        if alone and held is not None and run_list.now(folder).name != run_state.STOPPING:
            _ask(held)
            _wait(folder, lambda now: now.name in (run_state.STOPPING, *_OVER), min(ASK_SECONDS, seconds), "")
        return _wait(folder, lambda now: now.holder is None, seconds, "stopping")


def _stop_now(folder: RunFolder) -> bool:
    """As Ctrl-C twice; a process that takes no notice is ended by the system, and with it its workers."""
    if run_list.now(folder).name != run_state.STOPPING:
        _ask(run_state.holder(folder.path))
        _wait(folder, lambda now: now.name in (run_state.STOPPING, *_OVER), ASK_SECONDS, "")
    _ask(run_state.holder(folder.path))
    if _wait(folder, lambda now: now.holder is None, KILL_SECONDS, "stopping"):
        return True
    _ask(run_state.holder(folder.path), signal.SIGKILL)
    for process in who_has_open(folder.path / ".lock"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, signal.SIGKILL)
    return _wait(folder, lambda now: now.holder is None, KILL_SECONDS, "stopping")


def _ask(held: run_state.Holder | None, number: signal.Signals = signal.SIGINT) -> None:
    refused = held.ask(number) if held else ""
    if refused:
        raise UsageError(refused)


@contextlib.contextmanager
def _alone(folder: RunFolder) -> Iterator[bool]:
    """Whether no other command is stopping this run; kept until the block ends, however the process does."""
    try:
        folder.scratch.mkdir(exist_ok=True)
        handle = open_lock(folder.scratch / "stop.lock")
    except OSError as error:
        raise DiskError(f"{folder.scratch} cannot be written: {error.strerror}.", "Stop the run as its user.") from None
    try:
        yield try_lock(handle)
    finally:
        os.close(handle)


def _wait(folder: RunFolder, done: Callable[[Now], bool], seconds: float, doing: str) -> bool:
    """Wait until `done`, with a sign of life, at most `seconds`; returns whether it is. `doing` is for that sign."""
    begun = said = time.monotonic()
    watch = run_list.Watch(folder)
    while not done(found := watch.now()):
        spent = time.monotonic() - begun
        if spent >= seconds:
            return False
        if doing and time.monotonic() - said >= SIGN_SECONDS:
            said = time.monotonic()
            _say(f"{doing}, {duration(spent)}: {run_list.doing(found.events) or found.name}")
        time.sleep(LOOK_SECONDS)
    return True


def _folder(run: str | None) -> RunFolder:
    return RunFolder(api.load_run(run).path if run else going_on())


def _whole(folder: RunFolder) -> Now:
    """The state of a run whose manifest is asked, too."""
    run = api.Run(folder.path)
    try:
        return run_list.now(folder, over=run.next_phase is None, early=run.ended_early, begun=folder.begun)
    except MinisheepError:
        # A run whose settings or manifest are damaged can be stopped all the same.
        return run_list.now(folder)


def _going_on(folder: RunFolder, verb: str) -> Now:
    """Raises `errors.UsageError` where no process works on the run."""
    found = _whole(folder)
    if found.going_on:
        return found
    over = found.name in run_state.DONE
    raise UsageError(
        one_line(f"{run_list.sentence(folder.path, found)} There is nothing to {verb}."),
        "" if over else f"`{_align(folder)}` goes on.",
    )


def _align(folder: RunFolder) -> str:
    return f"minisheep align --run {shell(folder.path)}"


def _set_pause(folder: RunFolder, *, on: bool) -> None:
    try:
        folder.pause.touch() if on else folder.pause.unlink(missing_ok=True)
    except OSError as error:
        raise DiskError(f"{folder.pause} cannot be written: {error.strerror}.", "Pause the run as its user.") from None


def _say(text: str) -> None:
    click.echo(one_line(text))
