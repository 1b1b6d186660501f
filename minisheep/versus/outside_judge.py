"""A comparison by an outside judge. Writes only into the run's ``judged`` folder, one judgement at a time, so that a
comparison that stopped can continue."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, ClassVar, TypeVar

from minisheep.engines.http import PAUSES, Names, Post, ask_all
from minisheep.errors import EndpointError, Stopped
from minisheep.models.registry import safe_name
from minisheep.rules.identity import digest
from minisheep.rules.plain_text import round_name
from minisheep.run.files import disk_errors, write_json
from minisheep.run.folder import Appender, Lock, each_record
from minisheep.run.records import Record
from minisheep.versus.contests import BASE, Contest, grade_outcome, pair_outcome
from minisheep.versus.versus_prompts import Messages, grade_messages, pair_messages, read_grade, read_verdict

NAMES = Names("--judge-url", "--judge-key-env VAR", "--judge-model-name", "The judge")
T = TypeVar("T")
OPTIONAL = ("temperature", "max_tokens")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A judge's chat completions on an OpenAI-compatible server.

    Raises `errors.UsageError` for an unusable address or key.
    """

    url: str
    """As the user gave it: the API's base (``http://localhost:8080/v1``) or the whole address."""
    model: str
    key: str = field(default="", repr=False)
    timeout: float = 120.0
    """Seconds for one question, from connecting to the last byte."""
    max_tokens: int = 1024
    pauses: tuple[float, ...] = PAUSES
    post: Post = field(init=False, repr=False)

    def __post_init__(self) -> None:
        post = Post(self.url, "/chat/completions", NAMES, self.key, self.timeout, self.pauses, OPTIONAL)
        object.__setattr__(self, "post", post)

    def ask(self, messages: Messages, give_up: threading.Event, *, first: bool = False) -> str:
        """The judge's reply; see `Post.ask`. Raises `errors.EndpointError` with what the server did."""
        body = {"model": self.model, "messages": list(messages), "temperature": 0, "max_tokens": self.max_tokens}
        reply = self.post.ask(body, give_up, first=first)
        try:
            content = json.loads(reply.data)["choices"][0]["message"]["content"]
        except (ValueError, RecursionError, LookupError, TypeError):
            raise self.post.nonsense(reply, "chat completion") from None
        parts = content if isinstance(content, list) else [{"text": content}]
        said = [part.get("text") for part in parts if isinstance(part, dict)]
        return self.post.safe("".join(text for text in said if isinstance(text, str)))


GO_ON = "Repeat the command to continue."
REPLY = 4000
"""Characters that are kept of a reply, from its end: the verdict is there."""

OnProgress = Callable[[int, int], None]
"""Judgements done, and how many there will be."""


@dataclass(frozen=True, slots=True)
class Judgement(Record):
    """A judge's reply to one question."""

    KIND: ClassVar[str] = "judgement"

    question: str
    """Digest of the judge and the messages: a question that changes is asked again."""
    judge: str
    task: str
    role: str
    """``ours`` or ``theirs``: whose answer came first in a pair, or whose answer was graded."""
    result: str | float | None
    """``A``, ``B``, ``tie``, a grade, or None where the reply could not be read."""
    reply: str


@dataclass(frozen=True, slots=True)
class Question:
    id: str
    task: str
    role: str
    messages: Messages


@dataclass(frozen=True, slots=True)
class Match:
    """Which models of which run are compared, how, and in which files."""

    run: Path
    ours: int
    theirs: int
    mode: str
    source: str = ""
    """Name of the prompts file; empty for the run's own held-out tasks."""

    def path(self, endpoint: Endpoint, ending: str) -> Path:
        rival = f"round-{self.theirs}" if self.theirs else "base"
        parts = (endpoint.model, self.mode, f"round-{self.ours}", rival, self.source)
        return self.run / "judged" / f"{'-'.join(safe_name(part) for part in parts if part)}.{ending}"


