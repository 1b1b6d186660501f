"""Speed, slots, memory and what the GPU tells. Pure."""

from __future__ import annotations

from rich.text import Text

from minisheep.machine.gpu import Gpu
from minisheep.screen.lines import DIM, STRONG, WARN, Part, bar, clean, line
from minisheep.screen.machine import Machine
from minisheep.screen.state import State

FULL = 0.92
"""Share of a memory from which it is shown as a warning."""
LABEL = 9


def machine(state: State, found: Machine, width: int) -> list[Text]:
    """Two lines, one for each GPU, and what the engine is."""
    rows = [line(width, *_speed(state))]
    if found.ram_used is not None and found.ram_total:
        rows.append(line(width, *_memory("RAM", found.ram_used, found.ram_total, width)))
    for number, gpu in enumerate(found.gpus):
        name = f"VRAM {number}" if len(found.gpus) > 1 else "VRAM"
        rows.append(line(width, *_memory(name, gpu.used, gpu.total, width)))
        told = _gpu(gpu)
        if told:
            rows.append(line(width, " " * LABEL, told))
    if state.engine:
        rows.append(line(width, (clean(state.engine, 200), DIM)))
    return rows


def _speed(state: State) -> list[Part]:
    speed = f"{state.tokens_per_second:,.0f}" if state.tokens_per_second else "-"
    parts: list[Part] = [("tokens/s ", DIM), (speed, STRONG)]
    if state.slots > 1:
        parts += [("  slots ", DIM), f"{state.running}/{state.slots}"]
    return parts


def _memory(name: str, used: int, total: int, width: int) -> list[Part]:
    told = f"{used / 2**30:.1f} of {total / 2**30:.1f} GiB "
    full, rest = bar(max(0, min(20, width - LABEL - len(told))), used / total)
    style = WARN if used / total > FULL else ""
    return [(f"{name:<{LABEL}}", DIM), (told, style), (full, style), (rest, DIM)]


def _gpu(gpu: Gpu) -> str:
    told = []
    if gpu.busy is not None:
        told.append(f"{gpu.busy} % busy")
    if gpu.temperature is not None:
        told.append(f"{gpu.temperature} °C")
    if gpu.watts is not None:
        told.append(f"{gpu.watts:.0f} of {gpu.limit:.0f} W" if gpu.limit else f"{gpu.watts:.0f} W")
    return "  ".join(told)
