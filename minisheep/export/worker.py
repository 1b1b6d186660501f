"""The worker's part: makes the files of an export, then asks run and export the same things.

Two jobs, each in a process of its own: `export.export_choice.MAKE` uses llama.cpp, `export.export_choice.WEIGHTS` uses transformers, which would hold a
second copy of the model in memory.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from minisheep import config, prepare
from minisheep.config import Settings
from minisheep.engines.native import Vocabulary
from minisheep.errors import ExportError, RunMismatchError, Stopped
from minisheep.export import export_checks, ollama
from minisheep.export.export_checks import ExportCheck, GreedyAnswer
from minisheep.export.export_choice import MAKE, WITH_ADAPTER, WITH_GGUF, ExportSpec
from minisheep.export.ollama import Modelfile, chat_template, take_apart
from minisheep.formats import merge, model_facts
from minisheep.formats.gguf_header import read_header
from minisheep.formats.lora_gguf import TENSORS, convert_adapter, read_config
from minisheep.formats.model_facts import bos_text, context_length, parameter_count, quantisation
from minisheep.formats.quantise import FORMATS, quantise
from minisheep.models.cache import sha256_file
from minisheep.models.prepared import PreparedModel
from minisheep.run import events
from minisheep.run.events import Emit, Note, PhaseStarted, Progress
from minisheep.run.files import check_room, disk_errors, write_atomic, write_json
from minisheep.run.folder import RunFolder

TOKENS = 128
"""Of an answer at most; the run's own budget where that is smaller."""


def do(job: dict[str, Any], emit: Emit, should_stop: Callable[[], bool]) -> None:
    """Do a job that `Spec.to_job` made, in a worker."""
    spec = ExportSpec.from_job(job)
    work = ExportWork(spec, emit, should_stop)
    with disk_errors(spec.output):
        if job["phase"] == MAKE:
            make_export(work)
        else:
            make_weights(work)


class ExportWork:
    """What both jobs know: the run, its model, its template, and where the files go."""

    def __init__(self, spec: ExportSpec, emit: Emit, should_stop: Callable[[], bool]) -> None:
        """Raises `errors.MinisheepError` for a model that cannot be had, or is not the run's."""
        self.spec, self.emit, self._should_stop = spec, emit, should_stop
        self.folder = RunFolder(Path(spec.run))
        self.round = self.folder.round(spec.round)
        self.settings: Settings = config.make(config.read_toml(self.folder.settings))
        needs = ("gguf", "inference_gguf", "weights") if spec.needs_weights else ("gguf", "inference_gguf")
        self.model = prepare.ensure_files(PreparedModel.read(self.folder.model), self.settings, emit, *needs)
        if sha256_file(self.model.gguf) != self.model.gguf_sha256:
            raise RunMismatchError(
                f"{self.model.gguf} is not the file that the run began with.", "Restore it, and export again."
            )
        self.header = read_header(self.model.gguf)
        self.template = self.model.template
        self.tokens = min(TOKENS, self.settings.eval_max_tokens)
        self.checks: list[ExportCheck] = []

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
        return model_facts.bos_text(self.header)

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
            return model_facts.chat_template(self.header)
        frame = take_apart(self.template, self.bos)
        return chat_template(frame, self.bos if adds_bos or frame.bos else "")

    def step(self, what: str) -> Callable[[int, int], None]:
        """Begins a part of the work; returns what hears how much of it is done."""
        self.emit(PhaseStarted(self.spec.round, what, unit="steps"))

        def on_progress(done: int, total: int) -> None:
            events.point("export")
            if self._should_stop():
                raise Stopped("Stopped. Nothing was exported.")
            self.emit(Progress(self.spec.round, what, done, total))

        return on_progress

    def note(self, text: str) -> None:
        self.emit(Note(text))

    def judge(self, where: str, found: Sequence[ExportCheck]) -> None:
        """Tell and keep what was found. Raises `errors.ExportError` where a check failed."""
        for one in found:
            self.checks.append(ExportCheck(f"{where}: {one.name}", one.passed, one.text))
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

    def answers(self) -> list[GreedyAnswer]:
        """What the run answers, as the first job stored it."""
        return [GreedyAnswer.from_dict(row) for row in json.loads(self.answers_file.read_bytes())]


# The first job of an export: whatever llama.cpp makes and runs. The run's own answers are its measure.
F16 = "F16"
SPARE = 2**27
"""Bytes that are left free, and that everything but the weights may take."""


