"""The ASGI application: one function a path, the protocol's errors, and clients that hang up."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from minisheep.engines.base import GenerateRequest, Sampling
from minisheep.rules.templates import Conversation, Prompt, Segment
from minisheep.serve.desk import Begun, ChoiceDone, Desk, NewText, Ticket
from minisheep.serve.protocol import ApiError, Reply, Wanted, WrittenChoice, encoded, event, read

MOST_BODY = 4 << 20
"""Bytes of a request; a longer one is read to its end, up to `MOST_READ`, so that the client reads its error."""
MOST_READ = 64 << 20
COLDEST = 1e-3
"""A lower temperature is greedy."""

HUNG_UP = 499
"""The status of a request whose client went away; it is reported, never sent."""

HungUp = ClientDisconnect
Item = Begun | NewText | ChoiceDone | ApiError | HungUp
Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Offered:
    """What is served."""

    models: Mapping[str, int]
    """The round that each name means; the first is meant where a request names none."""
    conversation: Conversation
    temperature: float
    top_p: float
    key: str = ""
    """What clients must send, if anything."""
    hosts: Collection[str] = ()
    """The names under which the server may be asked, if not any: a web page may lead its own name to this machine, to
    read what is served here."""


class Endpoints:
    """Answers requests from the `desk`; `report` is told of each completion, and of each that was refused."""

    def __init__(self, offered: Offered, desk: Desk, report: Report) -> None:
        self._offered, self._desk, self._report = offered, desk, report
        self._since = int(time.time())
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", self._guarded(self._chat), methods=["POST"]),
                Route("/v1/completions", self._guarded(self._text), methods=["POST"]),
                Route("/v1/models", self._guarded(self._models)),
                Route("/v1/models/{name:path}", self._guarded(self._model)),
                Route("/health", self._health),
            ],
            exception_handlers={ApiError: _error, HTTPException: _http_error, Exception: _fault},
        )

    def _guarded(self, answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        wanted = f"Bearer {self._offered.key}".encode()

        async def endpoint(request: Request) -> Response:
            if self._offered.hosts and request.url.hostname not in self._offered.hosts:
                told = (
                    f"The server is for this machine: ask {' or '.join(self._offered.hosts)}, or start it with --host"
                )
                raise ApiError(403, f"{told} or --api-key.", code="unknown_host")
            given = request.headers.get("authorization", "").encode("latin-1")
            if self._offered.key and not hmac.compare_digest(given, wanted):
                raise ApiError(
                    401, "The key is missing or wrong: send Authorization: Bearer KEY.", code="invalid_api_key"
                )
            return await answer(request)

        return endpoint

    async def _health(self, request: Request) -> Response:
        closing = self._desk.closing
        facts = {"status": "shutting down" if closing else "ok", "slots": self._desk.slots, "open": self._desk.open}
        return _json(facts, 503 if closing else 200)

    async def _models(self, request: Request) -> Response:
        return _json({"object": "list", "data": [self._described(name) for name in self._offered.models]})

    async def _model(self, request: Request) -> Response:
        name = self._named(request.path_params["name"])
        return _json(self._described(name))

    async def _chat(self, request: Request) -> Response:
        return await self._complete(request, chat=True)

    async def _text(self, request: Request) -> Response:
        return await self._complete(request, chat=False)

    def _described(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._since, "owned_by": "minisheep"}

    def _named(self, name: str | None) -> str:
        models = list(self._offered.models)
        if name is None:
            return models[0]
        if name not in models:
            told = f"There is no model {name[:80]!r} here; there is {', '.join(models)}."
            raise ApiError(404, told, param="model", code="model_not_found")
        return name

    async def _complete(self, request: Request, *, chat: bool) -> Response:
        begun = time.monotonic()
        facts: dict[str, Any] = {"path": request.url.path}
        try:
            wanted = read(await _body(request), chat=chat)
            name = facts["model"] = self._named(wanted.model)
            if wanted.choices > self._desk.slots:
                told = f"{wanted.choices} texts are asked for, and at most {self._desk.slots} run at once here."
                raise ApiError(400, told, param="n", code="invalid_value")
            call = Call(self._offered.models[name], self._requests(wanted), self._desk, wanted, name)
            return await call.response(request, lambda told: self._report({**facts, **told, **_took(begun)}))
        except HungUp:
            return Response(status_code=HUNG_UP)  # In the middle of its own request.
        except ApiError as error:
            self._report({**facts, "status": error.status, "error": error.message, **_took(begun)})
            raise

    def _requests(self, wanted: Wanted) -> tuple[GenerateRequest, ...]:
        offered, prompts = self._offered, self._prompts(wanted)
        given = offered.temperature if wanted.temperature is None else wanted.temperature
        sampling = Sampling(
            temperature=given if given >= COLDEST else 0.0,
            top_p=offered.top_p if wanted.top_p is None else wanted.top_p,
            **({} if wanted.top_k is None else {"top_k": wanted.top_k}),
            max_tokens=min(wanted.max_tokens or self._desk.context, self._desk.context),
            stop=(*(offered.conversation.template.stop if wanted.chat else ()), *wanted.stop),
        )
        drawn, id = secrets.randbits(64), secrets.token_hex(12)
        each = [prompt for prompt in prompts for _ in range(wanted.n)]
        return tuple(
            GenerateRequest(f"{id}-{choice}", prompt, sampling, wanted.seed_of(choice, drawn))
            for choice, prompt in enumerate(each)
        )

    def _prompts(self, wanted: Wanted) -> list[Prompt]:
        if not wanted.chat:
            return [(Segment(text),) for text in wanted.prompts]
        conversation = self._offered.conversation
        if wanted.system and conversation.system is None:
            told = "The model's template has no place for a system message: leave it out."
            raise ApiError(400, told, param="messages", code="invalid_value")
        if len(wanted.messages) > 1 and conversation.again is None:
            told = "The model's template takes one turn: send one message, the user's."
            raise ApiError(400, told, param="messages", code="invalid_value")
        return [conversation.prompt(wanted.messages, wanted.system)]


class Call:
    """One request on its way through the desk."""

    def __init__(
        self, round: int, requests: tuple[GenerateRequest, ...], desk: Desk, wanted: Wanted, model: str
    ) -> None:
        self._loop, self._heard = asyncio.get_running_loop(), asyncio.Queue[Item]()
        self._desk, self._wanted = desk, wanted
        self._ticket = Ticket(round, requests, self._hear, max(1, len(wanted.prompts)))
        kind = "chatcmpl" if wanted.chat else "cmpl"
        id = f"{kind}-{secrets.token_hex(12)}"
        self._reply = Reply(id, wanted.chat, model, int(time.time()), wanted.include_usage)
        self._written: dict[int, WrittenChoice] = {}
        self._prompt_tokens = 0
        self._status = HUNG_UP

    async def response(self, request: Request, report: Report) -> Response:
        """The reply, whole or as a stream that has begun. Raises `ApiError`."""
        self._desk.offer(self._ticket)
        watch = asyncio.create_task(self._watch(request))
        leaves = True
        try:
            item = await self._next()
            assert isinstance(item, Begun)
            self._prompt_tokens = item.prompt_tokens
            if self._wanted.stream:
                leaves = False
                return TicketStream(self._events(), lambda: self._leave(report))
            while len(self._written) < self._wanted.choices:
                self._note(await self._next())
            return _json(self._reply.whole(self._choices, self._prompt_tokens))
        except HungUp:
            return Response(status_code=HUNG_UP)  # Nobody reads it.
        except ApiError:
            self._desk.withdraw(self._ticket)
            leaves = False
            raise
        finally:
            watch.cancel()
            if leaves:
                self._leave(report)

    @property
    def _choices(self) -> list[WrittenChoice]:
        return [self._written[choice] for choice in sorted(self._written)]

    def _hear(self, item: Item) -> None:
        """In the engine's thread."""
        if isinstance(item, NewText) and not self._wanted.stream:
            return
        # The loop is gone where the server ended sooner than its engine.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._heard.put_nowait, item)

    async def _watch(self, request: Request) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self._heard.put_nowait(HungUp())

    async def _next(self) -> Item:
        item = await self._heard.get()
        if isinstance(item, Exception):
            raise item
        return item

    def _note(self, item: Item) -> None:
        if isinstance(item, ChoiceDone):
            done = item.completion
            self._written[item.choice] = WrittenChoice(done.text, done.finish, done.tokens)

    async def _events(self) -> AsyncIterator[str]:
        for text in self._reply.begin(self._wanted.choices):
            yield text
        while len(self._written) < self._wanted.choices:
            try:
                item = await self._next()
            except ApiError as error:
                self._status = error.status
                yield event(error.body())
                return
            self._note(item)
            if isinstance(item, NewText):
                yield self._reply.part(item.choice, item.text)
            elif isinstance(item, ChoiceDone):
                yield self._reply.end(item.choice, item.completion.finish)
        for text in self._reply.last(self._choices, self._prompt_tokens):
            yield text

    def _leave(self, report: Report) -> None:
        self._desk.withdraw(self._ticket)
        status = 200 if len(self._written) == self._wanted.choices else self._status
        new = sum(choice.tokens for choice in self._written.values())
        report({"prompt_tokens": self._prompt_tokens, "tokens": new, "status": status})


