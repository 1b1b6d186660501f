"""The model answers its own instructions: zero-shot (the paper's generate_responses), or after solved tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from minisheep.config import Settings
from minisheep.data.seed_tasks import SeedTask
from minisheep.engines.base import Engine, GenerateRequest, Sampling
from minisheep.rules.identity import derive_seed
from minisheep.rules.prompts import Frame, answer_prompt, pick_shots, shown_answer_prompt
from minisheep.rules.task_list import Task
from minisheep.run.records import Instruction, Response

Wanted = tuple[Instruction, int]
"""An instruction, and which of its answers (from 0)."""
LONGEST_SHOWN = 600
"""Characters that a solved task may have to be shown: short answers teach best, and the context is small."""


def showable(seeds: Sequence[SeedTask]) -> list[SeedTask]:
    """The seed tasks that may be shown with their answers."""
    return [
        seed
        for seed in seeds
        if not seed.held_out and len(seed.instruction + seed.input + seed.output) <= LONGEST_SHOWN
    ]


def solved_shots(seeds: Sequence[SeedTask], settings: Settings, round: int) -> list[tuple[Task, str]]:
    """The solved seed tasks that stand before each instruction: the same for all, so that they are read once."""
    shown = [(seed.id, (seed.task, seed.output)) for seed in showable(seeds)]
    return [task for _, task in pick_shots(shown, settings.answer_shots, settings.seed, round, "answer shots")]


def respond(
    engine: Engine, settings: Settings, frame: Frame, round: int, wanted: Sequence[Wanted], seeds: Sequence[SeedTask]
) -> Iterator[Response]:
    """Answers as they finish. The answers to one instruction stand side by side, so that the engine reads their prompt
    once. A base model, which reads plain text, is first shown `Settings.answer_shots` of the `seeds` with answers."""
    solved = solved_shots(seeds, settings, round) if frame.template is None else []
    sampling = Sampling(
        temperature=settings.answer_temperature,
        top_p=settings.answer_top_p,
        max_tokens=settings.answer_max_tokens,
        stop=frame.stop,
    )
    requests = [
        GenerateRequest(
            id=f"{instruction.id}/{sample}",
            prompt=(
                shown_answer_prompt(solved, instruction.instruction, instruction.input, frame.words)
                if solved
                else answer_prompt(frame, instruction.instruction, instruction.input)
            ),
            sampling=sampling,
            seed=derive_seed(settings.seed, round, "respond", instruction.id, sample),
        )
        for instruction, sample in wanted
    ]
    for completion in engine.generate(requests):
        instruction_id, _, sample = completion.id.rpartition("/")
        yield Response(instruction_id, int(sample), completion.text, completion.finish, completion.tokens)
