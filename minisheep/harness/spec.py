"""What is to be measured, as the command line says it and as it crosses to the worker."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Self

FRAMES = ("auto", "template", "plain")
PLAIN = "plain text"
"""How results call a prompt without a template; one may itself be called plain."""
EXTRA = 'pip install "minisheep[eval]"'
"""What brings the harness."""


@dataclass(frozen=True, slots=True)
class Spec:
    """One call of ``minisheep eval``. Either `run` (a folder) or `model` (a name or a file) is set."""

    out: str
    """Folder of the results."""
    tasks: tuple[str, ...]
    run: str = ""
    model: str = ""
    rounds: tuple[int, ...] = (0,)
    """0 is the base model."""
    data: dict[str, str] = field(default_factory=dict)
    """By task, a file of JSON lines in place of its dataset."""
    limit: int = 0
    """Items of each task; 0 means all."""
    shots: int | None = None
    """Examples shown in each prompt; None means as the task says."""
    max_tokens: int = 0
    """New tokens of an answer at most; 0 means as the task says."""
    frame: str = "auto"
    """auto: a run's template for all of its rounds; of a lone model, its template if it is an instruct model."""
    template: str = "auto"
    allow_code: bool = False
    offline: bool = False
    again: bool = False
    context: int = 2048
    slots: int = 0
    threads: int = 0

    def to_job(self) -> dict[str, Any]:
        """The job of `desk.do`."""
        return {"phase": "eval", **dataclasses.asdict(self)}

    @classmethod
    def from_job(cls, job: dict[str, Any]) -> Self:
        given = {f.name: job[f.name] for f in dataclasses.fields(cls)}
        return cls(**{**given, "tasks": tuple(given["tasks"]), "rounds": tuple(given["rounds"])})
