"""One call of ``minisheep doctor``: look at the machine, try the rest in children, judge what was found."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from minisheep.config import Settings
from minisheep.doctor import (
    check_llama,
    check_machine,
    check_model,
    check_packages,
    check_training,
    commands,
    folders,
    gather,
)
from minisheep.doctor.machine import Machine, look
from minisheep.doctor.probes import GROUPS, NEED_MODEL
from minisheep.doctor.result import Facts, Result
from minisheep.errors import MinisheepError
from minisheep.models.cache import cache_root
from minisheep.models.registry import find_model

LIMIT_SECONDS = 27.0
"""For the probes together, so that the whole ends within 30 s; a first download is not counted."""


@dataclass(frozen=True, slots=True)
class Options:
    model: str = Settings.model_fields["model"].default
    offline: bool = False
    """Fetch nothing and ask no server."""
    seconds: float = LIMIT_SECONDS


def diagnose(options: Options, tell: Callable[[str], None]) -> Iterator[Result]:
    """All results, those of the machine at once and the rest when the probes have ended.

    Raises `errors.UnknownModelError` for a model that nothing answers to.
    """
    find_model(options.model)
    machine, place = look(), commands.here()
    asked = check_packages.requirements()
    yield from check_machine.check(machine, place)
    yield folders.check(cache_root(), Path("runs").absolute())
    yield check_packages.check(asked, check_packages.installed_version, place)
    yield check_packages.check_unsloth_set(asked, check_packages.installed_version, place, has_gpu=machine.has_gpu)
    with tempfile.TemporaryDirectory(prefix="minisheep-doctor-") as name:
        at = gather.Probing(options.model, name, options.offline)
        missing = gather.prepare(at, tell)
        facts = gather.ask(groups(machine, missing), at, time.monotonic() + options.seconds)
    yield from judge(machine, place, facts, missing, options.model)


def judge(
    machine: Machine, place: commands.Place, facts: Mapping[str, Facts], missing: MinisheepError | None, model: str
) -> Iterator[Result]:
    """The results of the probes. Pure."""
    yield from check_llama.check(machine, place, facts)
    yield from check_training.check(machine, place, facts)
    yield from check_model.check(facts, missing, model)


def groups(machine: Machine, missing: MinisheepError | None) -> dict[str, list[str]]:
    """Which probes make sense here: none that needs a model that is missing, no Unsloth without a GPU."""
    found = {
        group: [name for name in probes if missing is None or name not in NEED_MODEL]
        for group, probes in GROUPS.items()
    }
    if not machine.has_gpu or importlib.util.find_spec("unsloth") is None:
        del found["unsloth"]
    return found
