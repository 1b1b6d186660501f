"""What a phase works with: the run's settings, texts, model and engine, its report, and what an earlier start left."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from minisheep import config
from minisheep.data.constraint_kinds import stored_catalogue
from minisheep.data.seed_tasks import SeedTask, load_items, load_prompts, load_seeds, load_wording
from minisheep.engines.base import Engine, EngineInfo
from minisheep.errors import CorruptRunError, ModelFileError, TrainerFailedError
from minisheep.formats.gguf_header import read_header
from minisheep.machine import jinja_child
from minisheep.models.prepared import PreparedModel
from minisheep.open_engines import open_engine, open_server, put_adapter
from minisheep.rules.constraints import Catalogue, curriculum
from minisheep.rules.prompts import Frame, user_text
from minisheep.rules.templates import Conversation, Template, conversation
from minisheep.rules.wording import Wording
from minisheep.run.folder import RunFolder, each_record, read_records
from minisheep.run.reading import UNREADABLE, read_shaped
from minisheep.run.records import Check, Draft, Instruction, Record, Rejection, Verdict
from minisheep.run.typed import EXAM
from minisheep.stages.constrain import tally
from minisheep.stages.exam import Exam, judge_for
from minisheep.stages.generate import Harvest
from minisheep.stages.judge import Judge
from minisheep.stages.respond import Asking
from minisheep.trainers.choose_trainer import failed_with


class Workspace:
    """One run folder, opened for work. `close` frees the model.

    The engine of this machine takes `slot_share` of the slots that its memory would allow.
    """

    def __init__(self, path: Path, slot_share: float = 1.0) -> None:
        self.slot_share = slot_share
        self.folder = RunFolder(path)
        self.settings = config.make(config.read_toml(self.folder.settings))
        self._engines: dict[str, Engine] = {}
        """The engine of this machine (``here``) and that of a server (``there``), once they were needed."""
        self.loaded: Engine | None = None
        """The engine used last, if any."""
        self._reported: EngineInfo | None = None

    @cached_property
    def seeds(self) -> list[SeedTask]:
        return load_seeds(self.settings.seeds, self.settings.language)

    @cached_property
    def texts(self) -> dict[str, str]:
        return load_prompts(self.settings.prompts, self.settings.language)

    @cached_property
    def wording(self) -> Wording:
        return load_wording(self.settings.prompts, self.settings.language)

    @property
    def evaluation_prompts(self) -> list[str]:
        """The evaluation's instructions beside held-out seeds: no round may train on them."""
        return [item.prompt for item in load_items(language=self.settings.language)]

    @cached_property
    def model(self) -> PreparedModel:
        return PreparedModel.read(self.folder.model)

    def give_up_trainer(self, error: TrainerFailedError) -> TrainerFailedError:
        """Note in model.json that training goes through PEFT from now on, where the user left the choice to us.

        Unsloth has changed this process's libraries, so PEFT needs another: returns the error that says so.
        """
        if self.settings.trainer != "auto":
            return error
        reason = error.message.rstrip(".")
        changed = dataclasses.replace(self.model, trainer="peft", trainer_failed=f"{reason} ({failed_with()})")
        changed.write(self.folder.model)
        return TrainerFailedError(
            f"{reason}. Training goes through PEFT, in 4-bit (NF4), from now on.", "Give the same command again."
        )

    @property
    def template(self) -> Template:
        """The one template of the run, for training and inference."""
        return self.model.template

    def frame(self, round: int) -> Frame:
        """The frame for the model that makes a round's data: plain text for an untrained base, else the template."""
        return Frame(None if round == 1 and self.model.kind == "base" else self.template, self.wording)

    def judge_frame(self, round: int) -> Frame:
        """The frame for the judge of a round; for the base, if it judges, as before any training."""
        return self.frame(1 if self.settings.judge_model == "base" else round)

    def judge_engine(self, round: int, ready: Callable[[EngineInfo], None]) -> Engine:
        """The judge of a round: the model that made its data, or the base (as the paper's public code has it)."""
        return self.engine(0 if self.settings.judge_model == "base" else round - 1, ready)

    @cached_property
    def conversation(self) -> Conversation:
        return conversation_of(self.model)

    @cached_property
    def catalogue(self) -> Catalogue | None:
        """The constraints of the run, as it stored them; None for a run without."""
        if not self.settings.constraints:
            return None
        return stored_catalogue(read_shaped(self.folder.constraints, dict[str, Any]), str(self.folder.constraints))

    def asking(self, round: int, catalogue: Catalogue | None = None) -> Asking:
        """How the instructions of a round are put; solved tasks are made with the functions of `catalogue`."""
        known = catalogue or self.catalogue
        earlier = [tally(each_record(self.folder.round(r).checks, Check)) for r in range(1, round)]
        frame = self.frame(1 if self.settings.answer_model == "base" else round)
        return Asking(
            self.settings,
            round,
            frame,
            self.seeds,
            # Read from the model's file, which only runs that show turns need for it.
            self.conversation if self.settings.show == "every" and frame.template is not None else None,
            known,
            curriculum(known, earlier) if known is not None else {},
        )

    def answer_engine(self, round: int, ready: Callable[[EngineInfo], None]) -> Engine:
        """The model that answers in a round: the round's own, or the base."""
        return self.engine(0 if self.settings.answer_model == "base" else round - 1, ready)

    def judge(self, round: int) -> Judge:
        """The judge that passed the round's exam, or the one that the settings name."""
        path = self.folder.round(round).exam
        exam = read_exam(path) if path.exists() else None
        return judge_for(self.settings, round, exam)

    def earlier_instructions(self, round: int) -> list[Instruction]:
        """Everything that the run kept in the rounds before."""
        return [i for r in range(1, round) for i in read_records(self.folder.round(r).instructions, Instruction)]

    def engine(self, adapter_round: int, ready: Callable[[EngineInfo], None]) -> Engine:
        """The engine with the adapter of a round hot-loaded; 0 is the bare base.

        A server without a hook for adapters has only the base: what needs an adapter then runs here. `ready` is called
        for a new engine, and for one that has given up slots since.
        """
        at_server = self.settings.engine == "openai" and (adapter_round == 0 or bool(self.settings.engine_hook))
        return self._engine(self._adapter(adapter_round), at_server, ready)

    def measuring_engine(self, adapter_round: int, ready: Callable[[EngineInfo], None]) -> Engine:
        """The engine for measuring: the same for base and rounds, since numbers of two engines differ."""
        return self.measuring_engine_with(self._adapter(adapter_round), ready)

    def measuring_engine_with(self, adapter: Path | None, ready: Callable[[EngineInfo], None]) -> Engine:
        """The same with any adapter GGUF, in a folder like a round's."""
        return self._engine(adapter, self.settings.engine == "openai" and bool(self.settings.engine_hook), ready)

    def _adapter(self, round: int) -> Path | None:
        return adapter_of(self.folder, round, f"so round {round + 1} cannot start from it")

    def _engine(self, adapter: Path | None, at_server: bool, ready: Callable[[EngineInfo], None]) -> Engine:
        where = "there" if at_server else "here"
        if where not in self._engines:
            gguf = self.model.inference_gguf
            self._engines[where] = (
                open_server(self.settings, gguf, self.folder.path)
                if at_server
                else open_engine(self.settings, gguf, self.slot_share)
            )
        engine = self.loaded = self._engines[where]
        if engine.info != self._reported:
            self._reported = engine.info
            ready(engine.info)
        put_adapter(engine, adapter)
        return engine

    def close(self) -> None:
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()
        self.loaded = None


