"""What the words of the command line mean: which round, which files, which folder. Nothing is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from minisheep.config import Settings
from minisheep.errors import MinisheepError, UsageError
from minisheep.export.spec import WITH_GGUF
from minisheep.models.entries import HUB_ID, HubFile, HubRepo, ModelEntry
from minisheep.models.prepared import PreparedModel
from minisheep.models.registry import find_model, safe_name
from minisheep.run.reading import Run, load_run, resolve_round
from minisheep.store import RoundFolder, RunFolder
from minisheep.trainers.lora_gguf import TENSORS

MARK = "export.json"
"""In the folder of an export: what it is. Only a folder that holds it is ever replaced."""


@dataclass(frozen=True, slots=True)
class Choice:
    run: Run
    model: PreparedModel
    round: int
    note: str
    """What the user should know of the choice of the round; may be empty."""
    base_id: str
    """The base on the hub; empty where that is not known."""
    notice: str
    """What the base's licence asks to be said; may be empty."""

    @property
    def name(self) -> str:
        """Safe as the name of a file."""
        return f"{safe_name(self.model.name)[:60]}-round-{self.round}"

    @property
    def title(self) -> str:
        return f"{self.model.title}, minisheep round {self.round}"

    @property
    def licence(self) -> str:
        """What the base's licence means for what is made from it, and the notice that it asks for."""
        title, licence = self.model.title, self.model.licence
        if not licence:
            return f"The licence of {title} is not known to minisheep. It binds what is made from it: look it up."
        told = f"{title} is under {licence}, which binds what is made from it, this too."
        return f"{told} {self.notice}".rstrip()


def choose(path: str, round: str, base_id: str = "") -> Choice:
    """The model of a run that is exported: `round` is a number, ``last`` or ``best``.

    Raises `errors.UsageError`, for ``best`` too where the evaluation found the base best.
    """
    run = load_run(path)
    settings = run.settings
    if settings.engine == "fake":
        raise UsageError(f"{path} was made by the fake engine: there is no model in it.", "Nothing was exported.")
    if not RunFolder(run.path).model.is_file():
        raise UsageError(f"{path} has no model yet.", f"`minisheep align --run {path}` goes on with it.")
    trained = [r.number for r in run.rounds if is_whole(r.folder)]
    if not trained:
        raise UsageError(f"{path} has no trained round yet.", f"`minisheep align --run {path}` goes on with it.")
    number = resolve_round(run, round, trained)
    unknown = f"No best round is known yet: round {number}, the last that was trained, is exported."
    note = unknown if round == "best" and run.best is None else ""
    if base_id and (HUB_ID.fullmatch(base_id) is None or ":" in base_id or "@" in base_id):
        raise UsageError(f"--base-model {base_id[:80]!r} is no id of a model on the hub.", "Give ORG/NAME.")
    model = PreparedModel.read(RunFolder(run.path).model)
    entry = known(settings)
    return Choice(run, model, number, note, base_id or hub_id(entry), entry.notice.strip() if entry else "")


def is_whole(folder: RoundFolder) -> bool:
    """Whether a round's adapter is there in both forms."""
    files = (folder.adapter / "adapter_config.json", folder.adapter / TENSORS, folder.adapter_gguf)
    return all(path.is_file() for path in files)


def known(settings: Settings) -> ModelEntry | None:
    """What is known of a run's base today; its file may be gone."""
    try:
        return find_model(settings.model, gguf=settings.gguf or None, weights=settings.weights or None)
    except MinisheepError:
        return None


def hub_id(entry: ModelEntry | None) -> str:
    """The id of a base model on the hub, by its training weights, the registry, or its GGUF; empty for none."""
    if entry is None:
        return ""
    if isinstance(entry.weights, HubRepo):
        return entry.weights.repo
    if entry.hub:
        return entry.hub
    return entry.gguf.repo if isinstance(entry.gguf, HubFile) else ""


def output(choice: Choice, target: str, format: str, out: str | None) -> Path:
    """Where the export goes: what the user said, or a folder in the run."""
    form = f"-{format}" if target in WITH_GGUF else ""
    return Path(out) if out else choice.run.path / "export" / f"{target}-round-{choice.round}{form}"


def check_output(path: Path, *, overwrite: bool) -> None:
    """Raise `errors.UsageError` where something is in the way that may not be replaced."""
    if not path.exists() and not path.is_symlink():
        return
    if not overwrite:
        raise UsageError(f"{path} exists already. Nothing was exported.", "Give --overwrite, or another --out.")
    if path.is_symlink() or not path.is_dir() or not (path / MARK).is_file():
        raise UsageError(f"{path} is no export, so it is not overwritten.", "Give another --out.")
