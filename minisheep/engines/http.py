"""POST to a server that speaks OpenAI's API: one JSON body, one reply within a deadline, tried again where that helps.

What can be mended by waiting (429, 5xx, a dropped connection) is tried again with growing pauses; what cannot is one
clear error. The key goes into a header and nowhere else: not to another host, not into a record or a message.
"""

from __future__ import annotations

import http.client
import json
import queue
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from minisheep import __version__
from minisheep.errors import EndpointError, UsageError
from minisheep.rules.plain_text import one_line

TRIES = 5
PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each further try; a server that says Retry-After is believed up to `LONGEST_PAUSE`."""
LONGEST_PAUSE = 60.0
TIMEOUTS = 2
"""Tries that may end without any answer in time: each of them is long."""
MOST_BYTES = 4 << 20
"""A reply is a few hundred words, or the numbers of one prompt; whatever is larger is none."""


@dataclass(frozen=True, slots=True)
class Names:
    """How messages call what the user gave."""

    url: str
    """The flag with the address."""
    key: str
    """The flag with the variable that holds the key."""
    model: str
    """The flag with the model's name."""
    owner: str
    """Whose address it is, as in "The judge's key"."""


class RefusedError(EndpointError):
    """The server was reached and refused what it was asked (a 4xx that is neither access nor address)."""


@dataclass(frozen=True, slots=True)
class HttpReply:
    """A body that came with status 200."""

    data: bytes
    kind: str
    """The content type."""


class _Retry(Exception):
    """Worth another try, after `wait` seconds if the server named them."""

    def __init__(
        self, reason: str, *, answered: bool = False, wait: float | None = None, timeout: bool = False
    ) -> None:
        super().__init__(reason)
        self.reason, self.answered, self.wait, self.timeout = reason, answered, wait, timeout


@dataclass(frozen=True, slots=True)
class Post:
    """Questions to one API. Raises `errors.UsageError` for an address or a key that cannot be used."""

    url: str
    """As the user gave it: the API's base (``http://localhost:8080/v1``) or the whole address."""
    path: str
    """What follows the base, such as ``/chat/completions``."""
    names: Names
    key: str = field(default="", repr=False)
    timeout: float = 120.0
    """Seconds for one question, from connecting to the last byte."""
    pauses: tuple[float, ...] = PAUSES
    optional: tuple[str, ...] = ()
    """Parameters that are left out for servers that refuse them by name."""
    _refused: set[str] = field(default_factory=set, repr=False)
    """Those of `optional` that the server turned out to refuse."""

    def __post_init__(self) -> None:
        self._parts()
        if self.key and not re.fullmatch(r"[\x21-\x7e]+", self.key):
            raise UsageError(
                f"{self.names.owner}'s key holds blanks or characters that no key has.", "Nothing was sent."
            )

    @property
    def name(self) -> str:
        """The address without a query, which may hold what is nobody's business."""
        parts = self._parts()
        return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"

    @property
    def exposes_key(self) -> bool:
        """Whether anybody on the way to another machine could read the key."""
        parts = self._parts()
        return bool(self.key) and parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1")

    def ask(
        self, body: Mapping[str, Any], give_up: threading.Event, *, first: bool = False, tries: int = TRIES
    ) -> HttpReply:
        """What the server replies. `give_up` ends a pause early; a `first` question waits for no server that is not
        there; `tries` is how often at most it is asked.

        Raises `errors.EndpointError`, which says what the server did, `RefusedError` among them.
        """
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
        """The error for a reply that is not what was asked for; `expected` is what that is."""
        shown = self.safe(one_line(reply.data[:400].decode("utf-8", "replace"), 80))
        return EndpointError(
            f"{self.name} answers with no {expected} ({reply.kind}): {shown!r}.",
            f"{self.names.url} is the API's base, such as http://localhost:8080/v1.",
        )

    def safe(self, text: str) -> str:
        """`text` without the key, which a server may repeat."""
        return text.replace(self.key, "***") if self.key else text

    def _ask_once(self, body: Mapping[str, Any]) -> HttpReply:
        while True:
            sent = {k: v for k, v in body.items() if k not in self._refused}
            status, headers, data = self._send(sent)
            if status == 400 and (named := self._refused_in(sent, data)):
                self._refused.add(named)
                continue
            return self._read(status, headers, data)

    def _refused_in(self, sent: Mapping[str, Any], data: bytes) -> str:
        """Which optional parameter of what was sent a 400 names. Some servers know only their own defaults."""
        told = _message(data)
        return next((name for name in self.optional if name in sent and name in told), "")

    def _send(self, body: dict[str, Any]) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Status, headers, body. Raises `_Retry` where no answer came."""
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
        deadline = time.monotonic() + self.timeout
        try:
            with _opener().open(request, timeout=self.timeout) as response:
                return response.status, response.headers, _read_all(response, deadline)
        except TimeoutError:
            raise _Retry(f"did not answer within {self.timeout:g} s", timeout=True) from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise _Retry(f"did not answer within {self.timeout:g} s", timeout=True) from None
            raise _Retry(f"cannot be reached: {_reason(error.reason)}") from None
        except (http.client.HTTPException, OSError, UnicodeError) as error:
            raise _Retry(f"broke off: {_reason(error)}") from None

    def _read(self, status: int, headers: http.client.HTTPMessage, data: bytes) -> HttpReply:
        """The reply in a response. Raises `_Retry` or `errors.EndpointError`."""
        told = self.safe(_message(data))
        says = f": {told}" if told else ""
        if status == 429 or status >= 500:
            raise _Retry(f"answers {status}{says}", answered=True, wait=_retry_after(headers))
        if status in (401, 403):
            raise EndpointError(
                f"{self.name} refuses access ({status}){says}.",
                f"Name the variable that holds {self.names.owner.lower()}'s key: {self.names.key}."
                if not self.key
                else "",
            )
        if status == 404:
            raise EndpointError(
                f"{self.name} knows no such address or model (404){says}.",
                f"{self.names.url} is the API's base, often ending in /v1; {self.names.model} is as the server"
                " calls it.",
            )
        if 300 <= status < 400:
            raise EndpointError(
                f"{self.name} has moved to {one_line(headers.get('Location', '?'), 200)}.", "Give that."
            )
        if status != 200:
            raise RefusedError(f"{self.name} refuses the question ({status}){says}.")
        return HttpReply(data, headers.get_content_type())

    def _parts(self) -> SplitResult:
        fix, flag = "It looks like http://localhost:8080/v1.", self.names.url
        try:
            parts = urlsplit(self.url)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise UsageError(f"{flag} {self.url} is no address: {error}.", fix) from None
        if parts.scheme not in ("http", "https") or not host or re.search(r"[\x00-\x20\x7f]|[^\x00-\x7f]", self.url):
            raise UsageError(f"{flag} {self.url} is no http or https address.", fix)
        if parts.username is not None or parts.password is not None:
            raise UsageError(f"{flag} holds a user name or password.", f"Give a key by {self.names.key} alone.")
        return parts


def _opener() -> urllib.request.OpenerDirector:
    """HTTP and HTTPS alone: no files, and no redirect, which would carry the question elsewhere."""
    opener = urllib.request.OpenerDirector()
    for kind in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(kind())
    return opener


def _read_all(response: http.client.HTTPResponse, deadline: float) -> bytes:
    """The body, whole. Raises TimeoutError for one that only trickles, and HTTPException for one cut short."""
    data = b""
    while chunk := response.read1(1 << 16):
        data += chunk
        if time.monotonic() > deadline:
            raise TimeoutError
        if len(data) > MOST_BYTES:
            raise http.client.HTTPException(f"more than {MOST_BYTES >> 20} MB")
    if response.length:
        raise http.client.IncompleteRead(data, response.length)
    return data


def _message(data: bytes) -> str:
    """What an error's body says, in the forms that servers use; empty where it is something else."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return ""
    error = found.get("error", found) if isinstance(found, dict) else {}
    told = error.get("message") or error.get("detail") or "" if isinstance(error, dict) else error
    return one_line(told, 200).rstrip(".") if isinstance(told, str) else ""


