"""What is measured: one model and the adapters of its rounds, on one engine."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from minisheep import config, installed
from minisheep.config import Settings
from minisheep.engines.base import Engine
from minisheep.errors import ModelFileError
from minisheep.events import Emit, EngineReady
from minisheep.harness.spec import PLAIN, Spec
from minisheep.models import prepare
from minisheep.models.prepared import PreparedModel
from minisheep.rules.templates import Template
from minisheep.store import RunFolder
from minisheep.workspace import open_engine


class Subject:
    """A run's model, or a lone one, fetched and checked. The engine is loaded when it is first asked for."""

    def __init__(self, spec: Spec, emit: Emit) -> None:
        """Raises `errors.MinisheepError` for a model that cannot be had."""
        self._spec = spec
        self._folder = RunFolder(Path(spec.run)) if spec.run else None
        self._engine: Engine | None = None
        if self._folder is not None:
            stored = config.make(config.read_toml(self._folder.settings))
            self.settings = self._with_machine(stored)
            stored_model = PreparedModel.read(self._folder.model)
            self.model = prepare.found_again(stored_model, self.settings, emit, "inference_gguf")
        else:
            self.settings = self._with_machine(config.make({"model": spec.model, "template": spec.template}))
            self.model = prepare.for_inference(self.settings, emit)

    @property
    def template(self) -> Template | None:
        """The frame of every round: the same for all, so that a difference is the adapter's. None for plain text."""
        frame = self._spec.frame
        if frame == "auto":
            frame = "template" if self._folder is not None or self.model.kind == "instruct" else "plain"
        return self.model.template if frame == "template" else None

    def identity(self, task: str, round: int, data: str) -> dict[str, Any]:
        """Everything that a result depends on; `data` is the digest of a file, or empty."""
        adapter = self.adapter(round)
        return {
            "task": task,
            "model": self.model.gguf_sha256,
            "inference": self.model.inference_gguf.name,
            "adapter": "" if adapter is None else hashlib.sha256(adapter.read_bytes()).hexdigest(),
            "frame": f"template {self.template.name}" if self.template else PLAIN,
            "data": data,
            "limit": self._spec.limit,
            "shots": self._spec.shots,
            "max_tokens": self._spec.max_tokens,
            "context": self.settings.context,
            "harness": installed.versions(["lm_eval"]).get("lm_eval", ""),
        }

    def adapter(self, round: int) -> Path | None:
        """Raises `errors.ModelFileError` where a round's adapter is gone."""
        if round == 0 or self._folder is None:
            return None
        found = self._folder.round(round).adapter_gguf
        if not found.exists():
            raise ModelFileError(f"{found} is missing, so round {round} cannot be measured.", "Choose another --round.")
        return found

    def engine(self, round: int, emit: Emit) -> Engine:
        """The engine with a round's adapter hot-loaded; 0 is the bare model."""
        adapter = self.adapter(round)
        if self._engine is None:
            self._engine = open_engine(self.settings, self.model.inference_gguf)
            emit(EngineReady(self._engine.info.backend, f"{self._engine.info.description}, {self._slots()}"))
        self._engine.set_adapter(adapter)
        return self._engine

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _slots(self) -> str:
        assert self._engine is not None
        return f"{self._engine.info.slots} sequences of {self._engine.info.context} tokens"

    def _with_machine(self, settings: Settings) -> Settings:
        """A run's context may be too small for a task's prompt and answer, so it counts only where it is larger."""
        given = {
            "context": max(settings.context, self._spec.context),
            "slots": self._spec.slots or settings.slots,
            "threads": self._spec.threads or settings.threads,
        }
        return settings.model_copy(update=given)
