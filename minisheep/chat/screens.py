"""The three ways to see answers: rendered on a terminal, plain text, JSON lines. A pipe gets answers alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import IO, Protocol

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from minisheep.chat.render import Flow, Tail, side_by_side
from minisheep.chat.session import Answer, model_name
from minisheep.ui.sanitise import sanitise

REFRESH = 8
"""Times a second that a growing answer is drawn."""


class Screen(Protocol):
    def begin(self, rounds: Sequence[int], user: str) -> None:
        """A message was sent to the models of `rounds`."""

    def part(self, round: int, text: str) -> None:
        """More of an answer, the first time nothing; each is told to its end before the next begins."""

    def end(self, answers: Sequence[Answer]) -> None:
        """All answers to it; fewer than were asked where they were stopped."""

    def note(self, text: str) -> None:
        """A line that is no answer."""


class TerminalScreen:
    """Answers grow as Markdown, two of them in columns."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, markup=False, emoji=False)
        self._texts: dict[int, str] = {}
        self._live: Live | None = None

    def begin(self, rounds: Sequence[int], user: str) -> None:
        self._texts = dict.fromkeys(rounds, "")
        self._live = Live(
            console=self._console, get_renderable=lambda: Tail(self._drawn()), refresh_per_second=REFRESH,
            transient=True, redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip
        self._live.start()

    def part(self, round: int, text: str) -> None:
        self._texts[round] += text

    def end(self, answers: Sequence[Answer]) -> None:
        self._texts |= {answer.round: answer.text for answer in answers}
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._console.print(self._drawn())
        for text in remarks(answers):
            self.note(text)
        self._console.print()

    def note(self, text: str) -> None:
        self._console.print(Text(sanitise(text), style="dim"))

    def _drawn(self) -> RenderableType:
        # A copy: what grows is drawn by a thread of its own.
        texts = dict(self._texts)
        return side_by_side([model_name(round) for round in texts], list(texts.values()))


class PlainScreen:
    """Answers on stdout as they come, and nothing else there; with two models, each under its name."""

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
            self._write(f"{model_name(round)}:\n" if self._several else "")
        self._write(self._flow.feed(text))

    def end(self, answers: Sequence[Answer]) -> None:
        self._finish()
        for text in remarks(answers):
            self.note(text)

    def note(self, text: str) -> None:
        print(sanitise(text), file=self._err, flush=True)

    def _finish(self) -> None:
        if self._round is not None:
            self._write(self._flow.rest() + "\n")
        self._round = None

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


class JsonScreen:
    """One object an answer."""

    def __init__(self, out: IO[str], err: IO[str]) -> None:
        self._out, self._err = out, err
        self._user = ""

    def begin(self, rounds: Sequence[int], user: str) -> None:
        self._user = user

    def part(self, round: int, text: str) -> None:
        pass

    def end(self, answers: Sequence[Answer]) -> None:
        for answer in answers:
            told = {"event": "Answer", "round": answer.round, "message": self._user, "answer": answer.text}
            told |= {"finish": answer.finish, "tokens": answer.tokens, "left_out": answer.left_out}
            self._out.write(json.dumps(told) + "\n")
        self._out.flush()

    def note(self, text: str) -> None:
        print(sanitise(text), file=self._err, flush=True)


def remarks(answers: Sequence[Answer]) -> list[str]:
    """What a reader of the answers should know about them."""
    said = []
    if gone := max((answer.left_out for answer in answers), default=0):
        turns = "the oldest turn" if gone == 1 else f"the {gone} oldest turns"
        said.append(f"(The context is full: without {turns}.)")
    said += [_cut(answer, len(answers) > 1) for answer in answers if answer.finish in ("length", "stopped")]
    said += ["(An empty answer.)" for answer in answers if not answer.text.strip() and answer.finish != "stopped"]
    return said


def _cut(answer: Answer, several: bool) -> str:
    who = f"{model_name(answer.round)}: " if several else ""
    how = "stopped" if answer.finish == "stopped" else "cut at the limit of tokens, see --max-tokens"
    return f"({who}{how})"
