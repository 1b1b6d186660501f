"""The chat as the user sees it: the conversation at a terminal or through a pipe, and the screens that show answers.

Writes to the terminal, and to the file that ``/save`` names. Model text is sanitised before it is shown."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from threading import Timer
from typing import IO, ClassVar, Protocol

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.markdown import Markdown, MarkdownElement, TextElement
from rich.padding import Padding
from rich.segment import Segment
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from minisheep.api import Run, resolve_round
from minisheep.chat import session as chat_session
from minisheep.chat.keyboard import unseen
from minisheep.chat.session import ChatAnswer, Session
from minisheep.chat.worker import ChatClient
from minisheep.errors import MinisheepError, UsageError
from minisheep.rules.plain_text import round_name, sanitise

NOT_INTERPRETED = ("link", "image", "autolink", "html_inline", "html_block", "reference", "entity")
"""Rules of markdown-it that are off, so that their source is shown: nothing is clickable or hidden, and an entity
cannot produce a character that `rules.plain_text` would have replaced."""
GAP = 3
"""Columns between two answers side by side."""


class _Code(TextElement):
    """Code as plain text. It is not highlighted: the model would choose which of some hundred lexers reads its text."""

    style_name = "markdown.code_block"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Padding(Text(self.text.plain.rstrip("\n"), style=console.get_style("markdown.code_block")), (0, 2))


class SafeMarkdown(Markdown):
    """Sanitised model text as Markdown."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {**Markdown.elements, "fence": _Code, "code_block": _Code}

    def __init__(self, text: str) -> None:
        super().__init__("", hyperlinks=False)
        self.markup = sanitise(text)
        parser = MarkdownIt().enable(["strikethrough", "table"]).disable(list(NOT_INTERPRETED))
        self.parsed = parser.parse(self.markup)


class Tail:
    """The last lines of a growing text, as many as fit the terminal."""

    def __init__(self, inner: RenderableType, spare: int = 2) -> None:
        self._inner, self._spare = inner, spare

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._inner, options.update(height=None), pad=False)
        for line in lines[-max(1, console.height - self._spare) :]:
            yield from line
            yield Segment.line()


def side_by_side(titles: Sequence[str], texts: Sequence[str]) -> RenderableType:
    """Answers in columns of the same width, each under its title; a single answer has no title."""
    if len(texts) == 1:
        return SafeMarkdown(texts[0])
    table = Table.grid(padding=(0, GAP, 0, 0), expand=True)
    for _ in texts:
        table.add_column(ratio=1)
    table.add_row(*(Text(title, style="bold") for title in titles))
    table.add_row(*(SafeMarkdown(text) for text in texts))
    return table


class Flow:
    """Sanitises text that comes in parts as if it had come whole."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, part: str) -> str:
        """The text to show now: a carriage return waits for the next character."""
        text = self._held + part
        self._held = "\r" if text.endswith("\r") else ""
        return sanitise(text.removesuffix("\r") if self._held else text)

    def rest(self) -> str:
        held, self._held = self._held, ""
        return sanitise(held)


QUIET_SECONDS = 2.0
"""Of loading in a pipe before a line says so."""
REFRESH = 8
"""Times a second that a growing answer is drawn."""


class ChatScreen(Protocol):
    def begin(self, rounds: Sequence[int], user: str) -> None:
        """A message was sent to the models of `rounds`."""

    def part(self, round: int, text: str) -> None:
        """More of an answer, first an empty part; each answer ends before the next begins."""

    def end(self, answers: Sequence[ChatAnswer]) -> None:
        """All answers to the message; fewer than models where the user stopped them."""

    def note(self, text: str) -> None:
        """A line that is not an answer."""

    def busy(self, text: str) -> AbstractContextManager[object]:
        """`text` says what a person waits for meanwhile."""


class TerminalScreen:
    """Answers grow as Markdown, two of them in columns."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, markup=False, emoji=False)
        self._texts: dict[int, str] = {}
        self._drawing = ExitStack()

    def begin(self, rounds: Sequence[int], user: str) -> None:
        self._texts, waiting = dict.fromkeys(rounds, ""), Spinner("dots", style="dim")
        self._drawing.enter_context(unseen())
        self._drawing.enter_context(Live(
            console=self._console, refresh_per_second=REFRESH, transient=True, redirect_stdout=False,
            redirect_stderr=False, get_renderable=lambda: Tail(self._drawn()) if any(self._texts.values()) else waiting,
        ))  # fmt: skip

    def part(self, round: int, text: str) -> None:
        self._texts[round] += text

    def end(self, answers: Sequence[ChatAnswer]) -> None:
        self._texts |= {answer.round: answer.text for answer in answers}
        self._drawing.close()
        self._console.print(self._drawn())
        for text in remarks(answers):
            self.note(text)
        self._console.print()

    def note(self, text: str) -> None:
        self._console.print(Text(sanitise(text), style="dim"))

    @contextmanager
    def busy(self, text: str) -> Iterator[None]:
        with unseen(), self._console.status(Text(sanitise(text), style="dim")):
            yield

    def _drawn(self) -> RenderableType:
        # A copy, because another thread draws while the text grows.
        texts = dict(self._texts)
        return side_by_side([round_name(round) for round in texts], list(texts.values()))


