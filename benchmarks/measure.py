"""One line of the benchmark: what was measured, for minisheep and for a peer."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Target:
    """The goal at full size: `ratio` or `ours` must be at least (or at most) `value`."""

    value: float
    of: str = "ratio"
    """``ratio`` or ``ours``."""
    at_most: bool = False

    def met(self, comparison: Comparison) -> bool | None:
        """None where the figure is missing."""
        figure = comparison.ratio if self.of == "ratio" else comparison.ours
        if figure is None:
            return None
        return figure <= self.value if self.at_most else figure >= self.value

    def describe(self, unit: str) -> str:
        """``at least 4x``, ``at most 3 s``."""
        limit = f"{self.value:g}x" if self.of == "ratio" else f"{self.value:g} {unit}"
        return f"at {'most' if self.at_most else 'least'} {limit}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Our figure and a peer's, both in `unit`.

    `ratio` is ours / peer: for a rate, how many times faster minisheep is; for a time or a size, the share of the
    peer's that minisheep needs. A part that could not be measured has None and says why in `note`.
    """

    what: str
    ours: float | None
    peer: float | None
    peer_name: str
    unit: str
    repeats: int = 0
    """Turns of each side; `ours` and `peer` are medians over them."""
    spread_ours: float | None = None
    """(highest - lowest) / median of the turns, 0 where there was one."""
    spread_peer: float | None = None
    sizes: str = ""
    """The work of one turn, in words."""
    note: str = ""
    quick: bool = False
    """Measured on the small sizes of ``--quick``: not a figure to quote."""
    target: Target | None = None

    @property
    def ratio(self) -> float | None:
        if self.ours is None or self.peer is None or self.peer == 0 or not math.isfinite(self.ours / self.peer):
            return None
        return self.ours / self.peer

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None without one, without a figure, and for quick sizes."""
        return None if self.target is None or self.quick else self.target.met(self)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; numbers with four significant digits."""
        return {
            "what": self.what,
            "ours": rounded(self.ours),
            "peer": rounded(self.peer),
            "peer_name": self.peer_name,
            "ratio": rounded(self.ratio),
            "unit": self.unit,
            "repeats": self.repeats,
            "spread_ours": rounded(self.spread_ours),
            "spread_peer": rounded(self.spread_peer),
            "sizes": self.sizes,
            "quick": self.quick,
            "target": "" if self.target is None else self.target.describe(self.unit),
            "met": self.met,
            "note": self.note,
        }


FIELDS = frozenset(f.name for f in dataclasses.fields(Comparison))


@dataclass(frozen=True, slots=True)
class Row:
    """A `Comparison` with where it was measured."""

    comparison: Comparison
    hardware: str
    versions: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {**self.comparison.to_dict(), "hardware": self.hardware, "versions": self.versions}


def to_wire(comparison: Comparison) -> dict[str, Any]:
    """As a child sends it: exact, and without derived fields."""
    return dataclasses.asdict(comparison)


def from_wire(data: dict[str, Any]) -> Comparison:
    """What `to_wire` wrote. Raises ValueError for anything else."""
    if set(data) != FIELDS:
        raise ValueError(f"not a comparison: {sorted(data)}")
    target = data["target"]
    return Comparison(**{**data, "target": None if target is None else Target(**target)})


def rounded(number: float | None) -> float | None:
    return None if number is None else float(f"{number:.4g}")
