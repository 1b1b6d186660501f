"""``minisheep browse``: page through what a run made."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Sequence
from typing import Any

import click

from minisheep import api
from minisheep.data.seed_tasks import SeedTask, load_seeds
from minisheep.errors import CorruptRunError, SeedFileError
from minisheep.rules.plain_text import one_line
from minisheep.run.reading import Reader, Round, RoundRecords
from minisheep.terminal import record_browser
from minisheep.terminal.views import draws


@click.command()
@click.argument("run", metavar="RUN")
@click.argument("id_", required=False, metavar="[ID]")
@click.option("--round", "rounds", multiple=True, metavar="N", help="only this round: a number, best or last")
@click.option("--kept", is_flag=True, help="what became training data")
@click.option("--rejected", is_flag=True, help="what was dropped")
@click.option("--rule", "rules", multiple=True, metavar="NAME", help="dropped by this rule, e.g. low_score")
@click.option("--score-min", type=float, metavar="X", help="with this score or a higher one")
@click.option("--score-max", type=float, metavar="X", help="with this score or a lower one")
@click.option("--text", default="", metavar="TEXT", help="with this text in instruction, input or answer, in any case")
@click.option(
    "--sort",
    "order",
    type=click.Choice(("made", "score", "similarity", "words")),
    default="made",
    help="highest first; made: as the model wrote them [made]",
)
@click.option("--reverse", is_flag=True, help="in the opposite order")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="the first N")
@click.option("--plain", is_flag=True, help="one line a record, no pager")
@click.option("--json", "as_json", is_flag=True, help="one JSON object a record, and nothing else on stdout")
def browse(run: str, id_: str | None, plain: bool, as_json: bool, **given: Any) -> None:
    """Page through what RUN made: each answer with its instruction, its score, and why it was kept or dropped.

    ID, or its beginning, shows the whole history of one record of any kind: the instruction, the answer, the verdict
    with its raw numbers, the decision; then the draft and the seed tasks in its prompt. Without a terminal each
    record is one line, and what the rules in them mean goes to stderr.

    \b
    minisheep browse runs/mine --round 2 --kept --sort score
    minisheep browse runs/mine --rule too_similar --limit 20
    minisheep browse runs/mine 4f2a
    """
    opened = api.load_run(run)
    for found in opened.damage:
        _warn(f"DAMAGED: {found}. {found.fix}")
    screen = sys.stdin.isatty() and draws(plain=plain or as_json)
    if id_ is not None:
        _show_one(opened, id_, as_json=as_json, screen=screen)
    else:
        _show_many(opened, as_json=as_json, screen=screen, **given)


def _show_one(run: api.Run, prefix: str, *, as_json: bool, screen: bool) -> None:
    from rich.console import Console

    from minisheep.terminal.pager import history_text, sections

    round, name = record_browser.find(run.rounds, prefix)
    history = record_browser.history(_records(round), _seeds(run), name)
    if history.empty:
        raise CorruptRunError(f"{round.folder.path} holds {name}, but damaged.", "Restore that file from a copy.")
    if as_json:
        click.echo(json.dumps(history.to_dict()))
    elif screen:
        console = Console(highlight=False, markup=False, emoji=False)
        console.print(*history_text(history, console, console.width), sep="\n")
    else:
        for heading, body in sections(history):
            click.echo(heading)
            for line in body.split("\n") if body else []:
                click.echo(f"  {line}")


def _show_many(
    run: api.Run, *, rounds: tuple[str, ...], kept: bool, rejected: bool, rules: tuple[str, ...], order: str,
    reverse: bool, limit: int | None, as_json: bool, screen: bool, **sought: Any,
) -> None:  # fmt: skip
    from minisheep.terminal import pager

    items = _items(run, rounds)
    record_browser.check_rules(rules, items)
    fates = ((record_browser.KEPT, kept), (record_browser.REJECTED, rejected))
    wanted = record_browser.RecordFilter(tuple(fate for fate, asked in fates if asked), rules, **sought)
    chosen = record_browser.select(items, wanted, order=order, reverse=reverse, limit=limit or 0)
    if not chosen:
        click.echo(f"No record matches, of {len(items)}.", err=True)
    elif as_json:
        for item in chosen:
            click.echo(json.dumps(pager.item_json(item)))
    elif screen:
        _page(run, chosen)
    else:
        for item in chosen:
            click.echo(pager.line(item))
        for text in record_browser.legend(chosen):
            click.echo(text, err=True)


def _items(run: api.Run, asked: Sequence[str]) -> list[record_browser.RecordFate]:
    """The items of the rounds in `asked`, or of all. Raises `errors.UsageError` for a round that is not there."""
    rounds = {round.number: round for round in run.rounds}
    numbers = {api.resolve_round(run, one, list(rounds), "begun") for one in asked}
    return [item for n in sorted(numbers or rounds) for item in record_browser.items(_records(rounds[n]))]


def _records(round: Round) -> RoundRecords:
    """The undamaged records of a round, with a warning for what is damaged."""
    reader = Reader(round.folder.path.parent)
    records = round.whole(reader)
    for note in reader.notes:
        _warn(note)
    return records


def _page(run: api.Run, chosen: Sequence[record_browser.RecordFate]) -> None:
    from rich.console import Console

    from minisheep.terminal.pager import show

    rounds = {round.number: round for round in run.rounds}
    seeds = _seeds(run)

    @functools.cache
    def records(number: int) -> RoundRecords:
        return rounds[number].whole(Reader(run.path))

    def look_up(item: record_browser.RecordFate) -> record_browser.History:
        return record_browser.history(records(item.round), seeds, item.id)

    show(chosen, str(run.path), look_up, click.getchar, Console(highlight=False, markup=False, emoji=False))


def _seeds(run: api.Run) -> list[SeedTask]:
    """The run's seed tasks; none where their file is gone: the drafts have their ids in any case."""
    try:
        return load_seeds(run.settings.seeds, run.settings.language)
    except SeedFileError as error:
        _warn(str(error))
        return []


def _warn(text: str) -> None:
    click.echo(f"WARNING: {one_line(text)}", err=True)
