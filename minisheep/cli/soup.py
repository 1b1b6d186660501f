"""``minisheep soup``: several rounds' adapters as one."""

from __future__ import annotations

import json
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from minisheep.cli.options import view_options
from minisheep.rules.plain_text import one_line


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--rounds", required=True, metavar="N,N,...", help="the rounds to join, by their numbers")
@click.option("--weights", metavar="X,X,...", help="what each adapter is multiplied by [equal, with the sum 1]")
@click.option("--out", metavar="DIR", help="the new folder [RUN/soup-1+2]")
@view_options
def soup(run: str, rounds: str, weights: str | None, out: str | None, plain: bool, as_json: bool) -> None:
    """Join the adapters of several rounds of RUN to one, exactly, and measure it like a round.

    The result is the weighted sum of what the adapters do, as one adapter whose rank is the sum of theirs. It is
    measured on the run's own tasks and compared with the base and with the best round, item by item. RUN itself is not
    changed. Give the same command again to go on, or to see the result again.

    \b
    minisheep soup runs/mine --rounds 1,2
    minisheep soup runs/mine --rounds 1,2,3 --weights 0.5,0.3,0.2
    """
    from minisheep import soup as soups
    from minisheep.terminal.views import JsonView, LiveView, choose_view

    chosen = soups.choose(run, rounds, weights, out)
    view = choose_view(plain=plain, as_json=as_json)
    try:
        made = soups.make(chosen, view, view.tick)
    finally:
        view.close()
    said = soups.sentence(chosen, made["decisions"])
    if isinstance(view, JsonView):
        click.echo(json.dumps({"event": "Soup", "folder": str(chosen.out), "text": said, **made}))
        return
    click.echo(one_line(said))
    rivals = [m for m in chosen.run.metrics if m["round"] in (0, chosen.run.best, *chosen.rounds)]
    console = Console(highlight=False) if isinstance(view, LiveView) else Console(width=100, no_color=True)
    console.print(_table(rivals, made))
    click.echo(one_line(f"Use: llama-cli -m {chosen.gguf} --lora {chosen.folder.adapter_gguf}"))
    click.echo(one_line(f"     peft.PeftModel.from_pretrained(base, {str(chosen.folder.adapter)!r})"))


def _table(rivals: list[dict[str, Any]], made: dict[str, Any]) -> Table:
    """What was measured of the models themselves, the soup last."""
    from minisheep.terminal.words import metric_rows

    columns = [{"round": m["round"], "model": m["model"]} for m in [*rivals, {**made, "round": -1}]]
    titles, rows = metric_rows(columns)
    table = Table(header_style="")
    table.add_column("measure")
    for title in [*titles[:-1], "soup"]:
        table.add_column(title, justify="right")
    for name, cells in rows:
        table.add_row(Text(name), *map(Text, cells))
    return table
