"""NVIDIA GPUs that people have (``data/gpus.csv``, where the sources are too), and the search for one by name.

Turing and Volta have no bfloat16 and train in float16, but for architectures that cannot (`trainers.base.settle`),
whose time is then too short here.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

from minisheep.errors import UsageError

GIB = 2**30
_NAME = re.compile(r"[^a-z0-9]+")
_MAKERS = re.compile(r"\b(nvidia|geforce|tesla|quadro|generation|graphics|gpu|card|with|design)\b")
_FORMS = re.compile(r"\b(sxm\d?|pcie|nvl|hbm\d?e?|workstation|server|edition|blackwell)\b")
"""Words of a driver's name that say how a card is built; some are in the table, the rest makes little difference."""
_MEMORY = re.compile(r"\b(\d{1,3}) ?g(?:i?b)?\b")
_LAPTOP = re.compile(r"\b(mobile|notebook|max q)\b")
_PARTS = re.compile(r"([a-z]*?)(\d+)([a-z]*)")
_ELSEWHERE = "GPUs are not planned for: writing can use them, if llama.cpp is built for them, and training cannot"
_OTHERS = (
    (re.compile(r"apple|m[1-9](pro|max|ultra)?$"), f"Apple's {_ELSEWHERE}"),
    (re.compile(r"amd|radeon|instinct|rx\d|mi\d{2,3}"), f"AMD's {_ELSEWHERE}"),
    (re.compile(r"intel|arc|[ab][3-7][5-9]0$"), f"Intel's {_ELSEWHERE}"),
)
COMMON = (
    "RTX 2060 6GB",
    "RTX 4060 8GB",
    "RTX 3060 12GB",
    "T4 16GB",
    "RTX 5070 Ti 16GB",
    "RTX 3090 24GB",
    "RTX 4090 24GB",
    "RTX 5090 32GB",
    "A100 40GB",
)
"""One or two of each size, for an overview."""


@dataclass(frozen=True, slots=True)
class GpuModel:
    name: str
    memory: int
    """Bytes on the GPU."""
    bandwidth: float
    """Bytes a second."""
    half: float
    """FLOP a second in half precision with half-precision sums; `training` with float32 sums."""
    training: float
    bfloat16: bool
    usable: int
    """Bytes that the driver leaves of the memory."""

    @property
    def title(self) -> str:
        return f"{self.name} {round(self.memory / GIB)}GB"


@cache
def gpu_models() -> tuple[GpuModel, ...]:
    table = files("minisheep.data").joinpath("gpus.csv").read_text("utf-8").splitlines()
    return tuple(
        GpuModel(
            name=row["name"],
            memory=int(row["gib"]) * GIB,
            bandwidth=float(row["gb_second"]) * 1e9,
            half=float(row["half"]) * 1e12,
            training=float(row["training"]) * 1e12,
            bfloat16=row["bfloat16"] == "yes",
            usable=int(float(row["usable"]) * GIB),
        )
        for row in csv.DictReader(line for line in table if not line.startswith("#"))
    )


