"""POST to a server that speaks OpenAI's API: one JSON body, one reply within a deadline; and many at once (`ask_all`).

Faults that pass with time (429, 5xx, a dropped connection) are retried with growing pauses; any other is one clear
error. The key goes into a header and nowhere else: not to another host, not into a record or a message.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import queue
import re
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from minisheep import __version__
from minisheep.errors import EndpointError, UsageError
from minisheep.rules.plain_text import one_line, without_secrets

TRIES = 5
PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each further try; a server's Retry-After replaces them, up to `LONGEST_PAUSE`."""
LONGEST_PAUSE = 60.0
TIMEOUTS = 2
"""Tries that may time out: each of them is long."""
MOST_BYTES = 4 << 20
"""A reply is a few hundred words, or the numbers of one prompt; anything larger is a fault."""


@dataclass(frozen=True, slots=True)
class Names:
    """Words for messages: the flags with the address, the key's variable and the model's name, and the `owner` of the
    address, as in "The judge's key"."""

    url: str
    key: str
    model: str
    owner: str


class RefusedError(EndpointError):
    """The server refused the request (a 4xx that is about neither access nor address)."""


@dataclass(frozen=True, slots=True)
class HttpReply:
    """A body that came with status 200."""

    data: bytes
    kind: str
    """The content type."""


class _Retry(Exception):
    """Worth another try, after `wait` seconds if the server gave a number."""

    def __init__(
        self, reason: str, *, answered: bool = False, wait: float | None = None, timeout: bool = False
    ) -> None:
        super().__init__(reason)
        self.reason, self.answered, self.wait, self.timeout = reason, answered, wait, timeout


