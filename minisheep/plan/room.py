"""What is known of a model before a run, and whether its training fits the GPU of this machine. Only reads.

The size of the weights is exact, so a run is refused where they do not fit. What training takes beyond them is an
estimate, so that is only a warning.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from minisheep import phase_times
from minisheep.config import Settings
from minisheep.errors import MinisheepError, UsageError
from minisheep.formats import gguf_header, lora_gguf, model_facts, quantise
from minisheep.machine import cpu
from minisheep.machine.gpu import Gpu, in_words
from minisheep.models import cache, hub, registry
from minisheep.models.registry import HubFile, LocalPath, ModelEntry, Wheels, find_model, load_registry
from minisheep.models.shape import Shape
from minisheep.phase_times import Times
from minisheep.plan import duration, memory_parts
from minisheep.plan.duration import Calibration
from minisheep.rules.plain_text import shell
from minisheep.trainers.base import settle

CONVERTED = "Q8_0"
"""The format of a GGUF that a run makes from the weights, where none is known (`prepare.TYPE`)."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model as its GGUF's header describes it, or the registry where the file is not here."""

    name: str
    architecture: str
    shape: Shape
    weights: memory_parts.Weights
    fast_on_cpu: bool
    here: bool
    """Whether the GGUF is on this machine."""
    own_weights: bool
    """Whether the user has the training weights in a folder already."""
    rates: dict[str, float]
    """Measured tokens a second on this machine by format, where `formats.quantise` measured."""
    calibration: Calibration | None = None
    listed: str = ""
    """The registry's name of a model that was given by its hub id and is not here."""
    history: Times = field(default_factory=dict)
    """What phases of this model took on this machine, by name."""

    @property
    def parameters(self) -> int:
        return self.shape.parameters(self.architecture)

    def calibration_on(self, machine: str) -> Calibration | None:
        """The calibration if it was measured on the machine with this title."""
        return self.calibration if self.calibration and self.calibration.machine == machine else None


def known_model(settings: Settings) -> Model:
    """The model of `settings`, without any download.

    Raises `errors.MinisheepError` for a model that is unknown, broken or cannot be aligned, and for one whose size
    is unknown until its file is here.
    """
    entry = find_model(settings.model, gguf=settings.gguf or None, weights=settings.weights or None)
    own = isinstance(entry.weights, LocalPath)
    path = gguf_here(entry)
    if path is not None:
        header = gguf_header.read_header(path)
        lora_gguf.check_architecture(header.architecture)
        facts = model_facts.model_facts(header)
        weights = memory_parts.weights_in(header, facts.quantisation)
        rates = _rates(entry.gguf_sha256)
        shape, fast, calibration = model_facts.shape_of(header), facts.fast_on_cpu, duration.read_calibration(path)
        sha256 = entry.gguf_sha256 or cache.known_sha256(path)
        history = phase_times.read_times(phase_times.times_path(settings, sha256)) if sha256 else {}
        return Model(
            entry.name, header.architecture, shape, weights, fast, True, own, rates, calibration, history=history
        )
    known = entry if entry.shape else registry.listed_as(entry)
    if known is None or known.shape is None:
        raise UsageError(
            f"The size of {entry.name} is unknown until its GGUF is here, so there is no plan.",
            f"Fetch it with `minisheep pull {shell(settings.model)}`, or plan for a model that"
            " `minisheep models` lists.",
        )
    format = _format(entry)
    weights = memory_parts.weights_as(known.shape, known.architecture, format)
    if entry.gguf_bytes:
        weights = replace(weights, file=entry.gguf_bytes)
    fast = memory_parts.fast_on_cpu(known.shape, format)
    listed = "" if known is entry else known.name
    return Model(entry.name, known.architecture, known.shape, weights, fast, False, own, {}, listed=listed)