def find_gpu_model(name: str) -> GpuModel:
    """The GPU that `name` means in any common spelling: ``RTX 3060 12GB``, ``nvidia geforce rtx3060``, ``4090``,
    ``4070 super``, ``NVIDIA A100-SXM4-40GB``, ``rtx-5090-laptop``.

    Of a GPU with two sizes it is the first in the table unless the name says otherwise. Raises `errors.UsageError`
    with the nearest of its family, or with what to do for a GPU of another maker.
    """
    plain, short, gib = _split(name)
    same = _of_name(plain, short)
    for gpu in same:
        if gib in (0, gpu.memory // GIB):
            return gpu
    if same:
        sizes = " or ".join(f"{gpu.memory // GIB} GB" for gpu in same)
        raise UsageError(f"The {same[0].name} has {sizes}, not {gib} GB.", f'Use --gpu "{same[0].title}".')
    for pattern, told in _OTHERS:
        if pattern.match(plain):
            raise UsageError(f"{told}.", "On that machine `minisheep plan` without --gpu plans for its processor.")
    family = _parts(short)[0]
    near = [gpu.title for gpu in _nearest(short, gib * GIB) if family and _parts(_plain(gpu.name))[0] == family][:3]
    raise UsageError(
        f"{name[:100]!r} is not a known GPU." + (f" The nearest are {', '.join(near)}." if near else ""),
        f"{'Choose one of them, or name' if near else 'Name'} a GPU with the same memory and generation, as in"
        f' --gpu "{near[0] if near else COMMON[-2]}".',
    )


def gpu_model_of(name: str, memory: int, *, bfloat16: bool) -> tuple[GpuModel, str]:
    """The GPU that a driver calls `name`, with the `memory` (bytes) that it tells; and, where the table has no such
    name, the title of the one whose speed it gets.

    Drivers keep a part for themselves (a T4 of 16 GB tells 15, an L4 of 24 tells 22.5), so of one name the nearest size
    is meant. Of a GPU that is not in the table only the speed is unknown: it gets that of the nearest of its family.
    """
    plain, short, _ = _split(name)
    same = sorted(_of_name(plain, short), key=lambda gpu: abs(gpu.memory - memory))
    like = (same or [gpu for gpu in _nearest(short, memory) if gpu.bfloat16 == bfloat16])[0]
    model = replace(like, name=like.name if same else name, memory=memory, usable=memory, bfloat16=bfloat16)
    return model, "" if same else like.title


def _of_name(plain: str, short: str) -> list[GpuModel]:
    """The sizes of the GPU with this name: as it is written, or without how it is built or the RTX before it."""
    for wanted in (plain, short):
        for drop in ("", "rtx", "quadro", "quadrortx", "rtxpro"):
            found = [gpu for gpu in gpu_models() if wanted and _plain(gpu.name).removeprefix(drop) == wanted]
            if found:
                return found
    return []


def _nearest(short: str, memory: int) -> list[GpuModel]:
    """All GPUs, those of the same family and generation first, then those of about that `memory` (bytes, 0: unknown)
    and number; the slower first of two that are as near."""
    family, number, rest = _parts(short)

    def distance(gpu: GpuModel) -> tuple[float, ...]:
        own_family, own_number, own_rest = _parts(_plain(gpu.name))
        unlike = float(own_family != family)
        # The 50 of an RTX 5090 is its generation; A100 and the like have none.
        generation = 0 if unlike else abs(own_number // 1000 - number // 1000)
        laptop = ("laptop" in own_rest) != ("laptop" in rest)
        apart = abs(gpu.memory - memory) if memory else 0
        numbers = 0 if unlike else abs(own_number - number)
        return unlike, generation, laptop, apart, numbers, own_rest != rest, gpu.bandwidth

    return sorted(gpu_models(), key=distance)


def _parts(plain: str) -> tuple[str, int, str]:
    """Letters, number and the rest: ``rtx``, 4070, ``ti``; a bare 4070 is an RTX, and an RTX 4000 Ada of another
    family."""
    found = _PARTS.match(plain)
    if found is None:
        return "", 0, plain
    family, number, rest = found[1], int(found[2][:6]), plain[found.end(2) :]
    family = "rtx" if family == "gtx" or (not family and number >= 1000) else family
    return f"{family}ada" if "ada" in rest else family, number, rest


def _split(name: str) -> tuple[str, str, int]:
    """The name without maker and memory, plain; the same without how the card is built; and the memory in GiB or 0."""
    lower = re.sub(r"[^a-z0-9]+", " ", name.lower()[:100])
    lower = re.sub(r"(\d)(g(?:i?b)?)\b", r"\1 \2", lower)
    found = _MEMORY.search(lower)
    lower = _LAPTOP.sub("laptop", _MAKERS.sub(" ", _MEMORY.sub(" ", lower)))
    lower = re.sub(r"\b(\d{4}(?: ?ti)?) ?s\b", r"\1 super", lower)
    return _plain(lower), _plain(_FORMS.sub(" ", lower)), int(found[1]) if found else 0


def _plain(name: str) -> str:
    return _NAME.sub("", name.lower())
