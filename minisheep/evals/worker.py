"""The worker's part: loads the tasks, asks the model round by round, and stores one result for each task and round."""

from __future__ import annotations

import datetime
import hashlib
import logging
import math
import random
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minisheep import config, prepare
from minisheep.config import Settings
from minisheep.engines.base import Engine
from minisheep.errors import MinisheepError, ModelFileError, Stopped, UsageError
from minisheep.evals import eval_run, scores, tasks
from minisheep.evals.engine_lm import Asker, Stats
from minisheep.evals.tasks import PLAIN, EvalSpec
from minisheep.machine import system
from minisheep.models.prepared import PreparedModel
from minisheep.rules.identity import six_decimals
from minisheep.rules.templates import Template
from minisheep.run import events
from minisheep.run.events import Emit, EngineReady, Note, PhaseFinished, PhaseStarted, Progress, TaskMeasured
from minisheep.run.folder import RunFolder
from minisheep.workspace import open_engine


# What is measured: one model and the adapters of its rounds, on one engine.
class ModelUnderTest:
    """A run's model, or a lone one, fetched and checked. The engine is loaded when it is first asked for."""

    def __init__(self, spec: EvalSpec, emit: Emit) -> None:
        """Raises `errors.MinisheepError` for a model that cannot be had."""
        self._spec = spec
        self._folder = RunFolder(Path(spec.run)) if spec.run else None
        self._engine: Engine | None = None
        if self._folder is not None:
            stored = config.make(config.read_toml(self._folder.settings))
            self.settings = self._with_machine(stored)
            stored_model = PreparedModel.read(self._folder.model)
            self.model = prepare.ensure_files(stored_model, self.settings, emit, "inference_gguf")
        else:
            self.settings = self._with_machine(config.make({"model": spec.model, "template": spec.template}))
            self.model = prepare.for_inference(self.settings, emit)

    @property
    def template(self) -> Template | None:
        """The frame of every round: the same for all, so that a difference is the adapter's. None for plain text."""
        frame = self._spec.frame
        if frame == "auto":
            frame = "template" if self._folder is not None or self.model.kind == "instruct" else "plain"
        return self.model.template if frame == "template" else None

    def identity(self, task: str, round: int, data: str) -> dict[str, Any]:
        """Everything that a result depends on; `data` is the digest of a file, or empty."""
        adapter = self.adapter(round)
        return {
            "task": task,
            "model": self.model.gguf_sha256,
            "inference": self.model.inference_gguf.name,
            "adapter": "" if adapter is None else hashlib.sha256(adapter.read_bytes()).hexdigest(),
            "frame": f"template {self.template.name}" if self.template else PLAIN,
            "data": data,
            "limit": self._spec.limit,
            "shots": self._spec.shots,
            "max_tokens": self._spec.max_tokens,
            "context": self.settings.context,
            "harness": system.versions(["lm_eval"]).get("lm_eval", ""),
        }

    def adapter(self, round: int) -> Path | None:
        """Raises `errors.ModelFileError` where a round's adapter is gone."""
        if round == 0 or self._folder is None:
            return None
        found = self._folder.round(round).adapter_gguf
        if not found.exists():
            raise ModelFileError(f"{found} is missing, so round {round} cannot be measured.", "Choose another --round.")
        return found

    def engine(self, round: int, emit: Emit) -> Engine:
        """The engine with a round's adapter hot-loaded; 0 is the bare model."""
        adapter = self.adapter(round)
        if self._engine is None:
            self._engine = open_engine(self.settings, self.model.inference_gguf)
            emit(EngineReady(self._engine.info.backend, f"{self._engine.info.description}, {self._slots()}"))
        self._engine.set_adapter(adapter)
        return self._engine

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _slots(self) -> str:
        assert self._engine is not None
        return f"{self._engine.info.slots} sequences of {self._engine.info.context} tokens"

    def _with_machine(self, settings: Settings) -> Settings:
        """A run's context may be too small for a task's prompt and answer, so it counts only where it is larger."""
        given = {
            "context": max(settings.context, self._spec.context),
            "slots": self._spec.slots or settings.slots,
            "threads": self._spec.threads or settings.threads,
        }
        return settings.model_copy(update=given)


