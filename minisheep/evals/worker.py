"""The worker's part of an evaluation: loads tasks, asks the model, stores one result for each task and round."""

from __future__ import annotations

import datetime
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
from minisheep.data.constraint_kinds import default_trained_kinds
from minisheep.engines.base import Engine
from minisheep.errors import MinisheepError, Stopped, UsageError
from minisheep.evals import eval_run, scores, tasks
from minisheep.evals.code import own_metrics
from minisheep.evals.tasks import PLAIN, EvalSpec
from minisheep.machine import system
from minisheep.models.prepared import PreparedModel
from minisheep.open_engines import open_engine, put_adapter, tell_engine
from minisheep.rules.identity import six_decimals
from minisheep.rules.templates import Template
from minisheep.run import events
from minisheep.run.events import Emit, Note, PhaseFinished, PhaseStarted, Progress, TaskMeasured, notes
from minisheep.run.files import sha256_of, write_json
from minisheep.run.folder import RunFolder
from minisheep.run.reading import trained_kinds
from minisheep.workspace import adapter_of

PACKAGES = ("minisheep", "lm_eval", "datasets", "llama-cpp-python", "langdetect", "nltk")
SEEDS = (0, 1234)
"""Of `random` and numpy, as the harness sets them."""


def do(job: dict[str, Any], emit: Emit, should_stop: Callable[[], bool]) -> None:
    spec = EvalSpec.from_job(job)
    subject = ModelUnderTest(spec, emit)
    try:
        _measure_all(spec, subject, emit, should_stop)
    finally:
        subject.close()


class ModelUnderTest:
    """A run's model with the adapters of its rounds, or a lone model. The engine is loaded on first use."""

    def __init__(self, spec: EvalSpec, emit: Emit) -> None:
        """Raises `errors.MinisheepError` if the model is missing and cannot be fetched."""
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
        """The same for every round, so that a difference comes from the adapter; None for plain text."""
        frame = self._spec.frame
        if frame == "auto":
            frame = "template" if self._folder is not None or self.model.kind == "instruct" else "plain"
        return self.model.template if frame == "template" else None

    @property
    def trained_kinds(self) -> frozenset[str]:
        """The kinds of constraint that the run trains on; of a lone model, those that a run would."""
        return default_trained_kinds() if self._folder is None else trained_kinds(self._folder)

    def identity(self, task: str, round: int, data: str) -> dict[str, Any]:
        """Everything that a result depends on; `data` is the digest of a file of rows, or empty."""
        adapter = self.adapter(round)
        return {
            "task": task,
            "model": self.model.gguf_sha256,
            "inference": self.model.inference_gguf.name,
            "adapter": "" if adapter is None else sha256_of(adapter),
            "frame": f"template {self.template.name}" if self.template else PLAIN,
            "data": data,
            "limit": self._spec.limit,
            "shots": self._spec.shots,
            "max_tokens": self._spec.max_tokens,
            "context": self.settings.context,
            "harness": system.versions(["lm_eval"]).get("lm_eval", ""),
        }

    def adapter(self, round: int) -> Path | None:
        """Raises `errors.ModelFileError` if a round's adapter is gone."""
        if round == 0 or self._folder is None:
            return None
        return adapter_of(self._folder, round, f"so round {round} cannot be measured", "Choose another --round.")

    def engine(self, round: int, emit: Emit) -> Engine:
        """The engine with a round's adapter hot-loaded; 0 is the bare model."""
        adapter = self.adapter(round)
        if self._engine is None:
            self._engine = open_engine(self.settings, self.model.inference_gguf)
            info = self._engine.info
            tell_engine(info, emit, f", {info.slots} sequences of {info.context} tokens")
        put_adapter(self._engine, adapter)
        return self._engine

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _with_machine(self, settings: config.Settings) -> config.Settings:
        """Settings with those of the request. A run's context may be too small for a task, so the larger one counts."""
        given = {
            "context": max(settings.context, self._spec.context),
            "slots": self._spec.slots or settings.slots,
            "threads": self._spec.threads or settings.threads,
        }
        return settings.model_copy(update=given)


@dataclass(frozen=True, slots=True)
class EvalPlan:
    """A loaded task, and the rounds still to measure."""

    name: str
    task: Any
    data: str
    """Digest of the file that replaces its dataset, or empty."""
    file: str
    decided_by: str
    rounds: list[int]


