"""The engine at a server, against a stand-in on loopback that fails in every way. No model is behind it."""

from __future__ import annotations

import json
import math
import os
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from completion_stand_in import Behave, bare, llama, logprobs, remote, vllm
from hypothesis import given, settings
from hypothesis import strategies as st
from judge_stand_in import Answer, Asked, fails, stand_in

from minisheep import api, config
from minisheep.engines.base import EmbedRequest, GenerateRequest, LoglikRequest, Sampling, ScoreRequest
from minisheep.engines.openai import AT_ONCE, RemoteEngine, check_server
from minisheep.engines.openai_wire import Abilities, echoed, read, refusal
from minisheep.errors import ConfigError, EndpointError, UsageError
from minisheep.rules.templates import Segment

LABELS = tuple(str(number) for number in range(1, 11))
SERVER = {"engine": "openai", "engine_url": "http://localhost:1/v1", "engine_model": "m"}
FAULTS = {
    "busy": fails(429, "slow down"),
    "broken": fails(500, "boom"),
    "gone": Answer(drop=True),
    "half": Answer(b'{"choices": [{"te', cut=True),
}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def text(words: str) -> tuple[Segment, ...]:
    return (Segment(words),)


def requests(count: int) -> list[GenerateRequest]:
    return [
        GenerateRequest(str(n), text("x" * (n + 1)), Sampling(max_tokens=50, stop=("\n",)), n + 1) for n in range(count)
    ]


def right(count: int) -> dict[str, str]:
    return {str(n): f"seed {n + 1} after {n + 1}" for n in range(count)}


def ready(url: str, **given: object) -> RemoteEngine:
    engine = remote(url, **given)  # type: ignore[arg-type]
    engine.set_adapter(None)
    return engine


def after_the_probe(behave: Behave, faults: Callable[[Asked, int], Answer | None]) -> Behave:
    """A server that is well while it is tried, which no request of the tests' own resembles, and has faults after."""

    def either(asked: Asked, number: int) -> Answer:
        own = "x" in map(chr, asked.body["prompt"])
        return (faults(asked, number) if own else None) or behave(asked, number)

    return either


# What the server can do


@pytest.mark.parametrize(
    ("behave", "tops", "loglik"),
    [
        (vllm, 20, "echo"),
        (llama, 20, "forced"),
        (bare, 0, ""),
        (lambda asked, n: llama(asked, n, biased=True), 20, ""),
        (lambda asked, n: fails(400, "at most 5") if asked.body.get("logprobs", 0) > 5 else vllm(asked, n), 5, "echo"),
    ],
    ids=["vllm", "llama.cpp", "bare", "after the bias", "five"],
)
def test_a_probe_finds_what_a_server_tells(behave: Behave, tops: int, loglik: str) -> None:
    with stand_in(behave) as server:
        assert ready(server.url).abilities == Abilities(tops, loglik)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("behave", "told"),
    [
        (lambda asked, n: fails(400, "prompt must be a string"), "/completions"),
        (lambda asked, n: fails(404, "no such path"), "/v1"),
        (lambda asked, n: fails(401, "who are you"), "--engine-key-env"),
        (lambda asked, n: Answer(b"<html>Welcome", kind="text/html"), "text/html"),
        (lambda asked, n: Answer(b'{"choices": [{"text": "x"}], "usage": {"prompt_tokens": 99}}'), "another model"),
        (
            lambda asked, n: vllm(Asked("", {}, {**asked.body, "prompt": [t + 1 for t in asked.body["prompt"]]}), n),
            "another model",
        ),
        (
            lambda asked, n: fails(400, "too long") if len(asked.body["prompt"]) > 200 else vllm(asked, n),
            "--context 256",
        ),
    ],
    ids=["texts only", "path", "access", "a page", "count", "words", "context"],
)
def test_a_server_that_cannot_be_used_is_one_clear_line(behave: Behave, told: str) -> None:
    with stand_in(behave) as server, pytest.raises((UsageError, EndpointError)) as raised:
        ready(server.url)
    assert told in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("given", "found", "told"),
    [
        ({"judge": "auto"}, Abilities(20, ""), "--judge logits"),
        ({"judge": "pmi"}, Abilities(0, ""), "--judge sample"),
        ({"judge": "logits"}, Abilities(0, ""), "--judge sample"),
        ({"filter": "ppl"}, Abilities(20, ""), "--filter ppl"),
        ({"judge": "sample", "engine_hook": "true"}, Abilities(20, ""), "--engine-hook"),
        ({"judge": "logits"}, Abilities(20, ""), ""),
        ({"judge": "sample"}, Abilities(0, ""), ""),
        ({"judge": "auto"}, Abilities(20, "forced"), ""),
    ],
)
def test_what_a_run_needs_and_a_server_lacks_is_told_with_what_to_set(
    given: dict[str, str], found: Abilities, told: str
) -> None:
    refused = refusal(config.make({**SERVER, **given}), found, "http://server/v1")
    assert told in str(refused) if told else refused is None


