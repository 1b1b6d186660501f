"""Makes the model of a run ready: fetch, check, choose the template, make what is missing once and cache it.

Everything that would fail later is refused here, before the first token: a broken file, an architecture whose adapters
cannot be converted, a template that cannot be used, a model that is not the one the run began with.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from minisheep.config import Settings
from minisheep.data.languages import NAMES
from minisheep.data.seed_tasks import load_items, load_prompts, load_seeds, load_wording, shipped
from minisheep.errors import MinisheepError, RunMismatchError, UnsupportedModelError, UsageError
from minisheep.formats.gguf_header import read_header
from minisheep.formats.lora_gguf import check_architecture
from minisheep.formats.model_facts import ModelFacts, context_length, model_facts, shape_of, special_tokens
from minisheep.machine import jinja_child, system
from minisheep.machine.gpu import BFLOAT16, pinned_note
from minisheep.machine.llama_library import OFFLOAD_FIX
from minisheep.models import cache
from minisheep.models.cache import Report, cache_root, sha256_file
from minisheep.models.fetch import FetchedFile, fetch_gguf, fetch_weights
from minisheep.models.prepared import PreparedModel
from minisheep.models.registry import ModelEntry, find_model
from minisheep.models.shape import Shape
from minisheep.plan import room
from minisheep.rules import templates
from minisheep.rules.plain_text import shell
from minisheep.rules.templates import Template
from minisheep.run.events import Emit, Note, notes
from minisheep.run.files import remove
from minisheep.trainers.choose_trainer import (
    Cuda,
    after_failure,
    check_training_on_gpu,
    choose_trainer,
    find_cuda,
    torch_obstacle,
)

if TYPE_CHECKING:
    from minisheep.workspace import Workspace

TYPE = "Q8_0"
"""Half of f16's memory with almost no loss; for another type there is `minisheep convert --type`."""


def gguf_of(entry: ModelEntry, report: Report, offline: bool = False) -> FetchedFile:
    """The GGUF of a model: fetched, or converted from its weights if none is known. Raises as `fetch_gguf` and
    `formats.hf_to_gguf` do."""
    if entry.gguf is not None or entry.weights is None:
        return fetch_gguf(entry, report, offline)
    folder = fetch_weights(entry, report, offline)
    assert folder is not None
    output = cache.cache_path("converted", f"{_identity(folder)}-{TYPE.lower()}.gguf")
    if not _still_whole(output, report):
        from minisheep.formats.hf_to_gguf import convert

        with cache.lock(f"convert-{output.stem}", report):
            if not output.exists():  # another process may have made it while this one waited
                report(f"{entry.title} has no GGUF. It is converted to one in {TYPE}, once for this model.")
                try:
                    convert(folder, output, TYPE, entry.title, report)
                    cache.note_made(output)
                except MinisheepError as error:
                    raise _explained(entry, error) from None
    return FetchedFile(output, sha256_file(output), output.stat().st_size, f"converted from {entry.weights}")


def _identity(folder: Path) -> str:
    """A digest of a folder: its files by name, size, inode and time of change, without reading them."""
    files = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in (".json", ".jinja", ".safetensors"):
            status = path.stat()
            files.append((path.name, status.st_size, status.st_ino, status.st_mtime_ns))
    named = [os.fsencode(folder.resolve()).hex(), files]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()[:32]


def _explained(entry: ModelEntry, error: MinisheepError) -> MinisheepError:
    message = f"No GGUF of {entry.title} is known. Its weights cannot be converted to one: {error.message}"
    return type(error)(message, error.fix)


PACKAGES = (
    *("minisheep", "torch", "transformers", "peft", "bitsandbytes", "llama-cpp-python", "gguf", "safetensors"),
    *("unsloth", "unsloth_zoo"),
)