# One task on one round: the harness asks through our engine, and its samples become a stored result.
PACKAGES = ("minisheep", "lm_eval", "datasets", "llama-cpp-python", "langdetect", "nltk")
SEEDS = (0, 1234)
"""Of `random` and numpy, as the harness sets them."""


@dataclass(frozen=True, slots=True)
class EvalPlan:
    """A task that is loaded, and what is left of it."""

    name: str
    task: Any
    data: str
    """Digest of the rows that replace its dataset, or empty."""
    file: str
    """Where they come from."""
    decided_by: str
    rounds: list[int]


def measure(
    spec: EvalSpec, subject: ModelUnderTest, plan: EvalPlan, round: int, emit: Emit, should_stop: Callable[[], bool]
) -> None:
    """Ask one task of one round (0 is the base model) and store the result.

    Raises `errors.UsageError` for rows that do not fit the task, `errors.Stopped`, and what the engine raises.
    """
    leaf = plan.name
    emit(PhaseStarted(round, leaf, unit="requests"))
    begun = time.monotonic()

    def on_progress(done: int, total: int, what: str) -> None:
        events.point("eval")
        if should_stop():
            raise Stopped("Stopped. What was measured before is stored.")
        emit(Progress(round, leaf, done, total, what))

    asker = Asker(subject.engine(round, emit), subject.template, spec.max_tokens, subject.settings.seed, on_progress)
    found = _ask(spec, plan, asker)
    entries = scores.items(found["samples"][leaf])
    settings = subject.identity(leaf, round, plan.data)
    result = {
        "task": leaf,
        "round": round,
        "settings": settings,
        "model": {
            "name": subject.model.name,
            "source": subject.model.source,
            "file": str(subject.model.inference_gguf),
            "adapter": str(subject.adapter(round) or ""),
        },
        "decided_by": plan.decided_by,
        "data_file": plan.file,
        "task_version": str(found["versions"].get(leaf, "")),
        "shots": found["n-shot"].get(leaf),
        "items": len(entries),
        "metrics": _metrics(entries, scores.values(found["results"][leaf])),
        "higher_is_better": {k: v for k, v in found["higher_is_better"].get(leaf, {}).items() if isinstance(k, str)},
        "answers": _answers(asker.stats),
        "versions": system.versions(PACKAGES),
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round_to(time.monotonic() - begun),
        "by_item": entries,
    }
    file = eval_run.path(Path(spec.out), leaf, round, settings)
    eval_run.write(file, result)
    if asker.stats.cut:
        emit(Note(f"{leaf}: {asker.stats.cut} prompt(s) did not fit the context and lost their beginning.", "warning"))
    counts: dict[str, float] = {"items": len(entries), "new_tokens": asker.stats.tokens}
    emit(PhaseFinished(round, leaf, time.monotonic() - begun, counts))
    emit(TaskMeasured(round, leaf, str(file)))


def _ask(spec: EvalSpec, plan: EvalPlan, asker: Asker) -> Any:
    """The harness's own results, with every sample."""
    import numpy as np
    from lm_eval.evaluator import evaluate

    from minisheep.evals import tasks
    from minisheep.evals.engine_lm import EngineLM

    random.seed(SEEDS[0])
    np.random.seed(SEEDS[1])
    try:
        return evaluate(
            lm=EngineLM(asker, greedy=tasks.asks_greedy(plan.name, plan.task)),
            task_dict={"tasks": {plan.name: plan.task}},
            limit=spec.limit or None,
            bootstrap_iters=0,
            apply_chat_template=asker.template is not None,
            confirm_run_unsafe_code=spec.allow_code,
        )
    except (MinisheepError, OSError, MemoryError):
        raise
    except Exception as error:
        if not plan.data:
            raise
        traceback.print_exc()
        told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UsageError(f"--data does not fit the task {plan.name}: {told}.") from error