def gguf_here(entry: ModelEntry) -> Path | None:
    """The model's GGUF if it is on this machine. Raises ModelFileError for a local path that is not a file."""
    match entry.gguf:
        case LocalPath(path):
            return Path(os.path.expanduser(path))
        case Wheels() if entry.gguf_sha256:
            root = cache.cache_root() / "gguf" / entry.name / f"{entry.name}-{entry.gguf_sha256[:12]}.gguf"
            return root if root.is_file() else None
        case HubFile():
            return hub.cached_file(entry.gguf)
    return None


def _format(entry: ModelEntry) -> str:
    """The format of a GGUF that is not here. Raises `errors.UsageError` where its name does not say."""
    match entry.gguf:
        case HubFile(_, file):
            name = file
        case Wheels(parts):
            name = parts[-1].member.removesuffix(f".part{len(parts) - 1:02}")
        case _:
            return CONVERTED
    format = memory_parts.format_in_name(name)
    if format is None:
        raise UsageError(
            f"The name of {name} does not show its format ({', '.join(memory_parts.FORMATS)}), so its size is unknown.",
            "Fetch it first with `minisheep pull`.",
        )
    return format


def _rates(sha256: str | None) -> dict[str, float]:
    """Measured rates of this machine, if any, the last where several numbers of threads were tried."""
    if not sha256:
        return {}
    known = quantise.recorded(cache.cache_root() / "inference" / f"{sha256[:32]}-speed.json")
    name = cpu.name(cpu.cpuinfo()) or "unknown"
    return next((rates for machine, rates in reversed(known.items()) if machine.startswith(name)), {})


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes of the GPU that training takes with one example a forward pass."""

    base: int
    """The frozen model."""
    all: int


def need_of(shape: Shape, architecture: str, settings: Settings, *, bfloat16: bool) -> Need:
    load_in, float32 = settle(settings.load_in, cuda=True, fast_bf16=bfloat16, architecture=architecture)
    how = memory_parts.TrainingMemory(load_in, True, float32, settings.lora_rank, 1, settings.max_length)
    parts = memory_parts.training_parts(shape, architecture, how)
    return Need(
        memory_parts.total([part for part in parts if part.name.startswith("base:")]), memory_parts.total(parts)
    )


def check_room(name: str, need: Need, gpu: Gpu, smaller: str) -> str:
    """A warning where `name` may not fit `gpu`, else empty. `smaller` names a model that fits, if any.

    Raises `errors.UsageError` where it cannot fit, or cannot fit beside the programs that use the GPU now.
    """
    takes = f"{name} takes {need.base / 1e9:.1f} GB of the GPU for its weights and about {need.all / 1e9:.1f} GB in all"
    if need.base > gpu.total:
        fix = f"Use {smaller}, which fits" if smaller else "No known model fits, so train without the GPU"
        raise UsageError(
            f"{takes}, and {gpu.name} has {gpu.total / 1e9:.1f} GB. Nothing was generated.",
            f"{fix} (`minisheep plan` shows what each takes).",
        )
    held = in_words(gpu.holders)
    others = f": {held} hold the rest" if held else ""
    if need.base > gpu.free:
        raise UsageError(
            f"{takes}, and of the {gpu.total / 1e9:.1f} GB of {gpu.name} {gpu.free / 1e9:.1f} GB are free{others}."
            " Nothing was generated.",
            "Close the programs that use the GPU, then repeat the command.",
        )
    if need.all > gpu.free:
        free = f"{gpu.free / 1e9:.1f} of {gpu.total / 1e9:.1f} GB"
        return f"{takes}, and {gpu.name} has {free} free{others}. That may be too little."
    return ""


def largest_that_fits(settings: Settings, memory: int, *, bfloat16: bool) -> str:
    """The largest registered model whose training fits `memory` bytes; empty if none is known to."""
    best, size = "", 0
    for name in load_registry():
        try:
            model = known_model(settings.model_copy(update={"model": name, "gguf": "", "weights": ""}))
        except MinisheepError:  # its size is unknown until its file is here
            continue
        need = need_of(model.shape, model.architecture, settings, bfloat16=bfloat16)
        if need.all <= memory and model.parameters > size:
            best, size = name, model.parameters
    return best
