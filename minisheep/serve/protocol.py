"""OpenAI's protocol for completions, as far as a model without tools can keep it: requests read, replies written. Pure.

What a request may hold and this server cannot do is refused by its name, never ignored, unless it changes no text.
Source: OpenAI's API reference, "Chat", "Completions (legacy)" and "Errors".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from minisheep.rules.identity import derive_seed
from minisheep.rules.templates import Message

MOST_STOPS = 16
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
REFUSED = {
    "audio": "Sound is not made.",
    "best_of": "Ask for several answers with n.",
    "echo": "The prompt is not sent back.",
    "frequency_penalty": "Penalties are not applied: leave it out, or set it to 0.",
    "function_call": "Functions are not called.",
    "functions": "Functions are not called.",
    "logit_bias": "Single tokens cannot be favoured.",
    "logprobs": "Log-probabilities are not sent.",
    "min_p": "Use top_p.",
    "presence_penalty": "Penalties are not applied: leave it out, or set it to 0.",
    "suffix": "Text is only written after a prompt.",
    "tools": "Tools are not called.",
    "top_logprobs": "Log-probabilities are not sent.",
}
"""What would change the reply and is not done, unless it is null, false, 0 or empty."""


class ApiError(Exception):
    """An error as the protocol has it. `param` names the field at fault; `code` is for programs."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry = retry
        """Seconds after which to try again, for the header Retry-After."""

    def body(self) -> dict[str, Any]:
        known = {401: "authentication_error", 429: "rate_limit_error"}
        kind = known.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


class ContentPart(BaseModel):
    type: str
    text: str = ""


class _ChatMessage(BaseModel):
    role: str
    content: str | list[ContentPart] | None = None

    @field_validator("role")
    @classmethod
    def _known(cls, role: str) -> str:
        if role not in ROLES:
            raise ValueError(f"There is no role {role[:40]!r} here: use system, user or assistant")
        return ROLES[role]

    @field_validator("content", mode="before")
    @classmethod
    def _text(cls, content: Any) -> Any:
        if not isinstance(content, list):
            if content is not None and not isinstance(content, str):
                raise ValueError("Content is a text, or a list of parts of type text")
            return content
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind != "text":
                raise ValueError(f"The model reads text alone, so a part of type {str(kind)[:40]!r} cannot be used")
        return content

    @property
    def words(self) -> str:
        content = self.content or ""
        return content if isinstance(content, str) else "".join(part.text for part in content)


class _StreamOptions(BaseModel):
    include_usage: bool = False


class _Body(BaseModel):
    """What both verbs have; other fields change no text and are passed over."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    model: str | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    seed: int | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: list[str] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _listed(cls, stop: Any) -> Any:
        stops = [stop] if isinstance(stop, str) else stop
        if stops is None:
            return None
        if not isinstance(stops, list) or not all(isinstance(text, str) and text for text in stops):
            raise ValueError("Give a text that is not empty, or a list of such texts")
        if len(stops) > MOST_STOPS:
            raise ValueError(f"At most {MOST_STOPS} stop strings can be given, and there are {len(stops)}")
        return stops


class _ChatBody(_Body):
    messages: Annotated[list[_ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    response_format: dict[str, Any] | None = None


class _TextBody(_Body):
    prompt: list[str]

    @field_validator("prompt", mode="before")
    @classmethod
    def _texts(cls, prompt: Any) -> Any:
        prompts = [prompt] if isinstance(prompt, str) else prompt
        if not isinstance(prompts, list) or not prompts or not all(isinstance(text, str) for text in prompts):
            raise ValueError("Give a text, or a list of texts; tokens are not taken")
        return prompts


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request, checked. A number that is None is the run's own."""

    chat: bool
    model: str | None
    messages: tuple[Message, ...] = ()
    """Users' and assistant's in turn, ending with the user's; for a chat."""
    system: str = ""
    prompts: tuple[str, ...] = ()
    """For completions."""
    n: int = 1
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    stream: bool = False
    include_usage: bool = False

    @property
    def choices(self) -> int:
        """Texts to write: `n` for each prompt."""
        return self.n * max(1, len(self.prompts))

    def seed_of(self, choice: int, drawn: int) -> int:
        """The seed of a choice; `drawn` takes the place of one that was not given."""
        return derive_seed("serve", drawn if self.seed is None else self.seed, choice)


def read(raw: bytes, *, chat: bool) -> Wanted:
    """The request in a body. Raises `ApiError`."""
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"The body is not JSON: {error}.", code="invalid_json") from None
    if not isinstance(data, dict):
        raise ApiError(400, "The body is not a JSON object.", code="invalid_json")
    for name, why in REFUSED.items():
        if data.get(name) and (name, data[name]) != ("best_of", 1):
            raise ApiError(400, f"{name} is not supported here. {why}", param=name, code="unsupported_parameter")
    if chat:
        return _chat(_shaped(_ChatBody, data))
    body = _shaped(_TextBody, data)
    return Wanted(False, prompts=tuple(body.prompt), **_shared(body, body.max_tokens))


