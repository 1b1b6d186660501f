"""A soup: the weighted sum of several rounds' adapters as one, measured like a round and compared with base and best.

Everything is written to one folder, RUN/soup-1+2 for rounds 1 and 2; the run itself is only read:

    soup.json     rounds, weights, marks of the adapters       adapter/, adapter.gguf     as a round's
    answers.jsonl, verifiable.jsonl                            metrics.json               written last
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minisheep.api import Run, load_run, resolve_round
from minisheep.errors import CorruptRunError, UsageError
from minisheep.formats.lora_gguf import TENSORS
from minisheep.machine.worker import WorkerProcess, stoppable
from minisheep.models.prepared import PreparedModel
from minisheep.rules.plain_text import round_name
from minisheep.run.decision import decide, figure, stored
from minisheep.run.events import Emit
from minisheep.run.files import disk_errors, read_json, write_json
from minisheep.run.folder import RoundFolder
from minisheep.run.integrity import mark_of
from minisheep.run.reading import read_shaped
from minisheep.run.typed import METRICS, Each

WORKER = "minisheep.adapter_soup:do"
PHASE = "soup"
DESCRIPTION = "soup.json"


@dataclass(frozen=True, slots=True)
class Soup:
    run: Run
    rounds: tuple[int, ...]
    weights: tuple[float, ...]
    out: Path

    @property
    def folder(self) -> RoundFolder:
        return RoundFolder(self.out)

    @property
    def name(self) -> str:
        """``the soup of rounds 1 and 2``."""
        *first, last = map(str, self.rounds)
        return f"the soup of rounds {', '.join(first)} and {last}"

    @property
    def made_up(self) -> bool:
        """Whether the run has no model: the fake engine made it."""
        return PreparedModel.read(self.run.path / "model.json").gguf_sha256 == "fake"

    @property
    def gguf(self) -> Path:
        """The base that the run's engine loads."""
        return PreparedModel.read(self.run.path / "model.json").inference_gguf

    def description(self) -> dict[str, Any]:
        """What the soup is made of, JSON-ready: by this an unfinished one is known again."""
        adapters = [mark_of(self.run.round(number).adapter / TENSORS) for number in self.rounds]
        return {"rounds": list(self.rounds), "weights": list(self.weights), "adapters": adapters}


def choose(path: str, rounds: str, weights: str | None = None, out: str | None = None) -> Soup:
    """The soup of the rounds in ``1,2`` with the weights in ``0.5,0.5`` (equal ones that sum to 1 if not given).

    Raises `errors.UsageError` for a wrong number of either, a round without an adapter, and a folder that holds
    something else, and `errors.CorruptRunError` where what it would add or be compared with is damaged.
    """
    run = load_run(path)
    trained = [number for number in run.trained if run.round(number).adapter.exists()]
    names = [name.strip() for name in rounds.split(",")]
    numbers = tuple(resolve_round(run, name, trained, flag="--rounds") for name in names)
    if len(numbers) < 2 or len(set(numbers)) < len(numbers):
        raise UsageError(f"--rounds {rounds}: a soup needs two rounds or more, each once.", "As in --rounds 1,2.")
    run.check_whole("train", numbers)
    run.check_whole("evaluate", (0, run.best or 0))
    folder = Path(out) if out else run.path / f"soup-{'+'.join(map(str, numbers))}"
    soup = Soup(run, numbers, read_weights(weights, len(numbers)), folder)
    if folder.exists() or folder.is_symlink():
        made = read_json(folder / DESCRIPTION) if (folder / DESCRIPTION).is_file() else None
        if made != soup.description():
            raise UsageError(f"{folder} holds another soup, or something else.", "Move it away, or give another --out.")
    if not run.base.folder.metrics.exists():
        raise UsageError(f"{path} has not measured its base, so nothing could be compared.", "Continue the run first.")
    return soup


def read_weights(text: str | None, count: int) -> tuple[float, ...]:
    """Raises `errors.UsageError` unless there are `count` numbers, not all of them 0."""
    if text is None:
        return (1 / count,) * count
    try:
        weights = tuple(float(part) for part in text.split(","))
    except ValueError:
        weights = ()
    if len(weights) != count or not all(map(math.isfinite, weights)) or not any(weights):
        raise UsageError(f"--weights {text}: give {count} numbers, one for each round.", "As in --weights 0.5,0.5.")
    return weights


