"""What a phase works with: the run's settings and words, its model, and one engine that is kept between phases."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from minisheep import config
from minisheep.config import Settings
from minisheep.data.texts import SeedTask, load_prompts, load_seeds
from minisheep.data.verifiable import load_items
from minisheep.engines.base import Engine, EngineInfo, StreamingEngine
from minisheep.errors import ModelFileError
from minisheep.models.prepared import PreparedModel
from minisheep.models.template import Template
from minisheep.records import Instruction
from minisheep.rules.prompts import Frame
from minisheep.stages.asked import Judge
from minisheep.stages.exam import Exam, judge_for
from minisheep.store import RunFolder, read_json, read_records


class Workspace:
    """One run folder, opened for work. `close` frees the model."""

    def __init__(self, path: Path) -> None:
        self.folder = RunFolder(path)
        self.settings = config.make(config.read_toml(self.folder.settings))
        self._engine: Engine | None = None
        self._told: EngineInfo | None = None

    @cached_property
    def seeds(self) -> list[SeedTask]:
        return load_seeds(self.settings.seeds)

    @cached_property
    def texts(self) -> dict[str, str]:
        return load_prompts(self.settings.prompts)

    @property
    def evaluation_prompts(self) -> list[str]:
        """What the evaluation asks beside held-out seeds: no round may train on it."""
        return [item.prompt for item in load_items()]

    @cached_property
    def model(self) -> PreparedModel:
        return PreparedModel.read(self.folder.model)

    @property
    def template(self) -> Template:
        """The one template of the run, for training and inference."""
        return self.model.template

    def frame(self, round: int) -> Frame:
        """How the model that makes a round's data is addressed: an untrained base in plain text, others by template."""
        return Frame(None if round == 1 and self.model.kind == "base" else self.template)

    def judge_frame(self, round: int) -> Frame:
        """How the judge of a round is addressed: the base, if it judges, as it would be before any training."""
        return self.frame(1 if self.settings.judge_model == "base" else round)

    def judge_engine(self, round: int, ready: Callable[[EngineInfo], None]) -> Engine:
        """The judge of a round: the model that made its data, or the base (as the paper's public code has it)."""
        return self.engine(0 if self.settings.judge_model == "base" else round - 1, ready)

    def judge(self, round: int) -> Judge:
        """The judge that passed the round's exam, or the one that the settings name."""
        path = self.folder.round(round).exam
        exam = Exam.from_dict(read_json(path)) if path.exists() else None
        return judge_for(self.settings, round, exam)

    def earlier_instructions(self, round: int) -> list[Instruction]:
        """Everything that the run kept in the rounds before."""
        return [i for r in range(1, round) for i in read_records(self.folder.round(r).instructions, Instruction)]

    def engine(self, adapter_round: int, ready: Callable[[EngineInfo], None]) -> Engine:
        """The engine with the adapter of a round hot-loaded; 0 is the bare base.

        `ready` is told of a new engine, and of one that had to give up slots since it was told last.
        """
        adapter = self.folder.round(adapter_round).adapter_gguf if adapter_round else None
        if adapter is not None and not adapter.exists():
            raise ModelFileError(f"{adapter} is missing, so round {adapter_round + 1} cannot start from it.")
        if self._engine is None:
            self._engine = open_engine(self.settings, self.model.inference_gguf)
        if self._engine.info != self._told:
            self._told = self._engine.info
            ready(self._told)
        self._engine.set_adapter(adapter)
        return self._engine

    @property
    def loaded(self) -> Engine | None:
        """The engine, if it has been asked for."""
        return self._engine

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None


def open_engine(settings: Settings, gguf: Path) -> StreamingEngine:
    """The engine that `settings` name, on a GGUF. The fake one needs no file."""
    if settings.engine == "fake":
        from minisheep.engines.fake import FakeEngine

        return FakeEngine()
    from minisheep.engines.llamacpp import LlamaCppEngine

    return LlamaCppEngine(
        gguf,
        slots=settings.slots,
        context=settings.context,
        threads=settings.threads,
        gpu_layers=settings.gpu_layers,
        kv_type=settings.kv_type,
    )