def adapter_of(folder: RunFolder, round: int, outcome: str, fix: str = "") -> Path | None:
    """The adapter GGUF of a round, None for the base; raises `errors.ModelFileError` where it is missing, with what
    that means (`outcome`)."""
    adapter = folder.round(round).adapter_gguf if round else None
    if adapter is not None and not adapter.exists():
        raise ModelFileError(f"{adapter} is missing, {outcome}.", fix)
    return adapter


def conversation_of(model: PreparedModel) -> Conversation:
    """How the run's template frames several turns; the template ``model`` is read from the model's file."""
    if model.template.name != "model":
        return conversation(model.template, "", {})
    from minisheep.formats.model_facts import chat_template, special_tokens

    header = read_header(model.inference_gguf)
    return conversation(model.template, chat_template(header), special_tokens(header), jinja_child.render)


T = TypeVar("T")
R = TypeVar("R")

BATCH = 1000
"""Records that an engine is asked for at once: enough that its slots are rarely idle at the end of a batch, and few
enough that their prompts take little memory in a round of any size."""


def in_batches(ask: Callable[[list[T]], Iterator[R]], items: list[T]) -> Iterator[R]:
    """What `ask` gives for at most `BATCH` items at a time."""
    for start in range(0, len(items), BATCH):
        yield from ask(items[start : start + BATCH])


@contextmanager
def closing(items: Iterator[Any]) -> Iterator[Iterator[Any]]:
    """Closes an engine's iterator, so that what is still in flight is dropped."""
    try:
        yield items
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()


def replay(harvest: Harvest, drafts: dict[int, Draft], kept: list[Instruction], rejected: list[Rejection]) -> set[str]:
    """Take over what was decided before an interruption, so that no old pair is compared again.

    Every draft leaves a record, and in order, so all but the last that did are decided in full: they are taken out of
    `drafts`. Returns the ids of those records on disk whose draft must be read again.
    """
    parents = {record.draft for record in kept} | {record.parent for record in rejected if record.stage == "generate"}
    decided: list[Draft] = []
    while (draft := drafts.get(len(decided))) is not None and draft.id in parents:
        decided.append(draft)
    for draft in decided[:-1]:
        del drafts[draft.index]
    settled = {draft.id for draft in decided[:-1]}
    harvest.drafts += len(settled)
    harvest.kept += [record for record in kept if record.draft in settled]
    harvest.rejected += [record for record in rejected if record.parent in settled]
    for record in harvest.kept:
        harvest.novelty.add(user_text(record.instruction, record.input))
    return {r.id for r in kept if r.draft not in settled} | {r.id for r in rejected if r.parent not in settled}


def fresh(records: Sequence[Record], on_disk: set[str]) -> list[dict[str, Any]]:
    """Those that an interrupted run has not written yet."""
    return [record.to_dict() for record in records if record.id not in on_disk]


def read_exam(path: Path) -> Exam:
    """The exam in a file. Raises `errors.CorruptRunError`."""
    try:
        return Exam.from_dict(read_shaped(path, EXAM))
    except UNREADABLE as error:
        fix = "Restore it from a copy; `minisheep status RUN` may say what makes it again."
        raise CorruptRunError(f"{path} is damaged: {error!r}.", fix) from None


def verdicts_without_raw(path: Path) -> list[Verdict]:
    """The verdicts of a file without their raw numbers, which take most of their memory and decide nothing."""
    verdicts: list[Verdict] = []
    for verdict in each_record(path, Verdict):
        verdict.raw.clear()
        verdicts.append(verdict)
    return verdicts
