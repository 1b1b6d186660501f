"""What run and export are asked: held-out seed tasks, framed as the run does and as the exported files do."""

from __future__ import annotations

import json
from pathlib import Path

from minisheep.config import Settings
from minisheep.data.texts import load_seeds
from minisheep.errors import ModelFileError, SeedFileError, UnsupportedModelError
from minisheep.export import modelfile
from minisheep.models.facts import bos_text, chat_template, eos_text
from minisheep.models.gguf_header import GgufHeader, read_header
from minisheep.rules.prompts import user_text
from minisheep.rules.templates import render_jinja
from minisheep.stages.evaluate import held_out

MODELFILE = "Modelfile"
CHAT_TEMPLATE = "chat_template.jinja"


def users(settings: Settings, count: int) -> list[str]:
    """The user's turns: held-out tasks of the run's seeds, or of minisheep's own where that file is gone."""
    try:
        seeds = load_seeds(settings.seeds)
    except SeedFileError:
        seeds = load_seeds()
    return [user_text(task.instruction, task.input) for task in held_out(seeds, count)]


def by_gguf(path: Path, users: list[str]) -> list[str]:
    """Each user's turn as the chat template in a GGUF puts it, and what LM Studio and llama.cpp's server then do.

    Raises `errors.UnsupportedModelError` where the file has none or it cannot be rendered.
    """
    header = read_header(path)
    source = chat_template(header)
    if not source:
        raise UnsupportedModelError("The exported GGUF holds no chat template.", "Train with --template chatml.")
    return by_jinja(source, header, users)


def by_jinja(source: str, header: GgufHeader, users: list[str]) -> list[str]:
    """Each user's turn as a chat template puts it; `header` names the begin and end tokens.

    Raises `errors.UnsupportedModelError` where it cannot be rendered.
    """
    special = {"bos_token": bos_text(header), "eos_token": eos_text(header)}
    return [render_jinja(source, special, [{"role": "user", "content": user}], answer_next=True) for user in users]


def by_modelfile(path: Path, users: list[str]) -> list[str]:
    """Each user's turn as Ollama puts it. Raises `errors.ModelFileError`."""
    try:
        told = modelfile.parse(path.read_text(encoding="utf-8"))
        return [modelfile.render(told.template, told.system, user) for user in users]
    except (ValueError, OSError) as error:
        raise ModelFileError(f"The Modelfile does not say what it should: {error}.", "Nothing was exported.") from None


def end_tokens(path: Path) -> list[int]:
    """The tokens at which transformers ends an answer, by a folder's generation_config.json."""
    found = json.loads((path / "generation_config.json").read_bytes())["eos_token_id"]
    return found if isinstance(found, list) else [found]
