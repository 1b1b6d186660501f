"""Speed, slots, memory and what the graphics card tells. Pure."""

from __future__ import annotations

from rich.text import Text

from minisheep.screen.lines import DIM, STRONG, WARN, Part, bar, clean, line
from minisheep.screen.machine import Card, Machine
from minisheep.screen.state import State

FULL = 0.92
"""Share of a memory from which it is shown as a warning."""
LABEL = 9


def machine(state: State, found: Machine, width: int) -> list[Text]:
    """Two lines, one for each card, and what the engine is."""
    rows = [line(width, *_speed(state))]
    if found.ram_used is not None and found.ram_total:
        rows.append(line(width, *_memory("RAM", found.ram_used, found.ram_total, width)))
    for number, card in enumerate(found.cards):
        name = f"VRAM {number}" if len(found.cards) > 1 else "VRAM"
        rows.append(line(width, *_memory(name, card.used, card.total, width)))
        told = _card(card)
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


def _card(card: Card) -> str:
    told = []
    if card.busy is not None:
        told.append(f"{card.busy} % busy")
    if card.temperature is not None:
        told.append(f"{card.temperature} °C")
    if card.watts is not None:
        told.append(f"{card.watts:.0f} of {card.limit:.0f} W" if card.limit else f"{card.watts:.0f} W")
    return "  ".join(told)
