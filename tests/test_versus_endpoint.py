"""One question over HTTP, against a stand-in on loopback that fails in every way."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

import pytest
from judge_stand_in import Answer, Asked, fails, says, stand_in

from minisheep.engines.http import MOST_BYTES, ask_all
from minisheep.errors import EndpointError, UsageError
from minisheep.versus.outside_judge import Endpoint
from minisheep.versus.versus_prompts import Messages

QUESTION: Messages = ({"role": "user", "content": "Which?"},)
SOON = (0.01, 0.02)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def ask(url: str, *, key: str = "", first: bool = False, timeout: float = 5.0) -> str:
    endpoint = Endpoint(url, "judge", key, timeout=timeout, pauses=SOON)
    return endpoint.ask(QUESTION, threading.Event(), first=first)


def always(answer: Answer) -> Callable[[Asked, int], Answer]:
    return lambda asked, number: answer


def then_well(*bad: Answer) -> Callable[[Asked, int], Answer]:
    """The bad answers one after another, then a good one."""
    return lambda asked, number: bad[number - 1] if number <= len(bad) else says("Verdict: A")


def test_a_reply_is_what_the_judge_said() -> None:
    with stand_in(always(says("Verdict: B"))) as server:
        assert ask(server.url) == "Verdict: B"
    (asked,) = server.asked
    assert asked.path == "/v1/chat/completions"
    assert asked.body["model"] == "judge" and asked.body["temperature"] == 0
    assert asked.body["messages"] == list(QUESTION)


@pytest.mark.parametrize("end", ["", "/", "/chat/completions"])
def test_the_address_may_be_the_base_or_the_whole(end: str) -> None:
    with stand_in(always(says("x"))) as server:
        ask(server.url + end)
        assert server.asked[0].path == "/v1/chat/completions"


def test_a_query_is_kept_and_not_named() -> None:
    with stand_in(always(says("x"))) as server:
        endpoint = Endpoint(f"{server.url}?secret=1", "judge")
        endpoint.ask(QUESTION, threading.Event())
        assert server.asked[0].path.endswith("/chat/completions?secret=1") and "secret" not in endpoint.post.name


def test_the_key_goes_into_a_header_alone() -> None:
    with stand_in(always(says("your key is sk-12345"))) as server:
        endpoint = Endpoint(server.url, "judge", "sk-12345")
        assert endpoint.ask(QUESTION, threading.Event()) == "your key is ***"
        assert server.asked[0].headers["Authorization"] == "Bearer sk-12345"
        assert "sk-12345" not in repr(endpoint) + endpoint.post.name


def test_without_a_key_there_is_no_header() -> None:
    with stand_in(always(says("x"))) as server:
        ask(server.url)
        assert "Authorization" not in server.asked[0].headers


@pytest.mark.parametrize(
    "bad", [fails(429, "slow down"), fails(503, "loading"), Answer(drop=True), Answer(b'{"ch', cut=True)]
)
def test_what_waiting_mends_is_tried_again(bad: Answer) -> None:
    with stand_in(then_well(bad, bad)) as server:
        assert ask(server.url) == "Verdict: A"
        assert len(server.asked) == 3


def test_a_server_that_names_a_pause_is_believed() -> None:
    with stand_in(then_well(fails(429, "slow down", **{"Retry-After": "0.3"}))) as server:
        begun = time.monotonic()
        ask(server.url)
        assert time.monotonic() - begun >= 0.3


def test_trying_again_has_an_end() -> None:
    with stand_in(always(fails(500, "boom"))) as server, pytest.raises(EndpointError, match="500: boom"):
        ask(server.url)
    assert len(server.asked) == 5


def test_a_key_in_an_error_is_not_shown() -> None:
    with (
        stand_in(always(fails(401, "Incorrect API key provided: sk-12345"))) as server,
        pytest.raises(EndpointError) as raised,
    ):
        ask(server.url, key="sk-12345")
    assert "401" in str(raised.value) and "sk-12345" not in str(raised.value)


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (fails(401, "no"), "--judge-key-env"),
        (fails(403, "no"), "--judge-key-env"),
        (fails(404, "no model"), "--judge-model-name"),
        (fails(400, "context too long"), "context too long"),
        (Answer(b"", 302, headers={"Location": "https://elsewhere/v1"}), "https://elsewhere/v1"),
        (Answer(b"<html><h1>Welcome", kind="text/html"), "text/html"),
        (Answer(b'{"choices": []}'), "not with a chat completion"),
        (Answer(b'{"choices": [{"text": "Verdict: A"}]}'), "not with a chat completion"),
        (Answer(b"[1]"), "not with a chat completion"),
        (Answer(b"\xff\x00\x1b[2J"), "not with a chat completion"),
        (Answer(b"[" * 100_000), "not with a chat completion"),
    ],
)
def test_what_waiting_does_not_mend_is_asked_once(bad: Answer, told: str) -> None:
    with stand_in(always(bad)) as server, pytest.raises(EndpointError) as raised:
        ask(server.url)
    assert told in str(raised.value) and "\x1b" not in str(raised.value)
    assert len(server.asked) == 1


def test_a_redirect_is_not_followed_with_the_key() -> None:
    with stand_in(always(says("x"))) as other:
        moved = Answer(b"", 307, headers={"Location": other.url})
        with stand_in(always(moved)) as server, pytest.raises(EndpointError):
            ask(server.url, key="sk-12345")
        assert other.asked == []


def test_an_endless_reply_is_cut_off() -> None:
    with stand_in(always(Answer(b" " * (MOST_BYTES + 1)))) as server, pytest.raises(EndpointError):
        ask(server.url, first=True)


def test_a_reply_without_text_is_empty() -> None:
    with stand_in(always(says(None))) as server:
        assert ask(server.url) == ""


@pytest.mark.parametrize("name", ["temperature", "max_tokens"])
def test_a_parameter_that_the_server_refuses_is_left_out(name: str) -> None:
    def behave(asked: Asked, _number: int) -> Answer:
        return fails(400, f"Unsupported parameter: '{name}'") if name in asked.body else says("Verdict: A")

    with stand_in(behave) as server:
        endpoint = Endpoint(server.url, "judge")
        assert [endpoint.ask(QUESTION, threading.Event()) for _ in range(2)] == ["Verdict: A"] * 2
        assert len(server.asked) == 3


def test_a_server_that_hangs_is_left_after_the_timeout() -> None:
    with stand_in(always(Answer(hang=True))) as server:
        begun = time.monotonic()
        with pytest.raises(EndpointError, match=r"0\.2 s"):
            ask(server.url, timeout=0.2)
        assert time.monotonic() - begun < 2 and len(server.asked) == 2


def test_a_server_that_is_not_there_is_said_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(EndpointError, match="Connection refused"):
        ask(f"http://127.0.0.1:{port}/v1", first=True)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8080/v1",
        "ftp://x/v1",
        "file:///etc/passwd",
        "http://",
        "http://a b/",
        "http://x:99999/",
        "http://[x/",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="--judge-url"):
        Endpoint(url, "judge")


def test_an_address_with_a_password_is_refused_without_showing_it() -> None:
    with pytest.raises(UsageError) as raised:
        Endpoint("http://me:hunter2@host/v1", "judge")
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("key", ["two words", "line\r\nX-Evil: 1", "schlüssel"])
def test_a_key_that_is_none_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(UsageError) as raised:
        Endpoint("http://host/v1", "judge", key)
    assert key not in str(raised.value)


def test_only_a_key_that_leaves_the_machine_in_the_open_is_exposed() -> None:
    assert Endpoint("http://host/v1", "judge", "sk").post.exposes_key
    assert not any(
        endpoint.post.exposes_key
        for endpoint in (
            Endpoint("https://host/v1", "judge", "sk"),
            Endpoint("http://localhost/v1", "judge", "sk"),
            Endpoint("http://host/v1", "judge"),
        )
    )


# Many at once


def test_questions_run_beside_each_other_but_the_first_goes_alone() -> None:
    under_way, most, first = 0, 0, []
    counting = threading.Lock()

    def slow(question: int, _stop: threading.Event, alone: bool) -> str:
        nonlocal under_way, most
        with counting:
            under_way += 1
            most = max(most, under_way)
            first.append(alone)
        time.sleep(0.02)
        with counting:
            under_way -= 1
        return str(question)

    found = dict(ask_all(slow, list(range(12)), 3))
    assert found == {n: str(n) for n in range(12)} and most == 3
    assert first == [True] + [False] * 11


def test_after_a_failure_what_is_under_way_is_still_given() -> None:
    begun = threading.Barrier(3)

    def some_fail(question: int, _stop: threading.Event, _alone: bool) -> str:
        if question in (1, 2, 3):
            begun.wait(5)
            if question == 1:
                raise EndpointError("down")
            time.sleep(0.05)
        return str(question)

    given = []
    with pytest.raises(EndpointError, match="down"):
        for question, _ in ask_all(some_fail, list(range(20)), 3):
            given.append(question)
    assert sorted(given) == [0, 2, 3]


def test_nothing_is_asked_once_nobody_listens() -> None:
    asked: list[int] = []

    def note(question: int, _stop: threading.Event, _alone: bool) -> str:
        asked.append(question)
        time.sleep(0.01)
        return ""

    replies = ask_all(note, list(range(100)), 2)
    next(replies)
    next(replies)
    replies.close()
    time.sleep(0.05)
    assert len(asked) < 20


def test_no_questions_need_no_judge() -> None:
    assert list(ask_all(lambda question, stop, alone: pytest.fail("asked"), [], 4)) == []