def _retry_after(headers: http.client.HTTPMessage) -> float | None:
    """Seconds that the server asks for, if it does; the form with a date is not read."""
    told = headers.get("Retry-After", "")
    return float(told) if re.fullmatch(r"\d{1,6}(\.\d{1,6})?", told) else None


def _reason(error: object) -> str:
    return one_line(str(getattr(error, "strerror", None) or error) or type(error).__name__, 120)


# Many questions at once to one server; replies come as they finish.
Q = TypeVar("Q")
R = TypeVar("R")

Ask = Callable[[Q, threading.Event, bool], R]
"""A question, an event that ends waiting, and whether it is the first one."""


def ask_all(ask: Ask[Q, R], questions: Sequence[Q], at_once: int, *, known: bool = False) -> Iterator[tuple[Q, R]]:
    """Each question with its reply, at most `at_once` of them under way.

    The first one goes alone, so that a wrong address or key costs one question, unless the server is `known`. When one
    fails, what is under way is still waited for and given, and then its error is raised. Closing the iterator asks
    nothing further.
    """
    if not questions:
        return
    stop = threading.Event()
    try:
        if not known:
            yield questions[0], ask(questions[0], stop, True)
            questions = questions[1:]
        yield from _together(ask, questions, at_once, stop)
    finally:
        stop.set()


def _together(ask: Ask[Q, R], questions: Sequence[Q], at_once: int, stop: threading.Event) -> Iterator[tuple[Q, R]]:
    waiting: queue.SimpleQueue[Q] = queue.SimpleQueue()
    for question in questions:
        waiting.put(question)
    done: queue.SimpleQueue[tuple[Q, R] | Exception | None] = queue.SimpleQueue()

    def work() -> None:
        while not stop.is_set():
            try:
                question = waiting.get_nowait()
            except queue.Empty:
                break
            try:
                done.put((question, ask(question, stop, False)))
            except Exception as error:
                stop.set()
                done.put(error)
        done.put(None)

    # Daemons, since a reply that hangs must not keep the program from ending.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(at_once, len(questions)))]
    for thread in threads:
        thread.start()
    failure: Exception | None = None
    working = len(threads)
    while working:
        found = done.get()
        if found is None:
            working -= 1
        elif isinstance(found, Exception):
            failure = failure or found
        else:
            yield found
    if failure is not None:
        raise failure
