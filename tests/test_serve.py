"""A served model, asked by OpenAI's own client over a real socket; the engine is a stand-in that is watched."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from served import CONTEXT, Served, WatchedEngine, serving, until

from minisheep.config import Settings, make
from minisheep.errors import ModelFileError, UsageError
from minisheep.rules.templates import Conversation, Template
from minisheep.serve import endpoints, worker


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with serving(WatchedEngine()) as served:
        yield served


def post(served: Served, body: bytes, path: str = "/v1/chat/completions") -> tuple[int, dict[str, str], Any]:
    """Status, headers (in lower case) and JSON of a request that no client of OpenAI's would send."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    connection.request("POST", path, body)
    answer = connection.getresponse()
    found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, json.loads(answer.read())
    connection.close()
    return found


def test_a_chat_is_framed_by_the_runs_template_and_ends_at_its_stops(server: Served) -> None:
    messages: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "One "}, {"type": "text", "text": "two?"}]},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "say 3 baa"},
    ]
    with server.client() as client:
        answer = client.chat.completions.create(model="minisheep", messages=messages, temperature=0, top_p=0.5, seed=3)
    assert answer.choices[0].message.content == "baa0 baa1 baa2"
    assert answer.choices[0].finish_reason == "stop" and answer.model == "minisheep"
    assert server.engine.prompts[-1] == (
        "Be brief.\n\nInstruction: One two?\nResponse: Yes.\n\nInstruction: say 3 baa\nResponse: "
    )
    usage = answer.usage
    assert usage and (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (12, 3, 15)
    sampling = server.engine.requests[-1].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.0, 0.5, 1024)
    assert "\nInstruction:" in sampling.stop
    assert server.reports[-1]["prompt_tokens"] == 12 and server.reports[-1]["status"] == 200


def test_a_stream_is_the_same_text_in_parts(server: Served) -> None:
    parts = list(server.ask("say 6 baa", stream=True, stream_options={"include_usage": True}))
    texts = [part.choices[0].delta.content or "" for part in parts if part.choices]
    assert "".join(texts) == server.ask("say 6 baa").choices[0].message.content and len([t for t in texts if t]) == 6
    assert parts[0].choices[0].delta.role == "assistant"
    assert parts[-2].choices[0].finish_reason == "stop"
    assert parts[-1].usage.completion_tokens == 6 and not parts[-1].choices
    assert len({part.id for part in parts}) == 1


