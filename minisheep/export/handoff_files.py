"""`minisheep handoff`: a round's training as files for Axolotl or LLaMA-Factory, all of them or none.

The examples and their words are those of our own training; only the framing of texts differs.

Axolotl gets template-free pairs (its type ``input_output``) in the pieces in which we tokenise them. It tokenises piece
by piece and adds nothing, so the ids are those of our own training, except for vocabularies that put a blank before
each text. Keys are those of its schemas (axolotl.utils.schemas.config).

LLaMA-Factory gets pairs with the template already applied, and its template ``empty``, which adds nothing: not even an
end, so each answer ends with the run's own end of text. It tokenises a prompt as one text, where we tokenise its
pieces. With templates of special tokens the ids are the same; with ``plain``, the blank before the user's words may
join their first word. Keys are those of its hparams.

A round with a preference loss is handed over as preference pairs: prompt, chosen and rejected as texts with the
template applied. Both programs train on them with TRL, where ORPO's likelihood counts the prompt too (Axolotl) or is a
mean of each answer's own (LLaMA-Factory). Axolotl's answers end with the model's own end of text in any case.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from minisheep.api import load_run, resolve_round
from minisheep.data.seed_tasks import load_seeds
from minisheep.errors import ModelFileError, UsageError
from minisheep.export.export_choice import hub_id, known
from minisheep.machine.worker import WorkerProcess
from minisheep.models.prepared import PreparedModel
from minisheep.pairing import read_pairs
from minisheep.rules.plain_text import shell
from minisheep.rules.templates import Prompt, Segment, Template
from minisheep.run.events import Emit
from minisheep.run.files import publish, write_atomic
from minisheep.run.folder import RunFolder
from minisheep.stages.train import rounds_trained_on, starts_from, together, train_job
from minisheep.trainers.base import TrainExample, TrainSettings, split, steps_per_epoch, usable_warmup

AXOLOTL_CONFIG = "axolotl.yaml"
LLAMAFACTORY_CONFIG = "llamafactory.yaml"
TRAIN, VALIDATION = "minisheep_train", "minisheep_validation"
BEGIN = "minisheep.export.handoff_files:find_begin"


@dataclass(frozen=True, slots=True)
class HandoffJob:
    """A round's training, read from a run folder."""

    run: Path
    round: int
    base: str
    """An id on the hub, or a folder of weights."""
    template: Template
    settings: TrainSettings
    train: tuple[TrainExample, ...]
    validation: tuple[TrainExample, ...]
    start: Path | None
    """PEFT folder that the training starts from, if any."""
    left_out: int
    """Examples whose text other tokenizers would take for a special token."""
    unpaired: int = 0
    """Examples that our own training learns from, but that have no rejected answer, as these files must."""

    @property
    def preference(self) -> bool:
        return self.settings.loss != "sft"

    @property
    def warmup(self) -> int:
        """Steps of warm-up, fewer if the training is short."""
        total = steps_per_epoch(len(self.train), self.settings.batch_size) * self.settings.epochs
        return usable_warmup(self.settings.warmup_steps, total)


def read_job(path: str, round: str = "last", base: str = "") -> HandoffJob:
    """The training of a filtered round: a number, ``last`` or ``best``. `base` replaces the model's name.

    Raises `errors.UsageError` if there is no such round, and `errors.ModelFileError` if the model's file is gone.
    """
    run = load_run(path)
    settings, folder = run.settings, RunFolder(run.path)
    if settings.engine == "fake":
        raise UsageError(f"{path} was made by the fake engine, so there is nothing to train.", "Nothing was written.")
    ready = [r.number for r in run.rounds if f"round-{r.number}/filter" in run.phases_done]
    if not ready:
        raise UsageError(f"{path}: no round is filtered yet.", f"Run `minisheep filter --run {shell(path)}` first.")
    number = resolve_round(run, round, ready, "filtered")
    model = PreparedModel.read(folder.model)
    run.check_whole("filter", rounds_trained_on(settings.strategy, number))
    examples = together([run.round(r).kept for r in rounds_trained_on(settings.strategy, number)])
    before = starts_from(settings.strategy, number)
    job = train_job(
        settings, model.template, number, examples,
        gguf=model.gguf, weights=model.weights, output=Path(), scratch=Path(),
        pairs=read_pairs(folder, rounds_trained_on(settings.strategy, number)),
        seeds=load_seeds(settings.seeds, settings.language) if settings.mix_seeds else (),
    )  # fmt: skip
    safe = [example for example in job.examples if not looks_special(example, model.template)]
    if not safe:
        raise UsageError(f"Round {number} of {path} kept no example that can be handed over.", "Nothing was written.")
    begin = begin_text(model.gguf)
    framed = [dataclasses.replace(example, prompt=begun(example.prompt, begin)) for example in safe]
    chosen = job.settings
    train, held = (
        [framed[index] for index in part if chosen.loss == "sft" or framed[index].rejected]
        for part in split(len(framed), chosen.validation, chosen.seed)
    )
    if not train:
        raise UsageError(f"Round {number} of {path} has no pair that can be handed over.", "Nothing was written.")
    return HandoffJob(
        run=run.path,
        round=number,
        base=base or hub_id(known(settings)) or str(model.weights.absolute()),
        template=model.template,
        settings=chosen,
        train=tuple(train),
        validation=tuple(held),
        start=folder.round(before).adapter.absolute() if before else None,
        left_out=len(job.examples) - len(safe),
        unpaired=len(safe) - len(train) - len(held),
    )


