"""``minisheep versus``: two models of a run before an outside judge."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import click

from minisheep import api
from minisheep.errors import UsageError
from minisheep.run.events import Note
from minisheep.terminal import words

PROGRESS_SECONDS = 5.0
"""Between two lines of progress."""


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--judge-url", metavar="URL", help="an OpenAI-compatible API, such as http://localhost:8080/v1")
@click.option("--judge-model-name", metavar="NAME", help="the judge, as that API calls it")
@click.option("--judge-key-env", metavar="VAR", help="environment variable with the API's key; never stored or shown")
@click.option(
    "--judge-max-tokens", type=click.IntRange(1), default=1024, metavar="N", help="tokens of one reply [1024]"
)
@click.option("--judge-timeout", type=click.FloatRange(1), default=120.0, metavar="S", help="seconds for a reply [120]")
@click.option("--at-once", type=click.IntRange(1, 64), default=4, metavar="N", help="questions sent at once [4]")
@click.option("--mode", type=click.Choice(("pair", "grade")), default="pair", help="the better of two [pair], or 1-10")
@click.option("--round", "round_", default="last", metavar="N", help="a round's number, best, last or base [last]")
@click.option("--against", default="base", metavar="N", help="the other model, named likewise [base]")
@click.option("--prompts", metavar="FILE", help="ask both models these, not the run's held-out tasks")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="only N prompts, spread over all")
@click.option("--json", "as_json", is_flag=True, help="one JSON object and nothing else")
def versus(run: str, round_: str, against: str, prompts: str | None, limit: int | None, **given: Any) -> None:
    """Have an outside model judge what the training of RUN did to the answers.

    pair asks which answer is better, in both orders, as AlpacaEval does; if the two orders disagree it is a tie. grade
    asks for a grade from 1 to 10 of each answer, as MT-Bench does (single turn). The answers are those that the
    evaluation stored. Each judgement is stored in RUN/judged at once; the same command goes on where it stopped.

    \b
    minisheep versus runs/mine --judge-url URL --judge-model-name qwen3-32b
    """
    from minisheep.run.versus_lines import lines
    from minisheep.versus.contests import choose_rounds, spread, stored_contests
    from minisheep.versus.outside_judge import Match
    from minisheep.versus.outside_judge import versus as judge

    # Set here, since a shell starts background processes with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    opened = api.load_run(run)
    endpoint = _endpoint(given)
    ours, theirs = choose_rounds(opened, round_, against, _Progress(given["as_json"]).say)
    if prompts:
        from minisheep.versus.worker import answered_contests, read_requests

        requests = spread(read_requests(prompts), limit or 0)
        contests = answered_contests(opened.path, requests, ours, theirs, _Progress(given["as_json"]).event)
    else:
        contests = spread(stored_contests(opened, ours, theirs), limit or 0)
    match = Match(opened.path, ours, theirs, given["mode"], Path(prompts).name if prompts else "")
    summary = judge(match, contests, endpoint, given["at_once"], _Progress(given["as_json"]).judgements)
    if given["as_json"]:
        click.echo(json.dumps({"event": "Judged", **summary}))
        return
    for line in lines(summary):
        click.echo(line)


def _endpoint(given: dict[str, Any]) -> Any:
    """Raises `errors.UsageError` without a judge, or where the named variable holds no key."""
    from minisheep.versus.outside_judge import Endpoint

    url, name, variable = given["judge_url"], given["judge_model_name"], given["judge_key_env"]
    if not url or not name:
        missing = "--judge-url" if not url else "--judge-model-name"
        raise UsageError(
            f"Without {missing} there is no judge, so nothing is judged.",
            "Give --judge-url http://localhost:8080/v1 --judge-model-name NAME, of any OpenAI-compatible server.",
        )
    key = os.environ.get(variable, "").strip() if variable else ""
    if variable and not key:
        raise UsageError(f"The environment variable {variable} holds no key.", "Nothing was sent.")
    endpoint = Endpoint(url, name, key, timeout=given["judge_timeout"], max_tokens=given["judge_max_tokens"])
    if endpoint.post.exposes_key and not given["as_json"]:
        click.echo(f"WARNING: the key goes unencrypted to {endpoint.post.name}.", err=True)
    return endpoint


class _Progress:
    """A line on stderr now and then; none for ``--json``."""

    def __init__(self, silent: bool) -> None:
        self._silent = silent
        self._last = time.monotonic()

    def judgements(self, done: int, total: int) -> None:
        self.say(f"{done} of {total} judgements", always=False)

    def event(self, event: Any) -> None:
        text = words.line(event)
        if text:
            self.say(text, always=isinstance(event, Note))

    def say(self, text: str, always: bool = True) -> None:
        now = time.monotonic()
        if not self._silent and (always or now - self._last >= PROGRESS_SECONDS):
            self._last = now
            click.echo(text, err=True)
