"""What a round trains on and by, read from a run folder: the same examples, in the same words, as our own training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minisheep.errors import ModelFileError, UsageError
from minisheep.export.choose import hub_id, known
from minisheep.models.prepared import PreparedModel
from minisheep.rules.templates import Prompt, Segment, Template
from minisheep.run.reading import load_run, resolve_round
from minisheep.stages.train import rounds_trained_on, starts_from, together, train_job, train_settings
from minisheep.store import RunFolder
from minisheep.trainers.base import TrainExample, TrainSettings
from minisheep.trainers.tokens import split, steps_per_epoch, usable_warmup


@dataclass(frozen=True, slots=True)
class Job:
    """A training, ready to be written for another program."""

    run: Path
    round: int
    base: str
    """An id on the hub, or a folder of weights."""
    template: Template
    settings: TrainSettings
    train: tuple[TrainExample, ...]
    validation: tuple[TrainExample, ...]
    start: Path | None
    """PEFT folder that the training begins with, if any."""
    left_out: int
    """Examples whose text holds what other tokenizers would take for a special token."""

    @property
    def warmup(self) -> int:
        """Steps of warm-up, fewer where the run is short."""
        total = steps_per_epoch(len(self.train), self.settings.batch_size) * self.settings.epochs
        return usable_warmup(self.settings.warmup_steps, total)


def read_job(path: str, round: str = "last", base: str = "") -> Job:
    """The training of a round whose filter is done: a number, ``last`` or ``best``. `base` replaces the model's name.

    Raises `errors.UsageError` where there is none, and `errors.ModelFileError` where the model's file is gone.
    """
    run = load_run(path)
    settings, folder = run.settings, RunFolder(run.path)
    if settings.engine == "fake":
        raise UsageError(f"{path} was made by the fake engine: there is nothing to train.", "Nothing was written.")
    ready = [r.number for r in run.rounds if f"round-{r.number}/filter" in run.phases_done]
    if not ready:
        raise UsageError(f"{path}: no round has kept data.", f"`minisheep filter --run {path}` ends a round's data.")
    number = resolve_round(run, round, ready, "filtered")
    model = PreparedModel.read(folder.model)
    rounds = rounds_trained_on(settings.strategy, number)
    examples = together([run.round(r).kept for r in rounds])
    before = starts_from(settings.strategy, number)
    made = train_job(
        settings, model.template, number, examples,
        gguf=model.gguf, weights=model.weights, output=Path(), scratch=Path(),
    )  # fmt: skip
    safe = [example for example in made.examples if not looks_special(example, model.template)]
    if not safe:
        raise UsageError(f"{path} kept nothing in round {number} that could be handed over.", "Nothing was written.")
    begin = begin_text(model.gguf)
    framed = [TrainExample(begun(example.prompt, begin), example.completion) for example in safe]
    chosen = train_settings(settings, number)
    train, held = split(len(framed), chosen.validation, chosen.seed)
    return Job(
        run=run.path,
        round=number,
        base=base or hub_id(known(settings)) or str(model.weights.absolute()),
        template=model.template,
        settings=chosen,
        train=tuple(framed[index] for index in train),
        validation=tuple(framed[index] for index in held),
        start=folder.round(before).adapter.absolute() if before else None,
        left_out=len(made.examples) - len(safe),
    )


def looks_special(example: TrainExample, template: Template) -> bool:
    """Whether text that comes from data holds a mark of the template: others would read it as that special token."""
    marks = set(re.findall(r"<[^<>\s]+>|<\|.*?\|>", template.before + template.between + template.end))
    data = "\n".join(s.text for s in (*example.prompt, *example.completion) if not s.special)
    return any(mark in data for mark in marks)


def begun(prompt: Prompt, begin: str) -> Prompt:
    """A prompt with the begin-of-text token that our own training puts before it, unless it brings one."""
    text = "".join(segment.text for segment in prompt)
    return prompt if not begin or text.startswith(begin) else (Segment(begin, True), *prompt)


def begin_text(gguf: Path) -> str:
    """The text of the token that this model wants before every text; empty where it wants none.

    Raises `errors.ModelFileError`.
    """
    from minisheep.engines.vocabulary import Vocabulary
    from minisheep.models.facts import model_facts
    from minisheep.models.gguf_header import read_header

    if not gguf.exists():
        raise ModelFileError(f"{gguf} is gone, and its tokenizer is needed.", "`minisheep pull` fetches it again.")
    facts = model_facts(read_header(gguf))
    with Vocabulary.from_file(gguf) as vocabulary:
        return facts.bos_text if vocabulary.add_bos else ""


def text_of(parts: Sequence[Segment]) -> str:
    return "".join(part.text for part in parts)
