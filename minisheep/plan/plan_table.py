"""Plans as rows of a table, as sentences of advice, and as plain data for JSON. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import date
from typing import Any

from minisheep import config, phase_times
from minisheep.config import Settings
from minisheep.engines import budget
from minisheep.plan import memory_parts
from minisheep.plan.duration import Calibration
from minisheep.plan.fit import Plan, changes
from minisheep.plan.room import Model
from minisheep.rules.plain_text import duration, one_line, plural

GIB = 2**30
PART = "  "
"""Begins the name of a row that is a part of the one above."""
Row = tuple[str, list[str]]


def size(count: float) -> str:
    """Bytes of memory: ``4.3 GiB``, ``860 MiB``."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / 2**20:.0f} MiB"


def disk_size(count: float) -> str:
    """Bytes on disk: ``4.8 GB``, ``98 MB``."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def model_lines(model: Model, *, full: bool = True) -> list[str]:
    """The model's size and, in `full`, its KV cache for each token."""
    shape = model.shape
    f16 = memory_parts.token_bytes(shape, budget.F16)
    q8 = memory_parts.token_bytes(shape, budget.Q8_0)
    known = "read from its file" if model.here else "estimated; not downloaded yet"
    billions = f"{model.parameters / 1e9:.1f} B" if model.parameters >= 1e9 else f"{model.parameters / 1e6:.0f} M"
    return [
        f"{one_line(model.name)}: {billions} weights, {one_line(model.weights.format)},"
        f" {disk_size(model.weights.file)} ({known})",
        *[
            f"  {shape.layers} layers, {shape.kv_heads} key and value heads for {shape.heads}:"
            f" KV cache {f16 / 1024:.0f} KiB a token in f16, {q8 / 1024:.0f} in q8_0"
        ]
        * full,
        *(
            [f"  minisheep lists it as {model.listed}: --model {model.listed} takes the files listed there."]
            if model.listed
            else []
        ),
    ]


def machine_line(plan: Plan) -> str:
    machine = plan.machine
    kind = "VRAM" if machine.is_gpu else "RAM"
    room = "of unknown memory" if machine.memory is None else f"{size(machine.memory)} of {kind} for a run"
    return f"{one_line(machine.title)}: {room}"


DRAWING_RULES = 0.5
"""From this share of a step on, drawing tokens is the bottleneck, and that is said."""


def rows(plans: Sequence[Plan]) -> list[Row]:
    """A column for each plan; all are of one machine and model."""
    kind = "VRAM" if plans[0].machine.is_gpu else "RAM"
    table: list[Row] = [
        ("sequences at once", [str(p.slots) for p in plans]),
        ("KV cache", [f"{p.cache}, {p.settings.context} tokens each" for p in plans]),
        (f"writing and judging, {kind}", [_total(p.inference, p.fits_inference) for p in plans]),
        *_parts([p.inference for p in plans]),
        (f"training, {kind}", [_total(p.training, p.fits_training) for p in plans]),
        (f"{PART}base in, micro-batch", [f"{p.load_in}, {p.settings.micro_batch_size}" for p in plans]),
        *_parts([p.training for p in plans]),
    ]
    if plans[0].machine.is_gpu:
        table.append(("RAM", [size(p.ram) for p in plans]))
    table += [
        ("disk", [disk_size(p.disk) for p in plans]),
        *((f"{PART}{name}", cells) for name, cells in _disk(plans)),
    ]
    if plans[0].phases is not None:
        which = "the first" if _pools(plans[0]) else "a"
        table.append((f"time of {which} round", [_time(p.round_seconds) for p in plans]))
        for index, (phase, _) in enumerate(plans[0].phases):
            table.append((f"{PART}{phase}", [_time(p.phases[index][1]) if p.phases else "-" for p in plans]))
        table.append((f"time of {plural(plans[0].settings.rounds, 'round')}", [_time(p.run_seconds) for p in plans]))
    return table