def measure(
    spec: EvalSpec, subject: ModelUnderTest, plan: EvalPlan, round: int, emit: Emit, should_stop: Callable[[], bool]
) -> None:
    """Measure one task on one round (0 is the base model) and store the result.

    The harness asks through our engine. Raises `errors.UsageError` for rows that do not fit the task, `errors.Stopped`,
    and what the engine raises.
    """
    leaf = plan.name
    emit(PhaseStarted(round, leaf, unit="requests"))
    begun = time.monotonic()

    def on_progress(done: int, total: int, what: str) -> None:
        events.point("eval")
        if should_stop():
            raise Stopped("Stopped. The results so far are stored.")
        emit(Progress(round, leaf, done, total, what))

    # Imported here: it needs lm_eval, which may be missing, and which must not come before `tasks.settle`.
    from minisheep.evals.engine_lm import Asker, EngineLM

    asker = Asker(subject.engine(round, emit), subject.template, spec.max_tokens, subject.settings.seed, on_progress)
    lm = EngineLM(asker, greedy=tasks.asks_greedy(plan.name, plan.task))
    harness = _evaluate(spec, plan, lm, chat=subject.template is not None)
    entries = scores.items(harness["samples"][leaf], subject.trained_kinds if leaf == "ifeval" else frozenset())
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
        "task_version": str(harness["versions"].get(leaf, "")),
        "shots": harness["n-shot"].get(leaf),
        "items": len(entries),
        "metrics": _metrics(entries, {**scores.values(harness["results"][leaf]), **scores.half_values(entries)}),
        "higher_is_better": {k: v for k, v in harness["higher_is_better"].get(leaf, {}).items() if isinstance(k, str)},
        "answers": asker.stats.to_dict(),
        "versions": system.versions(PACKAGES),
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round_to(time.monotonic() - begun),
        "by_item": entries,
    }
    file = eval_run.path(Path(spec.out), leaf, round, settings)
    write_json(file, result)
    if asker.stats.cut:
        emit(Note(f"{leaf}: {asker.stats.cut} prompt(s) did not fit the context and lost their beginning.", "warning"))
    counts: dict[str, float] = {"items": len(entries), "new_tokens": asker.stats.tokens}
    emit(PhaseFinished(round, leaf, time.monotonic() - begun, counts))
    emit(TaskMeasured(round, leaf, str(file)))


def _evaluate(spec: EvalSpec, plan: EvalPlan, lm: Any, *, chat: bool) -> Any:
    """The harness's own results, with every sample."""
    import numpy as np
    from lm_eval.evaluator import evaluate

    random.seed(SEEDS[0])
    np.random.seed(SEEDS[1])
    if plan.data:
        judge_in_time(plan)
    try:
        return evaluate(
            lm=lm,
            task_dict={"tasks": {plan.name: plan.task}},
            limit=spec.limit or None,
            bootstrap_iters=0,
            apply_chat_template=chat,
            confirm_run_unsafe_code=spec.allow_code,
        )
    except (MinisheepError, OSError, MemoryError):
        raise
    except Exception as error:
        if not plan.data:
            raise
        traceback.print_exc()
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UsageError(f"--data does not fit the task {plan.name}: {reason}.") from error


def judge_in_time(plan: EvalPlan) -> None:
    """Let no row of a user's file hold the work for ever: the words of IFEval are expressions to search by."""
    judge = plan.task.process_results

    def in_time(doc: Any, results: Any) -> Any:
        with tasks.row_in_time(f"{plan.file}, row {doc.get('key', doc.get('id', '?'))}"):
            return judge(doc, results)

    plan.task.process_results = in_time


def _metrics(entries: Sequence[Mapping[str, Any]], whole: Mapping[str, float]) -> dict[str, dict[str, float | None]]:
    """The harness's value of each metric, with an interval if the items give that value."""
    from minisheep.metrics.stats import ratio_interval

    metrics: dict[str, dict[str, float | None]] = {}
    for metric, value in whole.items():
        pairs = list(scores.pairs_of(entries, metric).values())
        low = high = None
        if scores.agrees(metric, pairs, value):
            _, low, high = (round_to(number) for number in ratio_interval(pairs, whole=scores.whole(metric)))
        metrics[metric] = {"value": round_to(value), "low": low, "high": high}
    return metrics


def round_to(number: float) -> float | None:
    """As stored; None for infinity and NaN, such as the mean of nothing."""
    return six_decimals(float(number)) if math.isfinite(number) else None


def _measure_all(spec: EvalSpec, subject: ModelUnderTest, emit: Emit, should_stop: Callable[[], bool]) -> None:
    digests = {task: sha256_of(Path(file)) for task, file in spec.data.items()}
    waiting = {name: left for name in spec.tasks if (left := _left(spec, subject, name, digests.get(name, ""), emit))}
    if not waiting:
        return
    if tasks.settle(offline=spec.offline or all(name in spec.data for name in waiting)):
        local = [name for name in waiting if name not in spec.data]
        if local:
            emit(Note(f"Working without the network: {', '.join(local)} must be in the cache of the hub's client."))
    # The harness and its libraries log a lot; what matters is raised.
    logging.disable(logging.WARNING)
    with own_metrics(allow_code=spec.allow_code):
        plans = _plans(spec, subject, waiting, digests, emit)
        for round in spec.rounds:
            for plan in plans:
                if round in plan.rounds:
                    measure(spec, subject, plan, round, emit, should_stop)


def _left(spec: EvalSpec, subject: ModelUnderTest, task: str, data: str, emit: Emit) -> list[int]:
    """The rounds on which a task is not measured yet; emits an event for each stored result."""
    left = []
    for round in spec.rounds:
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
    """Loads every task before the first is measured, so that a mistake shows at once."""
    on_progress = notes(emit)
    on_progress("Loading lm-evaluation-harness.")
    scores.no_downloads()
    plans = []
    for name, left in waiting.items():
        rows = tasks.read_rows(Path(spec.data[name]), name) if name in spec.data else None
        data = digests.get(name, "")
        for leaf, task in tasks.load(name, spec, rows, on_progress).items():
            decided_by = scores.choose(task) if leaf == "ifeval" else scores.THEIRS
            if leaf == "ifeval":
                on_progress(f"ifeval is decided by {decided_by}.")
            rounds = left if leaf == name else _left(spec, subject, leaf, data, emit)
            plans.append(EvalPlan(leaf, task, data, spec.data.get(name, ""), decided_by, rounds))
    return plans