# Results


@pytest.mark.parametrize("behave", [vllm, llama], ids=["vllm", "llama.cpp"])
def test_likelihoods_are_those_of_each_token(behave: Behave) -> None:
    asked = [LoglikRequest("a", text("ab"), text("cde")), LoglikRequest("none", text("ab"), ())]
    with stand_in(behave) as server:
        found = {loglik.id: loglik.logprobs for loglik in ready(server.url).loglik(asked)}
    ids = list(map(ord, "abcde"))
    assert found["a"] == pytest.approx([logprobs(ids[:n], "base")[ids[n]] for n in (2, 3, 4)])
    assert found["none"] == ()


@pytest.mark.parametrize("behave", [vllm, llama], ids=["vllm", "llama.cpp"])
def test_labels_get_their_probabilities_also_where_they_are_unlikely(behave: Behave) -> None:
    with stand_in(behave) as server:
        (found,) = ready(server.url).score([ScoreRequest("a", text("ab"), LABELS)])
    first = [math.exp(p) for p in logprobs([97, 98], "base")]
    ten = math.exp(logprobs([97, 98, ord("1")], "base")[ord("0")])
    ones = [first[ord("1")] * (1 - ten), *(first[ord(label)] for label in LABELS[1:9]), first[ord("1")] * ten]
    assert found.probabilities == pytest.approx(ones)


def test_without_likelihoods_unlikely_labels_count_as_nothing() -> None:
    with stand_in(lambda asked, n: llama(asked, n, biased=True)) as server:
        (found,) = ready(server.url).score([ScoreRequest("a", text("ab"), ("1", "2", "3", "4", "5"))])
    best = sorted(logprobs([97, 98], "base"), reverse=True)[:20]
    values = [logprobs([97, 98], "base")[ord(label)] for label in "12345"]
    assert found.probabilities == pytest.approx([math.exp(p) if p >= best[-1] else 0.0 for p in values])


def test_sampling_is_sent_whole_and_stops_are_obeyed() -> None:
    with stand_in(vllm) as server:
        (found,) = ready(server.url).generate(
            [GenerateRequest("a", text("x"), Sampling(0.7, 0.9, 40, 30, ("\n",)), seed=5)]
        )
    sent = server.asked[-1].body
    assert (sent["temperature"], sent["top_p"], sent["top_k"], sent["max_tokens"]) == (0.7, 0.9, 40, 30)
    assert (sent["min_p"], sent["repetition_penalty"], sent["stop_token_ids"], sent["model"]) == (0.0, 1.0, [3], "base")
    assert found.text == "seed 5 after 1"


def test_a_prompt_is_token_ids_and_its_text_never_special() -> None:
    with stand_in(vllm) as server:
        prompt = (Segment("x"), Segment("<end>"), Segment("<end>", special=True))
        list(ready(server.url).generate([GenerateRequest("a", prompt, Sampling())]))
    assert server.asked[-1].body["prompt"] == [*map(ord, "x<end>"), 3]


def test_a_server_that_refuses_parameters_by_name_goes_without() -> None:
    with stand_in(bare) as server:
        assert {c.id for c in ready(server.url).generate(requests(3))} == {"0", "1", "2"}


def test_what_never_fits_is_refused_before_it_is_asked() -> None:
    with stand_in(vllm) as server:
        engine = ready(server.url)
        before = len(server.asked)
        with pytest.raises(UsageError, match="256"):
            engine.generate([GenerateRequest("a", text("x" * 256), Sampling())])
        assert len(server.asked) == before


def test_there_are_no_embeddings() -> None:
    with pytest.raises(UsageError):
        remote("http://localhost:1/v1").embed([EmbedRequest("a", text("x"))])


# Faults


