"""How many verifiable constraints a model's greedy answers keep, and whether it ends its answers.

The same for base and rounds: same frame, same prompts, no sampling; differences to the base are paired by item.

Strict and loose are IFEval's readings. A model can please both by saying the instruction back: the keywords, titles and
placeholders that are asked for stand in it. So there is a third, strict too, in which such an answer keeps nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from minisheep.config import Settings
from minisheep.engines.base import Completion, Engine, GenerateRequest, Sampling
from minisheep.rules.bootstrap import Accuracy, accuracy, change
from minisheep.rules.prompts import Frame, answer_prompt
from minisheep.rules.responses import Pair, copies_instruction
from minisheep.rules.verify.items import Item
from minisheep.rules.verify.verdicts import READINGS, loose, paired, strict, verdict_rows

REPEATS = "combination:repeat_prompt"
"""The one constraint that asks for the instruction itself."""


def chosen(items: Sequence[Item], count: int) -> list[Item]:
    """`count` items spread over the file, whose neighbours are alike; all of them where there are no more."""
    if count >= len(items):
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


def answers(engine: Engine, settings: Settings, frame: Frame, items: Sequence[Item]) -> Iterator[Completion]:
    """The model's greedy answer to each item, as they finish; `Completion.id` is the item's.

    Raises `errors.UsageError` for a prompt that cannot fit the context.
    """
    sampling = Sampling(temperature=0.0, max_tokens=settings.eval_verifiable_max_tokens, stop=frame.stop)
    return engine.generate([GenerateRequest(i.id, answer_prompt(frame, i.prompt, ""), sampling) for i in items])


def metrics(
    items: Sequence[Item], responses: Sequence[Completion], base: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Metrics of a model on the items that were answered. `base` is the base model's, for the paired difference.

    Shares are 0 .. 1, each with its 95 % bootstrap interval (`rules.bootstrap`); `verifiable_by_item` holds every
    verdict, and is what a later model is paired with. Empty without answers.
    """
    texts = {response.id: response for response in responses}
    answered = [item for item in items if item.id in texts]
    if not answered:
        return {}
    verdicts = {item.id: _verdict(item, texts[item.id]) for item in answered}
    found: dict[str, Any] = {
        "verifiable_items": len(answered),
        "verifiable_instructions": sum(len(item.checks) for item in answered),
        "verifiable": _summary({name: accuracy(rows) for name, rows in verdict_rows(verdicts).items()}),
        "verifiable_by_kind": _by_kind(answered, verdicts),
        "verifiable_by_item": verdicts,
    }
    if base and (pairs := paired(verdicts, base.get("verifiable_by_item", {}))):
        found["verifiable_change"] = {
            "items": len(pairs["strict"][0]),
            **_summary({name: change(*rows) for name, rows in pairs.items()}),
        }
    return found


def copied(item: Item, answer: str) -> bool:
    """Whether `answer` says the instruction back (`responses.copies_instruction`) where that is not what is asked."""
    if any(check.kind == REPEATS for check in item.checks):
        return False
    return copies_instruction(Pair(item.prompt, "", answer, "end")) is not None


def _verdict(item: Item, response: Completion) -> dict[str, Any]:
    kept, said_back = list(strict(item, response.text)), copied(item, response.text)
    return {
        "strict": kept,
        "loose": list(loose(item, response.text)),
        "own": [verdict and not said_back for verdict in kept],
        "ended": response.finish != "length",
        "copied": said_back,
    }


def _summary(found: Mapping[str, Accuracy]) -> dict[str, dict[str, float]]:
    """``prompt_`` and ``instruction_`` with each reading's name; ``ended``; ``copied``."""
    named = {
        f"{level}_{name}" if name in READINGS else name: getattr(both, level)
        for name, both in found.items()
        for level in (Accuracy._fields if name in READINGS else ("prompt",))
    }
    return {name: interval.to_dict() for name, interval in named.items()}


def _by_kind(items: Sequence[Item], verdicts: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """How many constraints of each kind there were, and how many were kept."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: {"n": 0, **dict.fromkeys(READINGS, 0)})
    for item in items:
        for place, check in enumerate(item.checks):
            counts[check.kind]["n"] += 1
            for name in READINGS:
                counts[check.kind][name] += verdicts[item.id][name][place]
    return dict(sorted(counts.items()))
