"""Where the numbers are from: settings, versions, hashes. What a run's outcome follows from, in full."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from minisheep import config
from minisheep.config import Settings
from minisheep.report.blocks import Block, Paragraph, Section, Table
from minisheep.report.gather import Gathered

PATHS = frozenset({"gguf", "inference_gguf", "weights"})
"""Entries of model.json that are paths: a report that is passed on tells the file's name and not the disk."""


def section(run: Gathered) -> Section:
    return Section("origins", "Settings, versions, hashes", tuple(_blocks(run)))


def _blocks(run: Gathered) -> Iterator[Block]:
    if run.settings:
        yield _settings(run.settings)
    else:
        yield Paragraph("The settings could not be read.")
    if run.model:
        versions = run.model.get("versions")
        told = [(name, _said(name, value)) for name, value in sorted(run.model.items()) if name != "versions"]
        yield Table(("model", ""), tuple(told), left=2)
        if isinstance(versions, dict):
            rows = tuple((str(name), str(value)) for name, value in sorted(versions.items()))
            yield Table(("version of", ""), rows, left=2)
    else:
        yield Paragraph("There is no model.json: the model's files and versions are not known.")
    hashes = [(f"digest of {name}", value) for name, value in sorted(run.inputs.items())]
    hashes += [(f"round-{r.number}/{name}", value) for r in run.rounds for name, value in r.hashes.items()]
    if hashes:
        yield Table(("file", "SHA-256, or the run's own digest"), tuple(hashes), left=2)
    if run.engines:
        yield Table(("engine",), tuple((engine,) for engine in run.engines))


def _settings(settings: Settings) -> Table:
    """Every setting; the paper's value stands beside what differs from it."""
    rows = []
    for name in config.names():
        value, default = getattr(settings, name), Settings.model_fields[name].default
        rows.append((name, config.group_of(name), _value(value), "" if value == default else _value(default)))
    return Table(("setting", "group", "value", "default, where it differs"), tuple(rows), left=4)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value) or "-"


def _said(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {part!r}" for key, part in sorted(value.items()))
    return PurePath(str(value)).name if name in PATHS else str(value)