def make_export(work: ExportWork) -> None:
    """Raises `errors.ExportError` where a check fails, and what llama.cpp and the disk raise."""
    spec, model = work.spec, work.model
    _check_room(work)
    spec.model_folder.mkdir(parents=True, exist_ok=True)
    users = export_checks.users(work.settings, spec.prompts)
    run = export_checks.answers(
        model.inference_gguf,
        work.round.adapter_gguf,
        work.template,
        users,
        work.tokens,
        work.machine,
        work.step("the run answers"),
    )
    write_json(work.answers_file, [answer.to_dict() for answer in run])
    if spec.target in WITH_ADAPTER:
        _adapter(work, users, run)
    if spec.target in WITH_GGUF:
        _gguf(work, users, run)


def _gguf(work: ExportWork, users: list[str], run: list[export_checks.GreedyAnswer]) -> None:
    spec = work.spec
    whole = Path(spec.work) / "merged.gguf"
    metadata = _metadata(work)
    merge.merge_gguf(work.model.gguf, work.round.adapter_gguf, whole, metadata, work.step("merge"))
    off = dict(merge.differences(work.model.gguf, work.round.adapter_gguf, whole))
    work.judge("GGUF", [export_checks.merge(off)])
    if spec.format == F16:
        os.replace(whole, spec.gguf)
    else:
        work.step("quantise")
        quantise(whole, spec.gguf, spec.format)
        whole.unlink()
    rendered = export_checks.by_gguf(spec.gguf, users)
    work.judge("GGUF", export_checks.prompt_checks(spec.gguf, rendered, run, work.template, words=work.words))
    if spec.target == "ollama":
        _modelfile(work)
        rendered = export_checks.by_modelfile(spec.model_folder / export_checks.MODELFILE, users)
        found = export_checks.prompt_checks(spec.gguf, rendered, run, work.template, words=work.words)
        work.judge("Modelfile", found[:1])
    _compare(work, "GGUF", spec.gguf, None, rendered, run, spec.format)


def _adapter(work: ExportWork, users: list[str], run: list[export_checks.GreedyAnswer]) -> None:
    """A plain PEFT folder; what was copied is converted anew and must answer as the run does."""
    spec = work.spec
    folder = spec.adapter_folder
    folder.mkdir(parents=True, exist_ok=True)
    config = read_config(work.round.adapter)
    config["base_model_name_or_path"] = spec.base_id or work.model.name
    write_json(folder / "adapter_config.json", config)
    shutil.copyfile(work.round.adapter / TENSORS, folder / TENSORS)
    with Vocabulary.from_file(work.model.gguf) as vocabulary:
        source = work.chat_template(adds_bos=vocabulary.add_bos)
    write_atomic(folder / export_checks.CHAT_TEMPLATE, source.encode())
    converted = Path(spec.work) / "adapter.gguf"
    convert_adapter(folder, work.model.gguf, converted)
    rendered = export_checks.by_jinja(source, work.header, users)
    base = work.model.inference_gguf
    work.judge("adapter", export_checks.prompt_checks(base, rendered, run, work.template, words=work.words))
    _compare(work, "adapter", base, converted, rendered, run, F16)


def _compare(
    work: ExportWork,
    where: str,
    gguf: Path,
    adapter: Path | None,
    rendered: list[str],
    run: list[export_checks.GreedyAnswer],
    format: str,
) -> None:
    on_progress = work.step(f"the {where} answers")
    asked = export_checks.compare_texts(
        gguf, adapter, rendered, run, work.template, work.tokens, work.machine, on_progress
    )
    work.judge(where, [export_checks.agreement(asked, format), export_checks.ends(asked)])


def _metadata(work: ExportWork) -> dict[str, str | int]:
    """What the merged GGUF says of itself; everything else is the base's."""
    with Vocabulary.from_file(work.model.gguf) as vocabulary:
        source = work.chat_template(adds_bos=vocabulary.add_bos)
        end = export_checks.end_token(vocabulary, work.template)
    found: dict[str, str | int] = {
        "general.name": work.spec.title,
        "general.description": "Aligned on its own instructions and answers with minisheep (I-SHEEP).",
        "general.base_model.count": 1,
        "general.base_model.0.name": work.model.title,
        "general.file_type": 1,
        "tokenizer.chat_template": source,
        # A base model's own end token ends texts, not answers: programs that know no other would go on for ever.
        "tokenizer.ggml.eos_token_id": end,
    }
    if not isinstance(work.header.metadata.get("general.license"), str) and work.model.licence:
        found["general.license"] = work.model.licence
    return found


def _modelfile(work: ExportWork) -> None:
    spec, settings = work.spec, work.settings
    frame = take_apart(work.template, work.bos)
    with Vocabulary.from_file(spec.gguf) as vocabulary:
        says_bos = bool(frame.bos) and not vocabulary.add_bos
    sampling = {
        "temperature": settings.answer_temperature,
        "top_p": settings.answer_top_p,
        "top_k": export_checks.TOP_K,
    }
    trained = min(settings.context, context_length(work.header))
    made = Modelfile(
        f"./{spec.gguf.name}",
        ollama.go_template(frame, says_bos=says_bos),
        frame.system,
        ollama.parameters(frame, sampling, trained),
        spec.licence,
        (
            f"{spec.title}, made with minisheep.",
            f"num_ctx is what the run used; the base was made for {context_length(work.header)} tokens.",
        ),
    )
    write_atomic(spec.model_folder / export_checks.MODELFILE, made.text().encode())


