"""The worker's part of an export: makes the files, then asks run and export the same prompts.

There are two jobs, each in its own process, so that only one copy of the model is in memory: `export_choice.MAKE` uses
llama.cpp, `export_choice.WEIGHTS` uses transformers. The run's own answers are the measure for both.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from minisheep import config, prepare
from minisheep.engines.native import Vocabulary
from minisheep.errors import ExportError, Stopped
from minisheep.export import export_checks, ollama
from minisheep.export.export_choice import MAKE, WITH_ADAPTER, WITH_GGUF, ExportSpec, default_format
from minisheep.formats import lora_gguf, merge, model_facts
from minisheep.formats.gguf_header import read_header
from minisheep.formats.hf_versions import config_for_both, tokenizer_config_for_both
from minisheep.formats.quantise import FORMATS, quantise
from minisheep.machine import jinja_child
from minisheep.models.hub import shards
from minisheep.models.prepared import PreparedModel
from minisheep.rules import templates
from minisheep.run import events
from minisheep.run.files import check_room, disk_errors, write_atomic, write_json
from minisheep.run.folder import RunFolder

TOKENS = 128
"""The longest answer, unless the run's own limit is lower."""
F16 = "F16"
SPARE = 2**27
"""Bytes for everything but the weights, and to stay free."""
TOKENIZER = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt",
)  # fmt: skip


def do(job: dict[str, Any], emit: events.Emit, should_stop: Callable[[], bool]) -> None:
    """Do a job of `ExportSpec.to_job`. Raises `errors.ExportError` if a check fails."""
    spec = ExportSpec.from_job(job)
    work = ExportWork(spec, emit, should_stop)
    with disk_errors(spec.output):
        if job["phase"] == MAKE:
            make_export(work)
        else:
            make_weights(work)


class ExportWork:
    """What both jobs use: the run, its model, its template, and the results of the checks."""

    def __init__(self, spec: ExportSpec, emit: events.Emit, should_stop: Callable[[], bool]) -> None:
        """Raises `errors.MinisheepError` if the model is missing or is not the run's."""
        self.spec, self.emit, self._should_stop = spec, emit, should_stop
        self.folder = RunFolder(Path(spec.run))
        self.round = self.folder.round(spec.round)
        self.settings: config.Settings = config.make(config.read_toml(self.folder.settings))
        needs = ("gguf", "inference_gguf", "weights") if spec.needs_weights else ("gguf", "inference_gguf")
        self.model = prepare.ensure_files(PreparedModel.read(self.folder.model), self.settings, emit, *needs)
        self.header = read_header(self.model.gguf)
        self.template = self.model.template
        self.tokens = min(TOKENS, self.settings.eval_max_tokens)
        self.checks: list[export_checks.ExportCheck] = []

    @property
    def machine(self) -> dict[str, int | str]:
        """Options for an engine."""
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
        """Whether the template's labels are plain text."""
        return self.template.name == "plain"

    def chat_template(self, *, adds_bos: bool) -> str:
        """In Jinja: the model's own, or one made from the template that the run was given.

        `adds_bos` says that the vocabulary puts the begin token before every text.
        """
        if self.template.name == "model":
            own, special = model_facts.chat_template(self.header), model_facts.special_tokens(self.header)
            return templates.closed_source(own, special, self.template, jinja_child.render)
        frame = ollama.take_apart(self.template, self.bos)
        return ollama.chat_template(frame, self.bos if adds_bos or frame.bos else "")

    def step(self, what: str) -> export_checks.OnProgress:
        """Announce a step of the work; returns the callback for its progress."""
        self.emit(events.PhaseStarted(self.spec.round, what, unit="steps"))

        def on_progress(done: int, total: int, running: int = 0) -> None:
            events.point("export")
            if self._should_stop():
                raise Stopped("Stopped. Nothing was exported.")
            self.emit(events.Progress(self.spec.round, what, done, total, running=running))

        return on_progress

    def judge(self, where: str, checks: Sequence[export_checks.ExportCheck]) -> None:
        """Emit and store the results of checks. Raises `errors.ExportError` if one failed."""
        for check in checks:
            self.checks.append(dataclasses.replace(check, name=f"{where}: {check.name}"))
            self.emit(events.Note(f"{where}, {check.name}: {'ok' if check.passed else 'FAILED'}: {check.text}."))
        # The other job's checks are in the report too.
        path = self.spec.report
        before = json.loads(path.read_bytes()) if path.exists() else {"checks": []}
        known = [row for row in before["checks"] if row["name"] not in {check.name for check in self.checks}]
        write_json(path, {"checks": [*known, *map(dataclasses.asdict, self.checks)]})
        failed = "; ".join(f"{check.name}: {check.text}" for check in checks if not check.passed)
        if failed:
            raise ExportError(
                f"The {where} does not behave like the trained model ({failed}). Nothing was exported.",
                remedy(where, self.spec.format, model_facts.parameter_count(self.header)),
            )


