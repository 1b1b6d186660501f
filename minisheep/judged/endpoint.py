"""One question to a judge: a chat completion of an OpenAI-compatible server, asked through `endpoint.post`."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field

from minisheep.endpoint.post import PAUSES, Names, Post
from minisheep.judged.wording import Messages

NAMES = Names("--judge-url", "--judge-key-env VAR", "--judge-model-name", "The judge")
OPTIONAL = ("temperature", "max_tokens")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Raises `errors.UsageError` for an address or a key that cannot be used."""

    url: str
    """As the user gave it: the API's base (``http://localhost:8080/v1``) or the whole address."""
    model: str
    key: str = field(default="", repr=False)
    timeout: float = 120.0
    """Seconds for one question, from connecting to the last byte."""
    max_tokens: int = 1024
    pauses: tuple[float, ...] = PAUSES
    _post: Post = field(init=False, repr=False)

    def __post_init__(self) -> None:
        post = Post(self.url, "/chat/completions", NAMES, self.key, self.timeout, self.pauses, OPTIONAL)
        object.__setattr__(self, "_post", post)

    @property
    def name(self) -> str:
        """The address without a query, which may hold what is nobody's business."""
        return self._post.name

    @property
    def exposes_key(self) -> bool:
        """Whether anybody on the way to another machine could read the key."""
        return self._post.exposes_key

    def ask(self, messages: Messages, give_up: threading.Event, *, first: bool = False) -> str:
        """The judge's reply; see `Post.ask`. Raises `errors.EndpointError`, which says what the server did."""
        body = {"model": self.model, "messages": list(messages), "temperature": 0, "max_tokens": self.max_tokens}
        reply = self._post.ask(body, give_up, first=first)
        try:
            content = json.loads(reply.data)["choices"][0]["message"]["content"]
        except (ValueError, RecursionError, LookupError, TypeError):
            raise self._post.nonsense(reply, "chat completion") from None
        return self._post.safe(content) if isinstance(content, str) else ""
