"""``minisheep soup``: several rounds' adapters as one."""

from __future__ import annotations

import json
from contextlib import closing

import click

from minisheep.cli.options import view_options
from minisheep.rules.plain_text import one_line, shell


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--rounds", required=True, metavar="N,N,...", help="the rounds to join, by their numbers")
@click.option("--weights", metavar="X,X,...", help="what each adapter is multiplied by [equal, with the sum 1]")
@click.option("--out", metavar="DIR", help="the new folder [RUN/soup-1+2]")
@view_options
def soup(run: str, rounds: str, weights: str | None, out: str | None, plain: bool, as_json: bool) -> None:
    """Join the adapters of several rounds of RUN to one, exactly, and measure it like a round.

    The result is the weighted sum of what the adapters do, as one adapter whose rank is the sum of theirs. It is
    measured on the run's own tasks and compared with the base and with the best round, item by item. Nothing
    else in RUN is changed. Give the same command again to go on, or to see the result again.

    \b
    minisheep soup runs/mine --rounds 1,2
    minisheep soup runs/mine --rounds 1,2,3 --weights 0.5,0.3,0.2
    """
    from minisheep import adapter_soup
    from minisheep.terminal.views import JsonView, LiveView, choose_view, print_metrics

    chosen = adapter_soup.choose(run, rounds, weights, out)
    with closing(choose_view(plain=plain, as_json=as_json)) as view:
        made = adapter_soup.make(chosen, view, view.tick)
    said = adapter_soup.sentence(chosen, made["decisions"])
    if isinstance(view, JsonView):
        click.echo(json.dumps({"event": "Soup", "folder": str(chosen.out), "text": said, **made}))
        return
    click.echo(one_line(said))
    models = [m for m in chosen.run.metrics if m["round"] in (0, chosen.run.best, *chosen.rounds)]
    # What a round's data was like says nothing of the soup.
    columns = [{"round": m["round"], "model": m["model"]} for m in models]
    print_metrics([*columns, {"name": "soup", "model": made["model"]}], plain=not isinstance(view, LiveView))
    if chosen.made_up:
        return
    click.echo(one_line(f"Use: llama-cli -m {shell(chosen.gguf)} --lora {shell(chosen.folder.adapter_gguf)}"))
    click.echo(one_line(f"     peft.PeftModel.from_pretrained(base, {str(chosen.folder.adapter)!r})"))
