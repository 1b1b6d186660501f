"""What a model's folder says, apart from its weights: plain JSON, read once, nothing of it trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minisheep.errors import ModelFileError
from minisheep.models.weights_folder import what_is_missing

AGAIN = "Fetch the model's files again, or pass a GGUF of it with --gguf FILE."
_MAX_JSON = 256 * 2**20
"""Bytes; the largest known tokenizer.json (Gemma 3) has 33 MB."""


@dataclass(frozen=True, slots=True)
class Source:
    """The files of a folder that speak of a model. Where a file is missing, its mapping is empty."""

    folder: Path
    config: Mapping[str, Any]
    """config.json."""
    generation: Mapping[str, Any]
    """generation_config.json."""
    tokenizer: Mapping[str, Any]
    """tokenizer.json: the whole tokenizer."""
    special: Mapping[str, Any]
    """tokenizer_config.json: which tokens begin and end a text."""
    chat_template: str
    """Jinja source; empty for a base model that has none."""


def read_source(folder: Path) -> Source:
    """Read the JSON files of `folder`. Raises `errors.ModelFileError` naming what is missing or damaged."""
    missing = what_is_missing(folder)
    if missing:
        raise ModelFileError(f"{folder} cannot be converted: {missing}.", AGAIN)
    if not (folder / "tokenizer.json").is_file():
        raise ModelFileError(
            f"{folder} cannot be converted: it has no tokenizer.json.",
            "Fetch that file too; where the makers give none, transformers' AutoTokenizer.from_pretrained(FOLDER)"
            ".save_pretrained(FOLDER) makes it.",
        )
    special = _read(folder / "tokenizer_config.json")
    return Source(
        folder=folder,
        config=_read(folder / "config.json"),
        generation=_read(folder / "generation_config.json"),
        tokenizer=_read(folder / "tokenizer.json"),
        special=special,
        chat_template=_chat_template(folder, special),
    )


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is no such file."""
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > _MAX_JSON:
            raise ValueError("it is far larger than any model's")
        data = json.loads(path.read_bytes())
        if not isinstance(data, dict):
            raise ValueError("it holds no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}.", AGAIN) from None
    return data


def _chat_template(folder: Path, special: Mapping[str, Any]) -> str:
    """The folder's chat template: a file of its own, or a text or a list of named texts in tokenizer_config.json."""
    path = folder / "chat_template.jinja"
    try:
        if path.is_file():
            return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}.", AGAIN) from None
    told = special.get("chat_template")
    if isinstance(told, list):
        named = {each.get("name"): each.get("template") for each in told if isinstance(each, dict)}
        told = named.get("default")
    return told if isinstance(told, str) else ""