def prepare(settings: Settings, stored: Path, emit: Emit) -> PreparedModel:
    """The model of a run, written to `stored` (``model.json``). Raises `errors.MinisheepError` for what cannot work."""
    before = PreparedModel.read(stored) if stored.exists() else None
    if before is None and (missing := _in_english(settings)):
        emit(Note(missing, "warning"))
    if settings.engine == "fake":
        model = fake_model("base" if settings.kind == "base" else "instruct")
        emit(Note("The engine and the trainer are fake. No model runs, and the records mean nothing.", "warning"))
    else:
        _check_offload(settings)
        _check_before_fetching(settings)
        if before is None and settings.engine == "openai":
            from minisheep.engines.openai import knock

            # Before gigabytes are fetched for a run that this server cannot do.
            knock(settings, stored.parent)
        model = _prepare_real(settings, emit)
        _check_gpu(settings, model, emit)
        failed = before.trainer_failed if before is not None else ""
        choice = after_failure(choose_trainer(settings.trainer, settings.load_in, model.architecture), failed)
        if choice.message:
            emit(Note(choice.message, "warning" if choice.warning else "info"))
        model = dataclasses.replace(model, trainer=choice.trainer, trainer_failed=failed if choice.warning else "")
        if before is None:
            _check_lengths(settings, model, emit)
            if not model.weights_note:  # not made here
                from minisheep.formats.same_model import check_loads

                check_loads(model.weights)
            if settings.engine == "openai":
                _try_server(settings, model, emit, stored.parent)
    # A run keeps the versions it began with; what has changed since is reported.
    if before is not None:
        _check_same_file(before, model.gguf_sha256)
        changed = sorted(k for k, v in model.versions.items() if before.versions.get(k) != v)
        if changed:
            emit(Note(f"Versions changed since the run began: {', '.join(changed)}. Results may, too.", "warning"))
        if before.inference_gguf.exists():
            # Which libraries and GPU there are may have changed, and so may the setting; what was checked now counts.
            checked = {name: getattr(model, name) for name in ("gguf", "weights", "trainer", "trainer_failed")}
            kept = dataclasses.replace(before, **checked)
            if kept != before:
                kept.write(stored)
            return kept
        if before.inference_gguf.name != model.inference_gguf.name:
            gone, now = before.inference_gguf.name, model.inference_gguf.name
            emit(Note(f"The run began with {gone}, which is gone. It goes on with {now}.", "warning"))
    model.write(stored)
    return model


def _check_offload(settings: Settings) -> None:
    """Raises `errors.UsageError` where llama.cpp would leave this machine's GPU idle and nobody asked for that."""
    from minisheep.engines import native

    if idle := native.gpu_without_offload(settings.gpu_layers):
        raise UsageError(f"{idle} Nothing was generated.", OFFLOAD_FIX)


def _check_before_fetching(settings: Settings) -> None:
    """Refuse what `_check_gpu` would refuse, as far as it is known before gigabytes are fetched. Raises as it does."""
    cuda = find_cuda()
    if check_training_on_gpu(settings.trainer, cuda):
        return  # training is on the processor, and `_check_gpu` says so
    try:
        model = room.known_model(settings)
    except MinisheepError:  # the fetch tells more of it, or its size
        return
    _room_on(cuda, settings, model.name, model.shape, model.architecture)


def _in_english(settings: Settings) -> str:
    """What a run in another language is shown in English, for want of the language's own; empty where nothing is."""
    if settings.language == "en":
        return ""
    names = {"seeds": "seeds.jsonl", "prompts": "prompts"}
    ours = [kind for kind in names if not getattr(settings, kind)]
    english = [kind for kind in ours if shipped(names[kind], settings.language) == names[kind]]
    if not english:
        return ""
    return (
        f"minisheep has no {' and no '.join(english)} in {NAMES[settings.language]}, so the model is shown English."
        f" Start a new run with {' and '.join(f'--{kind}' for kind in english)} of your own (docs/guide/languages.md)."
    )


