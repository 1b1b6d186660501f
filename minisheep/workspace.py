"""What a phase works with: the run's settings and words, its model, and one engine that is kept between phases."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from minisheep import config
from minisheep.config import Settings
from minisheep.data.texts import SeedTask, load_prompts, load_seeds
from minisheep.data.verifiable import load_items
from minisheep.engines.base import Engine, EngineInfo, StreamingEngine
from minisheep.errors import ModelFileError
from minisheep.machine.files import read_json
from minisheep.models.prepared import PreparedModel
from minisheep.records import Instruction
from minisheep.rules.prompts import Frame
from minisheep.rules.templates import Template
from minisheep.stages.asked import Judge
from minisheep.stages.exam import Exam, judge_for
from minisheep.store import RunFolder, read_records

if TYPE_CHECKING:
    from minisheep.engines.remote import RemoteEngine


class Workspace:
    """One run folder, opened for work. `close` frees the model."""

    def __init__(self, path: Path) -> None:
        self.folder = RunFolder(path)
        self.settings = config.make(config.read_toml(self.folder.settings))
        self._engines: dict[str, Engine] = {}
        """The one of this machine (``here``) and the one of a server (``there``), as far as they were asked for."""
        self._newest: Engine | None = None
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

        A server without a hook for adapters has the base alone: what needs an adapter then runs here. `ready` is told
        of a new engine, and of one that had to give up slots since it was told last.
        """
        at_server = self.settings.engine == "openai" and (adapter_round == 0 or bool(self.settings.engine_hook))
        return self._engine(adapter_round, at_server, ready)

    def measuring_engine(self, adapter_round: int, ready: Callable[[EngineInfo], None]) -> Engine:
        """The same for measuring: base and rounds on one engine, since another one's numbers differ."""
        return self._engine(adapter_round, self.settings.engine == "openai" and bool(self.settings.engine_hook), ready)

    def _engine(self, adapter_round: int, at_server: bool, ready: Callable[[EngineInfo], None]) -> Engine:
        adapter = self.folder.round(adapter_round).adapter_gguf if adapter_round else None
        if adapter is not None and not adapter.exists():
            raise ModelFileError(f"{adapter} is missing, so round {adapter_round + 1} cannot start from it.")
        where = "there" if at_server else "here"
        if where not in self._engines:
            opens = open_server if at_server else open_engine
            self._engines[where] = opens(self.settings, self.model.inference_gguf)
        engine = self._newest = self._engines[where]
        if engine.info != self._told:
            self._told = engine.info
            ready(self._told)
        engine.set_adapter(adapter)
        return engine

    @property
    def loaded(self) -> Engine | None:
        """The engine that was asked for last, if one was."""
        return self._newest

    def close(self) -> None:
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()
        self._newest = None


def open_server(settings: Settings, gguf: Path) -> RemoteEngine:
    """The engine at the server that `settings` name; of the GGUF, it reads the vocabulary.

    Raises `errors.UsageError` where no key is in the variable that was named.
    """
    from minisheep.engines.remote import RemoteEngine
    from minisheep.engines.remote_server import server
    from minisheep.engines.vocabulary import Vocabulary

    return RemoteEngine(
        Vocabulary.from_file(gguf),
        server(settings),
        settings.engine_model,
        slots=settings.slots,
        context=settings.context,
        hook=settings.engine_hook,
    )


def open_engine(settings: Settings, gguf: Path) -> StreamingEngine:
    """The engine of this machine, on a GGUF. The fake one needs no file."""
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
