"""What is installed, and the command that installs what is missing: into this Python, by the packages' own names.

So it is right in a clone, in an environment that nobody activated, and for a minisheep that came as a wheel or from an
index: none of them need an index that has minisheep itself. Imports nothing that it reads about.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[2]
"""The clone, where minisheep runs from one."""


@dataclass(frozen=True, slots=True)
class RequiredPackage:
    """One requirement of minisheep: of itself, or of one of its extras."""

    text: str
    """As pip takes it, without markers: ``trl<1.16,>=1.10``."""
    name: str
    extra: str = ""


def pip_install(what: str, python: str = "") -> str:
    """The command that installs `what`, as the shell takes it, for `python` or the one that runs; uv's where that has
    no pip."""
    path = python or here()
    if not python and importlib.util.find_spec("pip") is None and shutil.which("uv"):
        return f"uv pip install --python {shlex.quote(path)} {what}"
    return f"{shlex.quote(path)} -m pip install {what}"


def other_torch(torch: str, python: str = "") -> str:
    """The command that replaces the installed torch: pip alone would keep a build for processors (``+cpu``)."""
    return f"{shlex.quote(python or here())} -m pip uninstall --yes torch && {pip_install(shlex.quote(torch), python)}"


def here() -> str:
    """The running Python, below the current folder by its short path."""
    python = Path(sys.executable)
    return str(python.relative_to(Path.cwd())) if python.is_relative_to(Path.cwd()) else str(python)


def install_extra(extra: str, *more: str) -> str:
    """The command that installs the packages of one of minisheep's extras; `more` requirements take the place of those
    on the same package."""
    own = {package.name: package.text for package in requirements() if package.extra == extra}
    if own:
        own |= {parse_requirement(text).name: text for text in more}
        return pip_install(" ".join(f'"{text}"' for text in own.values()))
    # A clone that is not installed, or was before it had this extra.
    clone = (PROJECT / "pyproject.toml").is_file()
    wanted = f'-e "{PROJECT}[{extra}]"' if clone else f'"minisheep[{extra}]"'
    return pip_install(" ".join([wanted, *(f'"{text}"' for text in more)]))


def requirements() -> list[RequiredPackage]:
    """What the installed minisheep requires; empty where it is not installed."""
    return [parse_requirement(line) for line in requires("minisheep")]


def requires(package: str) -> list[str]:
    """The lines of Requires-Dist of an installed package; empty where it is not installed."""
    try:
        return importlib.metadata.requires(package) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def parse_requirement(line: str) -> RequiredPackage:
    """A line of Requires-Dist, such as ``trl<1.16,>=1.10; extra == 'gpu'``."""
    from packaging.requirements import Requirement

    parsed = Requirement(line)
    extra = str(parsed.marker).partition("extra ==")[2].strip(" \"'") if parsed.marker else ""
    extras = f"[{','.join(sorted(parsed.extras))}]" if parsed.extras else ""
    return RequiredPackage(f"{parsed.name}{extras}{parsed.specifier}", parsed.name, extra)
