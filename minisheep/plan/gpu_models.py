"""GPUs that people have, from their makers' datasheets, and the search for one by name. Pure.

`half` is dense tensor throughput in half precision with half-precision sums, `training` with float32 sums, in FLOP a
second. Turing and older have no bfloat16 and train in float16, but for architectures that cannot
(`trainers.base.settle`), whose time is then too short here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from minisheep.errors import UsageError

GIB = 2**30
_NAME = re.compile(r"[^a-z0-9]+")
_MAKERS = re.compile(r"\b(nvidia|geforce|tesla|generation|graphics|gpu|card)\b")
_MEMORY = re.compile(r"\b(\d{1,3}) ?gi?b\b")


@dataclass(frozen=True, slots=True)
class GpuModel:
    name: str
    year: int
    memory: int
    """Bytes on the GPU."""
    bandwidth: float
    """Bytes a second."""
    half: float
    training: float
    bfloat16: bool = True

    @property
    def title(self) -> str:
        return f"{self.name} {round(self.memory / GIB)}GB"


def _model(
    name: str, year: int, gib: int, gb_a_second: int, half: float, training: float, bf16: bool = True
) -> GpuModel:
    return GpuModel(name, year, gib * GIB, gb_a_second * 1e9, half * 1e12, training * 1e12, bf16)


GPUS = (
    _model("RTX 2060", 2019, 6, 336, 51.6, 25.8, False),
    _model("RTX 4050 Laptop", 2023, 6, 192, 36, 18),
    _model("RTX 2070", 2018, 8, 448, 59.7, 29.9, False),
    _model("RTX 3050", 2022, 8, 224, 36.4, 18.2),
    _model("RTX 3060 Ti", 2020, 8, 448, 64.8, 32.4),
    _model("RTX 3070", 2020, 8, 448, 81.3, 40.6),
    _model("RTX 4060", 2023, 8, 272, 60.5, 30.2),
    _model("RTX 4060 Ti", 2023, 8, 288, 88.3, 44.1),
    _model("RTX 5060", 2025, 8, 448, 76.7, 38.4),
    _model("RTX 3080", 2020, 10, 760, 119, 59.5),
    _model("RTX 2080 Ti", 2018, 11, 616, 107.6, 53.8, False),
    _model("RTX 3060", 2021, 12, 360, 51.2, 25.6),
    _model("RTX 3080 Ti", 2021, 12, 912, 136, 68),
    _model("RTX 4070", 2023, 12, 504, 116.6, 58.3),
    _model("RTX 5070", 2025, 12, 672, 123.5, 61.7),
    _model("T4", 2018, 16, 320, 65, 65, False),
    _model("RTX 4060 Ti", 2023, 16, 288, 88.3, 44.1),
    _model("RTX 4070 Ti SUPER", 2024, 16, 672, 176.4, 88.2),
    _model("RTX 5060 Ti", 2025, 16, 448, 94.9, 47.4),
    _model("RTX 5070 Ti", 2025, 16, 896, 175.8, 87.9),
    _model("RTX 4080", 2022, 16, 717, 194.9, 97.5),
    _model("RTX 5080", 2025, 16, 960, 225, 112.6),
    _model("RTX 4000 Ada", 2023, 20, 360, 106.9, 106.9),
    _model("RTX 3090", 2020, 24, 936, 142, 71),
    _model("RTX A5000", 2021, 24, 768, 111, 111),
    _model("L4", 2023, 24, 300, 121, 121),
    _model("RTX 4090", 2022, 24, 1008, 330.3, 165.2),
    _model("RTX 5090", 2025, 32, 1792, 419, 209.5),
)
COMMON = (
    "RTX 2060 6GB",
    "RTX 4060 8GB",
    "RTX 3080 10GB",
    "RTX 3060 12GB",
    "RTX 4080 16GB",
    "RTX 3090 24GB",
    "RTX 4090 24GB",
)
"""One or two of each size, for an overview."""


def find_gpu_model(name: str) -> GpuModel:
    """The GPU that `name` means in any common spelling: ``RTX 3060 12GB``, ``nvidia geforce rtx3060``, ``4090``.

    Of a GPU with two sizes it is the smaller one unless the name says otherwise. Raises `errors.UsageError` with the
    nearest names.
    """
    plain, gib = _split(name)
    same = [gpu for gpu in GPUS if _plain(gpu.name) == plain] or [
        gpu for gpu in GPUS if plain and _plain(gpu.name).removeprefix("rtx") == plain
    ]
    for gpu in same:
        if gib in (0, gpu.memory // GIB):
            return gpu
    from rapidfuzz import fuzz, process  # only a wrong name needs it

    titles = [gpu.title for gpu in GPUS]
    near = [title for title, _, _ in process.extract(name[:100].upper(), titles, scorer=fuzz.WRatio, limit=3)]
    if same:
        sizes = " or ".join(f"{gpu.memory // GIB} GB" for gpu in same)
        raise UsageError(f"An {same[0].name} has {sizes}, not {gib} GB.", f'Use --gpu "{same[0].title}".')
    raise UsageError(
        f"{name[:100]!r} is not a known GPU. The nearest are {', '.join(near)}.",
        "Choose one of them, or name a GPU with the same memory and generation.",
    )


def gpu_model_of(name: str, memory: int, *, bfloat16: bool) -> tuple[GpuModel, bool]:
    """The GPU that a driver calls `name`, with the `memory` (bytes) that it tells; and whether the table has it.

    Drivers keep a part for themselves (a T4 of 16 GB tells 15, an L4 of 24 tells 22.5), so of one name the nearest size
    is meant. Of a GPU that is not in the table only the speed is unknown: it gets that of the slowest one that is
    nearest in memory.
    """
    plain, _ = _split(name)
    same = [gpu for gpu in GPUS if _plain(gpu.name) == plain]
    like = same or [gpu for gpu in GPUS if gpu.bfloat16 == bfloat16]
    nearest = min(like, key=lambda gpu: (abs(gpu.memory - memory), gpu.bandwidth))
    return replace(nearest, name=nearest.name if same else name, memory=memory, bfloat16=bfloat16), bool(same)


def _split(name: str) -> tuple[str, int]:
    """The name without maker and memory, plain, and the memory in GiB or 0."""
    lower = name.lower()[:100]
    lower = re.sub(r"(\d)(gi?b)\b", r"\1 \2", lower)
    found = _MEMORY.search(lower)
    rest = _MAKERS.sub(" ", _MEMORY.sub(" ", lower))
    return _plain(rest), int(found[1]) if found else 0


def _plain(name: str) -> str:
    return _NAME.sub("", name.lower())
