"""What a model did in a short try on this machine, and how that corrects an estimate of times. Pure but for `read`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minisheep.models.cache import cache_root
from minisheep.plan.duration import Speed
from minisheep.plan.work import Work
from minisheep.records import digest

NEW = 48
"""Tokens that the try draws for each sequence."""
PROMPT = 30
"""Tokens of its prompts, about."""
MANY = 100_000
"""Tokens of the work by which a rate is taken from an estimate."""


@dataclass(frozen=True, slots=True)
class Tried:
    """Rates are tokens a second; bytes are the most of VRAM, with CUDA's own, None on a machine without a GPU."""

    machine: str
    slots: int
    """Sequences that were decoded at once."""
    kv_type: str
    drawn: float
    read: float
    trained: float
    """0 where the training weights were not at hand."""
    trainer: str
    inference_bytes: int | None
    training_bytes: int | None
    date: str

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Tried:
        """Raises ValueError, KeyError or TypeError for what `dataclasses.asdict` did not make."""
        found = cls(
            machine=str(data["machine"]),
            slots=int(data["slots"]),
            kv_type=str(data["kv_type"]),
            drawn=float(data["drawn"]),
            read=float(data["read"]),
            trained=float(data["trained"]),
            trainer=str(data["trainer"]),
            inference_bytes=_count(data["inference_bytes"]),
            training_bytes=_count(data["training_bytes"]),
            date=str(data["date"]),
        )
        if not (found.drawn > 0 and found.read > 0 and found.trained >= 0 and found.slots > 0):
            raise ValueError(f"rates that cannot be: {data}")
        return found


def _count(value: Any) -> int | None:
    return None if value is None else int(value)


@dataclass(frozen=True, slots=True)
class Calibrated:
    """An estimate whose parts are corrected by what the try found: it knows how times depend on the settings, and the
    try how fast this machine is."""

    estimate: Speed
    drawn: float
    read: float
    trained: float
    """Factors on seconds."""

    def seconds(self, work: Work) -> float:
        drawn = dataclasses.replace(work, read=0, trained=0)
        read = dataclasses.replace(work, drawn=0, trained=0)
        trained = dataclasses.replace(work, drawn=0, read=0)
        return (
            self.drawn * self.estimate.seconds(drawn)
            + self.read * self.estimate.seconds(read)
            + self.trained * self.estimate.seconds(trained)
        )

    def load_seconds(self) -> float:
        return self.estimate.load_seconds()


def calibrated(tried: Tried, estimate: Callable[[int], Speed], slots: int) -> Calibrated:
    """`estimate(slots)`, corrected by the try. `estimate` is asked for the try's own slots too."""
    same = estimate(tried.slots)

    def factor(work: Work, rate: float) -> float:
        """Measured seconds over estimated ones; 1 for what was not tried."""
        return MANY / rate / same.seconds(work) if rate else 1.0

    return Calibrated(
        estimate(slots),
        drawn=factor(Work("try", drawn=MANY, sequences=MANY // NEW, prompt=PROMPT), tried.drawn),
        read=factor(Work("try", read=MANY), tried.read),
        trained=factor(Work("try", trained=MANY), tried.trained),
    )


def place(gguf: Path) -> Path:
    """Where the try of a GGUF is kept: another file in its place has another name. Raises OSError if there is none."""
    found = gguf.resolve()
    about = found.stat()
    name = digest("tried", {"path": str(found), "bytes": about.st_size, "changed": about.st_mtime_ns})
    return cache_root() / "plan" / f"{name}.json"


def read(gguf: Path) -> Tried | None:
    """What a try of this GGUF found, None where there was none or its record cannot be read."""
    try:
        return Tried.from_dict(json.loads(place(gguf).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None
