"""One call of ``minisheep doctor``: looks at the machine, runs the probes in child processes, judges their facts.

Writes only into temporary folders and the model cache."""

from __future__ import annotations

import importlib.util
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from minisheep.doctor import checks, packages
from minisheep.doctor import probes as doctor_probes
from minisheep.doctor.check_result import CheckResult, Facts
from minisheep.doctor.machine_facts import MachineFacts, look
from minisheep.errors import MinisheepError, TimeUpError
from minisheep.machine.installing import requirements
from minisheep.machine.worker import WorkerProcess
from minisheep.models.cache import cache_root
from minisheep.models.registry import find_model
from minisheep.run.events import Event, Found, Note

BUSY = ("llama.cpp", "training")
"""Groups that use all cores, one after the other: llama.cpp's threads spin while they wait and slow others down."""
LONGER = "`minisheep doctor --seconds 120` gives it more time"
WORKER = "minisheep.doctor.probes:do"


@dataclass(frozen=True, slots=True)
class Probing:
    """What the probes work with."""

    model: str
    folder: str = ""
    """For their files; has `probes.MODEL` once the model is prepared."""
    offline: bool = False
    """Use no network."""
    gguf: str = ""
    weights: str = ""
    """In place of the model's own, as for a run."""

    def job(self, phase: str) -> Facts:
        return {"phase": phase, **asdict(self)}


def prepare(place: Probing, on_progress: Callable[[str], None]) -> MinisheepError | None:
    """Have a worker prepare the model in the folder; returns the error, or None."""

    def on_event(event: Event) -> None:
        if isinstance(event, Note):
            on_progress(event.text)

    try:
        with WorkerProcess(WORKER) as worker:
            worker.do(place.job("prepare"), f"Preparing {place.model}", on_event)
    except MinisheepError as error:
        return error
    return None


def ask(groups: Mapping[str, Sequence[str]], place: Probing, ends: float) -> dict[str, Facts]:
    """The facts of all probes in `groups` (names of the probes by group), each group in its own process.

    Groups run side by side, except that those in `BUSY` run one after the other. All end at `ends` on the monotonic
    clock. Every probe has an entry, see `settle`.
    """
    answers: queue.Queue[dict[str, Facts]] = queue.Queue()

    def work(lane: Sequence[str]) -> None:
        for group in lane:
            answers.put(one_group(group, groups[group], place, ends))

    # Daemons: Ctrl-C must not wait for them, and their workers end with this process.
    for lane in ([name for name in groups if name in BUSY], *([name] for name in groups if name not in BUSY)):
        threading.Thread(target=work, args=(lane,), daemon=True).start()
    facts: dict[str, Facts] = {}
    for _ in groups:
        facts |= answers.get()
    return facts


def one_group(group: str, probes: Sequence[str], place: Probing, ends: float) -> dict[str, Facts]:
    """The facts of one group, however its process ends."""
    began = time.monotonic()
    if began >= ends:
        return {name: {"unasked": f"no time was left: {LONGER}"} for name in probes}
    answered: dict[str, Facts] = {}
    end: Facts = {"error": "its process ended without a result"}

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
        end = {"error": f"its process could not be read: {error}"}
    return settle(probes, answered, end)


def settle(probes: Iterable[str], answered: Mapping[str, Facts], end: Facts) -> dict[str, Facts]:
    """Facts for every probe of a group, in order. The process ended during the first probe without facts of its own:
    that gets `end`, and those after it ``unasked`` with the reason. Pure."""
    facts: dict[str, Facts] = {}
    broken = ""
    for name in probes:
        if name in answered:
            facts[name] = answered[name]
        elif not broken:
            facts[name], broken = end, name
        else:
            facts[name] = {"unasked": f"its process ended at '{broken}'"}
    return facts


LIMIT_SECONDS = 27.0
"""For all probes together, so that the doctor ends within 30 s; a first download does not count."""


def diagnose(wanted: Probing, seconds: float, on_progress: Callable[[str], None]) -> Iterator[CheckResult]:
    """All results: those of the machine at once, the rest after the probes, which get `seconds`.

    Raises `errors.UnknownModelError` for an unknown model.
    """
    find_model(wanted.model, gguf=wanted.gguf, weights=wanted.weights)
    machine, place = look(), packages.here()
    required = requirements()
    yield from checks.check_machine(machine, place)
    yield doctor_probes.check_folders(cache_root(), Path("runs").absolute())
    yield packages.check_packages(required, packages.installed_version, place)
    yield packages.check_unsloth_set(required, packages.installed_version, place, has_gpu=machine.has_gpu)
    with tempfile.TemporaryDirectory(prefix="minisheep-doctor-") as name:
        probing = replace(wanted, folder=name)
        missing = prepare(probing, on_progress)
        facts = ask(groups(machine, missing), probing, time.monotonic() + seconds)
    yield from judge(machine, place, facts, missing, wanted.model)


def judge(
    machine: MachineFacts, place: packages.Place, facts: Mapping[str, Facts], missing: MinisheepError | None, model: str
) -> Iterator[CheckResult]:
    yield from checks.check_llama(machine, place, facts)
    yield from checks.check_training(machine, place, facts)
    yield from checks.check_model(facts, missing, model)


def groups(machine: MachineFacts, missing: MinisheepError | None) -> dict[str, list[str]]:
    """The probes to run: none that need a missing model, and Unsloth only with a GPU."""
    names = {
        group: [name for name in probes if missing is None or name not in doctor_probes.NEED_MODEL]
        for group, probes in doctor_probes.GROUPS.items()
    }
    if not machine.has_gpu or importlib.util.find_spec("unsloth") is None:
        del names["unsloth"]
    return names