@settings(max_examples=10, deadline=None)
@given(st.lists(st.sampled_from([*FAULTS, ""]), max_size=40), st.integers(1, 8), st.integers(1, 25))
def test_every_request_finishes_once_whatever_goes_wrong_on_the_way(faults: list[str], slots: int, count: int) -> None:
    tries: dict[int, int] = {}
    lock = threading.Lock()
    waiting = list(faults)

    def fault(asked: Asked, _number: int) -> Answer | None:
        with lock:
            # A fault that waiting mends: the fourth try of a request is well.
            tries[asked.body["seed"]] = again = tries.get(asked.body["seed"], 0) + 1
            return FAULTS.get(waiting.pop()) if waiting and again < 4 else None

    with stand_in(after_the_probe(vllm, fault)) as server:
        found = [(c.id, c.text) for c in ready(server.url, slots=slots).generate(requests(count))]
    assert len(found) == count and dict(found) == right(count)


def test_a_server_that_fails_half_way_is_gone_on_with_where_it_failed() -> None:
    down = threading.Event()

    def fault(asked: Asked, _number: int) -> Answer | None:
        if asked.body["seed"] > 10:
            down.set()
        return FAULTS["broken"] if down.is_set() and asked.body["seed"] > 8 else None

    found: dict[str, str] = {}
    with stand_in(after_the_probe(vllm, fault)) as server:
        engine = ready(server.url, slots=3)
        with pytest.raises(EndpointError, match="500: boom") as raised:
            found.update((c.id, c.text) for c in engine.generate(requests(20)))
        assert raised.value.exit_code == 3
    assert set(found) <= set(right(20)) and len(found) < 20
    with stand_in(vllm) as server:
        missing = [request for request in requests(20) if request.id not in found]
        found.update((c.id, c.text) for c in ready(server.url).generate(missing))
    assert found == right(20)


def test_results_of_a_server_that_fails_are_given_before_its_error() -> None:
    def fault(asked: Asked, _number: int) -> Answer | None:
        return FAULTS["broken"] if asked.body["seed"] == 6 else None

    given = []
    with stand_in(after_the_probe(vllm, fault)) as server, pytest.raises(EndpointError):
        for completion in ready(server.url, slots=1).generate(requests(12)):
            given.append(completion.id)
    assert given == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("reason", ["length", "content_filter", "abort"])
def test_a_text_that_was_broken_off_has_not_ended(reason: str) -> None:
    def cut(_asked: Asked, _number: int) -> Answer:
        return Answer(json.dumps({"choices": [{"text": "Half of", "finish_reason": reason}]}).encode())

    with stand_in(after_the_probe(vllm, cut)) as server:
        assert {c.finish for c in ready(server.url).generate(requests(2))} == {"length"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b'{"choices": []}',
        b'{"choices": [{"text": 5}]}',
        b"[" * 100_000,
        b'{"choices": [7]}',
        b"\xff\x1b[2J",
    ],
)
def test_nonsense_in_place_of_an_answer_ends_it_in_one_line(body: bytes) -> None:
    faulty = after_the_probe(vllm, lambda asked, n: Answer(body))
    with stand_in(faulty) as server, pytest.raises(EndpointError) as raised:
        list(ready(server.url).generate(requests(3)))
    assert "\x1b" not in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("value", ["null", "NaN", '"-1"', "7"])
def test_a_number_that_is_no_log_probability_is_never_a_result(value: str) -> None:
    def fault(asked: Asked, _number: int) -> Answer | None:
        if "echo" not in asked.body:
            return None
        told = ", ".join([value] * (len(asked.body["prompt"]) + 1))
        return Answer(f'{{"choices": [{{"text": "", "logprobs": {{"token_logprobs": [{told}]}}}}]}}'.encode())

    with stand_in(after_the_probe(vllm, fault)) as server, pytest.raises(EndpointError):
        list(ready(server.url).loglik([LoglikRequest("a", text("x"), text("yz"))]))


def test_a_server_that_hangs_is_left_after_the_timeout() -> None:
    faulty = after_the_probe(vllm, lambda asked, n: Answer(hang=True))
    with stand_in(faulty) as server, pytest.raises(EndpointError, match=r"0\.2 s"):
        list(ready(server.url, timeout=0.2).generate(requests(2)))


def test_requests_run_beside_each_other_up_to_the_slots() -> None:
    seen: list[int] = []
    engine: list[RemoteEngine] = []

    def watch(asked: Asked, _number: int) -> Answer | None:
        seen.append(engine[0].running)
        threading.Event().wait(0.02)
        return None

    with stand_in(after_the_probe(vllm, watch)) as server:
        engine.append(ready(server.url, slots=3))
        list(engine[0].generate(requests(12)))
    assert max(seen) == 3 and engine[0].running == 0
    assert remote("http://localhost/v1", slots=0).info.slots == AT_ONCE