def test_a_stream_ends_with_done(server: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("POST", "/v1/completions", json.dumps({"prompt": "say 2 b\u00e4h", "stream": True}))
    answer = connection.getresponse()
    assert answer.getheader("content-type", "").startswith("text/event-stream")
    lines = [line for line in answer.read().decode().split("\n\n") if line]
    connection.close()
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"
    assert "b\u00e4h0" in lines[0]


def test_completions_have_no_template_and_several_prompts(server: Served) -> None:
    with server.client() as client:
        answer = client.completions.create(model="minisheep", prompt=["say 2 one", "say 3 two"], n=2, max_tokens=2)
    assert [(c.index, c.text, c.finish_reason) for c in answer.choices] == [
        (0, "one0 one1", "stop"), (1, "one0 one1", "stop"), (2, "two0 two1", "length"), (3, "two0 two1", "length"),
    ]  # fmt: skip
    assert server.engine.prompts[-1] == "say 3 two" and answer.usage and answer.usage.prompt_tokens == 6
    assert not server.engine.requests[-1].sampling.stop


def test_stop_strings_of_any_kind_end_a_text_and_are_not_in_it(server: Served) -> None:
    for stop in ("baa3", ["never", "baa3"], [" baa3", "baa5"]):
        answer = server.ask("say 9 baa", stop=stop)
        assert answer.choices[0].message.content.strip() == "baa0 baa1 baa2"
        assert answer.choices[0].finish_reason == "stop"


def test_a_limit_of_tokens_under_either_name_ends_a_text(server: Served) -> None:
    for limit in ({"max_tokens": 2}, {"max_completion_tokens": 2}):
        answer = server.ask("say 9 baa", **limit)
        assert answer.choices[0].message.content == "baa0 baa1" and answer.choices[0].finish_reason == "length"


def test_the_seed_decides_and_choices_differ(server: Served) -> None:
    def seeds(**more: Any) -> list[int]:
        server.ask("say 1 baa", n=2, **more)
        return [request.seed for request in server.engine.requests[-2:]]

    assert seeds(seed=5) == seeds(seed=5) != seeds(seed=6)
    assert len({*seeds(), *seeds()}) == 4


def test_requests_that_come_while_others_run_join_their_batch() -> None:
    with serving(WatchedEngine(slots=4, delay=0.01)) as served, ThreadPoolExecutor(3) as pool:
        long = served.ask("say 90 long", stream=True)
        next(iter(long))
        served.engine.go.clear()
        asked = [pool.submit(served.ask, f"say 3 {name}") for name in "abc"]
        assert served.opened(4)
        served.engine.go.set()
        short = [future.result().choices[0].message.content for future in asked]
        assert short == ["a0 a1 a2", "b0 b1 b2", "c0 c1 c2"] and served.engine.most == 4
        assert served.desk.open == 1, "the long one, which came first, still runs"
        long.close()
        assert served.opened(0)


def test_a_model_is_chosen_by_its_name_and_another_waits_for_those_before_it() -> None:
    with serving(WatchedEngine()) as served, ThreadPoolExecutor(4) as pool:
        assert [model.id for model in served.asker.models.list()] == ["minisheep", "base", "round-1", "round-2"]
        assert served.asker.models.retrieve("base").id == "base"
        served.engine.go.clear()
        asked = []
        for place, model in enumerate(["round-2", "base", "minisheep", "round-2"]):
            asked.append(pool.submit(served.ask, f"say 2 {model}", model))
            assert served.opened(place + 1)
        served.engine.go.set()
        answers = [future.result() for future in asked]
        assert [answer.model for answer in answers] == ["round-2", "base", "minisheep", "round-2"]
        # The third and fourth are of one model, so they ran together, after the base that came before them.
        assert served.rounds == [2, 0, 2] and served.engine.most == 2


BAD: dict[str, tuple[dict[str, Any], int, str]] = {
    "role": ({"messages": [{"role": "tool", "content": "x"}]}, 400, "no role 'tool'"),
    "image": ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "'image_url'"),
    "number": ({"messages": [{"role": "user", "content": 7}]}, 400, "messages[0].content"),
    "none": ({"messages": []}, 400, "messages"),
    "absent": ({}, 400, "messages"),
    "order": ({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}, 400, "take turns"),
    "prefill": ({"messages": [{"role": "assistant", "content": "a"}]}, 400, "take turns"),
    "only a system": ({"messages": [{"role": "system", "content": "a"}]}, 400, "missing"),
    "n": ({"n": 5}, 400, "at most 4"),
    "no n": ({"n": 0}, 400, "n:"),
    "long": ({"messages": [{"role": "user", "content": "word " * 200}]}, 400, f"{CONTEXT}"),
    "empty stop": ({"stop": ["a", ""]}, 400, "stop"),
    "stop of numbers": ({"stop": 3}, 400, "stop"),
    "many stops": ({"stop": ["a"] * 17}, 400, "16"),
    "hot": ({"temperature": 3}, 400, "temperature"),
    "a word for a number": ({"temperature": "0.5"}, 400, "temperature"),
    "no tokens": ({"max_tokens": 0}, 400, "max_tokens"),
    "tools": ({"tools": [{"type": "function"}]}, 400, "tools is not supported"),
    "logprobs": ({"logprobs": True}, 400, "logprobs is not supported"),
    "penalty": ({"frequency_penalty": 0.5}, 400, "frequency_penalty"),
    "json": ({"response_format": {"type": "json_object"}}, 400, "json_object"),
    "model": ({"model": "gpt-\ud800"}, 404, "there is minisheep, base"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_a_bad_request_has_the_protocols_error(server: Served, name: str) -> None:
    changes, status, told = BAD[name]
    body = {"model": "minisheep", "messages": [{"role": "user", "content": "say 1 baa"}], **changes}
    if name == "absent":
        del body["messages"]
    for stream in (False, True):
        found, headers, error = post(server, json.dumps({**body, "stream": stream}).encode())
        assert found == status and told in error["error"]["message"], error
        assert error["error"].keys() == {"message", "type", "param", "code"}
        assert error["error"]["type"] == "invalid_request_error" and headers["content-type"] == "application/json"
    assert server.opened(0)


def test_what_changes_nothing_is_passed_over(server: Served) -> None:
    more = {"user": "me", "tools": [], "logprobs": False, "presence_penalty": 0, "response_format": {"type": "text"}}
    raw = {"messages": [{"role": "user", "content": "say 1 \ud800"}], "seed": 10**30}
    assert post(server, json.dumps(raw).encode())[2]["choices"][0]["message"]["content"] == "?0"
    assert server.ask("say 1 baa", extra_body={**more, "stop": None, "n": None}).choices[0].message.content == "baa0"


def test_what_is_no_request_has_the_protocols_error(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    for body in (b"{", b"\xff", b"[]", b"[" * 100_000):
        assert post(server, body)[::2][0] == 400
    status, _, error = post(server, b"{}", "/chat/completions")
    assert status == 404 and "/v1/chat/completions" in error["error"]["message"]
    assert post(server, b"", "/v1/models")[0] == 405
    monkeypatch.setattr(endpoints, "MOST_BODY", 1 << 20)
    status, _, error = post(server, b'{"prompt": "' + b"x" * (5 << 20) + b'"}', "/v1/completions")
    assert status == 413 and "1 MiB" in error["error"]["message"]


def test_a_template_for_one_turn_says_so() -> None:
    once = Conversation(Template("model", "<u>", "<a>", "</a>"))
    with serving(WatchedEngine(reply=lambda request: "yes"), frame=once) as served, served.client() as client:
        two: Any = [{"role": role, "content": "a"} for role in ("user", "assistant", "user")]
        for messages in (two, [{"role": "system", "content": "a"}, *two[:1]]):
            with pytest.raises(openai.BadRequestError, match="template"):
                client.chat.completions.create(model="minisheep", messages=messages)
        assert served.ask("a").choices[0].message.content == "yes"


def test_a_full_queue_is_429_with_the_time_to_try_again() -> None:
    with serving(WatchedEngine(slots=1), queue=1) as served, ThreadPoolExecutor(2) as pool:
        served.engine.go.clear()
        asked = [pool.submit(served.ask, "say 2 baa") for _ in range(2)]
        assert served.opened(2)
        with pytest.raises(openai.RateLimitError, match="queue is full") as full:
            served.ask("say 1 baa")
        assert int(full.value.response.headers["retry-after"]) >= 1
        served.engine.go.set()
        assert [future.result().choices[0].message.content for future in asked] == ["baa0 baa1"] * 2
        assert served.ask("say 1 baa").choices[0].message.content == "baa0"


def test_a_client_that_hangs_up_frees_its_slots() -> None:
    with serving(WatchedEngine(slots=2, delay=0.02)) as served:
        stream = served.ask("say 90 baa", stream=True, n=2)
        next(iter(stream))
        stream.close()
        assert served.opened(0)
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
        connection.request("POST", "/v1/completions", json.dumps({"prompt": "say 90 baa"}))
        assert served.opened(1)
        connection.close()
        assert served.opened(0)
        assert until(lambda: [report["status"] for report in served.reports] == [499, 499])
        assert served.ask("say 2 baa").choices[0].message.content == "baa0 baa1"


def test_a_client_that_hangs_up_in_its_own_request_is_no_fault(capfd: pytest.CaptureFixture[str]) -> None:
    with serving(WatchedEngine()) as served:
        with socket.create_connection(("127.0.0.1", served.port)) as half:
            half.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n{")
        assert served.ask("say 1 baa").choices[0].message.content == "baa0"
    assert "Traceback" not in capfd.readouterr().err


def test_a_client_that_hangs_up_while_it_waits_is_not_computed() -> None:
    with serving(WatchedEngine(slots=1)) as served, ThreadPoolExecutor(1) as pool:
        served.engine.go.clear()
        first = pool.submit(served.ask, "say 2 baa")
        assert served.opened(1)
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
        connection.request("POST", "/v1/completions", json.dumps({"prompt": "say 9 never", "model": "base"}))
        assert served.opened(2)
        connection.close()
        assert served.opened(1)
        served.engine.go.set()
        assert first.result().choices[0].message.content == "baa0 baa1"
        assert served.rounds == [2] and not any("never" in prompt for prompt in served.engine.prompts)


def test_a_key_is_asked_for_where_there_is_one() -> None:
    with serving(WatchedEngine(), key="s3cret") as served:
        for key in ("none", "s3cre", "s3cret-"):
            with served.client(key) as client, pytest.raises(openai.AuthenticationError, match="key"):
                client.models.list()
        with served.client("s3cret") as client:
            assert client.models.list().data


def test_a_page_that_leads_its_own_name_here_is_refused() -> None:
    with serving(WatchedEngine(), hosts=("127.0.0.1", "localhost")) as served:
        found = {}
        for host in ("127.0.0.1", f"localhost:{served.port}", "evil.example"):
            connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
            connection.request("GET", "/v1/models", headers={"Host": host})
            found[host.partition(":")[0]] = connection.getresponse().status
            connection.close()
        assert found == {"127.0.0.1": 200, "localhost": 200, "evil.example": 403}


def test_as_many_slots_are_taken_as_fit_where_nobody_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(settings: Settings, gguf: Path) -> WatchedEngine:
        if settings.slots > 3:
            raise UsageError("8 slots do not fit.", "Set --slots 3 or fewer.")
        return WatchedEngine(settings.slots or 3)

    monkeypatch.setattr(worker, "open_engine", load)
    settings = make({"slots": 50})
    assert worker.opened(settings, 0, Path()).info.slots == 3 and worker.opened(settings, 2, Path()).info.slots == 2
    with pytest.raises(UsageError, match="--slots 3"):
        worker.opened(settings, 4, Path())


def test_a_fault_of_the_engine_is_told_and_the_next_request_is_answered() -> None:
    with serving(WatchedEngine()) as served:
        for fault, told in ((ModelFileError("No numbers.", "Fetch it."), "Fetch it"), (KeyError("x"), "KeyError")):
            served.engine.broken = fault
            with pytest.raises(openai.InternalServerError, match=told):
                served.ask("say 2 baa")
            served.engine.broken = None
            assert served.ask("say 2 baa").choices[0].message.content == "baa0 baa1"


def test_a_server_that_stops_lets_answers_end_refuses_new_ones_and_cuts_the_longest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "GRACE_SECONDS", 1.5)
    with serving(WatchedEngine(delay=0.05)) as served, ThreadPoolExecutor(3) as pool:
        stream = served.ask("say 99 baa", stream=True)
        served.engine.go.clear()
        asked = [pool.submit(served.ask, f"say {count} baa") for count in (3, 99)]
        assert served.opened(3)
        served.stop.set()
        assert until(lambda: served.desk.closing)
        with pytest.raises(openai.InternalServerError, match="shutting down") as refused:
            served.ask("say 1 baa")
        assert refused.value.status_code == 503
        served.engine.go.set()
        assert asked[0].result().choices[0].finish_reason == "stop"
        with pytest.raises(openai.InternalServerError, match="stopped before"):
            asked[1].result()
        with pytest.raises(openai.APIError, match="stopped before"):
            list(stream)
