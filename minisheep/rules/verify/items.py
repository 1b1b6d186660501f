"""What is verified: a prompt and the constraints that it states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Check:
    """One constraint. `kind` is IFEval's instruction id, ``length_constraints:number_words`` for example."""

    kind: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Item:
    id: str
    prompt: str
    checks: tuple[Check, ...]
