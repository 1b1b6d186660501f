"""A served SmolLM2 with an adapter: what a chat answers, in a batch that others join and leave."""

from __future__ import annotations

import re
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
import real_models
from served import serve_process

from minisheep.chat.session import Session
from minisheep.chat.worker import ChatHandler
from minisheep.engines.base import GenerateRequest, Sampling
from minisheep.engines.llamacpp import LlamaCppEngine
from minisheep.rules.templates import Segment
from minisheep.run.events import AnswerPart

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]

QUESTIONS = ("Why is the sky blue?", "Name three animals that live in the sea.", "Write a line about rain.")
TOKENS = 24


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    gguf = real_models.smollm2()
    return real_models.make_run(tmp_path_factory.mktemp("serve") / "run", gguf, real_models.own_template(gguf))


def chatted(run: Path, round: int) -> list[str]:
    """What a chat answers to each question, greedily."""
    handler, answers = ChatHandler(), []
    try:
        for question in QUESTIONS:
            said: list[Any] = []
            job = {"run": str(run), "phase": "answer", **Session((round,), 0.0, TOKENS).job(round, question)}
            handler.do(job, said.append, lambda: False)
            answers.append("".join(event.text for event in said if isinstance(event, AnswerPart)))
    finally:
        handler.close()
    return answers


def test_a_served_round_answers_as_a_chat_does(run: Path, tmp_path: Path) -> None:
    expected = {model: chatted(run, round) for model, round in {"base": 0, "minisheep": 1}.items()}
    assert expected["base"] != expected["minisheep"]
    with (
        serve_process(tmp_path / "said", str(run), "--round", "1", "--slots", "4") as serving,
        openai.OpenAI(base_url=serving.url, api_key="none", timeout=300) as client,
        ThreadPoolExecutor(6) as pool,
    ):

        def ask(model: str, question: str) -> Any:
            messages: Any = [{"role": "user", "content": question}]
            return client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=TOKENS)

        # One at a time, as a chat computes: in a batch, rounding may decide between two likely tokens.
        for model, answers in expected.items():
            assert [ask(model, question).choices[0].message.content for question in QUESTIONS] == answers
        parts = client.chat.completions.create(
            model="base", messages=[{"role": "user", "content": QUESTIONS[0]}], temperature=0, max_tokens=TOKENS,
            stream=True,
        )  # fmt: skip
        assert "".join(part.choices[0].delta.content or "" for part in parts) == expected["base"][0]
        many = [(model, question) for question in QUESTIONS for model in expected]
        together = list(pool.map(lambda pair: ask(*pair), many))
        assert all(answer.choices[0].message.content for answer in together)
        assert all(answer.usage.completion_tokens <= TOKENS for answer in together)
        with pytest.raises(openai.BadRequestError, match=r"has \d+ tokens .* holds 1024"):
            ask("base", "word " * 2000)
        serving.process.send_signal(signal.SIGTERM)
        assert serving.ended() == 0
        assert len(re.findall("chat/completions", serving.text.partition("Ctrl-C")[2])) >= 14


def test_a_conversation_that_goes_on_computes_only_what_is_new_beside_others_too() -> None:
    engine = LlamaCppEngine(real_models.smollm2(), slots=3, context=512)
    greedy = Sampling(temperature=0, max_tokens=12)
    first = "Remember: " + "river stone lamp winter " * 20

    def asked(id: str, text: str) -> GenerateRequest:
        return GenerateRequest(id, (Segment(text),), greedy)

    def computed(*requests: GenerateRequest, joining: tuple[GenerateRequest, ...] = ()) -> tuple[dict[str, str], int]:
        before, done = engine.evaluated, {}
        with engine.open_batch(lambda id, text: None, requests) as batch:
            batch.add(joining)
            while not batch.idle:
                done.update({completion.id: completion.text for completion in batch.step()})
        return done, engine.evaluated - before

    try:
        said, whole = computed(asked("a", first))
        again = asked("b", f"{first}{said['a']} And then?")
        other = asked("c", "Name a colour.")
        size = engine.count(again.prompt)
        both, cost = computed(again, joining=(other,))
        assert whole > 80 and cost <= size - whole + 2 * greedy.max_tokens + engine.count(other.prompt) + 2
        engine.set_adapter(None)
        alone, cost = computed(again)
        assert cost >= size, "nothing is kept where an adapter was changed"
        assert both["b"][:10] == alone["b"][:10] and both["c"]
    finally:
        engine.close()


def test_an_open_batch_is_joined_and_left_while_it_runs() -> None:
    engine = LlamaCppEngine(real_models.smollm2(), slots=3, context=256)
    greedy = Sampling(temperature=0, max_tokens=40)
    many = [
        GenerateRequest(str(number), (Segment(f"{number} {question} \u4f60\u597d\U0001f411"),), greedy)
        for number, question in enumerate(QUESTIONS * 2)
    ]
    texts: dict[str, str] = {}
    done: dict[str, str] = {}

    def hear(id: str, text: str) -> None:
        texts[id] = texts.get(id, "") + text

    try:
        with engine.open_batch(hear) as batch:
            batch.add(many[:2])
            for _ in range(5):
                assert not batch.step()
            batch.add(many[2:4])
            batch.drop("0")
            for _ in range(3):
                batch.step()
            heard = len(texts["0"])
            batch.add(many[4:])
            batch.drop("5")
            while not batch.idle:
                done.update({completion.id: completion.text for completion in batch.step()})
            assert len(texts["0"]) == heard and "5" not in texts
        assert done == {id: texts[id] for id in ("1", "2", "3", "4")}
        # The engine is as it was: the same request alone begins the same.
        (alone,) = engine.generate([many[1]])
        assert alone.text[:20] == done["1"][:20]
    finally:
        engine.close()
