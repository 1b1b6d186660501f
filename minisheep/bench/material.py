"""The work that both sides are given: made from minisheep's own seed tasks and word lists. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from minisheep.data.texts import SeedTask
from minisheep.engines.base import GenerateRequest, Sampling
from minisheep.engines.fake_text import task_list
from minisheep.records import Example, Instruction, Response, derive_seed
from minisheep.rules.prompts import user_text
from minisheep.rules.task_list import parse_task_list
from minisheep.rules.templates import Segment
from minisheep.stages.judge import Pair

TOGETHER = (1, 1, 2, 1, 4, 1, 2, 7)
"""How many seed tasks make one training example, in turn: most are short and a few are long, as answers are."""


def decode_requests(seeds: Sequence[SeedTask], count: int, tokens: int, turn: int) -> list[GenerateRequest]:
    """Short plain prompts with a long way to go; each turn has its own, so that no side can keep a prompt's KV."""
    requests = []
    for number in range(count):
        seed = seeds[(turn * count + number) % len(seeds)]
        text = (
            f"Notes, part {turn * count + number + 1}. A long letter that begins with the words: {seed.instruction}\n"
        )
        identity = derive_seed("bench", "decode", turn, number)
        requests.append(GenerateRequest(str(number), (Segment(text),), Sampling(max_tokens=tokens), seed=identity))
    return requests


def instructions(seeds: Sequence[SeedTask], count: int) -> list[Instruction]:
    """`count` instruction records; the seed tasks are used again and again."""
    return [
        Instruction(1, "bench", number, seed.instruction, seed.input, 0.0)
        for number, seed in zip(range(count), _again(seeds, count), strict=True)
    ]


def judge_pairs(seeds: Sequence[SeedTask], count: int) -> list[Pair]:
    """Pairs to be judged; every third answer belongs to another task, so that there is something to find."""
    pairs = []
    for number, instruction in enumerate(instructions(seeds, count)):
        seed = seeds[(number + (number % 3 == 2)) % len(seeds)]
        response = Response(instruction.id, 0, seed.output, "end", 0)
        pairs.append(Pair(instruction, response, seed.output))
    return pairs


def examples(seeds: Sequence[SeedTask], count: int) -> list[Example]:
    """Training examples of mixed length: one to seven seed tasks in one, see `TOGETHER`."""
    found = []
    position = 0
    for number in range(count):
        some = [seeds[(position + i) % len(seeds)] for i in range(TOGETHER[number % len(TOGETHER)])]
        position += len(some)
        if len(some) == 1:
            asked, answered = user_text(some[0].instruction, some[0].input), some[0].output
        else:
            asked = "\n".join(f"{i}. {user_text(s.instruction, s.input)}" for i, s in enumerate(some, 1))
            answered = "\n".join(f"{i}. {s.output}" for i, s in enumerate(some, 1))
        found.append(
            Example(
                instruction=asked,
                input="",
                output=answered,
                messages=[{"role": "user", "content": asked}, {"role": "assistant", "content": answered}],
                score=1.0,
                quality=None,
                following=None,
                cut="",
                parents=("bench", "bench", str(number)),
            )
        )
    return found


def novel_texts(count: int) -> list[str]:
    """`count` instructions from word lists, as different from each other as such lists allow."""
    draw = Random(derive_seed("bench", "novelty"))  # noqa: S311
    texts: list[str] = []
    while len(texts) < count:
        for task in parse_task_list(task_list(draw, 1, labelled=True), 1, cut_off=True):
            texts.append(user_text(task.instruction, task.input))
    return texts[:count]


def _again(seeds: Sequence[SeedTask], count: int) -> list[SeedTask]:
    return [seeds[number % len(seeds)] for number in range(count)]
