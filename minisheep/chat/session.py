"""What a chat remembers: settings, turns, and what of them a model is shown. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from minisheep.rules.templates import Message


@dataclass(frozen=True, slots=True)
class Answer:
    round: int
    text: str
    finish: str
    """As `events.AnswerDone` has it."""
    tokens: int = 0
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    user: str
    answers: tuple[Answer, ...]
    """At least one."""

    def answer(self, round: int) -> str:
        """What a round answered, or what was answered in its place before it was asked."""
        return next((a.text for a in self.answers if a.round == round), self.answers[0].text)


@dataclass(frozen=True, slots=True)
class Session:
    rounds: tuple[int, ...]
    """Who answers, 0 being the base: one, or two to compare."""
    temperature: float
    max_tokens: int
    system: str = ""
    turns: tuple[Turn, ...] = ()
    asked: int = 0
    """Messages sent, before the last reset too: the same question asked again is drawn anew."""

    def messages(self, round: int, user: str) -> list[Message]:
        """The conversation as a round knows it, ending with `user`."""
        found = []
        for turn in self.turns:
            found += _pair(turn.user, turn.answer(round))
        return [*found, {"role": "user", "content": user}]

    def job(self, round: int, user: str) -> dict[str, object]:
        """What the worker is asked for, see `desk.ChatDesk`."""
        return {
            "round": round,
            "messages": self.messages(round, user),
            "system": self.system,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "number": self.asked,
        }

    def after(self, user: str, answers: Sequence[Answer]) -> Session:
        """With one more turn; a turn that nobody answered is forgotten."""
        turns = (*self.turns, Turn(user, tuple(answers))) if answers else self.turns
        return replace(self, turns=turns, asked=self.asked + 1)

    def saved(self) -> str:
        """JSON lines in messages format, one for each model that answers now; `round` 0 is the base."""
        lines = []
        for round in self.rounds:
            told = [message for turn in self.turns for message in _pair(turn.user, turn.answer(round))]
            first = [{"role": "system", "content": self.system}] if self.system else []
            lines.append(json.dumps({"round": round, "messages": [*first, *told]}) + "\n")
        return "".join(lines)


def model_name(round: int) -> str:
    return f"round {round}" if round else "base"


def left_out(messages: Sequence[Message], size: Callable[[Sequence[Message]], int], context: int, room: int) -> int:
    """How many of the oldest turns must go, so that the rest (`size`, in tokens) leaves `room` for an answer.

    The last message always stays, whether it fits or not.
    """
    turns = (len(messages) - 1) // 2
    return next((gone for gone in range(turns) if size(messages[2 * gone :]) + room <= context), turns)


def _pair(user: str, answer: str) -> list[Message]:
    return [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