def versus(
    match: Match, contests: Sequence[Contest], endpoint: Endpoint, at_once: int, on_progress: OnProgress
) -> dict[str, Any]:
    """Ask the judge every question that has no stored verdict; write and return the summary of all.

    Raises `errors.EndpointError` and `errors.Stopped`, which say how much is stored, `errors.RunLockedError` while
    another comparison of this run is active, and `errors.DiskError`.
    """
    questions = ask_about(match.mode, contests, endpoint)
    path = match.path(endpoint, "jsonl")
    with disk_errors(path):
        path.parent.mkdir(exist_ok=True)
    with Lock(path.parent):
        # A reply that could not be read is no judgement: it is asked for again, with what the user has changed since.
        results: dict[str, str | float | None] = {
            s.question: s.result for s in each_record(path, Judgement) if s.result is not None
        }
        _judge(match.mode, questions, results, endpoint, path, at_once, on_progress)
    summary = {
        "run": str(match.run),
        "ours": round_name(match.ours, BASE),
        "theirs": round_name(match.theirs, BASE),
        "mode": match.mode,
        "prompts": match.source or "held-out tasks",
        "judge": endpoint.model,
        "judge_url": endpoint.post.name,
        "judgements": str(path),
        **_outcome(match.mode, contests, {(q.task, q.role): results[q.id] for q in questions}),
    }
    write_json(match.path(endpoint, "json"), summary)
    return summary


def ask_about(mode: str, contests: Sequence[Contest], endpoint: Endpoint) -> list[Question]:
    """Two questions a contest: both orders of a pair whose answers differ, or a grade for each answer."""
    questions = []
    for contest in contests:
        sides = {"ours": (contest.ours, contest.theirs), "theirs": (contest.theirs, contest.ours)}
        if mode == "pair" and contest.ours == contest.theirs:
            continue
        for role, (first, second) in sides.items():
            messages = (
                pair_messages(contest.request, first, second)
                if mode == "pair"
                else grade_messages(contest.request, first)
            )
            identity = {"url": endpoint.post.name, "model": endpoint.model, "messages": list(messages)}
            questions.append(Question(digest("question", identity), contest.task, role, messages))
    return questions


def _judge(
    mode: str,
    questions: Sequence[Question],
    results: dict[str, str | float | None],
    endpoint: Endpoint,
    path: Path,
    at_once: int,
    on_progress: OnProgress,
) -> None:
    """Add the missing verdicts to `results` and to the file at `path`."""
    read = read_verdict if mode == "pair" else read_grade
    ids = {question.id for question in questions}
    # Two answers of the same text make one question.
    missing = list({question.id: question for question in questions if question.id not in results}.values())
    done = len(ids) - len(missing)
    on_progress(done, len(ids))

    def ask(question: Question, give_up: Event, first: bool) -> str:
        return endpoint.ask(question.messages, give_up, first=first)

    def so_far() -> str:
        return f"{done} of {len(ids)} judgements are stored." if done else "Nothing is judged yet."

    with Appender(path) as file:
        try:
            for question, reply in ask_all(ask, missing, at_once):
                result = read(reply)
                judgement = Judgement(question.id, endpoint.model, question.task, question.role, result, reply[-REPLY:])
                file.append(judgement.to_dict())
                results[question.id] = result
                done += 1
                on_progress(done, len(ids))
        except EndpointError as error:
            raise EndpointError(f"{error.message} {so_far()}", error.fix or GO_ON) from None
        except KeyboardInterrupt:
            raise Stopped(f"Stopped. {so_far()}", GO_ON) from None


def _outcome(
    mode: str, contests: Sequence[Contest], results: dict[tuple[str, str], str | float | None]
) -> dict[str, Any]:
    if mode == "grade":
        return grade_outcome(contests, {c.task: _both(results, c.task, float) for c in contests})
    return pair_outcome(contests, {c.task: _both(results, c.task, str) for c in contests if c.ours != c.theirs})


def _both(results: dict[tuple[str, str], str | float | None], task: str, kind: type[T]) -> tuple[T | None, T | None]:
    ours, theirs = results[task, "ours"], results[task, "theirs"]
    return ours if isinstance(ours, kind) else None, theirs if isinstance(theirs, kind) else None
