"""A small real model in a Chinese run: it writes in the list's form, most of it passes, and it gives grades."""

from __future__ import annotations

import pytest
from real_models import qwen2

from minisheep import config
from minisheep.data.seed_tasks import load_prompts, load_seeds, load_wording
from minisheep.engines.llamacpp import LlamaCppEngine
from minisheep.rules.prompts import Frame
from minisheep.rules.templates import chatml
from minisheep.rules.text_words import unspaced
from minisheep.stages.filter import by_rules
from minisheep.stages.generate import Harvest, novelty_index, write_drafts
from minisheep.stages.judge import Judge, JudgedText, judge_pairs
from minisheep.stages.respond import Asking, respond


@pytest.mark.slow
def test_a_small_model_keeps_instructions_in_chinese() -> None:
    given = {
        "language": "chinese",
        "generate_max_tokens": 220,
        "answer_max_tokens": 80,
        "context": 1024,
        "per_round": 16,
    }
    settings = config.make(given)
    wording, seeds, texts = load_wording(language="zh"), load_seeds(language="zh"), load_prompts(language="zh")
    frame = Frame(chatml(), wording)
    engine = LlamaCppEngine(qwen2(), slots=4, context=1024, threads=0, gpu_layers=0, kv_type="auto")
    harvest = Harvest(settings, novelty_index(seeds, []), wording=wording)
    try:
        for draft in sorted(write_drafts(engine, settings, frame, texts, seeds, 1, [0, 1]), key=lambda d: d.index):
            harvest.add(draft)
        assert len(harvest.kept) >= 3 and all(unspaced(one.instruction) for one in harvest.kept)
        assert {one.rule for one in harvest.rejected} <= {"too_similar"}
        asked = harvest.kept[:2]
        responses = list(respond(engine, Asking(settings, 1, frame, seeds), [(one, 0) for one in asked]))
        pairs = by_rules(asked, responses, wording, rules="off").pairs
        judge, items = Judge("logits", prompt="simple"), [JudgedText.of(pair) for pair in pairs]
        verdicts = list(judge_pairs(engine, judge, frame, texts, items))
        assert len(verdicts) == 2 and all(row["mass"] > 0.5 for one in verdicts for row in one.raw.values())
    finally:
        engine.close()
