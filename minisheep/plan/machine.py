"""What a plan is for: a graphics card of the table, the one that is here, or this machine's processor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from minisheep.engines import amx, budget, cpu
from minisheep.errors import UsageError
from minisheep.plan.cards import GIB, Card, find_card

DESKTOP = 350 * 2**20
"""What a desktop and the driver hold of a card."""


@dataclass(frozen=True, slots=True)
class Machine:
    """`memory` is what both phases may take, one after the other, in bytes; None where it is not known."""

    title: str
    memory: int | None
    card: Card | None
    bfloat16: bool
    """Whether it multiplies bfloat16 in hardware."""
    threads: int = 0
    amx: bool = False
    """Whether llama.cpp will use the processor's AMX."""

    @property
    def is_card(self) -> bool:
        return self.card is not None


def with_card(card: Card) -> Machine:
    return Machine(card.title, card.memory - DESKTOP, card, card.bfloat16)


def this_processor(threads: int) -> Machine:
    """This machine without a card: the RAM that is free now. `threads` 0 means every core that may be used."""
    text = cpu.cpuinfo()
    threads = threads or cpu.cores()
    title = f"{cpu.name(text) or 'this processor'}, {threads} threads"
    bfloat16 = cpu.multiplies_bfloat16(cpu.flags(text))
    return Machine(title, budget.free_ram(), None, bfloat16, threads, amx.will_be_usable())


def machine_for(gpu: str | None, threads: int, present: Sequence[tuple[str, int]]) -> tuple[Machine, str]:
    """The machine to plan for, and what should be said of the choice.

    `gpu` is what the user named; `present` are names and bytes of the cards that are here. Raises `errors.UsageError`
    for a card that is not known.
    """
    if gpu is not None:
        return with_card(find_card(gpu)), ""
    for name, memory in present[:1]:
        try:
            card = find_card(f"{name} {round(memory / GIB)}GB")
        except UsageError:
            told = f"{name} is here and not in the table of cards: name one like it with --gpu."
            return this_processor(threads), told
        return with_card(replace(card, memory=memory)), f"{name} is here; it was not measured."
    return this_processor(threads), ""
