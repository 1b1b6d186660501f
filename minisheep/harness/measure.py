"""One task on one round: the harness asks through our engine, and its samples become a stored result."""

from __future__ import annotations

import datetime
import math
import random
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minisheep import faults, installed
from minisheep.errors import MinisheepError, Stopped, UsageError
from minisheep.events import Emit, Note, PhaseFinished, PhaseStarted, Progress, TaskMeasured
from minisheep.harness import scores, stored
from minisheep.harness.asking import Asker, Stats
from minisheep.harness.spec import Spec
from minisheep.harness.subject import Subject
from minisheep.rules.statistics import six_decimals

PACKAGES = ("minisheep", "lm_eval", "datasets", "llama-cpp-python", "langdetect", "nltk")
SEEDS = (0, 1234)
"""Of `random` and numpy, as the harness sets them."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A task that is loaded, and what is left of it."""

    name: str
    task: Any
    data: str
    """Digest of the rows that replace its dataset, or empty."""
    file: str
    """Where they come from."""
    decided_by: str
    rounds: list[int]


def measure(spec: Spec, subject: Subject, plan: Plan, round: int, emit: Emit, should_stop: Callable[[], bool]) -> None:
    """Ask one task of one round (0 is the base model) and store the result.

    Raises `errors.UsageError` for rows that do not fit the task, `errors.Stopped`, and what the engine raises.
    """
    leaf = plan.name
    emit(PhaseStarted(round, leaf, unit="requests"))
    begun = time.monotonic()

    def tell(done: int, total: int, what: str) -> None:
        faults.point("eval")
        if should_stop():
            raise Stopped("Stopped. What was measured before is stored.")
        emit(Progress(round, leaf, done, total, what))

    asker = Asker(subject.engine(round, emit), subject.template, spec.max_tokens, subject.settings.seed, tell)
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
        "versions": installed.versions(PACKAGES),
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round_to(time.monotonic() - begun),
        "by_item": entries,
    }
    file = stored.path(Path(spec.out), leaf, round, settings)
    stored.write(file, result)
    if asker.stats.cut:
        emit(Note(f"{leaf}: {asker.stats.cut} prompt(s) did not fit the context and lost their beginning.", "warning"))
    counts: dict[str, float] = {"items": len(entries), "new_tokens": asker.stats.tokens}
    emit(PhaseFinished(round, leaf, time.monotonic() - begun, counts))
    emit(TaskMeasured(round, leaf, str(file)))


def _ask(spec: Spec, plan: Plan, asker: Asker) -> Any:
    """The harness's own results, with every sample."""
    import numpy as np
    from lm_eval.evaluator import evaluate

    from minisheep.harness import tasks
    from minisheep.harness.model import EngineLM

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
    from minisheep.rules.bootstrap import ratio_interval

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
