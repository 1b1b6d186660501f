"""A comparison by an outside judge on a run folder: every judgement is on disk before the next, so it can go on."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, ClassVar

from minisheep.engines.http import PAUSES, Names, Post, ask_all
from minisheep.errors import EndpointError, Stopped
from minisheep.models.registry import safe_name
from minisheep.rules.identity import digest
from minisheep.run.files import disk_errors, write_json
from minisheep.run.folder import Appender, Lock, each_record
from minisheep.run.records import Record
from minisheep.versus.contests import Contest, grade_outcome, model_name, pair_outcome
from minisheep.versus.versus_prompts import Messages, grade_messages, pair_messages, read_grade, read_verdict

# One question to a judge: a chat completion of an OpenAI-compatible server, asked through `engines.http`.
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


MODES = ("pair", "grade")
GO_ON = "Give the same command to go on."
REPLY = 4000
"""Characters of a reply that are kept, from its end, where the verdict stands."""

OnProgress = Callable[[int, int], None]
"""Judgements done, and how many there will be."""


@dataclass(frozen=True, slots=True)
class Judgement(Record):
    """What a judge replied to one question."""

    KIND: ClassVar[str] = "judgement"

    question: str
    """Digest of the judge and of all that it was told: whatever changes is asked anew."""
    judge: str
    task: str
    role: str
    """Of a pair, whose answer stood first; of a grade, whose answer it was: ``ours`` or ``theirs``."""
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
    """Which models of which run, how they are judged, and where it is kept."""

    run: Path
    ours: int
    theirs: int
    mode: str
    source: str = ""
    """What the prompts file is called; empty for the run's own held-out tasks."""

    def path(self, endpoint: Endpoint, ending: str) -> Path:
        rival = f"round-{self.theirs}" if self.theirs else "base"
        parts = (endpoint.model, self.mode, f"round-{self.ours}", rival, self.source)
        return self.run / "judged" / f"{'-'.join(safe_name(part) for part in parts if part)}.{ending}"


def versus(
    match: Match, contests: Sequence[Contest], endpoint: Endpoint, at_once: int, on_progress: OnProgress
) -> dict[str, Any]:
    """Have the judge decide what it has not decided yet, and sum up all of it. The summary is written beside.

    Raises `errors.EndpointError` and `errors.Stopped`, which say how much is stored, `errors.RunLockedError` if
    another comparison of this run is under way, and `errors.DiskError`.
    """
    questions = ask_about(match.mode, contests, endpoint)
    path = match.path(endpoint, "jsonl")
    with disk_errors(path):
        path.parent.mkdir(exist_ok=True)
    lock = Lock(path.parent)
    try:
        results = {found.question: found.result for found in each_record(path, Judgement)}
        _judge(match.mode, questions, results, endpoint, path, at_once, on_progress)
    finally:
        lock.release()
    summary = {
        "run": str(match.run),
        "ours": model_name(match.ours),
        "theirs": model_name(match.theirs),
        "mode": match.mode,
        "prompts": match.source or "held-out tasks",
        "judge": endpoint.model,
        "judge_url": endpoint.name,
        "judgements": str(path),
        **_outcome(match.mode, contests, {(q.task, q.role): results[q.id] for q in questions}),
    }
    write_json(match.path(endpoint, "json"), summary)
    return summary


def ask_about(mode: str, contests: Sequence[Contest], endpoint: Endpoint) -> list[Question]:
    """Two questions a contest: both orders of a pair whose answers differ, or a grade for each answer."""
    found = []
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
            told = {"url": endpoint.name, "model": endpoint.model, "messages": list(messages)}
            found.append(Question(digest("question", told), contest.task, role, messages))
    return found


def _judge(
    mode: str,
    questions: Sequence[Question],
    results: dict[str, str | float | None],
    endpoint: Endpoint,
    path: Path,
    at_once: int,
    on_progress: OnProgress,
) -> None:
    """Fills `results` and the file at `path` with what is missing."""
    read = read_verdict if mode == "pair" else read_grade
    ids = {question.id for question in questions}
    # Two answers of the same text are one question.
    missing = list({question.id: question for question in questions if question.id not in results}.values())
    done = len(ids) - len(missing)
    on_progress(done, len(ids))

    def ask(question: Question, give_up: Event, first: bool) -> str:
        return endpoint.ask(question.messages, give_up, first=first)

    def so_far() -> str:
        return f"{done} of {len(ids)} judgements are stored." if done else "Nothing was judged yet."

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
        return grade_outcome(
            contests, {c.task: (_grade(results, c, "ours"), _grade(results, c, "theirs")) for c in contests}
        )
    return pair_outcome(
        contests,
        {
            c.task: (_verdict(results, c, "ours"), _verdict(results, c, "theirs"))
            for c in contests
            if c.ours != c.theirs
        },
    )


def _grade(results: dict[tuple[str, str], str | float | None], contest: Contest, role: str) -> float | None:
    found = results[contest.task, role]
    return found if isinstance(found, float) else None


def _verdict(results: dict[tuple[str, str], str | float | None], contest: Contest, role: str) -> str | None:
    found = results[contest.task, role]
    return found if isinstance(found, str) else None
