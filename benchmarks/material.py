"""The work that both sides do, made from minisheep's own seed tasks and word lists. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from random import Random

from minisheep.data.seed_tasks import SeedTask
from minisheep.engines.fake_text import task_list
from minisheep.rules.identity import derive_seed
from minisheep.rules.prompts import user_text
from minisheep.rules.task_list import parse_task_list
from minisheep.run.records import Instruction, Response
from minisheep.stages.judge import Pair


def instructions(seeds: Sequence[SeedTask], count: int) -> list[Instruction]:
    """`count` instruction records; the seed tasks repeat."""
    return [
        Instruction(1, "bench", number, seed.instruction, seed.input, 0.0)
        for number, seed in zip(range(count), itertools.cycle(seeds), strict=False)
    ]


def judge_pairs(seeds: Sequence[SeedTask], count: int) -> list[Pair]:
    """Pairs to judge; every third answer belongs to another task, so that there is a difference to find."""
    pairs = []
    for number, instruction in enumerate(instructions(seeds, count)):
        seed = seeds[(number + (number % 3 == 2)) % len(seeds)]
        response = Response(instruction.id, 0, seed.output, "end", 0)
        pairs.append(Pair(instruction, response, seed.output))
    return pairs


def novel_texts(count: int) -> list[str]:
    """`count` instructions from word lists, as different from each other as such lists allow."""
    draw = Random(derive_seed("bench", "novelty"))  # noqa: S311
    texts: list[str] = []
    while len(texts) < count:
        for task in parse_task_list(task_list(draw, 1, labelled=True), 1, cut_off=True):
            texts.append(user_text(task.instruction, task.input))
    return texts[:count]