Shape = TypeVar("Shape", bound=_Body)


def _shaped(shape: type[Shape], data: dict[str, Any]) -> Shape:
    try:
        return shape.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        # The names of a union's members are ours, not the user's.
        place = [part for part in first["loc"] if isinstance(part, int) or part.islower()]
        param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")
        told = first["msg"].removeprefix("Value error, ").rstrip(".")
        raise ApiError(400, f"{param}: {told}.", param=param, code="invalid_value") from None


def _shared(body: _Body, most: int | None) -> dict[str, Any]:
    return {
        "model": body.model, "n": body.n or 1, "temperature": body.temperature, "top_p": body.top_p,
        "top_k": body.top_k, "max_tokens": most, "stop": tuple(body.stop or ()), "seed": body.seed,
        "stream": bool(body.stream), "include_usage": bool(body.stream_options and body.stream_options.include_usage),
    }  # fmt: skip


def _chat(body: _ChatBody) -> Wanted:
    if (form := (body.response_format or {}).get("type", "text")) != "text":
        raise ApiError(
            400,
            f"response_format {str(form)[:40]!r} is not supported here: answers are plain text.",
            param="response_format",
            code="unsupported_parameter",
        )
    messages = list(body.messages)
    system = []
    while messages and messages[0].role == "system":
        system.append(messages.pop(0).words)
    turns = [message.role for message in messages]
    if turns != ["user", "assistant"] * (len(turns) // 2) + ["user"] * (len(turns) % 2) or len(turns) % 2 == 0:
        raise ApiError(
            400,
            "After any system message, messages of user and assistant take turns, from a user's to a user's; here they"
            f" are {', '.join(turns[:9]) or 'missing'}{', ...' if len(turns) > 9 else ''}.",
            param="messages",
            code="invalid_value",
        )
    return Wanted(
        True,
        messages=tuple({"role": message.role, "content": message.words} for message in messages),
        system="\n\n".join(text for text in system if text),
        **_shared(body, body.max_completion_tokens or body.max_tokens),
    )


@dataclass(frozen=True, slots=True)
class WrittenChoice:
    """A choice that is done; `finish` as `engines.base.Completion` has it."""

    text: str
    finish: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Reply:
    """Writes what is sent back to one request; `created` in seconds since the epoch."""

    id: str
    chat: bool
    model: str
    created: int
    include_usage: bool = False

    def whole(self, written: Sequence[WrittenChoice], prompt_tokens: int) -> dict[str, Any]:
        choices = [
            self._choice(number, choice.finish, message={"role": "assistant", "content": choice.text, "refusal": None})
            if self.chat
            else self._choice(number, choice.finish, text=choice.text)
            for number, choice in enumerate(written)
        ]
        return {**self._head(""), "choices": choices, "usage": _usage(prompt_tokens, written)}

    def begin(self, choices: int) -> Iterable[str]:
        """The first events of a stream: in a chat, each choice says who speaks."""
        for number in range(choices if self.chat else 0):
            yield self._chunk([self._choice(number, "", delta={"role": "assistant", "content": ""})])

    def part(self, number: int, text: str) -> str:
        return self._chunk([self._choice(number, "", **self._more(text))])

    def end(self, number: int, finish: str) -> str:
        return self._chunk([self._choice(number, finish, **({"delta": {}} if self.chat else self._more("")))])

    def last(self, written: Sequence[WrittenChoice], prompt_tokens: int) -> Iterable[str]:
        """The last events of a stream."""
        if self.include_usage:
            yield event({**self._head(".chunk"), "choices": [], "usage": _usage(prompt_tokens, written)})
        yield "data: [DONE]\n\n"

    def _more(self, text: str) -> dict[str, Any]:
        """Text as a stream holds it."""
        return {"delta": {"content": text}} if self.chat else {"text": text}

    def _chunk(self, choices: list[dict[str, Any]]) -> str:
        usage = {"usage": None} if self.include_usage else {}
        return event({**self._head(".chunk"), "choices": choices, **usage})

    def _head(self, kind: str) -> dict[str, Any]:
        name = f"chat.completion{kind}" if self.chat else "text_completion"
        return {"id": self.id, "object": name, "created": self.created, "model": self.model}

    def _choice(self, number: int, finish: str, **content: Any) -> dict[str, Any]:
        reasons: dict[str, Literal["stop", "length"]] = {"end": "stop", "stop": "stop", "length": "length"}
        return {"index": number, **content, "logprobs": None, "finish_reason": reasons.get(finish)}


def _usage(prompt_tokens: int, written: Sequence[WrittenChoice]) -> dict[str, int]:
    new = sum(choice.tokens for choice in written)
    return {"prompt_tokens": prompt_tokens, "completion_tokens": new, "total_tokens": prompt_tokens + new}


def encoded(data: object) -> bytes:
    """JSON that a person can read too; half a surrogate, which no UTF-8 has, becomes a question mark."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def event(data: object) -> str:
    return f"data: {encoded(data).decode()}\n\n"