def remedy(where: str, format: str, parameters: int) -> str:
    """What to try where a check of `where` failed for a model of this size, exported in `format`."""
    usual = default_format(parameters)
    hint = "Another --round, --to or --quantise may pass."
    if where == "GGUF" and FORMATS[format][1] < FORMATS[usual][1]:
        hint = f"Leave --quantise out: a model of this size is then exported in {usual}, which loses less."
    return f"{hint} The run itself has not changed."


def make_export(work: ExportWork) -> None:
    """The first job: what llama.cpp makes and runs. Raises what llama.cpp and the disk raise."""
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
        work.step("check: the run answers"),
    )
    write_json(work.answers_file, [dataclasses.asdict(answer) for answer in run])
    if spec.target in WITH_ADAPTER:
        _adapter(work, users, run)
    if spec.target in WITH_GGUF:
        _gguf(work, users, run)


def _gguf(work: ExportWork, users: list[str], run: list[export_checks.GreedyAnswer]) -> None:
    spec = work.spec
    whole = Path(spec.work) / "merged.gguf"
    metadata = _metadata(work)
    merge.merge_gguf(work.model.gguf, work.round.adapter_gguf, whole, metadata, work.step("merge"))
    differences = dict(merge.differences(work.model.gguf, work.round.adapter_gguf, whole))
    work.judge("GGUF", [export_checks.merge(differences)])
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
        checks = export_checks.prompt_checks(spec.gguf, rendered, run, work.template, words=work.words)
        work.judge("Modelfile", checks[:1])
    _compare(work, "GGUF", spec.gguf, None, rendered, run, spec.format)


def _adapter(work: ExportWork, users: list[str], run: list[export_checks.GreedyAnswer]) -> None:
    """A plain PEFT folder. The copy is converted again and must answer as the run does."""
    spec = work.spec
    folder = spec.adapter_folder
    folder.mkdir(parents=True, exist_ok=True)
    config = lora_gguf.read_config(work.round.adapter)
    # PEFT imports the library that `auto_mapping` names, and a run folder may come from anybody.
    config |= {"base_model_name_or_path": spec.base_id or work.model.name, "auto_mapping": None, "revision": None}
    write_json(folder / "adapter_config.json", config)
    shutil.copyfile(work.round.adapter / lora_gguf.TENSORS, folder / lora_gguf.TENSORS)
    with Vocabulary.from_file(work.model.gguf) as vocabulary:
        source = work.chat_template(adds_bos=vocabulary.add_bos)
    write_atomic(folder / export_checks.CHAT_TEMPLATE, source.encode())
    converted = Path(spec.work) / "adapter.gguf"
    lora_gguf.convert_adapter(folder, work.model.gguf, converted)
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
    on_progress = work.step(f"check: the {where} answers")
    compared = export_checks.compare_texts(
        gguf, adapter, rendered, run, work.template, work.tokens, work.machine, on_progress
    )
    work.judge(where, [export_checks.agreement(compared, format), export_checks.ends(compared)])


def _metadata(work: ExportWork) -> dict[str, str | int]:
    """Metadata of the merged GGUF that differs from the base's."""
    with Vocabulary.from_file(work.model.gguf) as vocabulary:
        source = work.chat_template(adds_bos=vocabulary.add_bos)
        end = export_checks.end_token(vocabulary, work.template)
    metadata: dict[str, str | int] = {
        "general.name": work.spec.title,
        "general.description": "Aligned on its own instructions and answers with minisheep (I-SHEEP).",
        "general.base_model.count": 1,
        "general.base_model.0.name": work.model.title,
        "general.file_type": 1,
        "tokenizer.chat_template": source,
        # A base model's own end token ends texts, not answers. A program that knows no other would never stop.
        "tokenizer.ggml.eos_token_id": end,
    }
    if not isinstance(work.header.metadata.get("general.license"), str) and work.model.licence:
        metadata["general.license"] = work.model.licence
    return metadata


def _sampling(settings: config.Settings) -> dict[str, float]:
    """As the run answered."""
    top_p, top_k = settings.answer_top_p, export_checks.TOP_K
    return {"temperature": settings.answer_temperature, "top_p": top_p, "top_k": top_k}


def _modelfile(work: ExportWork) -> None:
    spec, settings = work.spec, work.settings
    frame = ollama.take_apart(work.template, work.bos)
    with Vocabulary.from_file(spec.gguf) as vocabulary:
        says_bos = bool(frame.bos) and not vocabulary.add_bos
    trained = min(settings.context, model_facts.context_length(work.header))
    modelfile = ollama.Modelfile(
        f"./{spec.gguf.name}",
        ollama.go_template(frame, says_bos=says_bos),
        frame.system,
        ollama.parameters(frame, _sampling(settings), trained),
        spec.licence,
        (
            f"{spec.title}, made with minisheep.",
            f"num_ctx is the context of the run; the base supports {model_facts.context_length(work.header)} tokens.",
        ),
    )
    path = spec.model_folder / export_checks.MODELFILE
    write_atomic(path, modelfile.text().encode())
    export_checks.check_modelfile(path, modelfile)