@dataclass(frozen=True, slots=True)
class Post:
    """Requests to one API. Raises `errors.UsageError` for an address or a key that cannot be used."""

    url: str
    """As the user gave it: the API's base (``http://localhost:8080/v1``) or the whole address."""
    path: str
    """The part after the base, such as ``/chat/completions``."""
    names: Names
    key: str = field(default="", repr=False)
    timeout: float = 120.0
    """Seconds for one request, from connecting to the last byte."""
    pauses: tuple[float, ...] = PAUSES
    optional: tuple[str, ...] = ()
    """Parameters to leave out once the server refuses them by name (`_refused`)."""
    _refused: set[str] = field(default_factory=set, repr=False)

    def __post_init__(self) -> None:
        self._parts()
        if self.key and not re.fullmatch(r"[\x21-\x7e]+", self.key):
            raise UsageError(
                f"{self.names.owner}'s key contains blanks or characters that no key has. Nothing was sent.",
                f"Check the variable that you name with {self.names.key.split()[0]}.",
            )

    @property
    def name(self) -> str:
        """The address without its query, which may be private."""
        parts = self._parts()
        return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"

    @property
    def exposes_key(self) -> bool:
        """Whether the key goes to another machine unencrypted: to the server's, or to a proxy on the way to it."""
        parts = self._parts()
        return bool(self.key) and parts.scheme == "http" and not is_loopback(parts.hostname or "")

    def ask(
        self, body: Mapping[str, Any], give_up: threading.Event, *, first: bool = False, tries: int = TRIES
    ) -> HttpReply:
        """The server's reply after at most `tries`. `give_up` ends a pause early; a `first` request does not wait for
        a server that cannot be reached. Raises `errors.EndpointError`, `RefusedError` among them."""
        timeouts = 0
        for attempt in range(tries):
            try:
                return self._ask_once(body)
            except _Retry as error:
                timeouts += error.timeout
                hopeless = first and not error.answered
                if hopeless or attempt + 1 == tries or timeouts == TIMEOUTS or give_up.is_set():
                    raise EndpointError(f"{self.name} {error.reason}.") from None
                pause = self.pauses[min(attempt, len(self.pauses) - 1)] if error.wait is None else error.wait
                give_up.wait(min(pause, LONGEST_PAUSE))
        raise AssertionError("the last try returns or raises")

    def nonsense(self, reply: HttpReply, expected: str) -> EndpointError:
        """The error for a reply that is not the `expected` thing."""
        if message := self.shown(error_text(reply.data), 200).rstrip("."):
            return EndpointError(f"{self.name} replied with an error in place of a {expected}: {message}.")
        shown, kind = self.shown(reply.data.decode("utf-8", "replace"), 80), self.shown(reply.kind, 60)
        return EndpointError(
            f"{self.name} replied, but not with a {expected} ({kind}): {shown!r}.",
            f"Give the API's base with {self.names.url}, such as http://localhost:8080/v1.",
        )

    def safe(self, text: str) -> str:
        """`text` without the key, which a server may repeat, also as JSON writes it."""
        return without_secrets(text, (self.key,))

    def shown(self, text: str, width: int) -> str:
        """`text` on one line without the key. It is masked before it is cut: a part of a key is a secret, too."""
        return one_line(self.safe(text), width)

    def _ask_once(self, body: Mapping[str, Any]) -> HttpReply:
        while True:
            sent = {k: v for k, v in body.items() if k not in self._refused}
            status, headers, data = self._send(sent)
            # Some servers know only their own defaults: their 400 names the parameter.
            message = error_text(data) if status == 400 else ""
            refused = next((name for name in self.optional if name in sent and name in message), "")
            if not refused:
                return self._read(status, headers, data)
            self._refused.add(refused)

    def _send(self, body: dict[str, Any]) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Status, headers, body. Raises `_Retry` where no whole reply came."""
        parts = self._parts()
        path = parts.path.rstrip("/")
        path = path if path.endswith(self.path) else f"{path}{self.path}"
        request = urllib.request.Request(  # noqa: S310
            parts._replace(path=path, fragment="").geturl(), json.dumps(body).encode("utf-8", "replace"), method="POST"
        )
        request.add_header("Content-Type", "application/json")
        request.add_header("Accept", "application/json")
        request.add_header("User-Agent", f"minisheep/{__version__}")
        if self.key:
            request.add_unredirected_header("Authorization", f"Bearer {self.key}")
        late = f"did not answer within {self.timeout:g} s"
        with Deadline(self.timeout) as exchange:
            try:
                opener = exchange.opener(direct=is_loopback(parts.hostname or ""))
                with opener.open(request, timeout=self.timeout) as response:
                    status, sent, data = response.status, response.headers, _read_all(response)
                if exchange.over:  # a body of unknown length ends where the connection does
                    raise TimeoutError
                return status, sent, data
            except (http.client.HTTPException, OSError, UnicodeError) as error:
                # URLError is an OSError, with the reason inside.
                reason = getattr(error, "reason", error)
                if exchange.over or isinstance(reason, TimeoutError):
                    raise _Retry(late, timeout=True) from None
                what = "cannot be reached" if isinstance(error, urllib.error.URLError) else "broke off"
                raise _Retry(f"{what}: {self.shown(_reason(reason), 120)}") from None

    def _read(self, status: int, headers: http.client.HTTPMessage, data: bytes) -> HttpReply:
        """Raises `_Retry` or `errors.EndpointError` for any status but 200."""
        message = self.shown(error_text(data), 200).rstrip(".")
        says = f": {message}" if message else ""
        if status == 429 or status >= 500:
            raise _Retry(f"replied with status {status}{says}", answered=True, wait=_retry_after(headers))
        if status in (401, 403):
            raise EndpointError(
                f"{self.name} refuses access ({status}){says}.",
                "" if self.key else f"Name the variable with {self.names.owner.lower()}'s key: {self.names.key}.",
            )
        if status == 404:
            raise EndpointError(
                f"{self.name} knows no such address or model (404){says}.",
                f"Give the API's base with {self.names.url}, often ending in /v1, and with {self.names.model} the name"
                " that the server uses.",
            )
        if 300 <= status < 400:
            raise EndpointError(
                f"{self.name} has moved to {self.shown(headers.get('Location', '?'), 200)}.",
                f"Give that address with {self.names.url}.",
            )
        if status != 200:
            raise RefusedError(f"{self.name} refuses the request ({status}){says}.")
        if (packed := headers.get("Content-Encoding", "identity")) != "identity":
            raise EndpointError(f"{self.name} packs its replies ({self.shown(packed, 40)}), which was not asked for.")
        return HttpReply(data, headers.get_content_type())

    def _parts(self) -> SplitResult:
        fix, flag = "Give one such as http://localhost:8080/v1.", self.names.url
        try:
            parts = urlsplit(self.url)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise UsageError(f"{flag} {self.url} is not an address: {error}.", fix) from None
        if parts.scheme not in ("http", "https") or not host or re.search(r"[\x00-\x20\x7f]|[^\x00-\x7f]", self.url):
            raise UsageError(f"{flag} {self.url} is not an http or https address.", fix)
        if parts.username is not None or parts.password is not None:
            raise UsageError(f"{flag} contains a user name or password.", f"Give a key only by {self.names.key}.")
        return parts


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself."""
    if host.lower().rstrip(".") == "localhost" or host.lower().endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_loopback or mapped.is_unspecified)


