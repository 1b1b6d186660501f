"""Whether what minisheep asks for is installed, in the versions that work together; nothing is imported for it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from minisheep.doctor import commands
from minisheep.doctor.commands import Place
from minisheep.doctor.result import Result, fail, ok, skipped, warn

Version = Callable[[str], str | None]
"""The installed version of a distribution, or None."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One requirement of minisheep: of itself, or of one of its extras."""

    text: str
    """As pip takes it, without markers: ``trl<1.16,>=1.10``."""
    name: str
    extra: str = ""


def installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def requirements() -> list[Wanted]:
    """What the installed minisheep asks for; empty where it runs without having been installed."""
    try:
        lines = importlib.metadata.requires("minisheep") or []
    except importlib.metadata.PackageNotFoundError:
        lines = []
    return [wanted(line) for line in lines]


def wanted(line: str) -> Wanted:
    """A line of Requires-Dist, such as ``trl<1.16,>=1.10; extra == 'gpu'``."""
    from packaging.requirements import Requirement

    found = Requirement(line)
    extra = str(found.marker).partition("extra ==")[2].strip(" \"'") if found.marker else ""
    extras = f"[{','.join(sorted(found.extras))}]" if found.extras else ""
    return Wanted(f"{found.name}{extras}{found.specifier}", found.name, extra)


def misfits(asked: Sequence[Wanted], version: Version) -> list[tuple[Wanted, str]]:
    """Those that are missing or of another version, each with what is wrong."""
    from packaging.requirements import Requirement

    found = []
    for want in asked:
        have = version(want.name)
        if have is None:
            found.append((want, f"{want.name} is missing"))
        elif not Requirement(want.text).specifier.contains(have, prereleases=True):
            found.append((want, f"{want.name} {have} is not {want.text.removeprefix(want.name)}"))
    return found


def check(asked: Sequence[Wanted], version: Version, place: Place) -> Result:
    """The packages that every run needs."""
    own = [want for want in asked if not want.extra]
    if not own:
        return warn("packages", "minisheep runs without being installed", commands.pip(place, "-e . in its folder"))
    wrong = misfits(own, version)
    if wrong:
        told = "; ".join(what for _, what in wrong)
        return fail("packages", told, commands.pip(place, " ".join(f'"{want.text}"' for want, _ in wrong)))
    return ok("packages", f"all {len(own)} are installed, in versions that minisheep is made for")


def check_unsloth_set(asked: Sequence[Wanted], version: Version, place: Place, *, has_gpu: bool) -> Result:
    """Unsloth with those versions of torch, transformers, trl and datasets that it asks for itself."""
    gpu = [want for want in asked if want.extra == "gpu"]
    fix = commands.pip(place, " ".join(f'"{want.text}"' for want in gpu) or "unsloth")
    have = version("unsloth")
    if have is None:
        if not has_gpu:
            return skipped("unsloth versions", "Unsloth is not installed, and without a GPU it is not needed")
        return skipped("unsloth versions", "Unsloth is not installed: training uses PEFT, which works too", fix)
    wrong = [what for _, what in misfits(gpu, version)]
    wrong += [f"Unsloth asks for {want.text}: {what}" for want, what in misfits(of_unsloth(), version)]
    if wrong:
        return warn("unsloth versions", f"Unsloth {have}: {'; '.join(wrong)}", fix)
    return ok("unsloth versions", f"Unsloth {have}, with the versions that it asks for")


def of_unsloth() -> list[Wanted]:
    """What the installed Unsloth asks of the packages that minisheep uses too."""
    from packaging.requirements import Requirement

    found = []
    for package in ("unsloth", "unsloth_zoo"):
        try:
            lines = importlib.metadata.requires(package) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for line in lines:
            required = Requirement(line)
            if required.name in SHARED and (required.marker is None or required.marker.evaluate({"extra": ""})):
                found.append(wanted(line))
    return found


SHARED = frozenset({"torch", "transformers", "trl", "peft", "datasets", "accelerate", "bitsandbytes"})
"""The packages whose versions break Unsloth most easily."""