def _check_lengths(settings: Settings, model: PreparedModel, emit: Emit) -> None:
    """Refuse what does not fit the context, while seeds and context may still be changed. Raises as `Lengths.check`."""
    from minisheep.engines.native import Vocabulary
    from minisheep.stages.evaluate import chosen
    from minisheep.stages.lengths import Lengths

    room = min(settings.context, context_length(read_header(model.gguf)))
    with Vocabulary.from_file(model.gguf) as vocabulary:
        lengths = Lengths(
            settings, model.template, model.kind, load_prompts(settings.prompts, settings.language),
            lambda prompt: len(vocabulary.encode(prompt, bos=True)),
            load_wording(settings.prompts, settings.language),
        )  # fmt: skip
        items = chosen(load_items(language=settings.language), settings.eval_verifiable)
        for warning in lengths.check(load_seeds(settings.seeds, settings.language), items, room):
            emit(Note(warning, "warning"))


def _check_gpu(settings: Settings, model: PreparedModel, emit: Emit) -> None:
    """Refuse, or warn, if training cannot use this GPU or lacks room on it. Raises `errors.UsageError`."""
    cuda = find_cuda()
    if one_of_several := pinned_note(os.environ, cuda.gpu):
        emit(Note(one_of_several))
    on_processor = check_training_on_gpu(settings.trainer, cuda)
    if on_processor:
        emit(Note(on_processor, "warning"))
    if cuda.gpu is None or on_processor:
        return
    message = _room_on(cuda, settings, model.name, shape_of(read_header(model.gguf)), model.architecture)
    if message:
        emit(Note(message, "warning"))


def _room_on(cuda: Cuda, settings: Settings, name: str, shape: Shape, architecture: str) -> str:
    """`room.check_room` for the GPU of a training; nothing to say without one."""
    if cuda.gpu is None or torch_obstacle(cuda) is not None:
        return ""
    bfloat16 = cuda.gpu.capability is not None and cuda.gpu.capability >= BFLOAT16
    need = room.need_of(shape, architecture, settings, bfloat16=bfloat16)
    smaller = room.largest_that_fits(settings, cuda.gpu.total, bfloat16=bfloat16) if need.all > cuda.gpu.free else ""
    return room.check_room(name, need, cuda.gpu, smaller)


def _try_server(settings: Settings, model: PreparedModel, emit: Emit, run: Path) -> None:
    """Ask the server for a few tokens. Raises `errors.MinisheepError` if it cannot do what the run needs."""
    from minisheep.engines.openai_wire import refusal
    from minisheep.open_engines import open_server

    engine = open_server(settings, model.gguf, run)
    try:
        if engine.post.exposes_key:
            emit(Note(f"The key goes unencrypted to {engine.post.name}. Use https:// to protect it.", "warning"))
        engine.set_adapter(None)
        if (missing := refusal(settings, engine.abilities, engine.post.name)) is not None:
            raise missing
        emit(Note(f"{engine.post.name} was tested: {engine.abilities}."))
    finally:
        engine.close()
    if not settings.engine_hook:
        emit(Note("The server has only the base. This machine measures, and runs all that needs an adapter."))


def fake_model(kind: str = "instruct") -> PreparedModel:
    here = Path()
    return PreparedModel(
        name="fake", title="no model", kind=kind, architecture="fake", licence="", gguf=here, gguf_sha256="fake",
        source="none", inference_gguf=here, inference_note="", weights=here, weights_note="",
        template=templates.plain("</s>"), versions=versions(), trainer="fake",
    )  # fmt: skip


def versions() -> dict[str, str]:
    return {"platform": platform.platform(terse=True), **system.versions(PACKAGES)}


