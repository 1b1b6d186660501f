"""What a run leaves on disk: the model's files, once, and what each round adds. Pure."""

from __future__ import annotations

from minisheep.config import Settings
from minisheep.models.shape import Shape
from minisheep.plan.memory import Part
from minisheep.plan.work import ANSWER, CUT, kept_examples

TOKEN_BYTES = 4.5
"""Of English text."""
INSTRUCTION_BYTES = 600
"""Of records for an instruction: its draft, itself, and what was dropped beside it."""
ANSWER_BYTES = 300
"""Of records for an answer beside its text: ids, and its verdict."""
KEPT_BYTES = 500
"""Of the record of a kept example beside the answer's text."""
MEASURED_BYTES = 20_000
"""Of metrics and exams of a round."""
MEASURED_ANSWER_BYTES = 500


def model_parts(file: int, parameters: int, *, weights: bool, copy: float) -> list[Part]:
    """The files of a model: its GGUF, its training weights in bfloat16 unless the user has them, and the copy for
    inference of `copy` bytes a weight, 0 where the file itself is used."""
    parts = [Part("GGUF", file)]
    if weights:
        parts.append(Part("training weights", 2 * parameters))
    if copy:
        parts.append(Part("copy for inference", int(copy * parameters)))
    return parts


def round_bytes(settings: Settings, shape: Shape) -> int:
    """What one round adds: the adapter twice (safetensors and GGUF, float32) and its records."""
    answers = settings.per_round * settings.answers
    text = TOKEN_BYTES * min(ANSWER, CUT * settings.answer_max_tokens)
    records = settings.per_round * INSTRUCTION_BYTES + answers * (ANSWER_BYTES + text)
    records += kept_examples(settings) * (KEPT_BYTES + text)
    measured = MEASURED_BYTES + MEASURED_ANSWER_BYTES * (settings.eval_answers + settings.eval_verifiable)
    return adapter_bytes(settings, shape) + int(records) + measured


def adapter_bytes(settings: Settings, shape: Shape) -> int:
    return 2 * 4 * shape.lora_weights(settings.lora_rank)


def checkpoint_bytes(settings: Settings, shape: Shape) -> int:
    """While training: weights, best weights and two moments in float32, a new one beside the old."""
    return 2 * 16 * shape.lora_weights(settings.lora_rank)
