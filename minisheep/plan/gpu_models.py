"""NVIDIA GPUs that people have, and the search for one by name. Pure.

Figures are those of NVIDIA's data sheets and of the white papers of Turing, GA10x, Ada and Blackwell (RTX), all dense.
`half` is tensor throughput in half precision with half-precision sums, `training` with float32 sums, in FLOP a second:
on GeForce cards the second is half of the first, on cards for workstations and servers they are the same. Where a sheet
gives only the shaders' FLOP or the tensor cores' with sparsity, both follow from it (on one shader FLOP come four of
the tensor cores). A laptop's GPU is counted at the middle of its range of clocks. Turing and Volta have no bfloat16 and
train in float16, but for architectures that cannot (`trainers.base.settle`), whose time is then too short here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

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
    usable: int = 0
    """Bytes that the driver leaves of the memory: cards with error correction keep a sixteenth."""

    @property
    def title(self) -> str:
        return f"{self.name} {round(self.memory / GIB)}GB"


def _model(
    name: str, year: int, gib: int, gb_a_second: int, half: float, training: float, *,
    bf16: bool = True, usable: float = 0,
) -> GpuModel:  # fmt: skip
    left = int((usable or gib) * GIB)
    return GpuModel(name, year, gib * GIB, gb_a_second * 1e9, half * 1e12, training * 1e12, bf16, left)


GPUS = (
    # GeForce, Turing
    _model("RTX 2060", 2019, 6, 336, 51.6, 25.8, bf16=False),
    _model("RTX 2060 SUPER", 2019, 8, 448, 57.4, 28.7, bf16=False),
    _model("RTX 2060", 2021, 12, 336, 57.4, 28.7, bf16=False),
    _model("RTX 2070", 2018, 8, 448, 59.7, 29.9, bf16=False),
    _model("RTX 2070 SUPER", 2019, 8, 448, 72.5, 36.2, bf16=False),
    _model("RTX 2080", 2018, 8, 448, 80.5, 40.2, bf16=False),
    _model("RTX 2080 SUPER", 2019, 8, 496, 89.2, 44.6, bf16=False),
    _model("RTX 2080 Ti", 2018, 11, 616, 107.6, 53.8, bf16=False),
    _model("TITAN RTX", 2018, 24, 672, 130.5, 130.5, bf16=False),
    # GeForce, Ampere
    _model("RTX 3050", 2022, 8, 224, 36.4, 18.2),
    _model("RTX 3050", 2024, 6, 168, 27.1, 13.6),
    _model("RTX 3060", 2021, 12, 360, 51.2, 25.6),
    _model("RTX 3060", 2022, 8, 240, 51.2, 25.6),
    _model("RTX 3060 Ti", 2020, 8, 448, 64.8, 32.4),
    _model("RTX 3070", 2020, 8, 448, 81.3, 40.6),
    _model("RTX 3070 Ti", 2021, 8, 608, 87, 43.5),
    _model("RTX 3080", 2020, 10, 760, 119, 59.5),
    _model("RTX 3080", 2022, 12, 912, 122.6, 61.3),
    _model("RTX 3080 Ti", 2021, 12, 912, 136, 68),
    _model("RTX 3090", 2020, 24, 936, 142, 71),
    _model("RTX 3090 Ti", 2022, 24, 1008, 160, 80),
    _model("RTX 3050 Laptop", 2021, 4, 192, 22.9, 11.5),
    _model("RTX 3050 Ti Laptop", 2021, 4, 192, 28, 14),
    _model("RTX 3060 Laptop", 2021, 6, 336, 45.9, 22.9),
    _model("RTX 3070 Laptop", 2021, 8, 448, 59.6, 29.8),
    _model("RTX 3070 Ti Laptop", 2022, 8, 448, 59.4, 29.7),
    _model("RTX 3080 Laptop", 2021, 8, 448, 72.6, 36.3),
    _model("RTX 3080 Laptop", 2021, 16, 448, 72.6, 36.3),
    _model("RTX 3080 Ti Laptop", 2022, 16, 512, 80.6, 40.3),
    # GeForce, Ada
    _model("RTX 4060", 2023, 8, 272, 60.5, 30.2),
    _model("RTX 4060 Ti", 2023, 8, 288, 88.3, 44.1),
    _model("RTX 4060 Ti", 2023, 16, 288, 88.3, 44.1),
    _model("RTX 4070", 2023, 12, 504, 116.6, 58.3),
    _model("RTX 4070 SUPER", 2024, 12, 504, 142, 71),
    _model("RTX 4070 Ti", 2023, 12, 504, 160.4, 80.2),
    _model("RTX 4070 Ti SUPER", 2024, 16, 672, 176.4, 88.2),
    _model("RTX 4080", 2022, 16, 717, 194.9, 97.5),
    _model("RTX 4080 SUPER", 2024, 16, 736, 208.9, 104.5),
    _model("RTX 4090 D", 2023, 24, 1008, 294.2, 147.1),
    _model("RTX 4090", 2022, 24, 1008, 330.3, 165.2),
    _model("RTX 4050 Laptop", 2023, 6, 192, 40.7, 20.4),
    _model("RTX 4060 Laptop", 2023, 8, 256, 47.2, 23.6),
    _model("RTX 4070 Laptop", 2023, 8, 256, 62.8, 31.4),
    _model("RTX 4080 Laptop", 2023, 12, 432, 107.8, 53.9),
    _model("RTX 4090 Laptop", 2023, 16, 576, 136, 68),
    # GeForce, Blackwell
    _model("RTX 5050", 2025, 8, 320, 52.7, 26.4),
    _model("RTX 5060", 2025, 8, 448, 76.7, 38.4),
    _model("RTX 5060 Ti", 2025, 8, 448, 94.9, 47.5),
    _model("RTX 5060 Ti", 2025, 16, 448, 94.9, 47.5),
    _model("RTX 5070", 2025, 12, 672, 123.5, 61.8),
    _model("RTX 5070 Ti", 2025, 16, 896, 175.8, 87.9),
    _model("RTX 5080", 2025, 16, 960, 225.1, 112.5),
    _model("RTX 5090", 2025, 32, 1792, 419, 209.5),
    _model("RTX 5050 Laptop", 2025, 8, 384, 42.6, 21.3),
    _model("RTX 5060 Laptop", 2025, 8, 384, 52.6, 26.3),
    _model("RTX 5070 Laptop", 2025, 8, 384, 69.5, 34.8),
    _model("RTX 5070 Ti Laptop", 2025, 12, 672, 86.4, 43.2),
    _model("RTX 5080 Laptop", 2025, 16, 896, 116.3, 58.2),
    _model("RTX 5090 Laptop", 2025, 24, 896, 157.7, 78.9),
    # Workstations: Turing, Ampere, Ada, Blackwell
    _model("Quadro RTX 4000", 2018, 8, 416, 57, 57, bf16=False),
    _model("Quadro RTX 5000", 2018, 16, 448, 89.2, 89.2, bf16=False),
    _model("Quadro RTX 6000", 2018, 24, 672, 130.5, 130.5, bf16=False),
    _model("Quadro RTX 8000", 2018, 48, 672, 130.5, 130.5, bf16=False),
    _model("RTX A2000", 2021, 6, 288, 31.9, 31.9),
    _model("RTX A2000", 2021, 12, 288, 31.9, 31.9),
    _model("RTX A4000", 2021, 16, 448, 76.7, 76.7),
    _model("RTX A4500", 2021, 20, 640, 94.6, 94.6),
    _model("RTX A5000", 2021, 24, 768, 111, 111),
    _model("RTX A5500", 2022, 24, 768, 136.4, 136.4),
    _model("RTX A6000", 2020, 48, 768, 154.8, 154.8),
    _model("RTX 2000 Ada", 2024, 16, 224, 48, 48),
    _model("RTX 4000 SFF Ada", 2023, 20, 280, 76.7, 76.7),
    _model("RTX 4000 Ada", 2023, 20, 360, 106.9, 106.9),
    _model("RTX 4500 Ada", 2023, 24, 432, 158.5, 158.5),
    _model("RTX 5000 Ada", 2023, 32, 576, 261.1, 261.1),
    _model("RTX 5880 Ada", 2024, 48, 960, 277.3, 277.3),
    _model("RTX 6000 Ada", 2022, 48, 960, 364.2, 364.2),
    _model("RTX PRO 4000", 2025, 24, 672, 187.6, 187.6),
    _model("RTX PRO 4500", 2025, 32, 896, 219.8, 219.8),
    _model("RTX PRO 5000", 2025, 48, 1344, 267.8, 267.8),
    _model("RTX PRO 5000", 2025, 72, 1344, 267.8, 267.8),
    _model("RTX PRO 6000", 2025, 96, 1792, 500, 500),
    # Servers
    _model("V100", 2017, 16, 900, 125, 125, bf16=False),
    _model("V100", 2018, 32, 900, 125, 125, bf16=False),
    _model("T4", 2018, 16, 320, 65, 65, bf16=False, usable=15),
    _model("A2", 2021, 16, 200, 18, 18, usable=15),
    _model("A10", 2021, 24, 600, 125, 125, usable=22.5),
    _model("A10G", 2021, 24, 600, 70, 70, usable=22.5),
    _model("A30", 2021, 24, 933, 165, 165),
    _model("A40", 2020, 48, 696, 149.7, 149.7, usable=45),
    _model("A100", 2020, 40, 1555, 312, 312),
    _model("A100", 2020, 80, 2039, 312, 312),
    _model("L4", 2023, 24, 300, 121, 121, usable=22.5),
    _model("L40", 2022, 48, 864, 181, 181, usable=45),
    _model("L40S", 2023, 48, 864, 362, 362, usable=45),
    _model("H100", 2022, 80, 3350, 989, 989),
    _model("H100 PCIe", 2022, 80, 2000, 756, 756),
    _model("H100 NVL", 2023, 94, 3938, 835, 835),
    _model("GH200", 2023, 96, 4000, 989, 989),
    _model("GB10", 2025, 128, 273, 125, 125, usable=119),
    _model("H200", 2024, 141, 4800, 989, 989),
    _model("B200", 2024, 180, 8000, 2250, 2250),
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
            found = [gpu for gpu in GPUS if wanted and _plain(gpu.name).removeprefix(drop) == wanted]
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

    return sorted(GPUS, key=distance)


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
