"""The model of a run, found and checked once: its files, hashes and template. Kept in ``model.json``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from minisheep.errors import CorruptRunError
from minisheep.rules.plain_text import one_line
from minisheep.rules.templates import Template
from minisheep.run.files import read_json, write_json
from minisheep.run.typed import check_fields

LONGEST = 300
"""Characters of a text in the file that is shown."""
PATHS = ("gguf", "inference_gguf", "weights")
"""Fields that are texts in the file."""


@dataclass(frozen=True, slots=True)
class PreparedModel:
    name: str
    title: str
    kind: str
    """``base`` (prompted in plain text before its first training) or ``instruct``."""
    architecture: str
    licence: str
    gguf: Path
    gguf_sha256: str
    source: str
    inference_gguf: Path
    """The file that llama.cpp maps: the same, or a copy re-quantised once for this processor."""
    inference_note: str
    weights: Path
    """Folder with the training weights."""
    weights_note: str
    template: Template
    versions: dict[str, str]
    trainer: str = ""
    """The trainer, as settled when the run was begun or continued last; empty in old runs."""
    trainer_failed: str = ""
    """Why Unsloth is not used though it could be: it failed here, with the versions that the text names."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises `errors.CorruptRunError`."""
        data: dict[str, Any] = read_json(path)
        try:
            template = data.pop("template")
            check_fields(Template, template)
            check_fields(cls, {name: value for name, value in data.items() if name not in PATHS})
            template["stop"] = tuple(template["stop"])
            if unknown := data.keys() - {field.name for field in dataclasses.fields(cls)}:
                raise ValueError(f"{min(unknown)!r} is unknown here; a newer minisheep may have made the run")
            for name in PATHS:
                data[name] = Path(data[name])
            # Cards and Modelfiles are made of these: a line break in one would begin a line of its own.
            for name in ("name", "title", "kind", "architecture", "licence", "source"):
                data[name] = one_line(data[name], LONGEST)
            return cls(template=Template(**template), **data)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise CorruptRunError(f"{path} is damaged: {error}.", "Restore it, or start a new run.") from None

    def write(self, path: Path) -> None:
        data = {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(self).items()}
        if not self.trainer_failed:
            del data["trainer_failed"]
        write_json(path, data)
