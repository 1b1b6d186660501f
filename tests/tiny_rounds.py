"""Rounds of data without a model, for tests of the collapse watch: healthy ones, and ones that collapsed in one way.

Healthy rounds are hard for a watch on purpose: each draft keeps to one kind of task, so that what came of it is alike,
and lengths vary widely.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from minisheep.data.seed_tasks import SeedTask, load_seeds
from minisheep.run.records import Example, Instruction, Rejection, Response
from minisheep.stages.collapse import Metrics, watch

SEEDS = load_seeds()
_KINDS = sorted({seed.kind for seed in SEEDS})
_VOCABULARY = sorted({word for seed in SEEDS for word in f"{seed.instruction} {seed.output}".lower().split()})


@dataclass(frozen=True)
class World:
    """What a model is like."""

    opening: float = 0.0
    """Share of instructions that begin with the same words."""
    kinds: int = len(_KINDS)
    """Kinds of task that it knows."""
    vocabulary: int = len(_VOCABULARY)
    """Words of answers."""
    moulds: bool = False
    """Whether instructions are cast in one of three moulds."""
    near_duplicates: float = 0.1
    ends: float = 0.8
    words: float = 30.0
    copies: float = 0.0
    """Share of answers that are one of three."""
    retold: float = 0.0
    """Share of answers that are taken from before."""


HEALTHY = World()
COLLAPSED = {
    "openings": replace(HEALTHY, opening=0.85),
    "topics": replace(HEALTHY, kinds=1),
    "instructions_less_varied": replace(HEALTHY, moulds=True),
    "near_duplicates": replace(HEALTHY, near_duplicates=0.65),
    "fewer_end": replace(HEALTHY, ends=0.2),
    "shorter": replace(HEALTHY, words=9.0),
    "longer": replace(HEALTHY, words=95.0),
    "copies": replace(HEALTHY, copies=0.8),
    "answers_less_varied": replace(HEALTHY, vocabulary=15),
    "seen_before": replace(HEALTHY, retold=0.95),
}
"""By the name of the alarm that each should raise."""


@functools.cache
def measured(seed: int, count: int, world: World, round: int = 1, earlier: tuple[str, ...] = ()) -> Metrics:
    return watch(*records(seed, count, world, round, earlier), SEEDS, earlier)


def records(
    seed: int, count: int, world: World, round: int = 1, earlier: Sequence[str] = ()
) -> tuple[list[Instruction], list[Response], list[Example], list[Rejection]]:
    """A round of `count` instructions in drafts of one to five; three of five answers are kept."""
    chance = random.Random(f"{seed} {round}")
    instructions: list[Instruction] = []
    rejected: list[Rejection] = []
    draft = 0
    while len(instructions) < count:
        draft += 1
        name = f"{chance.getrandbits(64):016x}"
        kind = chance.choice(_KINDS[: world.kinds])
        alike = chance.random() < world.opening
        for position in range(min(chance.randint(1, 5), count - len(instructions))):
            while chance.random() < world.near_duplicates:
                rejected.append(Rejection("generate", "too_similar", "", name, position, "", "", ""))
            text, given = _task(chance, kind, world, alike)
            instructions.append(Instruction(round, name, position, text, given, round_(chance)))
    responses, kept = [], []
    for instruction in instructions:
        finish = "end" if chance.random() < world.ends else "length"
        text = _answer(chance, world, earlier)
        response = Response(instruction.id, 0, text, finish, len(text.split()))
        responses.append(response)
        if chance.random() < 0.6:
            kept.append(
                Example(instruction.instruction, "", text, [], 8.0, 8.0, 8.0, "", (instruction.id, response.id, "v"))
            )
    return instructions, responses, kept, rejected


def round_(chance: random.Random) -> float:
    return round(chance.uniform(0.2, 0.7), 4)


def _task(chance: random.Random, kind: str, world: World, alike: bool) -> tuple[str, str]:
    """A task of the seeds' kind with a third of its words exchanged."""
    like: SeedTask = chance.choice([seed for seed in SEEDS if seed.kind == kind])
    if world.moulds:
        who, what = chance.choices(_VOCABULARY, k=2)
        return f"Write a short {chance.choice(('story', 'poem', 'letter'))} about a {who} who finds a {what}.", ""
    words = [chance.choice(_VOCABULARY) if chance.random() < 1 / 3 else word for word in like.instruction.split()]
    return (f"What is {' '.join(words)}" if alike else " ".join(words)), like.input


def _answer(chance: random.Random, world: World, earlier: Sequence[str]) -> str:
    if earlier and chance.random() < world.retold:
        return chance.choice(earlier)
    if chance.random() < world.copies:
        return f"I am sorry, but as a helpful assistant I cannot do number {chance.randint(1, 3)}."
    # Few words are frequent, as in any text.
    known = _VOCABULARY[:: max(1, len(_VOCABULARY) // world.vocabulary)]
    weights = [1 / rank for rank in range(10, len(known) + 10)]
    length = max(3, round(chance.lognormvariate(0, 0.5) * world.words))
    return " ".join(chance.choices(known, weights, k=length))
