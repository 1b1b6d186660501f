"""What each verb measures, and on which sizes. Pure."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

VERBS: dict[str, tuple[str, ...]] = {
    "engine": ("engine",),
    "judge": ("judge",),
    "novelty": ("novelty",),
    "train": ("train",),
    "loop": ("engine", "help", "parent", "novelty", "judge", "train", "turnaround", "data", "records", "growth"),
}
"""The parts of each verb, in running order; ``loop`` has all of them."""

DEFAULT_MODEL = "smollm2-135m"
QUICK_SECONDS = 46.0
"""After this time `--quick` ends the part that is running, so that everything ends within 50 s."""
SECOND_MODEL = "gemma-3-270m"
"""A full ``loop`` trains it too where it is in the cache: its vocabulary of 262,144 is the hard case."""

NEEDS_MODEL = frozenset({"engine", "judge", "train", "turnaround", "data", "growth"})

FULL: dict[str, dict[str, int]] = {
    "engine": {"sequences": 32, "tokens": 64, "context": 512},
    "judge": {"pairs": 200, "context": 1024},
    "novelty": {"new": 200, "known": 10_000},
    "train": {"examples": 64, "epochs": 2, "batch": 16, "micro": 4, "max_length": 512},
    "data": {"per_round": 32, "context": 1024},
    "turnaround": {"examples": 8},
    "help": {"runs": 9},
    "parent": {"per_round": 200},
    "records": {"few": 1_000, "many": 100_000},
    "growth": {"few": 1_000, "many": 10_000},
}
QUICK: dict[str, dict[str, int]] = {
    "engine": {"sequences": 16, "tokens": 24, "context": 512},
    "judge": {"pairs": 3, "context": 1024},
    "novelty": {"new": 10, "known": 1_000},
    "train": {"examples": 12, "epochs": 1, "batch": 4, "micro": 4, "max_length": 256},
    "data": {"per_round": 2, "context": 1024},
    "turnaround": {"examples": 2},
    "help": {"runs": 3},
    "parent": {"per_round": 40},
    "records": {"few": 300, "many": 1_500},
    "growth": {"few": 20, "many": 60},
}
REPEATS = 3


@dataclass(frozen=True, slots=True)
class Options:
    """The flags that the user gave."""

    model: str = DEFAULT_MODEL
    quick: bool = False
    repeats: int = 0
    """Alternations; 0: `REPEATS`, or 1 when quick."""
    slots: int = 0
    threads: int = 0
    server: str = ""
    only: tuple[str, ...] = ()
    """The parts to measure; empty: all of the verb's."""


@dataclass(frozen=True, slots=True)
class Job:
    """One part, for one child process."""

    part: str
    model: str
    sizes: dict[str, int]
    repeats: int
    slots: int = 0
    threads: int = 0
    server: str = ""
    quick: bool = False
    folder: str = ""
    """A folder for the child's own files, removed afterwards; holds ``model.json`` where the part needs a model."""

    def to_job(self) -> dict[str, Any]:
        """For the worker, which reads it with `from_job`."""
        return {"phase": self.part, "job": dataclasses.asdict(self)}

    @classmethod
    def from_job(cls, job: dict[str, Any]) -> Job:
        return cls(**job["job"])


def jobs(verb: str, options: Options) -> list[Job]:
    """The jobs of a verb, in order. A full ``loop`` trains `SECOND_MODEL` too, unless the user chose a model."""
    sizes = QUICK if options.quick else FULL
    repeats = options.repeats or (1 if options.quick else REPEATS)
    found = []
    for part in VERBS[verb]:
        if options.only and part not in options.only:
            continue
        models = [options.model]
        if part == "train" and verb == "loop" and not options.quick and options.model == DEFAULT_MODEL:
            models.append(SECOND_MODEL)
        for model in models:
            found.append(
                Job(
                    part,
                    model if part in NEEDS_MODEL else "",
                    dict(sizes[part]),
                    repeats,
                    options.slots,
                    options.threads,
                    options.server,
                    options.quick,
                )
            )
    return found
