"""Does a model fit the GPU that is here, for training: asked before a run, with the numbers.

The weights alone are known exactly, so a run is refused where they do not fit; what training takes beside them is an
estimate, so there the user is only told.
"""

from __future__ import annotations

from dataclasses import dataclass

from minisheep.config import Settings
from minisheep.errors import MinisheepError, UsageError
from minisheep.machine.gpu import Gpu, in_words
from minisheep.models.registry import load_registry
from minisheep.models.shape import Shape
from minisheep.plan.dimensions import known_model
from minisheep.plan.memory import Training, total, training_parts
from minisheep.trainers.precision import settle

_BASE = "base:"
"""How `training_parts` names what the frozen model takes."""


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes of the GPU that training takes with one example in a forward pass."""

    base: int
    """The frozen model alone."""
    all: int


def need_of(shape: Shape, architecture: str, settings: Settings, *, bfloat16: bool) -> Need:
    load_in, float32 = settle(settings.load_in, cuda=True, fast_bf16=bfloat16)
    how = Training(load_in, True, float32, settings.lora_rank, 1, settings.max_length)
    parts = training_parts(shape, architecture, how)
    return Need(total([part for part in parts if part.name.startswith(_BASE)]), total(parts))


def check_room(name: str, need: Need, gpu: Gpu, smaller: str) -> str:
    """What should be said of the room for `name` on `gpu`, if anything; `smaller` names a model that fits, if any.

    Raises `errors.UsageError` where it cannot fit, or not beside the programs that use the GPU now. Pure but for the
    names of those.
    """
    takes = f"{name} takes {need.base / 1e9:.1f} GB of the GPU for its weights and about {need.all / 1e9:.1f} GB in all"
    if need.base > gpu.total:
        fix = f"Take {smaller}, which fits" if smaller else "No model that minisheep knows fits; train without the GPU"
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
            "Close what uses the GPU and give the same command again.",
        )
    if need.all > gpu.free:
        free = f"{gpu.free / 1e9:.1f} of {gpu.total / 1e9:.1f} GB"
        return f"{takes}, and {gpu.name} has {free} free{others}. It may be too little."
    return ""


def largest_that_fits(settings: Settings, memory: int, *, bfloat16: bool) -> str:
    """The largest registered model whose training fits `memory` bytes; empty if none is known to."""
    best, size = "", 0
    for name in load_registry():
        try:
            model = known_model(settings.model_copy(update={"model": name, "gguf": "", "weights": ""}))
        except MinisheepError:  # nothing is known of it before it was fetched
            continue
        need = need_of(model.shape, model.architecture, settings, bfloat16=bfloat16)
        if need.all <= memory and model.parameters > size:
            best, size = name, model.parameters
    return best
