"""What the filter keeps by the judge's scores: the setting ``--keep``, read and settled. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

GRADED = frozenset({"logits", "sample"})
"""Judges whose scores are grades from 1 to 10."""


@dataclass(frozen=True, slots=True)
class Keep:
    """What the filter keeps by score: ``threshold:C`` (above C), ``top:F`` (the best fraction F) or ``auto``."""

    kind: Literal["auto", "threshold", "top"]
    value: float = 0.0
    written: str = field(default="", compare=False)
    """As the user wrote it: this is stored and shown. The same rule written differently is no change."""

    def __str__(self) -> str:
        return self.written or ("auto" if self.kind == "auto" else f"{self.kind}:{self.value:g}")

    def settled(self, judge: str) -> Keep:
        """What ``auto`` means for a judge: the paper's threshold where there are grades, else the best fraction."""
        if self.kind != "auto":
            return self
        return Keep("threshold", 8.0) if judge in GRADED else Keep("top", 0.3)

    @classmethod
    def parse(cls, given: object) -> Keep:
        """Raises ValueError that names the valid forms. A `Keep` stays as it is."""
        if isinstance(given, Keep):
            return given
        if given == "auto":
            return cls("auto")
        kind, _, number = str(given).partition(":")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if kind == "threshold" and math.isfinite(value):
            return cls("threshold", value, str(given))
        if kind == "top" and 0 < value <= 1:
            return cls("top", value, str(given))
        raise ValueError(f"keep {given!r} is not threshold:NUMBER, top:FRACTION (above 0, at most 1) or auto")
