"""Which model a name means: the shipped registry, a local GGUF or a hub repository.

Nothing here touches the network; only `find_model` looks whether a given path is a file.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path

from minisheep.errors import UnknownModelError
from minisheep.models.entries import (
    HUB_ID,
    REPO,
    GgufSource,
    HubFile,
    HubRepo,
    LocalPath,
    ModelEntry,
    WeightsSource,
    parse_registry,
)

_HUB_FILE = re.compile(rf"{REPO.pattern}(?:@[^:/]*)?:")
"""How a hub id with a file begins, right or wrong behind the colon."""


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


def safe_name(text: str) -> str:
    """A name by the grammar of `entries.NAME` that resembles `text`."""
    cleaned = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).lstrip("._-")[:80].rstrip("._-")
    return cleaned or "model"


def _by_name(name: str) -> ModelEntry | None:
    wanted = name.strip().lower()
    for entry in load_registry().values():
        if wanted == entry.name or wanted in entry.aliases:
            return entry
    return None


def _by_path(name: str) -> ModelEntry | None:
    # "ORG/REPO:FILE.gguf" also ends in .gguf: it is a path only if such a file is here.
    if not name.lower().endswith(".gguf") or "\0" in name or (_HUB_FILE.match(name) and not _is_there(name)):
        return None
    path = Path(name)
    return _outsider(path.name.removesuffix(path.suffix), gguf=LocalPath(path))


def _by_folder(name: str) -> ModelEntry | None:
    # "ORG/REPO", or any other name, may be a folder here too: it is meant only if it holds a model.
    if not name or "\0" in name or not _is_there(str(Path(name) / "config.json")):
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
    from rapidfuzz import fuzz, process  # only a wrong name needs it

    registry = load_registry()
    near = [found for found, _, _ in process.extract(name.lower()[:100], list(registry), scorer=fuzz.ratio, limit=3)]
    return UnknownModelError(
        f"No model is called {name[:100]!r}. The nearest names are {', '.join(near)}.",
        "`minisheep models` lists them all; a .gguf file, a folder of weights or a hub id ORG/REPO works too.",
    )


def _is_there(text: str, *, folder: bool = False) -> bool:
    try:
        return Path(text).is_dir() if folder else Path(text).is_file()
    except (OSError, ValueError):  # too long, or a NUL byte
        return False