def titles(plans: Sequence[Plan]) -> list[str]:
    return ["as given", "recommended"][: len(plans)]


def overview(plans: Sequence[tuple[str, Plan | None, Settings]]) -> tuple[list[str], list[list[str]]]:
    """A line for each machine: its name, the recommended plan if any fits, and the settings to change."""
    names = ["GPU", "writing", "training", "sequences", "a round", "settings"]
    lines = []
    for title, plan, given in plans:
        if plan is None:
            lines.append([title, "-", "-", "-", "-", "does not fit"])
            continue
        flags = flags_of(changes(given, plan.settings)) or "as given"
        cells = [size(memory_parts.total(plan.inference)), size(memory_parts.total(plan.training)), str(plan.slots)]
        lines.append([title, *cells, _time(plan.round_seconds), flags])
    return names, lines


def advice(given: Plan, recommended: Plan | None) -> list[str]:
    if recommended is None:
        return [f"It does not fit: {_missing(given)}. Use a smaller model or a GPU with more memory."]
    flags = flags_of(changes(given.settings, recommended.settings))
    if not flags:
        return ["It fits with the settings as given."]
    if given.fits:
        before, after = given.round_seconds, recommended.round_seconds
        faster = f", {before / after:.1f} times as fast" if before and after else ""
        return [f"It fits with the settings as given. Better{faster}: {flags}"]
    return [f"It does not fit with the settings as given: {_missing(given)}. It fits with: {flags}"]


def _pools(plan: Plan) -> bool:
    """Whether later rounds take longer than the first, whose time is given, since they train on the data of all."""
    return phase_times.pooled(plan.settings, plan.settings.rounds) > 1


def decides(plan: Plan, *, recommended: bool = False) -> list[str]:
    """How long a run takes, and what takes the most time and memory."""
    lines, settings = ["With the recommended settings:"] if recommended else [], plan.settings
    if plan.fits and plan.phases and plan.run_seconds is not None and plan.round_seconds is not None:
        name, most = max(plan.phases, key=lambda phase: phase[1])
        lines += [
            f"{plural(settings.rounds, 'round')} of {settings.per_round:,} instructions"
            f" {'takes' if settings.rounds == 1 else 'take'} about {duration(plan.run_seconds)},"
            f" {'the first' if _pools(plan) else 'a round'} {duration(plan.round_seconds)}.",
            f"Most time: {name}, {duration(most)} of a round.",
        ]
    uses = (("writing and judging", plan.inference), ("training", plan.training))
    use, parts = max(uses, key=lambda use: memory_parts.total(use[1]))
    largest = max(parts, key=lambda part: part.bytes)
    room = "" if plan.machine.memory is None else f" of {size(plan.machine.memory)}"
    needed = size(memory_parts.total(parts))
    return [*lines, f"Most memory: {use}, {needed}{room}; of it {largest.name} {size(largest.bytes)}."]


def remarks(plan: Plan, *, full: bool = True) -> list[str]:
    """How reliable the figures are; in `full` also what training's figure is for."""
    training = _training_remarks(plan) if full else []
    lines = []
    if plan.history:
        newest = date.fromtimestamp(max(plan.model.history[phase][-1].at for phase in plan.history)).isoformat()
        rest = [name for name, _ in plan.phases or () if name not in plan.history]
        of = "all phases" if not rest else " and ".join(plan.history)
        lines.append(
            f"Times of {of} are those of earlier runs of this model here, last on {newest}, scaled to this one."
        )
        if not rest:
            return lines + training
    if plan.calibration is not None:
        lines += _measured(plan.calibration)
    elif plan.machine.is_gpu:
        lines.append("This was not verified on a GPU yet: memory is counted, times are estimates.")
    elif plan.phases is None:
        lines.append("Times are unknown: llama.cpp was not measured with this model on this machine.")
    else:
        of = "The other times" if plan.history else "Times"
        lines.append(f"{of} follow from a short measurement on this machine, and change with its other load.")
    if plan.drawing_share > DRAWING_RULES:
        lines.append(
            f"While it writes, the GPU waits {plan.drawing_share:.0%} of the time for a processor core to draw the next"
            " tokens: a faster GPU would change little."
        )
    return lines + training


