"""``minisheep serve``: a run's model behind an OpenAI-compatible address."""

from __future__ import annotations

import errno
import importlib.util
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click

from minisheep import api
from minisheep.errors import Stopped, UsageError
from minisheep.loop import Phase
from minisheep.machine.installing import install_extra
from minisheep.machine.worker import WorkerProcess, on_stop
from minisheep.rules.plain_text import one_line, round_name, sanitise
from minisheep.run.events import EngineReady, Event, Found, Note
from minisheep.terminal import words

WORKER = "minisheep.serve.worker:do"
NEEDED = ("starlette", "uvicorn")
NAME = "minisheep"
"""What the served model is called: the same for every run and round, so that clients need no change."""
NEXT_PORTS = 20
"""Ports after a taken one that are tried, to name a free one."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--round", "round_", metavar="N", help="a round's number, best, last or base (or 0) [best]")
@click.option("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen [127.0.0.1: this machine alone]")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, metavar="N", help="0: any free one [8080]")
@click.option("--slots", type=click.IntRange(1), metavar="N", help="answers at once [8, or as many as fit]")
@click.option("--queue", type=click.IntRange(0), default=32, metavar="N", help="answers that may wait for a slot [32]")
@click.option(
    "--api-key", envvar="MINISHEEP_API_KEY", default="", metavar="KEY",
    help="ask clients for this key; better in the variable MINISHEEP_API_KEY, since others see a command line",
)  # fmt: skip
def serve(run: str, round_: str | None, host: str, port: int, **given: Any) -> None:
    """Serve RUN's best round, or another one, to programs that speak OpenAI's API.

    Chat completions, completions and models, with streams; several answers are computed at once. The adapter is
    hot-loaded onto the base; nothing is merged, and nothing in RUN is changed. Ctrl-C stops it.

    \b
    minisheep serve runs/mine
    minisheep serve runs/mine --round base --port 8081
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"minisheep serve needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not"
            " installed.", f"Type `{install_extra('serve')}`.",
        )  # fmt: skip
    opened = api.load_run(run)
    told: list[str] = []
    number = api.resolve_round(
        opened, "base" if round_ == "0" else round_ or "best", opened.trained, on_progress=told.append
    )
    damaged = {found.key: found for found in opened.damage}
    if (key := Phase(number, "train").key) in damaged:
        raise damaged[key].error()
    others = [trained for trained in opened.trained if Phase(trained, "train").key not in damaged]
    names = {NAME: number, "base": 0, **{f"round-{trained}": trained for trained in others}}
    with listening(host, port) as listener:
        for line in told or [_why(opened, number, round_)]:
            _say(line)
        if (phase := opened.next_phase) is not None:
            later = "rounds that end later are served after a restart of this server"
            _say(f"The run is not finished (next: {words.where(phase.round, phase.name)}); {later}.")
        if host not in LOOPBACK and not given["api_key"]:
            _say(f"Warning: whoever reaches {host} can use the model. --api-key KEY asks them for a key.")
        address = f"http://{_shown(host)}:{listener.getsockname()[1]}"
        _say(f"Loading {opened.settings.model} ...")
        job = {"phase": "serve", "run": str(opened.path), "round": number, "models": names, "queue": given["queue"]}
        job |= {"slots": given["slots"] or 0, "key": given["api_key"], "socket": listener.fileno()}
        job["hosts"] = LOOPBACK if host in LOOPBACK and not given["api_key"] else ()
        with WorkerProcess(WORKER, handle=listener.fileno()) as worker, _stopping(worker):
            # The worker has its own copy: the port is free as soon as that is gone.
            listener.close()
            worker.do(job, "The server", _Teller(address, list(names), keyed=bool(given["api_key"])))
    _say("Stopped.")


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises `errors.UsageError` where that is not possible, naming another port."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"--host {host} is no address of this machine: {reason}.", "Try 127.0.0.1.") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            why = "is taken by another program" if error.errno == errno.EADDRINUSE else "is not yours to use"
            raise UsageError(f"Port {port} of {host} {why}.", f"Try --port {_free(host, port)}.") from None
        raise UsageError(f"--host {host} cannot be listened on: {error.strerror}.", "Try 127.0.0.1.") from None
    return listener


