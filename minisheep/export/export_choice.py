"""What a call of `minisheep export` means: which round, which files, which folder. Writes nothing."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from minisheep.api import Run, load_run, resolve_round
from minisheep.config import Settings
from minisheep.errors import MinisheepError, UsageError
from minisheep.formats.gguf_header import read_header
from minisheep.formats.lora_gguf import TENSORS
from minisheep.formats.model_facts import parameter_count
from minisheep.models.prepared import PreparedModel
from minisheep.models.registry import HUB_ID, HubFile, HubRepo, ModelEntry, find_model, safe_name
from minisheep.rules.plain_text import shell
from minisheep.run.folder import RunFolder

WITH_GGUF = frozenset({"gguf", "ollama", "lmstudio", "hub-folder"})
WITH_WEIGHTS = frozenset({"merged", "hub-folder"})
WITH_ADAPTER = frozenset({"adapter", "hub-folder"})
MAKE, WEIGHTS = "export", "export weights"
"""The two jobs of a worker."""
LARGE, SMALL = 1_000_000_000, 500_000_000
"""Parameters from which four bits a weight are taken to leave what an adapter learned, and below which eight do not:
gemma-3-270m loses all in four, and in eight more than its check allows in one run of two."""


def default_format(parameters: int) -> str:
    """The number format of a GGUF for a model of this size; 0 where that is not known."""
    return "Q4_K_M" if parameters >= LARGE else "F16" if 0 < parameters < SMALL else "Q8_0"


@dataclass(frozen=True, slots=True)
class ExportSpec:
    """One call of ``minisheep export``, as it crosses to the worker."""

    run: str
    round: int
    target: str
    work: str
    """A folder for this export alone, deleted afterwards."""
    format: str
    """Of the GGUF; a key of `formats.quantise.FORMATS`."""
    name: str = "model"
    """The base's name and the round, safe as a file name."""
    title: str = "model"
    """The same for people."""
    base_id: str = ""
    """The base on the hub; empty if not known."""
    licence: str = ""
    """What the base's licence means for the export."""
    prompts: int = 20
    threads: int = 0

    @property
    def output(self) -> Path:
        """Becomes the export."""
        return Path(self.work) / "export"

    @property
    def needs_weights(self) -> bool:
        return self.target in WITH_WEIGHTS

    @property
    def model_folder(self) -> Path:
        if self.target == "lmstudio":
            return self.output / "minisheep" / self.name
        return self.output / "model" if self.target == "hub-folder" else self.output

    @property
    def adapter_folder(self) -> Path:
        return self.model_folder / "adapter" if self.target == "hub-folder" else self.model_folder

    @property
    def gguf(self) -> Path:
        return self.model_folder / f"{self.name}-{self.format}.gguf"

    @property
    def report(self) -> Path:
        """Results of the worker's checks, as JSON."""
        return Path(self.work) / "report.json"

    def to_job(self, phase: str) -> dict[str, Any]:
        return {"phase": phase, **dataclasses.asdict(self)}

    @classmethod
    def from_job(cls, job: dict[str, Any]) -> Self:
        return cls(**{f.name: job[f.name] for f in dataclasses.fields(cls)})


MARK = "export.json"
"""Describes an export, in its folder. Only a folder with this file is ever replaced."""


@dataclass(frozen=True, slots=True)
class ExportChoice:
    run: Run
    model: PreparedModel
    round: int
    note: str
    """What the user should know about the chosen round; may be empty."""
    base_id: str
    """The base on the hub; empty if not known."""
    notice: str
    """A notice that the base's licence requires; may be empty."""
    parameters: int
    """Of the base; 0 if not known."""

    @property
    def name(self) -> str:
        """Safe as a file name."""
        return f"{safe_name(self.model.name)[:60]}-round-{self.round}"

    @property
    def title(self) -> str:
        return f"{self.model.title}, minisheep round {self.round}"

    @property
    def licence(self) -> str:
        """What the base's licence means for models made from it, and the notice that it requires."""
        title, licence = self.model.title, self.model.licence
        if not licence:
            return f"minisheep does not know the licence of {title}. It applies to models made from it: look it up."
        return (
            f"{title} is under {licence}, which applies to models made from it, like this one. {self.notice}".rstrip()
        )


def choose_export(path: str, round: str, base_id: str = "") -> ExportChoice:
    """What is exported of a run; `round` is a number, ``last`` or ``best``.

    Raises `errors.UsageError`, also for ``best`` if the evaluation found the base best.
    """
    run = load_run(path)
    settings = run.settings
    if settings.engine == "fake":
        raise UsageError(f"{path} was made by the fake engine and holds no model.", "Nothing was exported.")
    if not RunFolder(run.path).model.is_file():
        raise UsageError(f"{path} has no model yet.", f"Continue the run with `minisheep align --run {shell(path)}`.")
    trained = [
        r.number
        for r in run.rounds
        if r.folder.adapter_gguf.is_file()
        and all((r.folder.adapter / name).is_file() for name in ("adapter_config.json", TENSORS))
    ]
    if not trained:
        raise UsageError(
            f"{path} has no trained round yet.", f"Continue the run with `minisheep align --run {shell(path)}`."
        )
    number = resolve_round(run, round, trained)
    run.check_whole("train", [number])
    unknown = f"No best round is known yet, so round {number}, the last trained one, is exported."
    note = unknown if round == "best" and run.best is None else ""
    if base_id and (HUB_ID.fullmatch(base_id) is None or ":" in base_id or "@" in base_id):
        raise UsageError(f"--base-model {base_id[:80]!r} is not the id of a model on the hub.", "Give ORG/NAME.")
    model = PreparedModel.read(RunFolder(run.path).model)
    entry = known(settings)
    size = parameter_count(read_header(model.gguf)) if model.gguf.is_file() else entry.parameters if entry else 0
    notice = entry.notice.strip() if entry else ""
    return ExportChoice(run, model, number, note, base_id or hub_id(entry), notice, size)


def known(settings: Settings) -> ModelEntry | None:
    """The registry's entry of a run's base, if there is one; the model's file may be gone."""
    try:
        return find_model(settings.model, gguf=settings.gguf or None, weights=settings.weights or None)
    except MinisheepError:
        return None


def hub_id(entry: ModelEntry | None) -> str:
    """The id of a base model on the hub, from its training weights, the registry or its GGUF; empty if not known."""
    if entry is None:
        return ""
    if isinstance(entry.weights, HubRepo):
        return entry.weights.repo
    if entry.hub:
        return entry.hub
    return entry.gguf.repo if isinstance(entry.gguf, HubFile) else ""


def output(choice: ExportChoice, target: str, format: str, out: str | None) -> Path:
    """Where the export goes: `out`, or a folder in the run."""
    form = f"-{format}" if target in WITH_GGUF else ""
    return Path(out) if out else choice.run.path / "export" / f"{target}-round-{choice.round}{form}"


def check_output(path: Path, *, overwrite: bool) -> None:
    """Raise `errors.UsageError` if `path` exists and may not be replaced."""
    if not path.exists() and not path.is_symlink():
        return
    if not overwrite:
        raise UsageError(f"{path} exists already. Nothing was exported.", "Give --overwrite or another --out.")
    if path.is_symlink() or not path.is_dir() or not (path / MARK).is_file():
        raise UsageError(f"{path} is not an export, so it is not overwritten.", "Give another --out.")
