"""``minisheep browse``: page through what a run made."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from minisheep.api import Run
    from minisheep.rules.seed_tasks import SeedTask
    from minisheep.run.reading import Round, RoundRecords
    from minisheep.terminal.record_browser import History, RecordFate


@click.command()
@click.argument("run", metavar="RUN")
@click.argument("id_", required=False, metavar="[ID]")
@click.option("--round", "rounds", multiple=True, metavar="N", help="of this round only: a number, best or last")
@click.option("--kept", is_flag=True, help="what became training data")
@click.option("--rejected", is_flag=True, help="what was dropped")
@click.option("--rule", "rules", multiple=True, metavar="NAME", help="dropped by this rule, e.g. low_score")
@click.option("--score-min", type=float, metavar="X", help="with this score or a higher one")
@click.option("--score-max", type=float, metavar="X", help="with this score or a lower one")
@click.option("--text", default="", metavar="TEXT", help="with this in instruction, input or answer, in any case")
@click.option(
    "--sort", "order", type=click.Choice(("made", "score", "similarity", "words")), default="made",
    help="highest first; made: as the model wrote them [made]",
)  # fmt: skip
@click.option("--reverse", is_flag=True, help="the other way round")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="the first N")
@click.option("--plain", is_flag=True, help="one line a record, no pager")
@click.option("--json", "as_json", is_flag=True, help="one JSON object a record, and nothing else on stdout")
def browse(run: str, id_: str | None, plain: bool, as_json: bool, **given: Any) -> None:
    """Page through what RUN made: each answer with its instruction, its score, and why it was kept or dropped.

    ID, or its beginning, shows the whole history of one record of whatever kind: the seed tasks that were shown, the
    draft, the instruction, the answer, the verdict with its raw numbers, the decision. Without a terminal each record
    is one line.

    \b
    minisheep browse runs/mine --round 2 --kept --sort score
    minisheep browse runs/mine --rule too_similar --limit 20
    minisheep browse runs/mine 4f2a
    """
    from minisheep import api

    opened = api.load_run(run)
    dumb = os.environ.get("TERM") in ("dumb", "") or "NO_COLOR" in os.environ
    screen = sys.stdin.isatty() and sys.stdout.isatty() and not (plain or as_json or dumb)
    if id_ is not None:
        _show_one(opened, id_, as_json=as_json, screen=screen)
    else:
        _show_many(opened, as_json=as_json, screen=screen, **given)


def _show_one(run: Run, prefix: str, *, as_json: bool, screen: bool) -> None:
    from minisheep.terminal import pager
    from minisheep.terminal.record_browser import find

    found, name = find(run.rounds, prefix)
    told = _history(found, _seeds(run), name)
    if as_json:
        click.echo(json.dumps(told.to_dict()))
    elif screen:
        from rich.console import Console

        from minisheep.terminal.pager import history_text

        console = Console(highlight=False, markup=False, emoji=False)
        console.print(*history_text(told, console, console.width), sep="\n")
    else:
        for heading, body in pager.sections(told):
            click.echo(heading)
            for line in body.split("\n") if body else []:
                click.echo(f"  {line}")


def _show_many(
    run: Run,
    *,
    rounds: tuple[str, ...],
    kept: bool,
    rejected: bool,
    rules: tuple[str, ...],
    order: str,
    reverse: bool,
    limit: int | None,
    as_json: bool,
    screen: bool,
    **sought: Any,
) -> None:
    from minisheep.terminal import pager
    from minisheep.terminal.record_browser import KEPT, REJECTED, RecordFilter, check_rules, select

    items = _items(run, rounds)
    check_rules(rules, items)
    fates = tuple(fate for fate, wanted in ((KEPT, kept), (REJECTED, rejected)) if wanted)
    chosen = select(items, RecordFilter(fates, rules, **sought), order=order, reverse=reverse, limit=limit or 0)
    if not chosen:
        click.echo(f"None of {len(items)} records is like that.", err=True)
    elif as_json:
        for item in chosen:
            click.echo(json.dumps(pager.item_json(item)))
    elif screen:
        _page(run, chosen)
    else:
        for item in chosen:
            click.echo(pager.line(item))


def _items(run: Run, asked: Sequence[str]) -> list[RecordFate]:
    """Everything in the rounds asked for, or in all. Raises `errors.UsageError` for a round that is not there."""
    from minisheep.api import resolve_round
    from minisheep.terminal.record_browser import items

    there = {found.number: found for found in run.rounds}
    numbers = {resolve_round(run, one, list(there), "begun") for one in asked}
    return [item for number in sorted(numbers or there) for item in items(_records(there[number]))]


def _records(found: Round) -> RoundRecords:
    """The records of a round as far as they are whole; what is not is told."""
    from minisheep.run.reading import Reader

    reader = Reader(found.folder.path.parent)
    records = found.whole(reader)
    for note in reader.notes:
        _warn(note)
    return records


def _page(run: Run, chosen: Sequence[RecordFate]) -> None:
    from functools import cache

    from rich.console import Console

    from minisheep.run.reading import Reader
    from minisheep.terminal.pager import show
    from minisheep.terminal.record_browser import history

    there = {found.number: found for found in run.rounds}
    seeds = _seeds(run)

    @cache
    def records(number: int) -> RoundRecords:
        return there[number].whole(Reader(run.path))

    def look_up(item: RecordFate) -> History:
        return history(records(item.round), seeds, item.id)

    show(chosen, str(run.path), look_up, click.getchar, Console(highlight=False, markup=False, emoji=False))


def _history(found: Round, seeds: Sequence[SeedTask], name: str) -> History:
    from minisheep.errors import CorruptRunError
    from minisheep.terminal.record_browser import history

    told = history(_records(found), seeds, name)
    if told.empty:
        raise CorruptRunError(f"{found.folder.path} holds {name}, but damaged.", "Restore that file from a copy.")
    return told


def _seeds(run: Run) -> list[SeedTask]:
    """The run's seed tasks; none where their file is gone: their ids are in the drafts all the same."""
    from minisheep.errors import SeedFileError
    from minisheep.rules.seed_tasks import load_seeds

    try:
        return load_seeds(run.settings.seeds)
    except SeedFileError as error:
        _warn(str(error))
        return []


def _warn(text: str) -> None:
    from minisheep.rules.plain_text import one_line

    click.echo(f"WARNING: {one_line(text)}", err=True)