def _free(host: str, port: int) -> int:
    for other in range(max(port, 1024) + 1, min(max(port, 1024) + NEXT_PORTS, 65535)):
        with suppress(OSError), socket.create_server((host, other)):
            return other
    return 0


def _why(run: api.Run, number: int, asked: str | None) -> str:
    name = round_name(number, "the base model")
    if asked not in (None, "best"):
        return f"Serving {name} of {run.path}, as asked."
    if run.best is None:
        return f"Serving {name} of {run.path}: the newest, since none has been measured yet."
    return f"Serving {name} of {run.path}: the best, by the run's own evaluation."


def _shown(host: str) -> str:
    """The address to type on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"[{host}]" if ":" in host else host


def _say(text: str) -> None:
    click.echo(sanitise(text), err=True)


@contextmanager
def _stopping(worker: WorkerProcess) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM lets what runs end within seconds; the second ends it at once."""
    asked: list[int] = []

    def stop(number: int) -> None:
        if asked:
            worker.kill()
            raise Stopped("Stopped at once.")
        asked.append(number)
        worker.send("stop")
        _say("Stopping; answers in hand have three seconds. Ctrl-C again stops now.")

    with on_stop(stop):
        yield


class _Teller:
    """Shows what the server reports: how to use it, once it can be used, and a line for each request."""

    def __init__(self, address: str, models: list[str], *, keyed: bool) -> None:
        self._address, self._models, self._keyed = address, models, keyed

    def __call__(self, event: Event) -> None:
        if isinstance(event, Found) and event.what == "listening":
            click.echo(instructions(self._address, self._models, event.facts, keyed=self._keyed))
        elif isinstance(event, Found):
            _say(f"{time.strftime('%H:%M:%S')}  {request_line(event.facts)}")
        elif isinstance(event, Note | EngineReady) and (text := words.line(event)):
            _say(text)


def request_line(facts: dict[str, Any]) -> str:
    """A request in one line: its path, its model, tokens in and out, seconds; or what was wrong with it."""
    begin = f"{facts['path'].removeprefix('/v1/')}  {facts.get('model', '')}".rstrip()
    if "error" in facts:
        return one_line(f"{begin}  {facts['status']}: {facts['error']}")
    seconds, tokens = facts["seconds"], facts["tokens"]
    end = "" if facts["status"] == 200 else "  cut: the client went away" if facts["status"] == 499 else "  failed"
    return one_line(f"{begin}  {facts['prompt_tokens']} -> {tokens} tokens  {seconds:.1f} s{end}")


def instructions(address: str, models: list[str], facts: dict[str, Any], *, keyed: bool) -> str:
    question = {"model": models[0], "messages": [{"role": "user", "content": "Why is the sky blue?"}]}
    header = ' -H "Authorization: Bearer $MINISHEEP_API_KEY"' if keyed else ""
    key = 'os.environ["MINISHEEP_API_KEY"]' if keyed else '"none"'
    return f"""
{address}/v1   model "{models[0]}" (also {", ".join(f'"{name}"' for name in models[1:])})
{facts["slots"]} answers at once, {facts["context"]:,} tokens each with its question. Ctrl-C stops.

  curl {address}/v1/chat/completions{header} -H "Content-Type: application/json" \\
    -d '{json.dumps(question)}'

  {"import os; " if keyed else ""}from openai import OpenAI
  client = OpenAI(base_url="{address}/v1", api_key={key})
  question = [{{"role": "user", "content": "Why is the sky blue?"}}]
  print(client.chat.completions.create(model="{models[0]}", messages=question).choices[0].message.content)
"""
