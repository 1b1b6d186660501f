"""The parent's side of the probes: child processes, all groups at once, and what became of each probe."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from minisheep.doctor.result import Facts
from minisheep.errors import MinisheepError, TimeUpError
from minisheep.events import Event, Found, Note
from minisheep.machine.worker import WorkerProcess

BUSY = ("llama.cpp", "training")
"""Groups that compute with all cores: llama.cpp's threads wait for each other by spinning, so that both would crawl."""
LONGER = "`minisheep doctor --seconds 120` gives it longer"
WORKER = "minisheep.doctor.probes:do"


@dataclass(frozen=True, slots=True)
class Probing:
    """With what the probes work."""

    model: str
    folder: str
    """For their own files; holds `probes.MODEL` once the model is prepared."""
    offline: bool = False
    """Fetch nothing and ask no server."""

    def job(self, phase: str) -> Facts:
        return {"phase": phase, **asdict(self)}


def prepare(place: Probing, tell: Callable[[str], None]) -> MinisheepError | None:
    """Have a worker fetch and check the model into the folder; why it cannot be had, or None."""
    try:
        with WorkerProcess(WORKER) as worker:
            doing = f"Preparing {place.model}"
            worker.do(place.job("prepare"), doing, lambda event: tell(event.text) if isinstance(event, Note) else None)
    except MinisheepError as error:
        return error
    return None


def ask(groups: Mapping[str, Sequence[str]], place: Probing, ends: float) -> dict[str, Facts]:
    """The facts of all probes in `groups` (names of the probes by group), each group in a process of its own.

    Groups run side by side, but those in `BUSY` one after the other. At `ends`, on the monotonic clock, whatever still
    runs is ended. Every probe has an entry, see `settle`.
    """
    answers: queue.Queue[dict[str, Facts]] = queue.Queue()

    def work(lane: Sequence[str]) -> None:
        for group in lane:
            answers.put(one_group(group, groups[group], place, ends))

    # Daemons: Ctrl-C must not wait for them, and their workers end with this process.
    for lane in ([name for name in groups if name in BUSY], *([name] for name in groups if name not in BUSY)):
        threading.Thread(target=work, args=(lane,), daemon=True).start()
    found: dict[str, Facts] = {}
    for _ in groups:
        found |= answers.get()
    return found


def one_group(group: str, probes: Sequence[str], place: Probing, ends: float) -> dict[str, Facts]:
    """Run one group to its end, however that comes."""
    began = time.monotonic()
    if began >= ends:
        return {name: {"unasked": f"no time was left: {LONGER}"} for name in probes}
    answered: dict[str, Facts] = {}
    end: Facts = {"error": "its process ended without a word"}

    def listen(event: Event) -> None:
        if isinstance(event, Found):
            answered[event.what] = event.facts

    try:
        with WorkerProcess(WORKER) as worker:
            worker.do(place.job(group), f"Probing {group}", listen, seconds=ends - began)
    except TimeUpError:
        after = time.monotonic() - began
        end = {"error": f"not finished within {after:.0f} s", "fix": f"{LONGER}.", "after": after}
    except MinisheepError as error:
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
