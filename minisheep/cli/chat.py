"""``minisheep chat``: talk to a run's models."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import click

from minisheep import api
from minisheep.chat import view
from minisheep.chat.keyboard import HINT, Keyboard
from minisheep.chat.session import Session
from minisheep.chat.worker import ChatClient
from minisheep.config import Settings
from minisheep.errors import UsageError
from minisheep.rules.plain_text import round_name
from minisheep.run.events import Event, Note
from minisheep.terminal import words
from minisheep.terminal.views import draws

DEFAULT_TOKENS = 512


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--round", "round_", metavar="N", help="a round's number, best, last or base [best]")
@click.option("--base", is_flag=True, help="the base model, without any adapter")
@click.option("--compare", is_flag=True, help="base and round side by side")
@click.option("--system", default="", metavar="TEXT", help="a system message, if the template has a place for one")
@click.option(
    "--temperature", type=click.FloatRange(0, 5), metavar="X", help="0: the likeliest token [as the run answered]"
)
@click.option("--max-tokens", type=click.IntRange(1), metavar="N", help="new tokens of an answer [512]")
@click.option("--once", metavar="TEXT", help="ask this, show the answer and exit")
@click.option("--plain", is_flag=True, help="plain text: no colours, no Markdown")
@click.option("--json", "as_json", is_flag=True, help="one JSON object an answer, and nothing else on stdout")
def chat(run: str, round_: str | None, base: bool, compare: bool, once: str | None, **given: Any) -> None:
    """Talk to a model of RUN in the run's own template: its best round, another one, or its base.

    The adapter is hot-loaded onto the base; nothing is merged, and nothing in RUN is changed. Enter sends a message,
    Alt-Enter begins a new line, and pasted lines are one message. Ctrl-C stops an answer, Ctrl-D leaves, /help lists
    the commands. Without a terminal each line of stdin is a message, and answers go to stdout.

    \b
    minisheep chat runs/mine
    minisheep chat runs/mine --compare --once "Why is the sky blue?"
    minisheep chat runs/mine --temperature 0 < questions.txt > answers.txt
    """
    opened = api.load_run(run)
    screen = _screen(plain=given["plain"], as_json=given["as_json"])
    rounds = view.sides(opened, round_, base=base, compare=compare, on_progress=screen.note)
    opened.check_whole("train", rounds)
    session = _session(opened.settings, rounds, given)
    person = once is None and sys.stdin.isatty() and sys.stdout.isatty() and not given["as_json"]

    def resolve(asked: str) -> int:
        number = api.resolve_round(opened, asked, opened.trained, flag="/round", on_progress=screen.note)
        opened.check_whole("train", [number])
        return number

    with ChatClient(opened.path, _Listener(screen, quiet=not person)) as client:
        who = " and ".join(map(round_name, session.rounds))
        with screen.busy(f"Loading {opened.settings.model}, {who} ..."):
            client.open(session.system)
        if once is not None:
            view.pipe(session, client, screen, [once])
        elif person:
            screen.note(f"{opened.settings.model}, {who}. {HINT} /help lists the commands; Ctrl-D leaves.\n")
            view.converse(session, client, screen, Keyboard(), resolve)
        else:
            view.pipe(session, client, screen, _lines())


def _session(settings: Settings, rounds: tuple[int, ...], given: dict[str, Any]) -> Session:
    """Raises `errors.UsageError` where the answer would not fit the context."""
    most, temperature = given["max_tokens"], given["temperature"]
    if most is not None and most >= settings.context:
        raise UsageError(
            f"--max-tokens {most} does not fit the run's context of {settings.context} tokens.", "Give fewer."
        )
    return Session(
        rounds=rounds,
        temperature=settings.answer_temperature if temperature is None else temperature,
        max_tokens=most or min(DEFAULT_TOKENS, settings.context // 2),
        system=given["system"],
    )


def _screen(*, plain: bool, as_json: bool) -> view.ChatScreen:
    if as_json:
        return view.JsonScreen(sys.stdout, sys.stderr)
    return view.TerminalScreen() if draws(plain=plain) else view.PlainScreen(sys.stdout, sys.stderr)


class _Listener:
    """Shows events beside answers: notes always, the rest to a person only."""

    def __init__(self, screen: view.ChatScreen, *, quiet: bool) -> None:
        self._screen, self._quiet = screen, quiet

    def __call__(self, event: Event) -> None:
        text = words.line(event)
        if text and (not self._quiet or isinstance(event, Note)):
            self._screen.note(text)


def _lines() -> Iterator[str]:
    """The lines of stdin as they come; bytes that are not UTF-8 become U+FFFD."""
    for line in sys.stdin.buffer:
        yield line.decode("utf-8", "replace")
