"""``minisheep export``: a round for llama.cpp, Ollama, LM Studio, transformers or the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from minisheep.cli.options import view_options

TARGETS = ("gguf", "adapter", "merged", "ollama", "lmstudio", "hub-folder")
FORMATS = ("Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "Q4_0", "Q3_K_M", "F16", "BF16")
"""As `export.spec` and `models.quantise` have them, which are not loaded for the help."""


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--to", "target", type=click.Choice(TARGETS), required=True, help="what to make")
@click.option("--round", "round_", default="best", metavar="N", help="a round's number, best or last [best]")
@click.option("--out", metavar="DIR", help="the new folder [RUN/export/TARGET-round-N]")
@click.option(
    "--quantise", "format_", type=click.Choice(FORMATS, case_sensitive=False), default="Q4_K_M",
    help="number format of a GGUF [Q4_K_M]",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="replace an export that is there already")
@click.option("--base-model", metavar="OWNER/NAME", help="the base's id on the hub, where minisheep does not know it")
@click.option("--push", "repo", metavar="OWNER/NAME", help="send a hub-folder to the hub; needs HF_TOKEN")
@click.option("--public", is_flag=True, help="a pushed repository that is new is public, not private")
@click.option("--threads", type=click.IntRange(0), default=0, metavar="N", help="CPU threads; 0: as the run")
@view_options
def export(run: str, target: str, round_: str, out: str | None, format_: str, **given: Any) -> None:
    """Make a round of RUN into something that other programs use.

    gguf: base and adapter in one file. ollama: the same with a Modelfile. lmstudio: the same in its folders. adapter:
    the plain PEFT folder. merged: safetensors for transformers. hub-folder: merged, adapter, GGUF and data with cards.

    Every export is checked against the run before it appears: the same token ids for 20 prompts, the run's greedy
    answers as likely as before, answers that end where the run's did. A failed check leaves nothing.

    \b
    minisheep export runs/mine --to ollama
    ollama create mine -f runs/mine/export/ollama-round-2-Q4_K_M/Modelfile
    """
    from minisheep.errors import UsageError
    from minisheep.export import choose, push, session
    from minisheep.ui.views import JsonView, choose_view

    repo: str | None = given["repo"]
    token = push.check(repo, target) if repo else ""
    if given["public"] and not repo:
        raise UsageError("--public says how to --push, which is not given.", "Nothing was exported.")
    chosen = choose.choose(run, round_, given["base_model"] or "")
    folder = choose.output(chosen, target, format_, out)
    view = choose_view(plain=given["plain"], as_json=given["as_json"])
    try:
        made = session.export(
            chosen, target, format_, folder, view, view.tick,
            overwrite=given["overwrite"], threads=given["threads"], repo=repo or "",
        )  # fmt: skip
        pushed = push.push(Path(made["folder"]), repo, token, public=given["public"]) if repo else []
    finally:
        view.close()
    if isinstance(view, JsonView):
        click.echo(json.dumps({"event": "Exported", **made, "pushed": pushed}))
        return
    for line in _lines(made, pushed):
        click.echo(line)


def _lines(made: dict[str, Any], pushed: list[str]) -> list[str]:
    from minisheep.ui import words
    from minisheep.ui.sanitise import one_line

    size = sum(row["bytes"] for row in made["files"].values()) / 1e6
    folder = made["folder"]
    use = {
        "ollama": f"ollama create {made['name']} -f {folder}/Modelfile",
        "gguf": f"llama-cli -m {folder}/{made['name']}-{made['format']}.gguf",
        "lmstudio": f"copy {folder}/minisheep into LM Studio's folder of models",
        "adapter": f"peft.PeftModel.from_pretrained(base, {folder!r})",
        "merged": f"transformers.AutoModelForCausalLM.from_pretrained({folder!r})",
        "hub-folder": f"{folder}/model and {folder}/dataset are ready to be uploaded",
    }[made["target"]]
    lines = [
        f"Exported round {made['round']} to {folder}: {size:.0f} MB, {len(made['checks'])} checks passed, in"
        f" {words.duration(made['seconds'])}.",
        f"Use: {use}",
        *(f"Pushed: {address}" for address in pushed),
    ]
    return [one_line(line) for line in lines]