def _check_room(work: ExportWork) -> None:
    """Raise `errors.DiskError` if the files will not fit on the disk."""
    spec = work.spec
    parameters = model_facts.parameter_count(work.header)
    needed = float(SPARE)
    if spec.target in WITH_GGUF:
        needed += parameters * (2.0 + (0.0 if spec.format == F16 else FORMATS[spec.format][1]))
    if spec.needs_weights:
        needed += sum((work.model.weights / name).stat().st_size for name in shards(work.model.weights))
    check_room(Path(spec.work), needed, "The export needs", "Free some space, or give --out on a larger disk.")


def make_weights(work: ExportWork) -> None:
    """The second job: merged safetensors and all that transformers needs. Raises what it and the disk raise."""
    import minisheep.trainers.lora_model  # noqa: F401  # keeps the hub's client from using the network

    spec, source = work.spec, work.model.weights
    folder = spec.model_folder
    folder.mkdir(parents=True, exist_ok=True)
    merge.merge_weights(source, work.round.adapter, folder, work.step("merge weights"))
    index = source / "model.safetensors.index.json"
    if len(shards(source)) > 1:
        shutil.copyfile(index, folder / index.name)
    with Vocabulary.from_file(work.model.gguf) as vocabulary:
        end = export_checks.end_token(vocabulary, work.template)
        ends = list(dict.fromkeys((end, vocabulary.eos)))
        template = work.chat_template(adds_bos=vocabulary.add_bos)
    _configure(work, folder, end, [token for token in ends if token >= 0])
    write_atomic(folder / export_checks.CHAT_TEMPLATE, template.encode())
    work.step("tokenizer")
    tokenizer = _tokenizer(work, source, folder, template)
    run = [export_checks.GreedyAnswer(**row) for row in json.loads(work.answers_file.read_bytes())]
    prompts = [export_checks.prompt(tokenizer, answer.user) for answer in run]
    with Vocabulary.from_file(work.model.gguf) as vocabulary:
        pairs = [(answer.prompt, ids) for answer, ids in zip(run, prompts, strict=True)]
        work.judge(
            "merged model",
            [
                export_checks.prompts(pairs, words=work.words, piece=vocabulary.piece),
                export_checks.end([end], end in export_checks.end_tokens(folder), work.template.end),
            ],
        )
    compared = export_checks.compare_likelihoods(folder, prompts, run, work.step("check: the merged model is asked"))
    # These weights were never quantised, but the GGUF that gave the run's answers may have been.
    of_gguf = "BF16" if work.model.weights_note else model_facts.quantisation(work.header)
    work.judge("merged model", [export_checks.agreement(compared, export_checks.widest("BF16", of_gguf))])


def _configure(work: ExportWork, folder: Path, end: int, ends: list[int]) -> None:
    """config.json of the base with the trained end token, and generation_config.json with the run's sampling."""
    config = config_for_both(json.loads((work.model.weights / "config.json").read_bytes()))
    # The tokenizer is saved by this version; without the number, 4.57 warns of a fault of older ones.
    config |= {"eos_token_id": end, "transformers_version": version("transformers")}
    write_json(folder / "config.json", config)
    settings = work.settings
    generation: dict[str, Any] = {"do_sample": settings.answer_temperature > 0, "eos_token_id": ends}
    if settings.answer_temperature > 0:
        generation |= _sampling(settings)
    for name in ("bos_token_id", "pad_token_id"):
        if isinstance(config.get(name), int):
            generation[name] = config[name]
    write_json(folder / "generation_config.json", generation)


def _tokenizer(work: ExportWork, source: Path, folder: Path, template: str) -> Any:
    """The base's own tokenizer, or one made from the GGUF's vocabulary if the weights came without one."""
    import transformers

    there = [name for name in TOKENIZER if (source / name).is_file()]
    if "tokenizer_config.json" in there:
        for name in there:
            shutil.copyfile(source / name, folder / name)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    else:
        work.emit(events.Note("The weights came without a tokenizer, so one is made from the GGUF's vocabulary."))
        tokenizer = transformers.AutoTokenizer.from_pretrained(work.model.gguf.parent, gguf_file=work.model.gguf.name)
    tokenizer.chat_template = template
    tokenizer.eos_token = work.template.end
    if not tokenizer.bos_token and work.bos:
        tokenizer.bos_token = work.bos
    tokenizer.save_pretrained(folder)
    saved = folder / "tokenizer_config.json"
    context = model_facts.context_length(work.header)
    write_json(saved, tokenizer_config_for_both(json.loads(saved.read_bytes()), context))
    return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
