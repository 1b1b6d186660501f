"""The two ways a chat goes: with a person at a terminal, and line by line through a pipe."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from minisheep.chat import commands
from minisheep.chat.screens import Screen
from minisheep.chat.session import Answer, Session
from minisheep.chat.speak import Speaker
from minisheep.errors import MinisheepError, UsageError


def converse(
    session: Session, speaker: Speaker, screen: Screen, read: Callable[[], str], resolve: Callable[[str], int]
) -> Session:
    """Until `read` raises EOFError (Ctrl-D) or ``/quit``. An error is told, and the chat goes on."""
    while True:
        try:
            told = commands.read(read())
            if isinstance(told, str):
                if told:
                    with speaker.stoppable():
                        session = ask(session, told, speaker, screen)
            elif told.name == "quit":
                return session
            elif told.name == "save":
                screen.note(save(session, told.argument))
            else:
                session, said = commands.obey(session, told, resolve)
                screen.note(said)
        except EOFError:
            screen.note("")
            return session
        except KeyboardInterrupt:
            screen.note("\nCtrl-D leaves.")
        except MinisheepError as error:
            screen.note(str(error))


def pipe(session: Session, speaker: Speaker, screen: Screen, lines: Iterable[str]) -> Session:
    """Each line that is not blank is a message, whatever it begins with. Raises `errors.MinisheepError`."""
    for line in lines:
        if line.strip():
            session = ask(session, line.strip(), speaker, screen)
    return session


def ask(session: Session, user: str, speaker: Speaker, screen: Screen) -> Session:
    """One message, answered by each model of the session. Raises `errors.MinisheepError`; it is then not remembered."""
    answers: list[Answer] = []
    screen.begin(session.rounds, user)
    try:
        for round in session.rounds:
            screen.part(round, "")
            answers.append(speaker.answer(session.job(round, user), partial(screen.part, round)))
            if answers[-1].finish == "stopped":
                break
    finally:
        screen.end(answers)
    return session.after(user, answers)


def save(session: Session, name: str) -> str:
    """Write the conversation to a new file, and say so. Raises `errors.UsageError`; nothing is ever overwritten."""
    if not name:
        raise UsageError("/save needs the name of a file.", "For example /save talk.jsonl")
    if not session.turns:
        raise UsageError("There is nothing to save yet.")
    path = Path(name).expanduser()
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(session.saved())
    except FileExistsError:
        raise UsageError(f"{path} exists, and nothing was written.", "Give another name.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{path} cannot be written: {reason}.", "Give another name.") from None
    return f"Saved to {json.dumps(str(path), ensure_ascii=False)}."