def _training_remarks(plan: Plan) -> list[str]:
    lines = []
    if plan.machine.is_gpu and plan.settings.trainer in ("auto", "unsloth"):
        lines.append("Training is counted for PEFT; Unsloth keeps activations in RAM instead.")
    lines.append(
        f"Training's figure is for {plan.settings.micro_batch_size} examples of {plan.settings.max_length} tokens at"
        " once; shorter ones take less."
    )
    return lines


def _measured(on: Calibration) -> list[str]:
    """What the times follow from, and the peak use of a GPU."""
    rates = f"{on.drawn:,.0f} tokens/s written by {on.slots} sequences, {on.read:,.0f} read"
    trained = f", {on.trained:,.0f} trained by {on.trainer}" if on.trained else "; training is an estimate"
    lines = [f"Times follow from a measurement on this machine on {on.date}: {rates}{trained}."]
    sizes = (("writing", on.inference_bytes), ("training", on.training_bytes))
    taken = [f"{size(count)} while {what}" for what, count in sizes if count is not None]
    return lines + ([f"At most {' and '.join(taken)} of VRAM were in use then."] if taken else [])


def flags_of(changed: dict[str, Any]) -> str:
    return " ".join(f"{config.flag(name)} {value}" for name, value in changed.items())


def to_dict(plan: Plan) -> dict[str, Any]:
    """JSON-ready; sizes in bytes, times in seconds."""
    return {
        "machine": plan.machine.title,
        "memory": plan.machine.memory,
        "fits": plan.fits,
        "slots": plan.slots,
        "kv_type": plan.cache,
        "context": plan.settings.context,
        "micro_batch_size": plan.settings.micro_batch_size,
        "load_in": plan.load_in,
        "inference": _named(plan.inference),
        "training": _named(plan.training),
        "ram": plan.ram,
        "disk": _named(plan.files)
        | {"each round": plan.round_bytes, "while training": plan.checkpoint_bytes, "total": plan.disk},
        "seconds": None if plan.phases is None else dict(plan.phases),
        "round_seconds": plan.round_seconds,
        "run_seconds": plan.run_seconds,
        "seconds_from_history": list(plan.history),
        "tried": None if plan.calibration is None else dataclasses.asdict(plan.calibration),
    }


def _named(parts: list[memory_parts.Part]) -> dict[str, int]:
    return {part.name: part.bytes for part in parts} | {"total": memory_parts.total(parts)}


def _parts(plans: Sequence[list[memory_parts.Part]]) -> list[Row]:
    return [(f"{PART}{part.name}", [size(parts[i].bytes) for parts in plans]) for i, part in enumerate(plans[0])]


def _disk(plans: Sequence[Plan]) -> list[Row]:
    first = [(part.name, [disk_size(p.files[i].bytes) for p in plans]) for i, part in enumerate(plans[0].files)]
    return [
        *first,
        ("each round", [disk_size(p.round_bytes) for p in plans]),
        ("while training", [disk_size(p.checkpoint_bytes) for p in plans]),
    ]


def _total(parts: list[memory_parts.Part], fits: bool) -> str:
    return f"{size(memory_parts.total(parts))}{'' if fits else ', too much'}"


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else duration(seconds)


def _missing(plan: Plan) -> str:
    """The memory that each phase lacks."""
    room = plan.machine.memory or 0
    phases = (("writing and judging", plan.inference, plan.fits_inference),
              ("training", plan.training, plan.fits_training))  # fmt: skip
    return " and ".join(
        f"{name} lacks {size(memory_parts.total(parts) - room)}" for name, parts, fits in phases if not fits
    )