def looks_special(example: TrainExample, template: Template) -> bool:
    """Whether text from data holds a special token of the template, which other programs would read as such."""
    special = set(re.findall(r"<[^<>\s]+>|<\|.*?\|>", template.before + template.between + template.end))
    data = "\n".join(s.text for s in (*example.prompt, *example.completion, *(example.rejected or ())) if not s.special)
    return any(token in data for token in special)


def begun(prompt: Prompt, begin: str) -> Prompt:
    """A prompt with the begin-of-text token that our own training puts before it, unless it has one."""
    text = "".join(segment.text for segment in prompt)
    return prompt if not begin or text.startswith(begin) else (Segment(begin, True), *prompt)


def begin_text(gguf: Path) -> str:
    """The text of the token that this model needs before every text; empty if it needs none.

    In a worker, since this loads llama.cpp. Raises `errors.ModelFileError`.
    """
    if not gguf.exists():
        raise ModelFileError(f"{gguf} is gone, but its tokenizer is needed.", "Fetch it again with `minisheep pull`.")
    with WorkerProcess(BEGIN, died=ModelFileError) as worker:
        job = {"phase": "begin", "gguf": str(gguf)}
        return str(worker.do(job, f"Reading the vocabulary of {gguf.name}")["begin"])


def find_begin(job: dict[str, Any], emit: Emit, should_stop: Callable[[], bool]) -> dict[str, Any]:
    from minisheep.engines.native import Vocabulary
    from minisheep.formats.gguf_header import read_header
    from minisheep.formats.model_facts import model_facts

    facts = model_facts(read_header(Path(job["gguf"])))
    with Vocabulary.from_file(Path(job["gguf"])) as vocabulary:
        return {"begin": facts.bos_text if vocabulary.add_bos else ""}


def text_of(parts: Sequence[Segment]) -> str:
    return "".join(part.text for part in parts)


class Batches(NamedTuple):
    """`micro` examples in a forward pass of each GPU, `accumulate` such passes in a step."""

    micro: int
    accumulate: int