class PlainScreen:
    """Answers on stdout as they come; with two models, each under its name. Notes go to stderr."""

    def __init__(self, out: IO[str], err: IO[str]) -> None:
        self._out, self._err = out, err
        self._flow = Flow()
        self._several = False
        self._round: int | None = None

    def begin(self, rounds: Sequence[int], user: str) -> None:
        self._several, self._round = len(rounds) > 1, None

    def part(self, round: int, text: str) -> None:
        if round != self._round:
            self._finish()
            self._round = round
            self._write(f"{round_name(round)}:\n" if self._several else "")
        self._write(self._flow.feed(text))

    def end(self, answers: Sequence[ChatAnswer]) -> None:
        self._finish()
        for text in remarks(answers):
            self.note(text)

    def note(self, text: str) -> None:
        print(sanitise(text), file=self._err, flush=True)

    @contextmanager
    def busy(self, text: str) -> Iterator[None]:
        # In a pipe only where it takes its time: a quick command needs no words.
        timer = Timer(0.0 if self._err.isatty() else QUIET_SECONDS, self.note, [text])
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _finish(self) -> None:
        if self._round is not None:
            self._write(self._flow.rest() + "\n")
        self._round = None

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


class JsonScreen(PlainScreen):
    """One JSON object for each answer."""

    _user = ""

    def begin(self, rounds: Sequence[int], user: str) -> None:
        self._user = user

    def part(self, round: int, text: str) -> None:
        pass

    def end(self, answers: Sequence[ChatAnswer]) -> None:
        for answer in answers:
            row = {"event": "Answer", "round": answer.round, "message": self._user, "answer": answer.text}
            row |= {"finish": answer.finish, "tokens": answer.tokens, "left_out": answer.left_out}
            self._write(json.dumps(row) + "\n")


def remarks(answers: Sequence[ChatAnswer]) -> list[str]:
    """Lines about the answers that the reader should know."""
    lines = []
    if gone := max((answer.left_out for answer in answers), default=0):
        turns = "the oldest turn" if gone == 1 else f"the {gone} oldest turns"
        lines.append(f"(The context is full: {turns} left out.)")
    for answer in answers:
        if answer.finish in ("length", "stopped"):
            name = f"{round_name(answer.round)}: " if len(answers) > 1 else ""
            how = "stopped" if answer.finish == "stopped" else "cut at the token limit, see --max-tokens"
            lines.append(f"({name}{how})")
    lines += ["(An empty answer.)" for answer in answers if not answer.text.strip() and answer.finish != "stopped"]
    return lines


def converse(
    session: Session, client: ChatClient, screen: ChatScreen, read: Callable[[], str], resolve: Callable[[str], int]
) -> Session:
    """Chat until ``/quit`` or until `read` raises EOFError (Ctrl-D). An error is shown, and the chat goes on."""
    while True:
        try:
            line = chat_session.read(read())
            if isinstance(line, str):
                if line:
                    with client.stoppable():
                        session = ask(session, line, client, screen)
            elif line.name == "quit":
                return session
            elif line.name == "retry":
                before, user = session.again()
                with client.stoppable():
                    session = ask(before, user, client, screen)
            elif line.name == "save":
                screen.note(save(session, line.argument))
            else:
                changed, note = chat_session.obey(session, line, resolve)
                if changed.system != session.system:
                    # Whether the template has a place for it, the model knows.
                    client.open(changed.system)
                session = changed
                screen.note(note)
        except EOFError:
            screen.note("")
            return session
        except KeyboardInterrupt:
            screen.note("\nCtrl-D leaves.")
        except MinisheepError as error:
            screen.note(str(error))


def pipe(session: Session, client: ChatClient, screen: ChatScreen, lines: Iterable[str]) -> Session:
    """Send each line that is not blank as a message, commands too. Raises `errors.MinisheepError`."""
    for line in lines:
        if line.strip():
            session = ask(session, line.strip(), client, screen)
    return session


def ask(session: Session, user: str, client: ChatClient, screen: ChatScreen) -> Session:
    """Have each model of the session answer. Raises `errors.MinisheepError`; the session then stays as it was."""
    answers: list[ChatAnswer] = []
    screen.begin(session.rounds, user)
    try:
        for round in session.rounds:
            screen.part(round, "")
            answers.append(client.answer(session.job(round, user), partial(screen.part, round)))
            if answers[-1].finish == "stopped":
                break
    finally:
        screen.end(answers)
    return session.after(user, answers)


def save(session: Session, name: str) -> str:
    """Write the conversation to a new file; returns the line to show. Raises `errors.UsageError`. Never overwrites."""
    if not name:
        raise UsageError("/save needs a file name.", "For example: /save talk.jsonl")
    if not session.turns:
        raise UsageError("There is nothing to save yet.")
    path = Path(os.path.expanduser(name))
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(session.saved())
    except FileExistsError:
        raise UsageError(f"{path} exists already, so nothing was written.", "Give another name.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{path} cannot be written: {reason}.", "Give another name.") from None
    return f"Saved to {json.dumps(str(path), ensure_ascii=False)}."


def sides(
    run: Run, round: str | None, *, base: bool, compare: bool, on_progress: Callable[[str], None] = lambda text: None
) -> tuple[int, ...]:
    """The rounds that answer: one (0: the base), or the base and a round to compare.

    The default is ``best``; `on_progress` gets a line where that is the base. Raises `errors.UsageError`.
    """
    if base and (round or compare):
        raise UsageError("--base cannot be combined with --round or --compare.", "Leave out --base or the others.")
    if base:
        return (0,)
    trained = run.trained
    chosen = resolve_round(run, round or "best", trained, on_progress=on_progress)
    if not compare:
        return (chosen,)
    if chosen == 0 and round is None and trained:
        # No round was better beyond chance; the last one still shows what training did.
        chosen = trained[-1]
    if chosen == 0:
        raise UsageError("--compare needs a round beside the base.", "Choose one with --round N.")
    return (0, chosen)
