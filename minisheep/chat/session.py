"""The state of a chat (settings and turns), what a model is shown of it, and the commands that change it. Pure."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from minisheep.errors import UsageError
from minisheep.rules.plain_text import round_name
from minisheep.rules.templates import Message


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    round: int
    text: str
    finish: str
    """As `run.events.AnswerDone` has it."""
    tokens: int = 0
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class ChatTurn:
    user: str
    answers: tuple[ChatAnswer, ...]
    """At least one."""

    def answer(self, round: int) -> str:
        """The round's own answer, or the first one where the round did not take part in this turn."""
        return next((a.text for a in self.answers if a.round == round), self.answers[0].text)


@dataclass(frozen=True, slots=True)
class Session:
    rounds: tuple[int, ...]
    """The rounds that answer (0: the base): one, or two to compare."""
    temperature: float
    max_tokens: int
    system: str = ""
    turns: tuple[ChatTurn, ...] = ()
    asked: int = 0
    """Messages sent, also before a reset: it seeds the draw, so that a repeated question gets another answer."""

    def messages(self, round: int, user: str) -> list[Message]:
        """The conversation as a round knows it, ending with `user`."""
        return [*self._history(round), {"role": "user", "content": user}]

    def job(self, round: int, user: str) -> dict[str, object]:
        """The job for `chat.worker.ChatHandler`."""
        return {
            "round": round,
            "messages": self.messages(round, user),
            "system": self.system,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "number": self.asked,
        }

    def after(self, user: str, answers: Sequence[ChatAnswer]) -> Session:
        """The session with one more turn; a turn without an answer is dropped."""
        turns = (*self.turns, ChatTurn(user, tuple(answers))) if answers else self.turns
        return replace(self, turns=turns, asked=self.asked + 1)

    def again(self) -> tuple[Session, str]:
        """The session before its last turn, and that turn's message. Raises `errors.UsageError` where there is none."""
        if not self.turns:
            raise UsageError("There is no message to answer again.")
        return replace(self, turns=self.turns[:-1]), self.turns[-1].user

    def saved(self) -> str:
        """JSON lines in messages format, one for each model that answers now; `round` 0 is the base."""
        lines = []
        for round in self.rounds:
            first = [{"role": "system", "content": self.system}] if self.system else []
            lines.append(json.dumps({"round": round, "messages": [*first, *self._history(round)]}) + "\n")
        return "".join(lines)

    def _history(self, round: int) -> list[Message]:
        return [
            {"role": role, "content": text}
            for turn in self.turns
            for role, text in (("user", turn.user), ("assistant", turn.answer(round)))
        ]


def left_out(messages: Sequence[Message], size: Callable[[Sequence[Message]], int], context: int, room: int) -> int:
    """How many of the oldest turns must be left out, so that the rest (`size`, in tokens) leaves `room` for an answer.

    The last message always stays, even if it does not fit.
    """
    turns = (len(messages) - 1) // 2
    return next((gone for gone in range(turns) if size(messages[2 * gone :]) + room <= context), turns)


HELP = (
    ("/temp 0.7", "temperature; 0 always takes the likeliest token"),
    ("/round 2", "continue with another round: a number, best, last or base"),
    ("/retry", "answer the last message again, by other chances"),
    ("/system TEXT", "a system message from here on; without TEXT none"),
    ("/reset", "forget the conversation"),
    ("/save FILE", "write the conversation as JSON lines in messages format, to a new file"),
    ("/help", "show this list"),
    ("/quit", "leave, as Ctrl-D does; Ctrl-C stops an answer"),
    ("//text", "a message that begins with a slash"),
)
NAMES = ("temp", "round", "retry", "system", "reset", "save", "help", "quit")
HOTTEST = 5.0


@dataclass(frozen=True, slots=True)
class Command:
    name: str
    argument: str = ""


def read(line: str) -> Command | str:
    """The command or message in the line. Raises `errors.UsageError` for an unknown command."""
    text = line.strip()
    if not text.startswith("/"):
        return text
    if text.startswith("//"):
        return text[1:]
    name, argument = (*text[1:].split(maxsplit=1), "", "")[:2]
    if name in NAMES:
        return Command(name, argument)
    near = difflib.get_close_matches(name, NAMES, n=1)
    raise UsageError(f"There is no /{name}.", f"Nearest: /{near[0]}." if near else "/help lists the commands.")


def obey(session: Session, command: Command, resolve: Callable[[str], int]) -> tuple[Session, str]:
    """The session after ``/temp``, ``/round``, ``/system``, ``/reset`` or ``/help``, and a line to show.

    `resolve` turns a name into the number of a round that can answer (`api.resolve_round`). Raises `errors.UsageError`.
    """
    if command.name == "temp":
        temperature = _temperature(command.argument)
        return replace(session, temperature=temperature), f"Temperature {temperature:g}."
    if command.name == "round":
        rounds = _rounds(session, resolve(command.argument))
        return replace(session, rounds=rounds), f"{' and '.join(map(round_name, rounds))} from here on.".capitalize()
    if command.name == "system":
        told = "The system message is set." if command.argument else "There is no system message from here on."
        return replace(session, system=command.argument), told
    if command.name == "reset":
        return replace(session, turns=()), "The conversation is forgotten."
    width = max(len(form) for form, _ in HELP)
    return session, "\n".join(f"{form:{width}}  {text}" for form, text in HELP)


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= HOTTEST:
        raise UsageError(f"/temp takes a number from 0 to {HOTTEST:g}.", "Nothing was changed.")
    return value


def _rounds(session: Session, number: int) -> tuple[int, ...]:
    if len(session.rounds) == 1:
        return (number,)
    if number == 0:
        raise UsageError("The base is compared already.", "Give the number of a round.")
    return (0, number)