def spread(batch_size: int, micro_batch_size: int, gpus: int) -> Batches:
    """The same batch on `gpus` GPUs, in forward passes of at most `micro_batch_size` examples.

    Raises `errors.UsageError` if the GPUs do not divide the batch, since another batch would be another training.
    """
    each, rest = divmod(batch_size, gpus)
    if rest:
        fitting = ", ".join(str(n) for n in range(1, batch_size + 1) if batch_size % n == 0)
        raise UsageError(f"--gpus {gpus} does not divide the run's batch of {batch_size}.", f"Give one of {fitting}.")
    micro = max(n for n in range(1, min(each, micro_batch_size) + 1) if each % n == 0)
    return Batches(micro, each // micro)


def whole_alpha(alpha: float) -> int:
    """The LoRA alpha. Both programs accept only whole numbers. Raises `errors.UsageError`."""
    if alpha % 1:
        raise UsageError(f"A handoff needs a whole LoRA alpha, and the run's is {alpha:g}.", "Nothing was written.")
    return int(alpha)


def axolotl_files(job: HandoffJob, gpus: int, projections: Sequence[str]) -> dict[str, str]:
    """The configuration and the data, by name. Raises `errors.UsageError`, as `spread` does."""
    sets = {"train": job.train, **({"validation": job.validation} if job.validation else {})}
    return {
        AXOLOTL_CONFIG: yaml.safe_dump(axolotl_config(job, gpus, projections), sort_keys=False, allow_unicode=True),
        **{
            f"{name}.jsonl": preference_lines(examples) if job.preference else axolotl_lines(examples)
            for name, examples in sets.items()
        },
    }


def axolotl_config(job: HandoffJob, gpus: int, projections: Sequence[str]) -> dict[str, Any]:
    settings, batches = job.settings, spread(job.settings.batch_size, job.settings.micro_batch_size, gpus)
    four_bit = settings.load_in in ("auto", "4bit")
    # Without a type, its loader of preferences takes prompt, chosen and rejected as they are.
    kind = {} if job.preference else {"type": "input_output"}
    weight = {"orpo": "orpo_alpha", "dpo": "rl_beta"}
    measured: dict[str, Any] = {
        "test_datasets": [{**_data("validation.jsonl"), **kind, "split": "train"}],
        "eval_strategy": "epoch",
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
    }
    return {
        "base_model": job.base, **({"lora_model_dir": str(job.start)} if job.start else {}), "load_in_4bit": four_bit,
        "adapter": "qlora" if four_bit else "lora", "lora_r": settings.lora_rank,
        "lora_alpha": whole_alpha(settings.lora_alpha), "lora_dropout": settings.lora_dropout,
        "lora_target_modules": list(projections), "peft_use_rslora": settings.rslora,
        **({"rl": settings.loss, weight[settings.loss]: settings.beta} if job.preference else {}),
        "datasets": [{**_data("train.jsonl"), **kind, **({"split": "train"} if job.preference else {})}],
        **(measured if job.validation else {"val_set_size": 0.0}), "sequence_len": settings.max_length,
        "sample_packing": False, "train_on_inputs": False, "learning_rate": settings.learning_rate,
        "lr_scheduler": "cosine", "warmup_steps": job.warmup, "num_epochs": settings.epochs,
        "micro_batch_size": batches.micro, "gradient_accumulation_steps": batches.accumulate,
        "optimizer": "adamw_torch", "weight_decay": 0.0, "max_grad_norm": 1.0, "bf16": settings.load_in != "fp32",
        "gradient_checkpointing": True, "save_strategy": "epoch", "logging_steps": 1, "seed": settings.seed,
        "output_dir": "./adapter",
    }  # fmt: skip


def axolotl_lines(examples: Sequence[TrainExample]) -> str:
    return "".join(json.dumps({"segments": segments(example)}) + "\n" for example in examples)


def segments(example: TrainExample) -> list[dict[str, Any]]:
    """The pieces of a pair. The model learns those with ``label``."""
    sides = ((example.prompt, False), (example.completion, True))
    return [{"label": learned, "text": part.text} for side, learned in sides for part in side if part.text]


def _data(name: str) -> dict[str, str]:
    return {"path": name, "ds_type": "json"}


def llamafactory_files(job: HandoffJob, gpus: int, projections: Sequence[str]) -> dict[str, str]:
    """The configuration, the list of data sets and the data, by name. Raises `errors.UsageError`, as `spread` does."""
    sets = {TRAIN: job.train, **({VALIDATION: job.validation} if job.validation else {})}
    names = ("prompt", "chosen", "rejected") if job.preference else ("prompt", "response")
    kind = {"ranking": True} if job.preference else {}
    form = {"formatting": "alpaca", **kind, "columns": {name: name for name in names}}
    lines = preference_lines if job.preference else llamafactory_lines
    datasets = {name: {"file_name": f"{name}.jsonl", **form} for name in sets}
    return {
        LLAMAFACTORY_CONFIG: yaml.safe_dump(
            llamafactory_config(job, gpus, projections), sort_keys=False, allow_unicode=True
        ),
        "dataset_info.json": json.dumps(datasets, indent=2) + "\n",
        **{f"{name}.jsonl": lines(examples) for name, examples in sets.items()},
    }


def llamafactory_config(job: HandoffJob, gpus: int, projections: Sequence[str]) -> dict[str, Any]:
    settings, batches = job.settings, spread(job.settings.batch_size, job.settings.micro_batch_size, gpus)
    measured: dict[str, Any] = {
        "eval_dataset": VALIDATION,
        "eval_strategy": "epoch",
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "per_device_eval_batch_size": batches.micro,
    }
    return {
        "model_name_or_path": job.base, **({"adapter_name_or_path": str(job.start)} if job.start else {}),
        **({"quantization_bit": 4, "quantization_method": "bnb"} if settings.load_in in ("auto", "4bit") else {}),
        **_stage(settings), "do_train": True, "finetuning_type": "lora", "lora_rank": settings.lora_rank,
        "lora_alpha": whole_alpha(settings.lora_alpha), "lora_dropout": settings.lora_dropout,
        "lora_target": ",".join(projections), "use_rslora": settings.rslora, "dataset_dir": ".", "dataset": TRAIN,
        **(measured if job.validation else {}), "template": "empty", "cutoff_len": settings.max_length,
        "train_on_prompt": False, "packing": False, "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "cosine", "warmup_steps": job.warmup, "num_train_epochs": float(settings.epochs),
        "per_device_train_batch_size": batches.micro, "gradient_accumulation_steps": batches.accumulate,
        "optim": "adamw_torch", "weight_decay": 0.0, "max_grad_norm": 1.0, "bf16": settings.load_in != "fp32",
        "save_strategy": "epoch", "logging_steps": 1, "report_to": "none", "seed": settings.seed,
        "output_dir": "adapter",
    }  # fmt: skip


def _stage(settings: TrainSettings) -> dict[str, Any]:
    losses = {"orpo": "orpo", "dpo": "sigmoid"}
    if settings.loss == "sft":
        return {"stage": "sft"}
    return {"stage": "dpo", "pref_loss": losses[settings.loss], "pref_beta": settings.beta}


def llamafactory_lines(examples: Sequence[TrainExample]) -> str:
    pairs = ({"prompt": text_of(e.prompt), "response": text_of(e.completion)} for e in examples)
    return "".join(json.dumps(pair) + "\n" for pair in pairs)


def preference_lines(examples: Sequence[TrainExample]) -> str:
    """For both programs: texts with the template applied, the worse answer without an end if it was cut off."""
    rows = (
        {"prompt": text_of(e.prompt), "chosen": text_of(e.completion), "rejected": text_of(e.rejected or ())}
        for e in examples
    )
    return "".join(json.dumps(row) + "\n" for row in rows)


def readme(job: HandoffJob, title: str, command: str, gpus: int) -> str:
    """What a person reads first in a handoff folder."""
    settings = job.settings
    lines = [
        f"Round {job.round} of the run {job.run.name}, for {title}.",
        "",
        f"    {command}",
        "",
        f"Run this command in this folder. It trains a LoRA adapter on {job.base},",
        f"on {gpus} GPU(s): {len(job.train)} {'preference pairs' if job.preference else 'examples'},"
        f" {len(job.validation)} more for validation,"
        f" {settings.batch_size} per step, {settings.epochs} epoch(s).",
        "The result will be in adapter/.",
        "",
        "The texts already contain the run's template and the end of each answer, so set no chat template. To use the",
        "adapter, write prompts in that template too:",
        "",
        f"    before the user's words: {job.template.before!r}",
        f"    after them:              {job.template.between!r}",
        f"    after the answer:        {job.template.end!r}",
        "",
        "For another number of GPUs, use minisheep handoff --gpus N, which keeps the batch size.",
    ]
    if settings.load_in in ("auto", "4bit"):
        lines += ["", "The base is loaded in 4 bits. Sharded training (DeepSpeed ZeRO-3, FSDP) may want it in bf16."]
    if job.start:
        lines += ["", f"Training continues the adapter in {job.start}, so keep that folder."]
    if job.preference:
        lines += ["", f"The loss is {settings.loss} with beta {settings.beta:g}."]
    if job.unpaired:
        lines += [
            "",
            f"{job.unpaired} example(s) without a rejected answer are not here; minisheep trains on them too.",
        ]
    if job.left_out:
        lines += ["", f"{job.left_out} example(s) were left out: they hold what looks like a token of the template."]
    return "\n".join(lines) + "\n"


TITLES = {"axolotl": "Axolotl", "llamafactory": "LLaMA-Factory"}
WRITERS = {
    "axolotl": (axolotl_files, f"axolotl train {AXOLOTL_CONFIG}"),
    "llamafactory": (llamafactory_files, f"llamafactory-cli train {LLAMAFACTORY_CONFIG}"),
}
"""By target, what makes its files, and the command that trains on them."""


def write(job: HandoffJob, target: str, gpus: int, folder: Path) -> str:
    """Write the files for `target` into the new `folder`; returns the command that trains.

    Raises `errors.UsageError` if the folder exists, and `errors.DiskError`.
    """
    from minisheep.formats.lora_gguf import PROJECTIONS

    if folder.exists() or folder.is_symlink():
        raise UsageError(f"{folder} exists already. Nothing was written.", "Remove it or give another --out.")
    make_files, command = WRITERS[target]
    files = make_files(job, gpus, PROJECTIONS)
    with publish(folder) as unfinished:
        for name, text in {**files, "README.txt": readme(job, TITLES[target], command, gpus)}.items():
            write_atomic(unfinished / name, text.encode("utf-8", "surrogatepass"))
    return command
