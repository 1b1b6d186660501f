"""Run folders that hold what a run would have measured, for tests: made up, without an engine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from minisheep import api, config, opening
from minisheep.engines.base import Completion
from minisheep.rules.ifeval import Constraint, VerifiableItem
from minisheep.run.decision import decide
from minisheep.run.files import write_json
from minisheep.run.folder import RunFolder
from minisheep.stages import evaluate
from minisheep.stages.evaluate import TaskLikelihood, model_metrics

ITEMS = [
    VerifiableItem(f"item-{i:02}", "Write without a comma.", (Constraint("punctuation:no_comma", {}),))
    for i in range(30)
]
TASKS = [f"task-{i:02}" for i in range(12)]


def measured_run(
    path: Path,
    kept: Sequence[float],
    *,
    gguf: str = "same",
    seeds: str = "same",
    nll: Sequence[float] = (),
    answers: Sequence[str] = (),
    exam: bool = False,
    **settings: Any,
) -> api.Run:
    """A run whose base and rounds keep the shares `kept` of the verifiable instructions.

    `nll` per token shifts each model's likelihood; `answers` is a text a model, given to every held-out task with the
    task's name before it.
    """
    folder = RunFolder(path)
    folder.create()
    given = {"engine": "fake", "trainer": "fake", "rounds": max(1, len(kept) - 1), **settings}
    opening.write_settings(folder, config.make(given, "imitation"))
    write_json(folder.model, {"gguf_sha256": gguf})
    done: dict[str, dict[str, float]] = {}
    losses = tuple(nll) or tuple(2.0 - 0.1 * number for number in range(len(kept)))
    texts = tuple(answers) or ("An answer.",) * len(kept)
    for number, metrics in enumerate(json.loads(_measured(tuple(kept), losses, texts))):
        place = folder.make_round(number)
        if number:
            judge = config.make(given, "imitation").judge
            metrics["data"] = {"kept": 18, "keep_rate": 0.6, "scores": {"judge": judge}}
            if exam:
                judges = {judge: {"auc": 0.91, "se": 0.02, "kinds": {}, "passes": True}}
                write_json(place.exam, {"judges": judges, "chosen": judge})
        write_json(place.metrics, metrics)
        place.answers.write_text(
            "".join(
                json.dumps({"task": a.id, "instruction": f"Do {a.id}.", "input": "", "answer": a.text}) + "\n"
                for a in _said(texts[number])
            )
        )
        done[f"round-{number}/evaluate"] = {name: metrics["decision"][name] for name in ("best", "without_gain")}
    folder.write_manifest({"phases": done, "inputs": {"seeds": seeds}})
    return api.load_run(path)


@cache
def _measured(kept: tuple[float, ...], losses: tuple[float, ...], texts: tuple[str, ...]) -> str:
    """The metrics of the base and each round, as JSON: the same for many tests, and intervals take a while."""
    measured: dict[int, dict[str, Any]] = {}
    for number, share in enumerate(kept):
        base = measured[0]["model"] if number else None
        model = model_metrics(_likelihoods(losses[number]), _said(texts[number]), base)
        model |= evaluate.metrics(ITEMS, _checked(share), base)
        measured[number] = {"round": number, "model": model, "decision": decide(number, model, measured)}
    return json.dumps(list(measured.values()))


def _said(text: str) -> list[Completion]:
    return [Completion(task, f"{task} {text}", "end", 4) for task in TASKS]


def _checked(share: float) -> list[Completion]:
    """Answers to `ITEMS`, of which the first ones keep their constraint."""
    return [
        Completion(item.id, "No comma" if place < share * len(ITEMS) else "One, comma", "end", 3)
        for place, item in enumerate(ITEMS)
    ]


def _likelihoods(nll: float) -> list[TaskLikelihood]:
    return [TaskLikelihood(task, nll + 0.01 * (place % 3), 10, 1.0) for place, task in enumerate(TASKS)]
