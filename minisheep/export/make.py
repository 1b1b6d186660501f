"""The first job of an export: whatever llama.cpp makes and runs. The run's own answers are its measure."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from minisheep.engines.vocabulary import Vocabulary
from minisheep.export import check, llama, merge, modelfile, prompts
from minisheep.export.desk import Work
from minisheep.export.families import take_apart
from minisheep.export.modelfile import Modelfile
from minisheep.export.spec import WITH_ADAPTER, WITH_GGUF
from minisheep.machine.files import check_room, write_atomic, write_json
from minisheep.models.facts import context_length, parameter_count
from minisheep.models.quantise import FORMATS, quantise
from minisheep.trainers.lora_gguf import TENSORS, convert_adapter, read_config

F16 = "F16"
SPARE = 2**27
"""Bytes that are left free, and that everything but the weights may take."""


def make(work: Work) -> None:
    """Raises `errors.ExportError` where a check fails, and what llama.cpp and the disk raise."""
    spec, model = work.spec, work.model
    _check_room(work)
    spec.model_folder.mkdir(parents=True, exist_ok=True)
    users = prompts.users(work.settings, spec.prompts)
    run = llama.answers(
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


def _gguf(work: Work, users: list[str], run: list[llama.Answer]) -> None:
    spec = work.spec
    whole = Path(spec.work) / "merged.gguf"
    metadata = _metadata(work)
    merge.merge(work.model.gguf, work.round.adapter_gguf, whole, metadata, work.step("merge"))
    off = dict(merge.differences(work.model.gguf, work.round.adapter_gguf, whole))
    work.judge("GGUF", [check.merge(off)])
    if spec.format == F16:
        os.replace(whole, spec.gguf)
    else:
        work.step("quantise")
        quantise(whole, spec.gguf, spec.format)
        whole.unlink()
    rendered = prompts.by_gguf(spec.gguf, users)
    work.judge("GGUF", llama.prompt_checks(spec.gguf, rendered, run, work.template, words=work.words))
    if spec.target == "ollama":
        _modelfile(work)
        rendered = prompts.by_modelfile(spec.model_folder / prompts.MODELFILE, users)
        found = llama.prompt_checks(spec.gguf, rendered, run, work.template, words=work.words)
        work.judge("Modelfile", found[:1])
    _compare(work, "GGUF", spec.gguf, None, rendered, run, spec.format)


def _adapter(work: Work, users: list[str], run: list[llama.Answer]) -> None:
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
    write_atomic(folder / prompts.CHAT_TEMPLATE, source.encode())
    converted = Path(spec.work) / "adapter.gguf"
    convert_adapter(folder, work.model.gguf, converted)
    rendered = prompts.by_jinja(source, work.header, users)
    base = work.model.inference_gguf
    work.judge("adapter", llama.prompt_checks(base, rendered, run, work.template, words=work.words))
    _compare(work, "adapter", base, converted, rendered, run, F16)


def _compare(
    work: Work,
    where: str,
    gguf: Path,
    adapter: Path | None,
    rendered: list[str],
    run: list[llama.Answer],
    format: str,
) -> None:
    tell = work.step(f"the {where} answers")
    asked = llama.compare(gguf, adapter, rendered, run, work.template, work.tokens, work.machine, tell)
    work.judge(where, [check.agreement(asked, format), check.ends(asked)])


def _metadata(work: Work) -> dict[str, str | int]:
    """What the merged GGUF says of itself; everything else is the base's."""
    with Vocabulary.from_file(work.model.gguf) as vocabulary:
        source = work.chat_template(adds_bos=vocabulary.add_bos)
        end = llama.end_token(vocabulary, work.template)
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


def _modelfile(work: Work) -> None:
    spec, settings = work.spec, work.settings
    frame = take_apart(work.template, work.bos)
    with Vocabulary.from_file(spec.gguf) as vocabulary:
        says_bos = bool(frame.bos) and not vocabulary.add_bos
    sampling = {
        "temperature": settings.answer_temperature,
        "top_p": settings.answer_top_p,
        "top_k": llama.TOP_K,
    }
    trained = min(settings.context, context_length(work.header))
    made = Modelfile(
        f"./{spec.gguf.name}",
        modelfile.go_template(frame, says_bos=says_bos),
        frame.system,
        modelfile.parameters(frame, sampling, trained),
        spec.licence,
        (
            f"{spec.title}, made with minisheep.",
            f"num_ctx is what the run used; the base was made for {context_length(work.header)} tokens.",
        ),
    )
    write_atomic(spec.model_folder / prompts.MODELFILE, made.text().encode())


def _check_room(work: Work) -> None:
    """Raise `errors.DiskError` before the work where its files do not fit."""
    spec = work.spec
    parameters = parameter_count(work.header)
    needed = float(SPARE)
    if spec.target in WITH_GGUF:
        needed += parameters * (2.0 + (0.0 if spec.format == F16 else FORMATS[spec.format][1]))
    if spec.needs_weights:
        needed += sum(path.stat().st_size for path in work.model.weights.glob("*.safetensors"))
    check_room(Path(spec.work), needed, "The export needs", "Make room, or give --out on a larger disk.")