def make(soup: Soup, emit: Emit, tick: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Make and measure the soup, or what is left of it; returns its metrics. Raises `errors.MinisheepError`."""
    if not soup.folder.metrics.exists():
        with disk_errors(soup.out):
            soup.out.mkdir(parents=True, exist_ok=True)
        write_json(soup.out / DESCRIPTION, soup.description())
        job = {
            "phase": PHASE, "run": str(soup.run.path.absolute()), "out": str(soup.out.absolute()),
            "rounds": list(soup.rounds), "weights": list(soup.weights),
        }  # fmt: skip
        fix = "Give the same command to go on."
        with WorkerProcess(WORKER) as worker, stoppable("Stopped before the soup was measured.", fix):
            worker.do(job, "The soup", emit, tick)
    try:
        return read_shaped(soup.folder.metrics, MADE)
    except CorruptRunError as error:
        fix = "Delete it and give the same command: the answers are kept, only the comparison is made again."
        raise CorruptRunError(error.message, fix) from None


def do(job: Mapping[str, Any], emit: Emit, should_stop: Callable[[], bool]) -> None:
    """The worker's part: add the adapters, convert the sum, measure it."""
    from minisheep import prepare
    from minisheep.measuring import measure_model
    from minisheep.phase_report import Report
    from minisheep.trainers.choose_trainer import make_adapter_gguf, make_adapter_sum
    from minisheep.workspace import Workspace

    work, folder = Workspace(Path(job["run"])), RoundFolder(Path(job["out"]))
    try:
        work.model = prepare.ensure_files(work.model, work.settings, emit, "gguf", "inference_gguf")
        trainer = work.model.trainer or work.settings.trainer
        if not folder.adapter.exists():
            parts = [work.folder.round(number).adapter for number in job["rounds"]]
            make_adapter_sum(trainer, parts, job["weights"], folder.adapter)
        if not folder.adapter_gguf.exists():
            make_adapter_gguf(trainer, folder.adapter, work.model.gguf, folder.adapter_gguf)
        report = Report(max(job["rounds"]), PHASE, emit, should_stop)
        base = read_shaped(work.folder.round(0).metrics, METRICS)["model"]
        measured = measure_model(
            work, folder, lambda: work.measuring_engine_with(folder.adapter_gguf, report.ready), base, report
        )
        run = Run(work.folder.path)
        decisions = compared(
            measured, {m["round"]: m for m in run.metrics}, run.best, halves=work.settings.constraints > 0
        )
        write_json(
            folder.metrics,
            {"rounds": job["rounds"], "weights": job["weights"], "model": measured, "decisions": decisions},
        )
        report.finish()
    finally:
        work.close()


def compared(
    measured: Mapping[str, Any], metrics: Mapping[int, Mapping[str, Any]], best: int | None, *, halves: bool = False
) -> list[dict[str, Any]]:
    """The decision of `run.decision` against the base, then against the best round if that is another. Pure.

    ``against`` is the rival, ``outcome`` and ``measures`` are as in a round's metrics.
    """
    found = []
    for rival in dict.fromkeys((0, best or 0)):
        if rival not in metrics:
            continue
        alone = {rival: {"model": metrics[rival]["model"], "decision": {"best": rival, "without_gain": 0}}}
        decision = decide(rival + 1, measured, alone, halves=halves)
        found.append({name: decision[name] for name in ("against", "outcome", "measures")})
    return found


OUTCOMES = {
    "gain": "is better than {rival}",
    "loss": "is worse than {rival}",
    "mixed": "is better than {rival} in one way and worse in another",
    "none": "is not better than {rival} beyond chance",
}


def _a_known_outcome(value: object) -> bool:
    return isinstance(value, str) and value in OUTCOMES


MADE = {
    "model!": METRICS["model!"],
    "decisions!": [
        {
            "against!": int,
            "outcome!": _a_known_outcome,
            "measures!": Each({"value!": float, "low!": float, "high!": float}),
        }
    ],
}
"""The shape of a soup's metrics. A soup lies in a run folder, and may be as damaged as one."""


def sentence(soup: Soup, decisions: Sequence[Mapping[str, Any]]) -> str:
    """The decisions in one sentence, with the numbers that made them."""
    parts = []
    for decision in decisions:
        rival = round_name(decision["against"], "the base model")
        numbers = "; ".join(figure(name, difference) for name, difference in stored(decision).items())
        parts.append(OUTCOMES[decision["outcome"]].format(rival=rival) + (f" ({numbers})" if numbers else ""))
    name = soup.name
    return f"{name[0].upper()}{name[1:]} {' and '.join(parts)}."
