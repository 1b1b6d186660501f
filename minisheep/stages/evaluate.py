"""What a round did to the model, measured on tasks that the model was never shown. Pure.

Base and rounds get the same prompts in the same frame (the trained template), without sampling, so that a difference is
the adapter's and not the prompt's. Differences are paired by task; their standard error is that of the mean of paired
differences. `run.decision` decides by these numbers whether a round was a gain.

Constraints have IFEval's two readings, strict and loose. A model can please both by repeating the instruction: the
keywords, titles and placeholders that are asked for stand in it. So there is a third, strict too, in which such an
answer keeps nothing, or a model that learned to echo would be a gain. All three are also counted by halves: constraints
of the kinds that a run trains on, and of the others, since a model may learn those kinds and nothing else.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import Any, TypeVar

import numpy as np

from minisheep.config import GRADED, Settings
from minisheep.data.seed_tasks import SeedTask, load_items
from minisheep.engines.base import Completion, Engine, GenerateRequest, LoglikRequest, Sampling
from minisheep.metrics.stats import Accuracy, accuracy, change, describe, distinct_n, paired_difference
from minisheep.rules.heuristics import AnsweredText, copies_instruction
from minisheep.rules.identity import six_decimals
from minisheep.rules.ifeval import HALVES, READINGS, REPEATS, VerifiableItem, half, loose, paired, strict, verdict_rows
from minisheep.rules.prompts import Frame, answer_prompt
from minisheep.rules.templates import Template
from minisheep.rules.text_words import word_count
from minisheep.run.records import Draft, Example, Instruction, Rejection, Response, Verdict

T = TypeVar("T")

GRADE_EDGES = tuple(range(1, 12))
"""Bins of the score histogram for grades: [1, 2), ... [10, 11)."""
PMI_EDGES = tuple(x / 4 for x in range(-4, 17))
"""For nats per token, forward and backward."""
BLEND_EDGES = tuple(range(-8, 9))
"""For log-odds."""
PERPLEXITY_EDGES = tuple(range(-100, 1, 5))
"""For perplexities; the score is minus the perplexity."""
EDGES = {"pmi": PMI_EDGES, "backward": PMI_EDGES, "blend": BLEND_EDGES, **dict.fromkeys(GRADED, GRADE_EDGES)}


@dataclass(frozen=True, slots=True)
class TaskLikelihood:
    """One held-out task: negative log-likelihood per token of its answer, and of ending after it (nats)."""

    task: str
    nll: float
    tokens: int
    end_nll: float


def held_out(seeds: Sequence[SeedTask], count: int) -> list[SeedTask]:
    """`count` held-out tasks, spread over the kinds as they stand in the file."""
    return chosen([seed for seed in seeds if seed.held_out], count)


def chosen(items: Sequence[T], count: int) -> list[T]:
    """`count` items spread over the file, whose neighbours are alike; all of them where there are no more."""
    if count >= len(items):
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


def likelihoods(engine: Engine, template: Template, tasks: Sequence[SeedTask]) -> Iterator[TaskLikelihood]:
    """The likelihood of each task's own answer, as they finish."""
    frame = Frame(template)
    requests = [
        LoglikRequest(task.id, answer_prompt(frame, task.instruction, task.input), template.completion(task.output))
        for task in tasks
    ]
    for result in engine.loglik(requests):
        *answer, end = result.logprobs
        yield TaskLikelihood(result.id, -sum(answer) / len(answer) if answer else 0.0, len(answer), -end)


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
            "answer_words": _tidy(fmean([word_count(text) for text in texts])),
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
        "kept_words": _tidy(fmean([word_count(example.output) for example in kept])) if kept else 0.0,
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
    return _tidy(distinct_n(texts, n)) if any(word_count(text) >= n for text in texts) else None


def _tidy(number: float) -> float:
    return six_decimals(number) if math.isfinite(number) else 0.0


def answers(engine: Engine, settings: Settings, frame: Frame, items: Sequence[VerifiableItem]) -> Iterator[Completion]:
    """The model's greedy answer to each item, as they finish; `Completion.id` is the item's.

    Raises `errors.UsageError` for a prompt that cannot fit the context.
    """
    sampling = Sampling(temperature=0.0, max_tokens=settings.eval_verifiable_max_tokens, stop=frame.stop)
    return engine.generate([GenerateRequest(i.id, answer_prompt(frame, i.prompt, ""), sampling) for i in items])