def _metrics(entries: Sequence[Mapping[str, Any]], whole: Mapping[str, float]) -> dict[str, dict[str, float | None]]:
    """The harness's value of each metric, with an interval where its items make it up."""
    from minisheep.metrics.stats import ratio_interval

    found: dict[str, dict[str, float | None]] = {}
    for metric, value in whole.items():
        pairs = list(scores.pairs_of(entries, metric).values())
        low = high = None
        if scores.agrees(metric, pairs, value):
            _, low, high = (round_to(number) for number in ratio_interval(pairs, whole=scores.whole(metric)))
        found[metric] = {"value": round_to(value), "low": low, "high": high}
    return found


def _answers(stats: Stats) -> dict[str, float | None]:
    """How the answers went; empty for a task that asks for likelihoods alone."""
    if not stats.completions:
        return {}
    return {
        "count": stats.completions,
        "ended": round_to(stats.ended / stats.completions),
        "new_tokens": stats.tokens,
        "tokens_per_second": round_to(stats.tokens / stats.seconds) if stats.seconds else 0.0,
        "prompts_cut": stats.cut,
    }


def round_to(number: float) -> float | None:
    """As it is stored; None for what is no number, such as the mean of nothing."""
    return six_decimals(float(number)) if math.isfinite(number) else None


def do(job: dict[str, Any], emit: Emit, should_stop: Callable[[], bool]) -> None:
    """Do the one kind of job that `Spec.to_job` makes, in a worker."""
    spec = EvalSpec.from_job(job)
    subject = ModelUnderTest(spec, emit)
    try:
        _all(spec, subject, emit, should_stop)
    finally:
        subject.close()


def _all(spec: EvalSpec, subject: ModelUnderTest, emit: Emit, should_stop: Callable[[], bool]) -> None:
    digests = {task: hashlib.sha256(Path(file).read_bytes()).hexdigest() for task, file in spec.data.items()}
    waiting = {
        name: left
        for name in spec.tasks
        if (left := _left(spec, subject, name, digests.get(name, ""), spec.rounds, emit))
    }
    if not waiting:
        return
    if tasks.settle(offline=spec.offline or all(name in spec.data for name in waiting)):
        local = [name for name in waiting if name not in spec.data]
        if local:
            emit(Note(f"No network is used: {', '.join(local)} must be in the cache of the hub's client."))
    # The harness and its libraries tell much; what matters is raised.
    logging.disable(logging.WARNING)
    from minisheep.evals.code import own_metrics

    with own_metrics(allow_code=spec.allow_code):
        plans = _plans(spec, subject, waiting, digests, emit)
        for round in spec.rounds:
            for plan in plans:
                if round in plan.rounds:
                    measure(spec, subject, plan, round, emit, should_stop)


def _left(
    spec: EvalSpec, subject: ModelUnderTest, task: str, data: str, rounds: Sequence[int], emit: Emit
) -> list[int]:
    """The rounds that a task is still to be measured on; what is stored is told."""
    left = []
    for round in rounds:
        settings = subject.identity(task, round, data)
        file = eval_run.path(Path(spec.out), task, round, settings)
        if not spec.again and eval_run.read(file, settings) is not None:
            emit(TaskMeasured(round, task, str(file), stored=True))
        else:
            left.append(round)
    return left


def _plans(
    spec: EvalSpec, subject: ModelUnderTest, waiting: Mapping[str, list[int]], digests: Mapping[str, str], emit: Emit
) -> list[EvalPlan]:
    """Every task is loaded before the first is asked, so that a mistake shows at once."""
    from minisheep.evals import scores, tasks

    def on_progress(text: str) -> None:
        emit(Note(text))

    on_progress("Loading lm-evaluation-harness.")
    scores.no_downloads()
    plans = []
    for name, left in waiting.items():
        given = tasks.read_rows(Path(spec.data[name]), name) if name in spec.data else None
        data = digests.get(name, "")
        for leaf, task in tasks.load(name, spec, given, on_progress).items():
            decided_by = scores.choose(task) if leaf == "ifeval" else scores.THEIRS
            if leaf == "ifeval":
                on_progress(f"ifeval is decided by {decided_by}.")
            rounds = left if leaf == name else _left(spec, subject, leaf, data, spec.rounds, emit)
            plans.append(EvalPlan(leaf, task, data, spec.data.get(name, ""), decided_by, rounds))
    return plans