def for_inference(settings: Settings, emit: Emit, *, trainable: bool = False) -> PreparedModel:
    """A model without its training weights. Raises `errors.MinisheepError`.

    With `trainable`, an architecture whose adapters cannot be converted is refused before anything is made.
    """
    from minisheep.formats.model_check import check_model

    report = notes(emit)
    entry = find_model(settings.model, gguf=settings.gguf or None, weights=settings.weights or None)
    fetched = gguf_of(entry, report)
    header = read_header(fetched.path)
    facts = model_facts(header)
    if trainable:
        try:
            check_architecture(header.architecture)
        except UnsupportedModelError as error:
            raise UnsupportedModelError(f"{entry.name}: {error.message} Nothing was generated.", error.fix) from None
    special = special_tokens(header)
    kind = settings.kind if settings.kind != "auto" else entry.kind
    if kind not in ("base", "instruct"):
        kind = "instruct" if facts.chat_template else "base"
        otherwise = " (--kind changes that)" if trainable else ""
        report(f"{entry.name} is not in the registry. Its file suggests kind {kind}{otherwise}.")
    template = templates.choose(settings.template, entry.template, facts.chat_template, special, jinja_child.render)
    checked = check_model(fetched.path, header, template)
    for warning in (*checked.warnings, *_thought(facts.chat_template, special, template)):
        emit(Note(warning, "warning"))
    inference, inference_note = _inference_copy(fetched.path, fetched.sha256, facts, settings.threads, report)
    return PreparedModel(
        name=entry.name, title=entry.title, kind=kind, architecture=header.architecture, licence=entry.licence,
        gguf=fetched.path, gguf_sha256=fetched.sha256, source=fetched.source, inference_gguf=inference,
        inference_note=inference_note, weights=Path(), weights_note="", template=checked.template,
        versions=versions(),
    )  # fmt: skip


def _thought(source: str, special: dict[str, str], template: Template) -> list[str]:
    """What is to be told where the model's own template opens a thought before each answer, or begins none."""
    if template.name != "model" or templates.closed_source(source, special, template, jinja_child.render) == source:
        return []
    return [
        f"The model's own template does not end where an answer without a thought begins. The run prompts up to"
        f" {template.between[-60:]!r}, in training too, and an export's template then does so as well."
    ]


def _checked_again(model: PreparedModel, emit: Emit) -> PreparedModel:
    """A run's model after the check of this version, which a run of another version may not have passed."""
    from minisheep.formats.model_check import check_model

    header = read_header(model.inference_gguf)
    try:
        checked = check_model(model.inference_gguf, header, model.template, tells_log=False)
    except UnsupportedModelError as error:
        emit(Note(error.message.replace(" Nothing was generated.", ""), "warning"))
        return model
    for warning in checked.warnings:
        emit(Note(warning, "warning"))
    return dataclasses.replace(model, template=checked.template)


def _check_same_file(before: PreparedModel, sha256: str) -> None:
    if before.gguf_sha256 != sha256:
        raise RunMismatchError(
            f"The file of {before.name} has changed since the run began: its SHA-256 was {before.gguf_sha256[:16]}...,"
            f" and is now {sha256[:16]}.... This run cannot use it.",
            "Restore the old file, then give the same command again; or start a new run.",
        )


def ensure_files(model: PreparedModel, settings: Settings, emit: Emit, *needed: str) -> PreparedModel:
    """A run's model; of its files, those `needed` (fields of it) are fetched or made anew where the cache was emptied.

    Raises `errors.RunMismatchError` where what is found is another file, and `errors.MinisheepError` for none.
    """
    if settings.engine == "fake":
        return model
    if all(getattr(model, name).exists() for name in needed):
        if "gguf" in needed or model.inference_gguf == model.gguf:  # a copy of the cache is named by its digest
            _check_same_file(model, sha256_file(model.gguf))
        return _checked_again(model, emit)
    prepared = _prepare_real(settings, emit) if "weights" in needed else for_inference(settings, emit)
    _check_same_file(model, prepared.gguf_sha256)
    weights = prepared.weights if "weights" in needed else model.weights
    found = dataclasses.replace(model, gguf=prepared.gguf, inference_gguf=prepared.inference_gguf, weights=weights)
    return _checked_again(found, emit)


def open_model(run: Path, emit: Emit) -> tuple[Workspace, PreparedModel]:
    """A run as it stands, to answer people: it is only read, and its model is fetched or made anew where it is gone.

    Raises `errors.UsageError` for a run without a model, and as `ensure_files`.
    """
    from minisheep.workspace import Workspace

    work = Workspace(run)
    if not work.folder.model.exists():
        raise UsageError(f"{run} has no model yet.", f"Fetch it with `minisheep align --run {shell(run)}`.")
    return work, ensure_files(work.model, work.settings, emit, "inference_gguf")