def metrics(
    items: Sequence[VerifiableItem],
    responses: Sequence[Completion],
    base: Mapping[str, Any] | None = None,
    trained: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """Metrics of a model on the items that were answered. `base` is the base model's, for the paired difference.

    Shares are 0 .. 1, each with its 95 % bootstrap interval (`metrics.stats`); `verifiable_by_item` holds every
    verdict, and is what a later model is paired with. `trained` are the kinds that count as trained on; without any
    there are no halves. Empty without answers.
    """
    texts = {response.id: response for response in responses}
    answered = [item for item in items if item.id in texts]
    if not answered:
        return {}
    verdicts = {item.id: _verdict(item, texts[item.id]) for item in answered}
    if trained:
        for item in answered:
            verdicts[item.id]["trained"] = [check.kind in trained for check in item.checks]
    before = (base or {}).get("verifiable_by_item", {})
    result: dict[str, Any] = {
        "verifiable_items": len(answered),
        "verifiable_instructions": sum(len(item.checks) for item in answered),
        **_compared("verifiable", verdicts, before),
        "verifiable_by_kind": _by_kind(answered, verdicts),
        "verifiable_by_item": verdicts,
    }
    return result | _by_halves(verdicts, before)


@cache
def _kinds_by_item(language: str) -> dict[str, list[str]]:
    return {item.id: [check.kind for check in item.checks] for item in load_items(language=language)}


def with_halves(
    model: Mapping[str, Any], base: Mapping[str, Any], trained: frozenset[str], language: str
) -> Mapping[str, Any]:
    """A model's metrics with the halves that a run without constraints, in that language, does not store.

    Only verdicts on minisheep's own items are told apart, since no file of the run says of what kinds they are.
    """
    verdicts, kinds = model.get("verifiable_by_item", {}), _kinds_by_item(language)
    if not verdicts or any("trained" in v or len(kinds.get(i, ())) != len(v["strict"]) for i, v in verdicts.items()):
        return model
    marked = {i: {**verdict, "trained": [kind in trained for kind in kinds[i]]} for i, verdict in verdicts.items()}
    return {**model, "verifiable_by_item": marked, **_by_halves(marked, base.get("verifiable_by_item", {}))}


def _by_halves(verdicts: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Constraints kept in the answers' own words, and their change; empty where no kind is marked as trained on."""
    result: dict[str, Any] = {}
    for name in HALVES:
        part, earlier = half(verdicts, name), half(before, name, verdicts)
        if part and all("own" in verdict for verdict in part.values()):
            found = _compared(
                f"verifiable_{name}", *({i: _own(v) for i, v in some.items() if "own" in v} for some in (part, earlier))
            )
            found = {key: {n: v for n, v in of.items() if not n.endswith("strict")} for key, of in found.items()}
            found[f"verifiable_{name}"]["instructions"] = sum(len(verdict["own"]) for verdict in part.values())
            result |= found
    return result


def _own(verdict: Mapping[str, list[bool]]) -> dict[str, list[bool]]:
    # Under both names: what is paired is told by the length of `strict`.
    return {"strict": verdict["own"], "own": verdict["own"]}


def _compared(name: str, verdicts: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Shares under `name`, and under ``name_change`` what they are more than before, over the items of both."""
    found = {name: _summary({reading: accuracy(rows) for reading, rows in verdict_rows(verdicts).items()})}
    if pairs := paired(verdicts, before):
        found[f"{name}_change"] = {
            "items": len(pairs["strict"][0]),
            **_summary({reading: change(*rows) for reading, rows in pairs.items()}),
        }
    return found


def copied(item: VerifiableItem, answer: str) -> bool:
    """Whether `answer` repeats its instruction (`rules.heuristics.copies_instruction`) without being told to."""
    if any(check.kind == REPEATS for check in item.checks):
        return False
    return copies_instruction(AnsweredText(item.prompt, "", answer, "end")) is not None


def _verdict(item: VerifiableItem, response: Completion) -> dict[str, Any]:
    kept, repeats = list(strict(item, response.text)), copied(item, response.text)
    return {
        "strict": kept,
        "loose": list(loose(item, response.text)),
        "own": [verdict and not repeats for verdict in kept],
        "ended": response.finish != "length",
        "copied": repeats,
    }


def _summary(found: Mapping[str, Accuracy]) -> dict[str, Any]:
    """``prompt_`` and ``instruction_`` with each reading's name; ``ended``; ``copied``."""
    named = {
        f"{level}_{name}" if name in READINGS else name: getattr(both, level)
        for name, both in found.items()
        for level in (Accuracy._fields if name in READINGS else ("prompt",))
    }
    return {name: interval.to_dict() for name, interval in named.items()}


def _by_kind(items: Sequence[VerifiableItem], verdicts: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """How many constraints of each kind there were, and how many were kept."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: {"n": 0, **dict.fromkeys(READINGS, 0)})
    for item in items:
        for place, check in enumerate(item.checks):
            counts[check.kind]["n"] += 1
            for name in READINGS:
                counts[check.kind][name] += verdicts[item.id][name][place]
    return dict(sorted(counts.items()))
