"""Constraints and shown tasks on SmolLM2-135M: what is shared is read once, and some answers keep what they must."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import real_models

from minisheep import config
from minisheep.data.constraint_kinds import load_catalogue
from minisheep.data.seed_tasks import load_seeds
from minisheep.engines.llamacpp import LlamaCppEngine
from minisheep.formats.gguf_header import read_header
from minisheep.formats.model_facts import model_facts
from minisheep.rules.constraints import WordedConstraint
from minisheep.rules.prompts import Frame
from minisheep.rules.templates import chatml, conversation, from_jinja
from minisheep.run.records import Instruction
from minisheep.stages.checking import Checker
from minisheep.stages.constrain import answers_to_check
from minisheep.stages.filter import by_rules
from minisheep.stages.respond import Asking, grouped, plan, respond

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]

MADE = [
    Instruction(1, "draft", n, text, "", 0.1)
    for n, text in enumerate(
        (
            "Name a bird that sings at night.", "Say what a lighthouse is for.", "Give a reason to walk to work.",
            "Describe the smell of fresh bread.", "Tell me how to boil an egg.", "Name a city on a river.",
            "Explain why leaves fall in autumn.", "Suggest a present for a gardener.",
        )
    )
]  # fmt: skip


@pytest.fixture(scope="module")
def engine() -> Iterator[LlamaCppEngine]:
    engine = LlamaCppEngine(real_models.smollm2(), slots=8, context=1024)
    yield engine
    engine.close()


def test_answers_after_shown_tasks_keep_some_constraints_and_read_the_tasks_once(engine: LlamaCppEngine) -> None:
    settings = config.make(
        {"show": "every", "answer_shots": 3, "constraints": 1.0, "answers": 3, "answer_max_tokens": 48,
         "answer_temperature": 0.7}
    )  # fmt: skip
    catalogue, template = load_catalogue(plugins=False), chatml()
    put = Asking(settings, 2, Frame(template), load_seeds(), conversation(template, "", {}), catalogue)
    asked = plan(engine, put, MADE).asked
    records = {record.instruction_id: record for record in asked}
    assert all(record.constraint and len(record.shown) == 3 for record in asked)
    groups = grouped([(i, sample) for i in MADE for sample in range(put.answers(i))], records)
    before, responses = engine.evaluated, []
    for group in groups:
        responses += respond(engine, put, group, records)
    prompts = {
        record.id: engine.count(put.prompt(put.shown(record), record.instruction, record.input)) for record in asked
    }
    apart = sum(prompts[response.asked] + response.tokens for response in responses)
    assert engine.evaluated - before < 0.7 * apart
    with Checker(catalogue) as checker:
        passed = [
            checker.check(WordedConstraint.from_dict(record.constraint), record.instruction, text)[0]
            for record, _, text in answers_to_check(asked, responses)
        ]
    assert len(passed) == 3 * len(MADE) and any(passed) and not all(passed)


def test_the_models_own_template_shows_tasks_as_turns(engine: LlamaCppEngine) -> None:
    facts = model_facts(read_header(Path(real_models.smollm2())))
    special = {"bos_token": facts.bos_text, "eos_token": facts.eos_text}
    template = from_jinja(facts.chat_template, special)
    settings = config.make({"show": "every", "answer_shots": 3, "answer_max_tokens": 24})
    put = Asking(settings, 1, Frame(template), load_seeds(), conversation(template, facts.chat_template, special))
    assert put.shows
    records = {record.instruction_id: record for record in plan(engine, put, MADE[:2]).asked}
    answers = list(respond(engine, put, [(i, 0) for i in MADE[:2]], records))
    found = by_rules(MADE[:2], answers, asked=records.values())
    assert len(found.pairs) + len(found.rejected) == 2 and all(answer.text.strip() for answer in answers)
