"""The graphics card that a training would use, as its driver tells without torch: light, so that it can be asked early.

On a machine with several cards it is the first that CUDA_VISIBLE_DEVICES leaves.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from minisheep.screen.nvml import Nvml


@dataclass(frozen=True, slots=True)
class Card:
    name: str
    capability: tuple[int, int]
    """CUDA compute capability."""
    total: int
    """Bytes."""
    free: int
    holders: Mapping[int, int] = field(default_factory=dict)
    """Bytes by PID of the processes that use it; 0 where the driver does not tell."""


@dataclass(frozen=True, slots=True)
class Cuda:
    """What there is for a training on a card."""

    card: Card | None = None
    driver: tuple[int, int] | None = None
    """The newest CUDA that the driver can run."""
    build: tuple[int, int] | None = None
    """The CUDA that the installed torch was built for; None: for processors alone, or there is no torch."""


def find_cuda() -> Cuda:
    """What the driver and the installed torch say now."""
    card, driver = _ask_driver()
    return Cuda(card, driver, torch_build())


def find_card() -> Card | None:
    """The card that CUDA would use first."""
    return _ask_driver()[0]


def _ask_driver() -> tuple[Card | None, tuple[int, int] | None]:
    library = Nvml()
    try:
        told = [(identity, version(identity["capability"])) for identity in library.identities()]
        driver = version(library.versions()[1])
    finally:
        library.close()
    cards = [Card(**{**identity, "capability": capability}) for identity, capability in told if capability]
    shown = visible(cards, os.environ.get("CUDA_VISIBLE_DEVICES"))
    return (shown[0] if shown else None), driver


def version(text: str) -> tuple[int, int] | None:
    """``8.6`` as two numbers; None for anything else."""
    match = re.fullmatch(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else None


def visible(cards: Sequence[Card], wanted: str | None) -> list[Card]:
    """The cards that CUDA_VISIBLE_DEVICES leaves, in its order: as CUDA has it, the first number that is none of them
    ends the list. A name (UUID) leaves all, since which it means is not known here."""
    if wanted is None:
        return list(cards)
    found = []
    for word in wanted.split(","):
        word = word.strip()
        if word.startswith(("GPU-", "MIG-")):
            return list(cards)
        if not word.isdecimal() or int(word) >= len(cards):
            break
        found.append(cards[int(word)])
    return found


def torch_build() -> tuple[int, int] | None:
    """The CUDA of the installed torch, read from its version.py: torch itself takes seconds to import."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    try:
        return build_in(Path(found.origin).with_name("version.py").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None


def build_in(text: str) -> tuple[int, int] | None:
    """The CUDA that torch's version.py names (``cuda: Optional[str] = '13.0'``)."""
    match = re.search(r"^cuda\b[^=\n]*= *['\"](\d+)\.(\d+)", text, re.MULTILINE)
    return (int(match[1]), int(match[2])) if match else None


def in_words(holders: Mapping[int, int], own: frozenset[int] = frozenset()) -> str:
    """Processes on a card other than our `own`, the largest first: ``PID 12 (ollama) 3.1 GB``, or nothing."""
    others = sorted(((used, pid) for pid, used in holders.items() if pid not in own), reverse=True)
    return ", ".join(f"PID {pid}{_program(pid)}{f' {used / 1e9:.1f} GB' if used else ''}" for used, pid in others[:5])


def _program(pid: int) -> str:
    """The program of a process as ` (name)`, or nothing: another user's is not told everywhere."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
    return f" ({name})" if name.isprintable() and name else ""