def test_a_server_that_is_not_there_is_said_at_once() -> None:
    with pytest.raises(EndpointError, match="Connection refused"):
        ready("http://127.0.0.1:1/v1")


# Adapters


def hook(folder: Path, code: str) -> str:
    """A hook of Python `code`, in which `wanted` is what it was given."""
    script = folder / "hook.py"
    script.write_text(f"#!{sys.executable}\nimport sys\nwanted = sys.argv[-1]\n{code}\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)


def test_a_hook_puts_an_adapter_on_the_server_and_takes_it_off(tmp_path: Path) -> None:
    program = hook(tmp_path, "print('loading', file=sys.stderr); print('tuned' if wanted.endswith('round-1') else '')")
    asked = [LoglikRequest("a", text("x"), text("y"))]
    with stand_in(vllm) as server:
        engine = ready(server.url, hook=program)
        values = {"base": next(engine.loglik(asked)).logprobs[0]}
        engine.set_adapter(tmp_path / "round-1" / "adapter.gguf")
        values["tuned"] = next(engine.loglik(asked)).logprobs[0]
        engine.set_adapter(None)
        assert next(engine.loglik(asked)).logprobs[0] == values["base"]
    assert values == {model: pytest.approx(logprobs([ord("x")], model)[ord("y")]) for model in values}


def test_a_hook_that_changes_nothing_is_found_out(tmp_path: Path) -> None:
    with stand_in(vllm) as server:
        engine = ready(server.url, hook=hook(tmp_path, ""))
        with pytest.raises(EndpointError):
            engine.set_adapter(tmp_path / "round-1" / "adapter.gguf")


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("sys.exit('no room on the GPU\\x1b[2J')", "code 1: no room on the GPU"),
        ("sys.exit(7)", "code 7"),
    ],
)
def test_a_hook_that_fails_is_one_line(tmp_path: Path, code: str, told: str) -> None:
    engine = remote("http://127.0.0.1:1/v1", hook=hook(tmp_path, code))
    with pytest.raises(EndpointError) as raised:
        engine.set_adapter(None)
    assert told in str(raised.value) and "\x1b" not in str(raised.value)


def test_without_a_hook_no_adapter_is_set(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--engine-hook"):
        remote("http://localhost:1/v1").set_adapter(tmp_path / "adapter.gguf")


# Settings


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"engine": "openai"}, "--engine-url"),
        ({"engine": "openai", "engine_url": "http://x/v1"}, "--engine-model"),
        ({"engine_url": "http://x/v1"}, "--engine-url"),
        ({"engine_hook": "x"}, "--engine-hook"),
        ({**SERVER, "filter": "density"}, "--filter density"),
    ],
)
def test_contradictions_are_refused(given: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        config.make(given)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"engine_url": "localhost:8000"}, "--engine-url localhost:8000"),
        ({"engine_url": "http://me:secret@x/v1"}, "--engine-url"),
        ({"engine_key_env": "MINISHEEP_NO_SUCH"}, "MINISHEEP_NO_SUCH"),
        ({"engine_hook": "/no/such/program"}, "/no/such/program"),
        ({"engine_hook": "'unfinished"}, "--engine-hook"),
    ],
)
def test_what_is_wrong_with_a_server_is_refused_before_anything_is_made(given: dict[str, str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        api.align(Path("run"), **{**SERVER, **given})
    assert not Path("run").exists()


def test_the_key_is_read_from_the_environment_and_stored_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_KEY", "sk-12345")
    found = config.make({**SERVER, "engine_key_env": "SERVER_KEY"})
    check_server(found)
    assert "sk-12345" not in repr(found) + found.model_dump_json()
    assert os.environ["SERVER_KEY"] not in repr(remote("http://localhost:1/v1").post)


@pytest.mark.parametrize("digits", ["-1" + "0" * 400, "-1e400", "-" + "9" * 5000, "1" + "0" * 400, "NaN"])
def test_a_number_of_any_length_is_a_log_probability_or_an_error_of_the_server(digits: str) -> None:
    body = f'{{"choices": [{{"text": "x", "logprobs": {{"token_logprobs": [0, {digits}, -1]}}}}]}}'
    try:
        (value,) = echoed(read(body.encode()), 1, 2)
    except ValueError:
        return
    assert digits.startswith("-1") and math.isfinite(value) and value < -100
