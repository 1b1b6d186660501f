"""What every part of the benchmark works with: its job, its model and the seed tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks.plan import Job
from minisheep import config
from minisheep.config import Settings
from minisheep.data.seed_tasks import SeedTask, load_prompts, load_seeds
from minisheep.machine import cpu
from minisheep.models.prepared import PreparedModel
from minisheep.rules.prompts import Frame


@dataclass(frozen=True, slots=True)
class BenchModel:
    """A prepared model, and what its inference file is."""

    prepared: PreparedModel

    @property
    def inference_gguf(self) -> Path:
        return self.prepared.inference_gguf

    @property
    def format(self) -> str:
        """``smollm2-135m as b179...-q8_0.gguf``: name of the model and of the file that llama.cpp maps."""
        return f"{self.prepared.name} in {self.prepared.inference_gguf.name}"


class BenchSetup:
    """What one job needs; each property is computed at its first use."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.folder = Path(job.folder)
        self.threads = job.threads or cpu.cores()

    @property
    def model_file(self) -> Path:
        return self.folder / "model.json"

    @cached_property
    def model(self) -> BenchModel:
        return BenchModel(PreparedModel.read(self.model_file))

    @cached_property
    def seeds(self) -> Sequence[SeedTask]:
        return load_seeds()

    @cached_property
    def texts(self) -> dict[str, str]:
        return load_prompts()

    @property
    def frame(self) -> Frame:
        """The prompt frame of a first round."""
        prepared = self.model.prepared
        return Frame(None if prepared.kind == "base" else prepared.template)

    def settings(self, **given: object) -> Settings:
        """The preset `imitation`, which a CPU finishes in minutes, changed by `given`."""
        speed = {"model": self.job.model or "smollm2-135m", "slots": self.job.slots, "threads": self.threads}
        return config.make({**speed, **given}, "imitation")
