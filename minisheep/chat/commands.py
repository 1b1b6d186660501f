"""What a person can type in a chat besides messages. Pure: reading a line, and what it changes."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from minisheep.chat.session import Session, model_name
from minisheep.errors import UsageError

HELP = (
    ("/temp 0.7", "temperature; 0 always takes the likeliest token"),
    ("/round 2", "go on with another round: a number, best, last or base"),
    ("/reset", "forget the conversation"),
    ("/save FILE", "write the conversation as JSON lines in messages format; never over a file that exists"),
    ("/help", "this list"),
    ("/quit", "leave, as Ctrl-D does; Ctrl-C stops an answer"),
    ("//text", "a message that begins with a slash"),
)
NAMES = ("temp", "round", "reset", "save", "help", "quit")
HOTTEST = 5.0


@dataclass(frozen=True, slots=True)
class Command:
    name: str
    argument: str = ""


def read(line: str) -> Command | str:
    """A command, or the message that the line is. Raises `errors.UsageError` for a command that there is not."""
    text = line.strip()
    if not text.startswith("/"):
        return text
    if text.startswith("//"):
        return text[1:]
    name, _, argument = text[1:].partition(" ")
    if name in NAMES:
        return Command(name, argument.strip())
    near = difflib.get_close_matches(name, NAMES, n=1)
    raise UsageError(f"There is no /{name}.", f"Nearest: /{near[0]}." if near else "/help lists what there is.")


def obey(session: Session, command: Command, resolve: Callable[[str], int]) -> tuple[Session, str]:
    """The session after ``/temp``, ``/round``, ``/reset`` or ``/help``, and what to say of it.

    `resolve` gives the number of a round that can answer (`run.reading.resolve_round`). Raises `errors.UsageError`.
    """
    if command.name == "temp":
        temperature = _temperature(command.argument)
        return replace(session, temperature=temperature), f"Temperature {temperature:g}."
    if command.name == "round":
        rounds = _rounds(session, resolve(command.argument))
        return replace(session, rounds=rounds), f"{' and '.join(map(model_name, rounds))} from here on.".capitalize()
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
        raise UsageError("The base is compared already.", "Give a round's number.")
    return (0, number)
