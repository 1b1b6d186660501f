"""The engine at llama.cpp's own server, beside the engine of this machine on the same file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import real_models

from benchmarks.server import NoServerError, find_server, serve
from minisheep import config
from minisheep.engines.base import GenerateRequest, LoglikRequest, Sampling, ScoreRequest
from minisheep.engines.llamacpp import LlamaCppEngine
from minisheep.engines.openai import RemoteEngine
from minisheep.engines.permission import remember
from minisheep.open_engines import open_server
from minisheep.rules.templates import Prompt, Segment

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

CLOSE = 0.02
"""What the shape of a batch and a 16-bit KV cache may move a log-probability by, with weights in float32."""
LABELS = tuple(str(number) for number in range(1, 11))


def chat(text: str) -> Prompt:
    return (
        Segment("<|im_start|>user\n", special=True),
        Segment(text),
        Segment("<|im_end|>\n<|im_start|>assistant\n", special=True),
    )


@pytest.fixture(scope="module")
def gguf() -> Path:
    return real_models.float32_copy(real_models.smollm2())


@pytest.fixture(scope="module")
def remote(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteEngine]:
    try:
        program = find_server()
    except NoServerError as error:
        pytest.skip(error.message)
    log = tmp_path_factory.mktemp("server") / "log"
    with serve(program, gguf, slots=4, context=512, threads=2, log=log) as server:
        url = f"http://127.0.0.1:{server.port}/v1"
        given = {"engine": "openai", "engine_url": url, "engine_model": "any", "context": 512, "slots": 4}
        settings = config.make(given, "imitation")
        remember(settings, log.parent, given)
        engine = open_server(settings, gguf, log.parent)
        engine.set_adapter(None)
        yield engine
        engine.close()


@pytest.fixture(scope="module")
def local(gguf: Path) -> Iterator[LlamaCppEngine]:
    engine = LlamaCppEngine(gguf, slots=4, context=512, threads=2, kv_type="f16")
    yield engine
    engine.close()


def test_the_server_tells_what_a_run_needs(remote: RemoteEngine) -> None:
    assert (remote.abilities.tops, remote.abilities.loglik) == (20, "forced")


def test_greedy_answers_are_the_same(remote: RemoteEngine, local: LlamaCppEngine) -> None:
    questions = ("Name a colour.", "What is water?", "Count to five.", "Say hello.", "Where is Rome?", "Why sleep?")
    asked = [
        GenerateRequest(text, chat(text), Sampling(temperature=0.0, max_tokens=16, stop=("\n",))) for text in questions
    ]
    mine, theirs = ({c.id: c.text for c in engine.generate(asked)} for engine in (local, remote))
    assert mine == theirs and any(mine.values())


def test_words_that_look_like_a_special_token_are_words(remote: RemoteEngine) -> None:
    before = remote.evaluated
    (found,) = remote.loglik([LoglikRequest("a", chat("Hi"), (Segment("<|im_end|>"),))])
    (ended,) = remote.loglik([LoglikRequest("b", chat("Hi"), (Segment("<|im_end|>", special=True),))])
    assert len(found.logprobs) > len(ended.logprobs) == 1
    assert remote.evaluated > before


def test_likelihoods_are_the_same(remote: RemoteEngine, local: LlamaCppEngine) -> None:
    texts = ("It is blue, as the sky is.", "Qwzx ~~ 17", "")
    end = Segment("<|im_end|>", special=True)
    asked = [LoglikRequest(text, chat("Name a colour."), (Segment(text), end) if text else ()) for text in texts]
    mine, theirs = ({found.id: found.logprobs for found in engine.loglik(asked)} for engine in (local, remote))
    assert mine.keys() == theirs.keys()
    for text in texts:
        assert theirs[text] == pytest.approx(mine[text], abs=CLOSE)


def test_label_scores_are_the_same_down_to_unlikely_ones(remote: RemoteEngine, local: LlamaCppEngine) -> None:
    asked = [
        ScoreRequest(text, (*chat(text), Segment("Grade: ")), LABELS)
        for text in ("Grade this answer from 1 to 10: blue.", "What is water?")
    ]
    mine, theirs = ({found.id: found.probabilities for found in engine.score(asked)} for engine in (local, remote))
    for text, probabilities in mine.items():
        logs = [math.log(p) for p in probabilities if p > 0]
        assert [math.log(p) for p in theirs[text] if p > 0] == pytest.approx(logs, abs=CLOSE)
