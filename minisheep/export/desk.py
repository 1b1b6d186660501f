"""The worker's part: makes the files of an export, then asks run and export the same things.

Two jobs, each in a process of its own: `spec.MAKE` uses llama.cpp, `spec.WEIGHTS` uses transformers, which would hold a
second copy of the model in memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from minisheep import config, faults
from minisheep.config import Settings
from minisheep.errors import ExportError, RunMismatchError, Stopped
from minisheep.events import Emit, Note, PhaseStarted, Progress
from minisheep.export.check import Check
from minisheep.export.families import chat_template, take_apart
from minisheep.export.llama import Answer
from minisheep.export.spec import MAKE, Spec
from minisheep.machine.files import disk_errors, write_json
from minisheep.models import facts, prepare
from minisheep.models.cache import sha256_file
from minisheep.models.gguf_header import read_header
from minisheep.models.prepared import PreparedModel
from minisheep.store import RunFolder

TOKENS = 128
"""Of an answer at most; the run's own budget where that is smaller."""


def do(job: dict[str, Any], emit: Emit, should_stop: Callable[[], bool]) -> None:
    """Do a job that `Spec.to_job` made, in a worker."""
    spec = Spec.from_job(job)
    work = Work(spec, emit, should_stop)
    with disk_errors(spec.output):
        if job["phase"] == MAKE:
            from minisheep.export import make

            make.make(work)
        else:
            from minisheep.export import make_weights

            make_weights.make(work)


class Work:
    """What both jobs know: the run, its model, its template, and where the files go."""

    def __init__(self, spec: Spec, emit: Emit, should_stop: Callable[[], bool]) -> None:
        """Raises `errors.MinisheepError` for a model that cannot be had, or is not the run's."""
        self.spec, self.emit, self._should_stop = spec, emit, should_stop
        self.folder = RunFolder(Path(spec.run))
        self.round = self.folder.round(spec.round)
        self.settings: Settings = config.make(config.read_toml(self.folder.settings))
        needs = ("gguf", "inference_gguf", "weights") if spec.needs_weights else ("gguf", "inference_gguf")
        self.model = prepare.found_again(PreparedModel.read(self.folder.model), self.settings, emit, *needs)
        if sha256_file(self.model.gguf) != self.model.gguf_sha256:
            raise RunMismatchError(
                f"{self.model.gguf} is not the file that the run began with.", "Restore it, and export again."
            )
        self.header = read_header(self.model.gguf)
        self.template = self.model.template
        self.tokens = min(TOKENS, self.settings.eval_max_tokens)
        self.checks: list[Check] = []

    @property
    def machine(self) -> dict[str, int | str]:
        """Options of an engine."""
        return {
            "threads": self.spec.threads or self.settings.threads,
            "gpu_layers": self.settings.gpu_layers,
            "kv_type": self.settings.kv_type,
        }

    @property
    def bos(self) -> str:
        return facts.bos_text(self.header)

    @property
    def answers_file(self) -> Path:
        return Path(self.spec.work) / "answers.json"

    @property
    def words(self) -> bool:
        """Whether the frame's labels are plain text."""
        return self.template.name == "plain"

    def chat_template(self, *, adds_bos: bool) -> str:
        """In Jinja: the model's own, or that of the frame that the run was given.

        `adds_bos` where the vocabulary puts the begin token before every text.
        """
        if self.template.name == "model":
            return facts.chat_template(self.header)
        frame = take_apart(self.template, self.bos)
        return chat_template(frame, self.bos if adds_bos or frame.bos else "")

    def step(self, what: str) -> Callable[[int, int], None]:
        """Begins a part of the work; returns what hears how much of it is done."""
        self.emit(PhaseStarted(self.spec.round, what, unit="steps"))

        def tell(done: int, total: int) -> None:
            faults.point("export")
            if self._should_stop():
                raise Stopped("Stopped. Nothing was exported.")
            self.emit(Progress(self.spec.round, what, done, total))

        return tell

    def note(self, text: str) -> None:
        self.emit(Note(text))

    def judge(self, where: str, found: Sequence[Check]) -> None:
        """Tell and keep what was found. Raises `errors.ExportError` where a check failed."""
        for one in found:
            self.checks.append(Check(f"{where}: {one.name}", one.passed, one.text))
            self.note(f"{where}, {one.name}: {'ok' if one.passed else 'FAILED'}: {one.text}.")
        self.report()
        failed = [one for one in found if not one.passed]
        if failed:
            told = "; ".join(f"{one.name}: {one.text}" for one in failed)
            raise ExportError(
                f"The {where} is not what was trained ({told}). Nothing was exported.",
                "A wider --quantise loses less; the run itself is unchanged.",
            )

    def report(self) -> None:
        """Adds to the report what this job found."""
        path = self.spec.report
        before = json.loads(path.read_bytes()) if path.exists() else {"checks": []}
        known = [row for row in before["checks"] if row["name"] not in {one.name for one in self.checks}]
        rows = [{"name": one.name, "passed": one.passed, "text": one.text} for one in self.checks]
        write_json(path, {"checks": [*known, *rows]})

    def answers(self) -> list[Answer]:
        """What the run answers, as the first job stored it."""
        return [Answer.from_dict(row) for row in json.loads(self.answers_file.read_bytes())]
