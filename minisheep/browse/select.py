"""Which items are wanted, and in which order. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from minisheep.browse.items import Item, rules_of
from minisheep.errors import UsageError

ORDERS: dict[str, Callable[[Item], float | None]] = {
    "made": lambda item: 0,
    "score": lambda item: item.score,
    "similarity": lambda item: item.similarity,
    "words": lambda item: len(item.answer.split()),
}
"""By name, what is compared; the highest comes first."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for; whatever is empty asks for nothing."""

    fates: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    """``low_score``, or ``filter.low_score`` with its stage."""
    score_min: float | None = None
    score_max: float | None = None
    text: str = ""
    """In instruction, input or answer, in any case."""

    def accepts(self, item: Item) -> bool:
        if self.fates and item.fate not in self.fates:
            return False
        if self.rules and not {item.rule, f"{item.stage}.{item.rule}"} & set(self.rules):
            return False
        if self.score_min is not None and (item.score is None or item.score < self.score_min):
            return False
        if self.score_max is not None and (item.score is None or item.score > self.score_max):
            return False
        sought = self.text.casefold()
        return not sought or any(sought in text.casefold() for text in (item.instruction, item.input, item.answer))


def select(
    found: Iterable[Item], wanted: Wanted, *, order: str = "made", reverse: bool = False, limit: int = 0
) -> list[Item]:
    """The items that are wanted, at most `limit` of them (0: all); those without what is compared come last."""
    key = ORDERS[order]
    chosen = [item for item in found if wanted.accepts(item)]
    known = [(value, item) for item in chosen if (value := key(item)) is not None]
    if order == "made":
        ordered = chosen[::-1] if reverse else chosen
    else:
        # Sorting twice is stable: equals stay in the order in which they were made.
        known.sort(key=lambda pair: pair[0], reverse=not reverse)
        ordered = [item for _, item in known] + [item for item in chosen if key(item) is None]
    return ordered[:limit] if limit else ordered


def check_rules(rules: Sequence[str], found: Sequence[Item]) -> None:
    """Raises `errors.UsageError` for a rule that dropped nothing, and says which did."""
    did = rules_of(found)
    known = {*did, *(name.partition(".")[2] for name in did)}
    for rule in rules:
        if rule not in known:
            told = ", ".join(f"{name} {count}" for name, count in did.items()) or "none did"
            raise UsageError(f"--rule {rule} dropped nothing here.", f"What rules dropped: {told}.")