class TicketStream(StreamingResponse):
    """A stream of events that calls `leave` however it ends, also before its first event."""

    def __init__(self, events: AsyncIterator[str], leave: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._leave()


async def _body(request: Request) -> bytes:
    """Raises `ApiError` where it is too long."""
    read, size = bytearray(), 0
    declared = request.headers.get("content-length", "")
    if not declared.isdigit() or int(declared) <= MOST_READ:
        async for chunk in request.stream():
            size += len(chunk)
            if size > MOST_READ:
                break
            if size <= MOST_BODY:
                read += chunk
        if size <= MOST_BODY:
            return bytes(read)
    raise ApiError(413, f"The request is longer than {MOST_BODY >> 20} MiB.", code="body_too_large")


def _took(begun: float) -> dict[str, float]:
    return {"seconds": round(time.monotonic() - begun, 3)}


def _json(data: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(encoded(data), status, headers, "application/json")


async def _error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    headers = {"Retry-After": str(error.retry)} if error.retry else {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return _json(error.body(), error.status, headers)


async def _http_error(request: Request, error: Exception) -> Response:
    """An unknown path or method."""
    assert isinstance(error, HTTPException)
    told = f"{request.method} {request.url.path[:80]} is not served here. See /v1/chat/completions, /v1/completions,"
    known = ApiError(error.status_code, f"{told} /v1/models and /health.", code="unknown_url")
    return _json(known.body(), error.status_code, error.headers)


async def _fault(_request: Request, error: Exception) -> Response:
    return _json(ApiError(500, f"The server failed: {type(error).__name__}.").body(), 500)
