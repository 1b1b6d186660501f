"""The model answers its own instructions, zero-shot (the paper's generate_responses)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from minisheep.config import Settings
from minisheep.engines.base import Engine, GenerateRequest, Sampling
from minisheep.records import Instruction, Response, derive_seed
from minisheep.rules.prompts import Frame, answer_prompt


def respond(
    engine: Engine, settings: Settings, frame: Frame, round: int, instructions: Sequence[Instruction]
) -> Iterator[Response]:
    """One answer to each instruction, as they finish. The seed follows from the instruction, not from its place."""
    sampling = Sampling(
        temperature=settings.answer_temperature,
        top_p=settings.answer_top_p,
        max_tokens=settings.answer_max_tokens,
        stop=frame.stop,
    )
    requests = [
        GenerateRequest(
            id=instruction.id,
            prompt=answer_prompt(frame, instruction.instruction, instruction.input),
            sampling=sampling,
            seed=derive_seed(settings.seed, round, "respond", instruction.id, 0),
        )
        for instruction in instructions
    ]
    for completion in engine.generate(requests):
        yield Response(completion.id, 0, completion.text, completion.finish, completion.tokens)
