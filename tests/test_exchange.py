"""An exchange with a server ends at its deadline whatever the server does, and no key leaves it by a side door."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from minisheep.engines.http import Names, Post, is_loopback
from minisheep.errors import EndpointError

NAMES = Names("--judge-url", "--judge-key-env VAR", "--judge-model-name", "The judge")
KEY = "sk-" + "0123456789/" * 6


@contextlib.contextmanager
def server(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that reads a request and then does `talk`, until the test ends."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection, contextlib.suppress(OSError):
                        connection.recv(1 << 16)
                        talk(connection)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"


def ask(url: str, *, timeout: float = 5.0, key: str = KEY) -> str:
    """The error's text."""
    post = Post(url, "/completions", NAMES, key, timeout, pauses=(0.01,))
    with pytest.raises(EndpointError) as refused:
        post.nonsense(post.ask({}, threading.Event(), tries=1), "completion")
        raise post.nonsense(post.ask({}, threading.Event(), tries=1), "completion")
    return str(refused.value)


def slowly(data: bytes) -> Callable[[socket.socket], None]:
    def talk(connection: socket.socket) -> None:
        for byte in data * 1000:
            connection.send(bytes([byte]))
            time.sleep(0.02)

    return talk


def again(data: bytes) -> Callable[[socket.socket], None]:
    def talk(connection: socket.socket) -> None:
        for _ in range(1000):
            connection.send(data)
            time.sleep(0.02)

    return talk


@pytest.mark.parametrize(
    "talk",
    [
        slowly(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 60_000),
        again(b"HTTP/1.1 100 Continue\r\n\r\n"),
        slowly(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 60_000),
    ],
    ids=["headers", "100", "body"],
)
def test_a_server_that_trickles_is_left_at_the_deadline(talk: Callable[[socket.socket], None]) -> None:
    with server(talk) as url:
        begun = time.monotonic()
        assert "did not answer within 0.5 s" in ask(url, timeout=0.5)
        assert time.monotonic() - begun < 3


def replies(status: int, body: str, *headers: str) -> Callable[[socket.socket], None]:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return lambda connection: connection.sendall(("\r\n".join(lines) + "\r\n\r\n" + body).encode())


@pytest.mark.parametrize("before", [0, 40, 150, 190, 330, 395])
@pytest.mark.parametrize("kind", ["plain", "error", "json", "moved"])
def test_no_part_of_the_key_is_shown_wherever_a_text_is_cut(before: int, kind: str) -> None:
    said = "x" * before + KEY + " tail"
    body, status, headers = said, 200, []
    if kind == "error":
        body, status = json.dumps({"error": {"message": said}}), 400
    if kind == "json":
        body = json.dumps({"a": said}).replace("/", "\\/")
    if kind == "moved":
        body, status, headers = "", 302, [f"Location: http://x/{'y' * before}{KEY}"]
    with server(replies(status, body, *headers)) as url:
        shown = ask(url)
    assert not any(KEY[:length] in shown for length in range(6, len(KEY))), shown


def test_what_is_for_this_machine_goes_past_any_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with server(lambda connection: asked.append(b"proxy")) as proxy, server(replies(418, "{}")) as url:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.removesuffix("/v1"))
        assert "418" in ask(url) and not asked
        # Any other host is asked through it, as the user's system says.
        ask("http://judge.example/v1")
        assert asked


@pytest.mark.parametrize(
    ("host", "here"),
    [("localhost", True), ("api.localhost", True), ("127.0.0.1", True), ("127.8.9.1", True), ("::1", True),
     ("0.0.0.0", True), ("::ffff:127.0.0.1", True), ("10.0.0.1", False), ("localhost.example", False),
     ("judge.example", False)],
)  # fmt: skip
def test_this_machine_is_known_by_any_of_its_names(host: str, here: bool) -> None:
    assert is_loopback(host) is here
    url = f"http://{f'[{host}]' if ':' in host else host}/v1"
    assert Post(url, "/x", NAMES, KEY).exposes_key is not here
    assert not Post(url.replace("http:", "https:"), "/x", NAMES, KEY).exposes_key


def test_handles_are_given_back(tmp_path: object) -> None:
    with server(replies(418, "{}")) as url:
        ask(url)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            ask(url)
        assert len(os.listdir("/proc/self/fd")) <= before + 1


@pytest.mark.parametrize(
    ("head", "body", "told"),
    [
        ("", b'{"error": {"message": "model overloaded"}}', "replied with an error in place of a completion: model ov"),
        ("Content-Encoding: gzip\r\n", b"\x1f\x8b\x08", "packs its replies (gzip), which was not asked for"),
    ],
)
def test_what_is_wrong_with_a_reply_is_not_laid_to_the_address(head: str, body: bytes, told: str) -> None:
    whole = f"HTTP/1.1 200 OK\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    with server(lambda connection: connection.sendall(whole)) as url:
        said = ask(url)
    assert told in said and "--judge-url" not in said