class Deadline:
    """One request and its reply within one deadline.

    A socket's timeout starts again with each byte, so a server that trickles its headers, or says 100 Continue for
    ever, would hold a request for as long as it likes. At the deadline the connection is shut down under whoever waits.
    """

    def __init__(self, seconds: float) -> None:
        self.over = False
        self._shut: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> Deadline:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        for handle in self._shut:
            handle.close()

    def _end(self) -> None:
        self.over = True
        for handle in self._shut:
            with contextlib.suppress(OSError):
                handle.shutdown(socket.SHUT_RDWR)

    def opener(self, *, direct: bool) -> urllib.request.OpenerDirector:
        """HTTP and HTTPS only: no files, and no redirect, which would carry the request elsewhere. `direct` goes past
        any proxy: what is meant for this machine must not leave it."""
        exchange = self

        def connect(*given: Any, **named: Any) -> socket.socket:
            connection = socket.create_connection(*given, **named)
            # A second handle, since TLS takes the first one over.
            exchange._shut.append(connection.dup())
            if exchange.over:
                raise TimeoutError
            return connection

        def made(kind: Any) -> Any:
            def make(*given: Any, **named: Any) -> Any:
                connection = kind(*given, **named)
                connection._create_connection = connect
                return connection

            return make

        class Http(urllib.request.HTTPHandler):
            def http_open(self, req: urllib.request.Request) -> Any:
                return self.do_open(made(http.client.HTTPConnection), req)

        class Https(urllib.request.HTTPSHandler):
            def https_open(self, req: urllib.request.Request) -> Any:
                return self.do_open(made(http.client.HTTPSConnection), req)

        opener = urllib.request.OpenerDirector()
        proxies = urllib.request.ProxyHandler({} if direct else None)
        for handler in (proxies, Http(), Https(), urllib.request.UnknownHandler()):
            opener.add_handler(handler)
        return opener


def _read_all(response: http.client.HTTPResponse) -> bytes:
    """The whole body. Raises HTTPException for one that is cut short or too large."""
    data = b""
    while chunk := response.read1(1 << 16):
        data += chunk
        if len(data) > MOST_BYTES:
            raise http.client.HTTPException(f"more than {MOST_BYTES >> 20} MB")
    if response.length:
        raise http.client.IncompleteRead(data, response.length)
    return data


def error_text(data: bytes) -> str:
    """The message in an error's body, in the forms that servers use; empty for any other body. It may hold the key."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        return ""
    error = body.get("error", body) if isinstance(body, dict) else {}
    message = error.get("message") or error.get("detail") or "" if isinstance(error, dict) else error
    return message if isinstance(message, str) else ""


def _retry_after(headers: http.client.HTTPMessage) -> float | None:
    """Seconds that the server asks for, if any; the form with a date is not read."""
    value = headers.get("Retry-After", "")
    return float(value) if re.fullmatch(r"\d{1,6}(\.\d{1,6})?", value) else None


def _reason(error: object) -> str:
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


Q = TypeVar("Q")
R = TypeVar("R")

Ask = Callable[[Q, threading.Event, bool], R]
"""Takes a request, an event that ends waiting, and whether the request is the first one; returns its result."""


def ask_all(ask: Ask[Q, R], requests: Sequence[Q], at_once: int, *, known: bool = False) -> Iterator[tuple[Q, R]]:
    """Each request with its result, as they finish, at most `at_once` under way.

    The first one goes alone, so that a wrong address or key costs one request, unless the server is `known`. When one
    fails, those under way still finish and are given; then its error is raised. Closing the iterator sends no more.
    """
    if not requests:
        return
    stop = threading.Event()
    try:
        if not known:
            yield requests[0], ask(requests[0], stop, True)
            requests = requests[1:]
        yield from _together(ask, requests, at_once, stop)
    finally:
        stop.set()


def _together(ask: Ask[Q, R], requests: Sequence[Q], at_once: int, stop: threading.Event) -> Iterator[tuple[Q, R]]:
    waiting: queue.SimpleQueue[Q] = queue.SimpleQueue()
    for request in requests:
        waiting.put(request)
    done: queue.SimpleQueue[tuple[Q, R] | Exception | None] = queue.SimpleQueue()

    def work() -> None:
        while not stop.is_set():
            try:
                request = waiting.get_nowait()
            except queue.Empty:
                break
            try:
                done.put((request, ask(request, stop, False)))
            except Exception as error:
                stop.set()
                done.put(error)
        done.put(None)

    # Daemons: a reply that hangs must not keep the program from ending.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(at_once, len(requests)))]
    for thread in threads:
        thread.start()
    failure: Exception | None = None
    working = len(threads)
    while working:
        result = done.get()
        if result is None:
            working -= 1
        elif isinstance(result, Exception):
            failure = failure or result
        else:
            yield result
    if failure is not None:
        raise failure
