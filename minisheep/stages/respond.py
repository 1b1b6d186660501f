"""The model answers its own instructions, zero-shot (the paper's generate_responses)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from minisheep.config import Settings
from minisheep.engines.base import Engine, GenerateRequest, Sampling
from minisheep.records import Instruction, Response, derive_seed
from minisheep.rules.prompts import Frame, answer_prompt

Wanted = tuple[Instruction, int]
"""An instruction, and which of its answers (from 0)."""


def respond(
    engine: Engine, settings: Settings, frame: Frame, round: int, wanted: Sequence[Wanted]
) -> Iterator[Response]:
    """Answers as they finish. The seed follows from the instruction and the answer's number, not from its place; the
    answers to one instruction stand side by side, so that the engine reads their prompt once."""
    sampling = Sampling(
        temperature=settings.answer_temperature,
        top_p=settings.answer_top_p,
        max_tokens=settings.answer_max_tokens,
        stop=frame.stop,
    )
    requests = [
        GenerateRequest(
            id=f"{instruction.id}/{sample}",
            prompt=answer_prompt(frame, instruction.instruction, instruction.input),
            sampling=sampling,
            seed=derive_seed(settings.seed, round, "respond", instruction.id, sample),
        )
        for instruction, sample in wanted
    ]
    for completion in engine.generate(requests):
        instruction_id, _, sample = completion.id.rpartition("/")
        yield Response(instruction_id, int(sample), completion.text, completion.finish, completion.tokens)
