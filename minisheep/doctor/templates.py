"""The chat template that a GGUF brings beside the one that its training weights bring."""

from __future__ import annotations

import json
from pathlib import Path

from minisheep.doctor.result import Facts
from minisheep.errors import MinisheepError
from minisheep.models.facts import model_facts
from minisheep.models.gguf_header import read_header
from minisheep.models.prepared import PreparedModel
from minisheep.rules.templates import from_jinja

MOST = 2**20
"""Characters of a template that are read: it is a stranger's file."""


def both(model: PreparedModel) -> Facts:
    """What each side's own template makes of one turn, as ``[before, between, end]``; empty where it has none."""
    facts = model_facts(read_header(model.gguf))
    special = {"bos_token": facts.bos_text, "eos_token": facts.eos_text}
    return {"gguf": frame(facts.chat_template, special), "weights": frame(of_weights(model.weights), special)}


def frame(source: str, special: dict[str, str]) -> list[str]:
    """The frame of a Jinja template; empty for none, and for one that cannot be rendered."""
    if not source:
        return []
    try:
        found = from_jinja(source, special)
    except MinisheepError:
        return []
    return [found.before, found.between, found.end]


def of_weights(folder: Path) -> str:
    """The template in a folder of weights (chat_template.jinja, else tokenizer_config.json); empty where none is."""
    try:
        file = folder / "chat_template.jinja"
        if file.is_file():
            return file.read_text(encoding="utf-8")[:MOST]
        told = json.loads((folder / "tokenizer_config.json").read_bytes())
    except (OSError, ValueError):
        return ""
    found = told.get("chat_template") if isinstance(told, dict) else None
    return found[:MOST] if isinstance(found, str) else ""
