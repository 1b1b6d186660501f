"""What is to be exported, as the command line says it and as it crosses to the worker."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

TARGETS = ("gguf", "adapter", "merged", "ollama", "lmstudio", "hub-folder")
WITH_GGUF = frozenset({"gguf", "ollama", "lmstudio", "hub-folder"})
WITH_WEIGHTS = frozenset({"merged", "hub-folder"})
WITH_ADAPTER = frozenset({"adapter", "hub-folder"})
MAKE, WEIGHTS = "export", "export weights"
"""The two jobs of a worker."""
DEFAULT_FORMAT = "Q4_K_M"


@dataclass(frozen=True, slots=True)
class Spec:
    """One call of ``minisheep export``."""

    run: str
    round: int
    target: str
    work: str
    """A folder of this export alone, deleted afterwards."""
    format: str = DEFAULT_FORMAT
    """Of the GGUF; a key of `models.quantise.FORMATS`."""
    name: str = "model"
    """Safe as a file name: the base's name and the round."""
    title: str = "model"
    """For people."""
    base_id: str = ""
    """The base on the hub, where that is known."""
    licence: str = ""
    """What the base's licence means for the export."""
    prompts: int = 20
    threads: int = 0

    @property
    def output(self) -> Path:
        """What becomes the export."""
        return Path(self.work) / "export"

    @property
    def needs_weights(self) -> bool:
        return self.target in WITH_WEIGHTS

    @property
    def model_folder(self) -> Path:
        """Where the model's files go."""
        if self.target == "lmstudio":
            return self.output / "minisheep" / self.name
        return self.output / "model" if self.target == "hub-folder" else self.output

    @property
    def adapter_folder(self) -> Path:
        return self.model_folder / "adapter" if self.target == "hub-folder" else self.model_folder

    @property
    def gguf(self) -> Path:
        return self.model_folder / f"{self.name}-{self.format}.gguf"

    @property
    def report(self) -> Path:
        """What the worker found, as JSON."""
        return Path(self.work) / "report.json"

    def to_job(self, phase: str) -> dict[str, Any]:
        """The job of `desk.do`."""
        return {"phase": phase, **dataclasses.asdict(self)}

    @classmethod
    def from_job(cls, job: dict[str, Any]) -> Self:
        return cls(**{f.name: job[f.name] for f in dataclasses.fields(cls)})
