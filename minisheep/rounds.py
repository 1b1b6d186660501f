"""One round of a run as plain data, for whoever works with it from Python."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minisheep.events import TrainStep
from minisheep.machine.files import read_json
from minisheep.records import Draft, Example, Instruction, Rejection, Response, Verdict
from minisheep.store import RoundFolder, read_records


@dataclass(frozen=True, slots=True)
class Round:
    """One round's results; 0 is the base model. Every property reads the folder anew, and what is not there is empty.

    Records and JSON files raise `errors.CorruptRunError` where they are damaged.
    """

    number: int
    folder: RoundFolder

    @property
    def drafts(self) -> list[Draft]:
        """Raw lists of tasks, as the model wrote them; in the order in which they were finished."""
        return read_records(self.folder.drafts, Draft)

    @property
    def instructions(self) -> list[Instruction]:
        return read_records(self.folder.instructions, Instruction)

    @property
    def responses(self) -> list[Response]:
        return read_records(self.folder.responses, Response)

    @property
    def verdicts(self) -> list[Verdict]:
        return read_records(self.folder.verdicts, Verdict)

    @property
    def kept(self) -> list[Example]:
        return read_records(self.folder.kept, Example)

    @property
    def rejected(self) -> list[Rejection]:
        return read_records(self.folder.rejected, Rejection)

    @property
    def funnel(self) -> dict[str, int]:
        """How many things were left after each stage, in order, as far as the round has come."""
        from minisheep.report.funnel import stages
        from minisheep.report.gather import gather_round

        return {name: n for name, n in stages(gather_round(self.folder.path.parent, self.number)) if n is not None}

    @property
    def dropped(self) -> dict[str, int]:
        """How many each rule dropped, by ``stage.rule``, the most first."""
        from minisheep.report.funnel import dropped
        from minisheep.report.gather import gather_round

        return dropped(gather_round(self.folder.path.parent, self.number))

    @property
    def exam(self) -> dict[str, Any]:
        """The judge's exam, as `stages.exam.Exam.to_dict` writes it."""
        return _object(self.folder.exam)

    @property
    def judge_health(self) -> dict[str, Any]:
        """The signs that `stages.judge_health.judge_health` lists."""
        return _object(self.folder.health)

    @property
    def training(self) -> dict[str, Any]:
        """What the training counted: examples, steps, tokens, losses in nats per token, seconds."""
        return _object(self.folder.training)

    @property
    def steps(self) -> list[TrainStep]:
        """The steps of the training that made the adapter."""
        from minisheep.report.gather import gather_round

        return list(gather_round(self.folder.path.parent, self.number).steps)

    @property
    def metrics(self) -> dict[str, Any]:
        return _object(self.folder.metrics)

    @property
    def answers(self) -> list[dict[str, Any]]:
        """Greedy answers to held-out tasks: ``task`` (its id), ``instruction``, ``input``, ``answer``, ``finish``."""
        from minisheep.report.reading import Reader

        return Reader(self.folder.path).objects(self.folder.answers)

    @property
    def adapter(self) -> Path:
        """Plain PEFT folder."""
        return self.folder.adapter

    @property
    def adapter_gguf(self) -> Path:
        return self.folder.adapter_gguf


def _object(path: Path) -> dict[str, Any]:
    return dict(read_json(path)) if path.exists() else {}