def _check_room(work: ExportWork) -> None:
    """Raise `errors.DiskError` before the work where its files do not fit."""
    spec = work.spec
    parameters = parameter_count(work.header)
    needed = float(SPARE)
    if spec.target in WITH_GGUF:
        needed += parameters * (2.0 + (0.0 if spec.format == F16 else FORMATS[spec.format][1]))
    if spec.needs_weights:
        needed += sum(path.stat().st_size for path in work.model.weights.glob("*.safetensors"))
    check_room(Path(spec.work), needed, "The export needs", "Make room, or give --out on a larger disk.")


# The second job of an export: merged safetensors with all that transformers needs, and transformers' own answer.
TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


def make_weights(work: ExportWork) -> None:
    """Raises `errors.ExportError` where a check fails, and what transformers and the disk raise."""
    import minisheep.trainers.lora_model  # noqa: F401  # takes the hub's client off line

    spec, source = work.spec, work.model.weights
    folder = spec.model_folder
    folder.mkdir(parents=True, exist_ok=True)
    merge.merge_weights(source, work.round.adapter, folder, work.step("merge weights"))
    index = source / "model.safetensors.index.json"
    if index.exists():
        shutil.copyfile(index, folder / index.name)
    with Vocabulary.from_file(work.model.gguf) as vocabulary:
        end = export_checks.end_token(vocabulary, work.template)
        ends = list(dict.fromkeys((end, vocabulary.eos)))
        template = work.chat_template(adds_bos=vocabulary.add_bos)
    _configure(work, folder, end, [token for token in ends if token >= 0])
    write_atomic(folder / export_checks.CHAT_TEMPLATE, template.encode())
    work.step("tokenizer")
    tokenizer = _tokenizer(work, source, folder, template)
    run = work.answers()
    asked = [export_checks.prompt(tokenizer, answer.user) for answer in run]
    with Vocabulary.from_file(work.model.gguf) as vocabulary:
        pairs = [(answer.prompt, ids) for answer, ids in zip(run, asked, strict=True)]
        work.judge(
            "merged model",
            [
                export_checks.prompts(pairs, words=work.words, piece=vocabulary.piece),
                export_checks.end([end], end in export_checks.end_tokens(folder), work.template.end),
            ],
        )
    found = export_checks.compare_likelihoods(folder, asked, run, work.step("the merged model is asked"))
    # Weights of their own were never quantised, and the run's answers are those of a GGUF that was.
    of_gguf = "BF16" if work.model.weights_note else quantisation(work.header)
    work.judge("merged model", [export_checks.agreement(found, export_checks.widest("BF16", of_gguf))])


def _configure(work: ExportWork, folder: Path, end: int, ends: list[int]) -> None:
    """config.json of the base with the trained end token, and generation_config.json with the run's sampling."""
    config: dict[str, Any] = json.loads((work.model.weights / "config.json").read_bytes())
    config["eos_token_id"] = end
    write_json(folder / "config.json", config)
    settings = work.settings
    generation: dict[str, Any] = {
        "do_sample": settings.answer_temperature > 0,
        "eos_token_id": ends,
    }
    if settings.answer_temperature > 0:
        generation |= {
            "temperature": settings.answer_temperature,
            "top_p": settings.answer_top_p,
            "top_k": export_checks.TOP_K,
        }
    for name in ("bos_token_id", "pad_token_id"):
        if isinstance(config.get(name), int):
            generation[name] = config[name]
    write_json(folder / "generation_config.json", generation)


def _tokenizer(work: ExportWork, source: Path, folder: Path, template: str) -> Any:
    """The base's own tokenizer; one made from the GGUF's vocabulary where the weights came without."""
    import transformers

    there = [name for name in TOKENIZER if (source / name).is_file()]
    if "tokenizer_config.json" in there:
        for name in there:
            shutil.copyfile(source / name, folder / name)
        made = transformers.AutoTokenizer.from_pretrained(folder)
    else:
        work.note("The weights came without a tokenizer: one is made from the GGUF's vocabulary.")
        made = transformers.AutoTokenizer.from_pretrained(work.model.gguf.parent, gguf_file=work.model.gguf.name)
    made.chat_template = template
    made.eos_token = work.template.end
    if not made.bos_token and work.bos:
        made.bos_token = bos_text(work.header)
    made.save_pretrained(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)
