"""Chat on SmolLM2: one model load, its own template over several turns, with and without an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import real_models

from minisheep import config, opening
from minisheep.chat.session import ChatAnswer, Session
from minisheep.chat.worker import ChatHandler
from minisheep.prepare import for_inference
from minisheep.run.events import AnswerDone, AnswerPart, EngineReady, Note
from minisheep.run.folder import RunFolder

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has been prepared and measured, and no more: chat needs no training weights."""
    from conftest import TEST_CACHE

    folder = RunFolder(tmp_path_factory.mktemp("chat") / "run")
    folder.create()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINISHEEP_CACHE", str(TEST_CACHE))
        settings = config.make({"gguf": str(real_models.smollm2()), "context": 512}, "imitation")
        opening.write_settings(folder, settings)
        for_inference(settings, lambda event: None).write(folder.model)
    folder.write_manifest({"phases": {}, "inputs": {}})
    return folder.path


def ask(handler: ChatHandler, run: Path, session: Session, user: str) -> tuple[Session, ChatAnswer, list[Any]]:
    said: list[Any] = []
    handler.do({"run": str(run), "phase": "answer", **session.job(0, user)}, said.append, lambda: False)
    parts = [event.text for event in said if isinstance(event, AnswerPart)]
    (done,) = [event for event in said if isinstance(event, AnswerDone)]
    answer = ChatAnswer(0, "".join(parts), done.finish, done.tokens, done.left_out)
    return session.after(user, [answer]), answer, said


def test_a_model_is_told_what_was_said_and_streams_its_answers(run: Path) -> None:
    handler = ChatHandler()
    try:
        session = Session((0,), 0.0, 40)
        session, first, said = ask(handler, run, session, "My name is Ruth and I live in Oslo.")
        assert sum(isinstance(event, EngineReady) for event in said) == 1
        assert not [event for event in said if isinstance(event, Note) and event.level == "warning"]
        assert sum(isinstance(event, AnswerPart) for event in said) > 5 and first.tokens > 5
        _, second, said = ask(handler, run, session, "What is my name, and where do I live?")
        # What so small a model makes of it is its own affair; that it was told shows in another answer.
        assert second.text != ask(handler, run, Session((0,), 0.0, 40), "What is my name, and where do I live?")[1].text
        assert not any(isinstance(event, EngineReady) for event in said)
    finally:
        handler.close()
    # Greedy, so the same conversation, from its beginning, gives the same answer.
    handler = ChatHandler()
    try:
        session, again, _ = ask(handler, run, Session((0,), 0.0, 40), "My name is Ruth and I live in Oslo.")
        assert again == first
        assert ask(handler, run, session, "What is my name, and where do I live?")[1] == second
    finally:
        handler.close()


def test_the_fifth_turn_computes_no_turn_before_it(run: Path) -> None:
    handler = ChatHandler()
    try:
        session, costs = Session((0,), 0.0, 12), []
        for number in range(5):
            before = 0 if handler._model is None else handler._model._engine.evaluated
            session, answer, _ = ask(handler, run, session, f"Remember {number}: " + "river stone lamp " * 8)
            assert handler._model is not None and answer.left_out == 0
            costs.append(handler._model._engine.evaluated - before)
        assert max(costs[1:]) <= costs[0] + 8
    finally:
        handler.close()


def test_a_long_conversation_goes_on_with_its_newest_turns(run: Path) -> None:
    handler = ChatHandler()
    try:
        session = Session((0,), 0.0, 8)
        for number in range(5):
            session, answer, _ = ask(handler, run, session, f"Remember {number}: " + "river stone lamp " * 25)
        assert answer.left_out > 0 and answer.text
    finally:
        handler.close()
