"""What a round did to the model, measured cheaply and honestly on seed tasks that the model was never shown.

Base and rounds are asked in the same frame (the trained template), so that a difference is the adapter's and not the
prompt's. Differences are paired by task; their standard error is that of the mean of paired differences.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from minisheep.config import GRADED, Settings
from minisheep.data.texts import SeedTask
from minisheep.engines.base import Completion, Engine, GenerateRequest, LoglikRequest, Sampling
from minisheep.records import Draft, Example, Instruction, Rejection, Response, Verdict
from minisheep.rules.prompts import Frame, answer_prompt
from minisheep.rules.statistics import describe, distinct_n, paired_difference, six_decimals
from minisheep.rules.templates import Template

GRADE_EDGES = tuple(range(1, 12))
"""Bins of the score histogram for grades: [1, 2), ... [10, 11)."""
PMI_EDGES = tuple(x / 4 for x in range(-4, 17))
"""For nats per token, forward and backward."""
BLEND_EDGES = tuple(range(-8, 9))
"""For log-odds."""
PERPLEXITY_EDGES = tuple(range(-100, 1, 5))
"""For perplexities, whose scores are negative."""
EDGES = {"pmi": PMI_EDGES, "backward": PMI_EDGES, "blend": BLEND_EDGES, **dict.fromkeys(GRADED, GRADE_EDGES)}


@dataclass(frozen=True, slots=True)
class TaskLikelihood:
    """One held-out task: negative log-likelihood per token of its answer, and of ending after it (nats)."""

    task: str
    nll: float
    tokens: int
    end_nll: float


def held_out(seeds: Sequence[SeedTask], count: int) -> list[SeedTask]:
    """The first `count` held-out tasks, spread over the kinds as they stand in the file."""
    tasks = [seed for seed in seeds if seed.held_out]
    if count >= len(tasks):
        return tasks
    return [tasks[i * len(tasks) // count] for i in range(count)]


def likelihoods(engine: Engine, template: Template, tasks: Sequence[SeedTask]) -> Iterator[TaskLikelihood]:
    """The likelihood of each task's own answer, as they finish."""
    frame = Frame(template)
    requests = [
        LoglikRequest(task.id, answer_prompt(frame, task.instruction, task.input), template.completion(task.output))
        for task in tasks
    ]
    for found in engine.loglik(requests):
        *answer, end = found.logprobs
        yield TaskLikelihood(found.id, -sum(answer) / len(answer) if answer else 0.0, len(answer), -end)


def greedy_answers(
    engine: Engine, settings: Settings, template: Template, tasks: Sequence[SeedTask]
) -> Iterator[Completion]:
    """The model's greedy answer to each task, as they finish."""
    sampling = Sampling(temperature=0.0, max_tokens=settings.eval_max_tokens, stop=template.stop)
    frame = Frame(template)
    return engine.generate(
        [GenerateRequest(task.id, answer_prompt(frame, task.instruction, task.input), sampling) for task in tasks]
    )


def model_metrics(
    likelihoods: Sequence[TaskLikelihood], answers: Sequence[Completion], base: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Metrics of a model. `base` is the base model's metrics, for the paired difference; None for the base itself."""
    by_task = {found.task: six_decimals(found.nll) for found in sorted(likelihoods, key=lambda f: f.task)}
    metrics: dict[str, Any] = {
        "held_out_tasks": len(by_task),
        "held_out_nll": _tidy(fmean(list(by_task.values()))),
        "end_nll": _tidy(fmean([found.end_nll for found in likelihoods])),
        "nll_by_task": by_task,
    }
    if base is not None:
        common = sorted(set(by_task) & set(base["nll_by_task"]))
        if len(common) > 1:
            difference, error, count = paired_difference(
                [by_task[t] for t in common], [base["nll_by_task"][t] for t in common]
            )
            metrics["nll_change"] = {"mean": _tidy(difference), "standard_error": _tidy(error), "tasks": count}
    if answers:
        texts = [answer.text for answer in answers]
        metrics |= {
            "answers": len(answers),
            "ended": _tidy(sum(answer.finish != "length" for answer in answers) / len(answers)),
            "answer_words": _tidy(fmean([len(text.split()) for text in texts])),
            "answer_tokens": _tidy(fmean([answer.tokens for answer in answers])),
            "distinct_1": _distinct(texts, 1),
            "distinct_2": _distinct(texts, 2),
        }
    return metrics


def data_metrics(
    drafts: Sequence[Draft],
    instructions: Sequence[Instruction],
    responses: Sequence[Response],
    verdicts: Sequence[Verdict],
    kept: Sequence[Example],
    rejected: Iterable[Rejection],
) -> dict[str, Any]:
    """The funnel of a round's data: how much was made, what each rule dropped, how the judge graded."""
    rules = Counter(f"{rejection.stage}.{rejection.rule}" for rejection in rejected)
    similar = rules["generate.too_similar"]
    scores = [v.score for v in verdicts if v.score is not None]
    metrics: dict[str, Any] = {
        "drafts": len(drafts),
        "instructions": len(instructions),
        "responses": len(responses),
        "judged": len(verdicts),
        "kept": len(kept),
        "keep_rate": _tidy(len(kept) / len(responses)) if responses else 0.0,
        "near_duplicate_rate": _tidy(similar / (similar + len(instructions))) if instructions else 0.0,
        "dropped_by_rule": dict(sorted(rules.items())),
        "kept_words": _tidy(fmean([len(example.output.split()) for example in kept])) if kept else 0.0,
        "kept_distinct_2": _distinct([example.output for example in kept], 2),
    }
    if scores:
        graded = verdicts[0].judge in GRADED
        edges = score_edges(verdicts[0].judge)
        metrics["scores"] = {
            "judge": verdicts[0].judge,
            **{name: _tidy(value) for name, value in describe(scores)._asdict().items()},
            "histogram": {"edges": list(edges), "counts": np.histogram(scores, edges)[0].tolist()},
            "unreadable": len(verdicts) - len(scores),
            # A judge that gives its best grade to everything ranks nothing.
            "saturation": _tidy(sum(s >= 9.5 for s in scores) / len(scores)) if graded else None,
        }
    return metrics


def score_edges(judge: str) -> Sequence[float]:
    """The edges of the score histogram of a judge, or of the measure that takes its place."""
    return EDGES.get(judge, PERPLEXITY_EDGES)


def _distinct(texts: Sequence[str], n: int) -> float | None:
    """None where no text has `n` words: there is nothing to measure."""
    return _tidy(distinct_n(texts, n)) if any(len(text.split()) >= n for text in texts) else None


def _tidy(number: float) -> float:
    return six_decimals(number) if math.isfinite(number) else 0.0
