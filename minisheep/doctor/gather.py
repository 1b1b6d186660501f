"""The parent's side of the probes: child processes, all groups at once, and what became of each probe."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from minisheep.bench.children import TIME_UP, conversation
from minisheep.bench.plan import Job
from minisheep.doctor.result import Facts
from minisheep.errors import MinisheepError, WorkerError, by_name

BUSY = ("llama.cpp", "training")
"""Groups that compute with all cores: llama.cpp's threads wait for each other by spinning, so that both would crawl."""
LONGER = "`minisheep doctor --seconds 120` gives it longer"
CHILD = (sys.executable, "-m", "minisheep.doctor.child")


def prepare(job: Job, tell: Callable[[str], None], command: Sequence[str] = CHILD) -> MinisheepError | None:
    """Have a child fetch and check the model of `job` into its folder; why it cannot be had, or None."""
    try:
        with closing(conversation(job, Path(job.folder) / "prepare.log", command=list(command))) as said:
            for message in said:
                if "note" in message:
                    tell(message["note"])
                if "failed" in message:
                    failed = message["failed"]
                    return by_name(failed["kind"])(failed["message"], failed["fix"])
    except WorkerError as error:
        return error
    return None


def ask(groups: Mapping[str, Sequence[str]], job: Job, ends: float, command: Sequence[str] = CHILD) -> dict[str, Facts]:
    """The facts of all probes in `groups` (names of the probes by group), each group in a process of its own.

    Groups run side by side, but those in `BUSY` one after the other. At `ends`, on the monotonic clock, whatever still
    runs is ended. Every probe has an entry, see `settle`.
    """
    answers: queue.Queue[dict[str, Facts]] = queue.Queue()

    def work(lane: Sequence[str]) -> None:
        for group in lane:
            part = Job(group, job.model, dict(job.sizes), 1, folder=job.folder)
            answers.put(one_group(part, groups[group], ends, command))

    # Daemons: Ctrl-C must not wait for them, and their children die with them.
    for lane in ([name for name in groups if name in BUSY], *([name] for name in groups if name not in BUSY)):
        threading.Thread(target=work, args=(lane,), daemon=True).start()
    found: dict[str, Facts] = {}
    for _ in groups:
        found |= answers.get()
    return found


def one_group(job: Job, probes: Sequence[str], ends: float, command: Sequence[str] = CHILD) -> dict[str, Facts]:
    """Run one group to its end, however that comes."""
    began = time.monotonic()
    if began >= ends:
        return {name: {"unasked": f"no time was left: {LONGER}"} for name in probes}
    answered: dict[str, Facts] = {}
    end: Facts = {"error": "its process ended without a word"}
    try:
        log = Path(job.folder) / f"{job.part}.log"
        with closing(conversation(job, log, ends=ends, command=list(command))) as said:
            for message in said:
                if "probe" in message:
                    answered[message["probe"]] = message["facts"]
                if message.get("failed", {}).get("kind") == TIME_UP:
                    after = time.monotonic() - began
                    end = {"error": f"not finished within {after:.0f} s", "fix": f"{LONGER}.", "after": after}
    except WorkerError as error:
        end = {"error": error.message}
    except (OSError, ValueError) as error:
        end = {"error": f"its process could not be heard: {error}"}
    return settle(probes, answered, end)


def settle(probes: Iterable[str], answered: Mapping[str, Facts], end: Facts) -> dict[str, Facts]:
    """Facts for every probe of a group, in their order: its own; for the first without, during which the process ended,
    `end`; for those after it ``unasked``, with the reason. Pure."""
    found: dict[str, Facts] = {}
    broken = ""
    for name in probes:
        if name in answered:
            found[name] = answered[name]
        elif not broken:
            found[name], broken = end, name
        else:
            found[name] = {"unasked": f"the process that was to do it ended at '{broken}'"}
    return found
