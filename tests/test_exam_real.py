"""The exam on a real model: what likelihood sees there, and what it does not."""

from __future__ import annotations

import pytest
import real_models

from minisheep import config
from minisheep.data.seed_tasks import load_prompts, load_seeds
from minisheep.rules.prompts import Frame
from minisheep.rules.templates import chatml
from minisheep.stages.exam import examine

pytestmark = pytest.mark.model


def test_likelihood_of_a_small_model_knows_foreign_answers_and_loves_echoes() -> None:
    from minisheep.engines.llamacpp import LlamaCppEngine

    engine = LlamaCppEngine(real_models.smollm2(), context=512)
    try:
        settings = config.make({"judge": "pmi", "exam_tasks": 12, "context": 512, "answer_max_tokens": 100,
                                "generate_max_tokens": 100})  # fmt: skip
        found = examine(engine, settings, Frame(chatml()), load_prompts(), 1, load_seeds())
    finally:
        engine.close()
    pmi = found.judges["pmi"]
    assert pmi.kinds["shuffled"] > 0.85
    assert pmi.kinds["copied"] < 0.3
    assert not pmi.passes
