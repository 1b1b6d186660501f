"""One call of ``minisheep doctor``: look at the machine, try the rest in children, judge what was found."""

from __future__ import annotations

import importlib.util
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from minisheep.config import Settings
from minisheep.doctor import checks, packages
from minisheep.doctor import probes as doctor_probes
from minisheep.doctor.check_result import CheckResult, Facts
from minisheep.doctor.machine_facts import MachineFacts, look
from minisheep.doctor.probes import GROUPS, NEED_MODEL
from minisheep.errors import MinisheepError, TimeUpError
from minisheep.machine.worker import WorkerProcess
from minisheep.models.cache import cache_root
from minisheep.models.registry import find_model
from minisheep.run.events import Event, Found, Note

# The parent's side of the probes: child processes, all groups at once, and what became of each probe.
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


def prepare(place: Probing, on_progress: Callable[[str], None]) -> MinisheepError | None:
    """Have a worker fetch and check the model into the folder; why it cannot be had, or None."""
    try:
        with WorkerProcess(WORKER) as worker:
            doing = f"Preparing {place.model}"
            worker.do(
                place.job("prepare"), doing, lambda event: on_progress(event.text) if isinstance(event, Note) else None
            )
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


LIMIT_SECONDS = 27.0
"""For the probes together, so that the whole ends within 30 s; a first download is not counted."""


@dataclass(frozen=True, slots=True)
class Options:
    model: str = Settings.model_fields["model"].default
    offline: bool = False
    """Fetch nothing and ask no server."""
    seconds: float = LIMIT_SECONDS


def diagnose(options: Options, on_progress: Callable[[str], None]) -> Iterator[CheckResult]:
    """All results, those of the machine at once and the rest when the probes have ended.

    Raises `errors.UnknownModelError` for a model that nothing answers to.
    """
    find_model(options.model)
    machine, place = look(), packages.here()
    asked = packages.requirements()
    yield from checks.check_machine(machine, place)
    yield doctor_probes.check_folders(cache_root(), Path("runs").absolute())
    yield packages.check_packages(asked, packages.installed_version, place)
    yield packages.check_unsloth_set(asked, packages.installed_version, place, has_gpu=machine.has_gpu)
    with tempfile.TemporaryDirectory(prefix="minisheep-doctor-") as name:
        at = Probing(options.model, name, options.offline)
        missing = prepare(at, on_progress)
        facts = ask(groups(machine, missing), at, time.monotonic() + options.seconds)
    yield from judge(machine, place, facts, missing, options.model)


def judge(
    machine: MachineFacts, place: packages.Place, facts: Mapping[str, Facts], missing: MinisheepError | None, model: str
) -> Iterator[CheckResult]:
    """The results of the probes. Pure."""
    yield from checks.check_llama(machine, place, facts)
    yield from checks.check_training(machine, place, facts)
    yield from checks.check_model(facts, missing, model)


def groups(machine: MachineFacts, missing: MinisheepError | None) -> dict[str, list[str]]:
    """Which probes make sense here: none that needs a model that is missing, no Unsloth without a GPU."""
    found = {
        group: [name for name in probes if missing is None or name not in NEED_MODEL]
        for group, probes in GROUPS.items()
    }
    if not machine.has_gpu or importlib.util.find_spec("unsloth") is None:
        del found["unsloth"]
    return found
