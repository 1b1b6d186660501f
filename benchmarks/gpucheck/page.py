"""The results as ``gpu-check.json`` and as the page beside it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from minisheep.doctor.check_result import CheckResult, counted, verdict
from minisheep.doctor.machine_facts import MachineFacts
from minisheep.machine.gpu import dotted
from minisheep.rules.plain_text import one_line

SPARK = "▁▂▃▄▅▆▇█"


def document(
    results: Sequence[CheckResult], machine: MachineFacts, versions: Mapping[str, str], command: str, today: date
) -> dict[str, Any]:
    """What ``gpu-check.json`` holds."""
    return {
        "date": today.isoformat(),
        "command": command,
        "measured_on_a_card": machine.has_gpu,
        "machine": describe(machine),
        "cards": [{"name": gpu.name, "capability": dotted(gpu.capability), "bytes": gpu.total} for gpu in machine.gpus],
        "driver": machine.driver,
        "driver_cuda": dotted(machine.driver_cuda),
        "versions": dict(versions),
        "counts": counted(results),
        "results": [{key: value for key, value in one.to_dict().items() if key != "event"} for one in results],
    }


def kept_results(path: Path, heading: Mapping[str, Any]) -> list[CheckResult]:
    """The results that a call which was cut off left in `path`, whose first line is its `heading`; none where that is
    another machine's or model's. A torn last line is none."""
    try:
        lines = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
        first, *rest = lines or [{}]
        if first != heading:
            return []
        return [CheckResult(**{key: value for key, value in one.items() if key != "event"}) for one in rest]
    except (OSError, ValueError, TypeError):
        return []


def describe(machine: MachineFacts) -> str:
    """``Intel(R) Xeon(R) Processor, 2 cores, 24 GB, no NVIDIA GPU, Linux``."""
    gpus = " + ".join(gpu.name for gpu in machine.gpus) or "no NVIDIA GPU"
    memory = f", {machine.ram_total / 1e9:.0f} GB" if machine.ram_total else ""
    cores = f"{machine.cores} core{'' if machine.cores == 1 else 's'}"
    return one_line(f"{machine.processor}, {cores}{memory}, {gpus}, {machine.system}")


def may_replace(before: Any, machine: MachineFacts) -> bool:
    """Whether a file that holds `before` may be overwritten: only a GPU's figures replace a GPU's figures."""
    return machine.has_gpu or not (isinstance(before, dict) and before.get("measured_on_a_card"))


def markdown(found: Mapping[str, Any], results: Sequence[CheckResult]) -> str:
    """The page: machine, result of each part, both curves, the doctor's checks."""
    lines = ["# GPU check", "", f"Made by `{found['command']}` on {found['date']}; the same in gpu-check.json.", ""]
    if not found["measured_on_a_card"]:
        lines += ["**There was no NVIDIA GPU: nothing here was measured on one, and its parts were skipped.**", ""]
    lines += [f"- Machine: {_cell(found['machine'])}"]
    if found["driver"]:
        cuda = f", CUDA up to {found['driver_cuda']}" if found["driver_cuda"] else ""
        lines.append(f"- Driver: {_cell(found['driver'])}{cuda}")
    lines.append("- Versions: " + ", ".join(f"{name} {version}" for name, version in found["versions"].items()))
    lines += [f"- {verdict(results)}", "", "| part | outcome | found | what to do |", "|---|---|---|---|"]
    lines += [_row(result) for result in results]
    curves = [result for result in results if result.figures.get("losses")]
    if curves:
        lines += ["", "## Loss, step by step", ""]
        lines += [f"- {result.figures['trainer']}: {curve(result.figures['losses'])}" for result in curves]
    checks: list[dict[str, str]] = next(
        (result.figures["checks"] for result in results if result.name == "doctor" and result.figures), []
    )
    if checks:
        lines += ["", "## minisheep doctor", "", "| check | outcome | found |", "|---|---|---|"]
        lines += [f"| {_cell(one['name'])} | {one['outcome']} | {_cell(one['found'])} |" for one in checks]
    return "\n".join(lines) + "\n"


def curve(losses: Sequence[float]) -> str:
    """``2.31 ▇▆▅▃ 1.87``."""
    low, high = min(losses), max(losses)
    step = (high - low) / (len(SPARK) - 1) or 1.0
    return f"{losses[0]:.3f} {''.join(SPARK[round((loss - low) / step)] for loss in losses)} {losses[-1]:.3f}"


def _row(result: CheckResult) -> str:
    return f"| {_cell(result.name)} | {result.outcome} | {_cell(result.found)} | {_cell(result.fix)} |"


def _cell(text: str) -> str:
    return one_line(text).replace("|", "\\|").replace("<", "&lt;")