def _prepare_real(settings: Settings, emit: Emit) -> PreparedModel:
    model = for_inference(settings, emit, trainable=True)
    entry = find_model(settings.model, gguf=settings.gguf or None, weights=settings.weights or None)
    weights, note = training_weights(entry, model.gguf, model.gguf_sha256, emit)
    return dataclasses.replace(model, weights=weights, weights_note=note)


def _inference_copy(
    gguf: Path, sha256: str, facts: ModelFacts, threads: int, report: Callable[[str], None]
) -> tuple[Path, str]:
    """The file that llama.cpp maps: a copy where the CPU has no fast kernel for a good part of it."""
    from minisheep.engines import native
    from minisheep.engines.llamacpp import decode_rate
    from minisheep.formats import quantise
    from minisheep.formats.quantise import requantise
    from minisheep.machine import cpu

    if facts.fast_on_cpu or native.offload().works:
        return gguf, ""
    fast = cpu.usable()
    if cpu.present() and not fast:
        report("This llama.cpp lacks AMX, which this CPU has, so it is slower. The README shows how to build it in.")
    folder = cache_root() / "inference"

    def copy_of(format: str) -> Path:
        copy = folder / f"{sha256[:32]}-{format}.gguf"
        if not _still_whole(copy, report):
            report(f"{gguf.name}: this CPU is slow with its format. A copy in {format.upper()} is made, once.")
            copy.parent.mkdir(parents=True, exist_ok=True)
            requantise(gguf, copy, format)
            cache.note_made(copy)
        return copy

    cpuinfo = cpu.cpuinfo()
    threads = threads or cpu.cores()
    chosen, rates = quantise.choose(
        quantise.candidates(cpu.flags(cpuinfo), facts.parameters),
        copy_of,
        lambda copy: decode_rate(copy, threads=threads),
        folder / f"{sha256[:32]}-speed.json",
        f"{cpu.name(cpuinfo) or 'unknown'}{', AMX' if fast else ''}, {threads} threads,"
        f" llama.cpp {native.llama_cpp.__version__}",
        report,
    )
    note = f"inference uses a copy in {chosen.upper()}: this CPU is slow with the file's own format"
    if rates:
        speeds = ", ".join(f"{name.upper()} {rate:.0f}" for name, rate in rates.items())
        note += f" (tokens/s of 16 sequences in a short trial: {speeds})"
    return copy_of(chosen), note


def _still_whole(made: Path, report: Callable[[str], None]) -> bool:
    """Whether a copy that was made once is there and as it was made; a damaged one is removed, to be made anew."""
    if not made.exists():
        return False
    if cache.is_as_made(made):
        return True
    report(f"{made} in the cache has changed since it was made, so it is damaged. It is made again.")
    with cache.disk_errors("The damaged copy cannot be removed"):
        remove(made)
    return False


def training_weights(
    entry: ModelEntry, gguf: Path, sha256: str, emit: Emit, *, offline: bool = False
) -> tuple[Path, str]:
    """The folder that training loads, and what is to be told of it: the model's own safetensors, else the GGUF's
    tensors, dequantised once for its `sha256`. Raises as `fetch_weights` does."""

    report = notes(emit)
    try:
        own = fetch_weights(entry, report, offline)
    except MinisheepError as error:
        raise type(error)(f"{error.message} Training needs these weights. Nothing was generated.", error.fix) from None
    if own is not None:
        from minisheep.formats.same_model import check_same_model

        check_same_model(gguf, own)
        return own, ""
    from minisheep.formats.gguf_to_hf import dequantise

    folder = cache_root() / "dequantised" / sha256[:32]
    note = "training starts from the GGUF's own tensors, dequantised to bf16"
    if not _still_whole(folder, report):
        report(f"{gguf.name}: {note}, once for this model.")
        folder.parent.mkdir(parents=True, exist_ok=True)
        dequantise(gguf, folder, emit)
        cache.note_made(folder)
    return folder, note
