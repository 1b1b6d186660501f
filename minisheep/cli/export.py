"""``minisheep export``, ``report`` and ``handoff``: a round or a run as files for other programs and people."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from minisheep.cli.options import view_options
from minisheep.errors import UsageError
from minisheep.rules import plain_text

TARGETS = ("gguf", "adapter", "merged", "ollama", "lmstudio", "hub-folder")
FORMATS = ("Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "Q4_0", "Q3_K_M", "F16", "BF16")
"""As `export.export_choice` and `formats.quantise` have them, which are not loaded for the help."""


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--to", "target", type=click.Choice(TARGETS), required=True, help="what to make")
@click.option("--round", "round_", default="best", metavar="N", help="a round's number, best or last [best]")
@click.option("--out", metavar="DIR", help="the new folder [RUN/export/TARGET-round-N, and a GGUF's format]")
@click.option(
    "--quantise", "format_", type=click.Choice(FORMATS, case_sensitive=False),
    help="number format of a GGUF [by size: F16 under 0.5B parameters, Q8_0 under 1B, else Q4_K_M]",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="replace an existing export")
@click.option("--base-model", metavar="OWNER/NAME", help="the base's id on the hub, if minisheep does not know it")
@click.option("--push", "repo", metavar="OWNER/NAME", help="send a hub-folder to the hub; needs HF_TOKEN")
@click.option("--public", is_flag=True, help="a pushed repository that is new is public, not private")
@click.option("--threads", type=click.IntRange(0), default=0, metavar="N", help="CPU threads; 0: as the run")
@view_options
def export(run: str, target: str, round_: str, out: str | None, format_: str | None, **given: Any) -> None:
    """Convert a round of RUN for other programs.

    gguf: base and adapter in one file. ollama: the same with a Modelfile. lmstudio: the same in its folders. adapter:
    the plain PEFT folder. merged: safetensors for transformers. hub-folder: merged, adapter, GGUF and data with cards.

    Every export is checked against the run before it appears: the same token ids for 20 prompts, the run's greedy
    answers as likely as before, answers that end where the run's did. If a check fails, nothing is left behind.

    \b
    minisheep export runs/mine --to ollama --out exported
    ollama create mine -f exported/Modelfile
    """
    from minisheep.export import export_choice, exporting, model_cards
    from minisheep.terminal.views import JsonView, choose_view

    repo: str | None = given["repo"]
    token = model_cards.check(repo, target) if repo else ""
    if given["public"] and not repo:
        raise UsageError("--public is for --push, which is not given.", "Nothing was exported.")
    chosen = export_choice.choose_export(run, round_, given["base_model"] or "")
    form = format_ or export_choice.default_format(chosen.parameters)
    folder = export_choice.output(chosen, target, form, out)
    with closing(choose_view(plain=given["plain"], as_json=given["as_json"])) as view:
        made = exporting.export(
            chosen, target, form, folder, view, view.tick,
            overwrite=given["overwrite"], threads=given["threads"], repo=repo or "",
        )  # fmt: skip
        pushed = model_cards.push(Path(made["folder"]), repo, token, public=given["public"]) if repo else []
    if isinstance(view, JsonView):
        click.echo(json.dumps({"event": "Exported", **made, "pushed": pushed}))
        return
    for line in _lines(made, pushed, "" if format_ or not made["format"] else f" in {form}, by the model's size,"):
        click.echo(line)


def _lines(made: dict[str, Any], pushed: list[str], form: str) -> list[str]:
    size = sum(row["bytes"] for row in made["files"].values()) / 1e6
    folder = made["folder"]
    use = {
        "ollama": f"ollama create {made['name']} -f {plain_text.shell(f'{folder}/Modelfile')}",
        "gguf": "llama-cli -m " + plain_text.shell(f"{folder}/{made['name']}-{made['format']}.gguf"),
        "lmstudio": f"copy {folder}/minisheep into LM Studio's folder of models",
        "adapter": f"peft.PeftModel.from_pretrained(base, {folder!r})",
        "merged": f"transformers.AutoModelForCausalLM.from_pretrained({folder!r})",
        "hub-folder": f"{folder}/model and {folder}/dataset are ready to upload",
    }[made["target"]]
    lines = [
        f"Exported round {made['round']}{form} to {folder}: {size:.0f} MB, {len(made['checks'])} checks passed, in"
        f" {plain_text.duration(made['seconds'])}.",
        f"Use: {use}",
        *(f"Pushed: {address}" for address in pushed),
    ]
    return [plain_text.one_line(line) for line in lines]


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--out", metavar="FOLDER", help="where report.html and report.md go [RUN/report]")
@click.option("--open", "open_", is_flag=True, help="show it in the browser")
@click.option("--json", "as_json", is_flag=True, help="one JSON object and nothing else")
def report(run: str, out: str | None, open_: bool, as_json: bool) -> None:
    """Write RUN as one HTML file and its Markdown twin.

    The page shows what each round did, in words and with intervals; the data funnel with the reason for every drop;
    distributions, loss curves, a map of the data; records to read; settings, versions, hashes. It works offline, also
    on unfinished or damaged runs, and never changes RUN. Pictures need matplotlib.

    \b
    minisheep report runs/mine --open
    minisheep report runs/mine --out pages/mine
    """
    from minisheep.report.write import write

    written = write(run, out)
    if as_json:
        files = {"html": str(written.html), "markdown": str(written.markdown)}
        click.echo(json.dumps({"event": "Report", **files, "notes": list(written.notes)}))
    else:
        for note in written.notes:
            click.echo(plain_text.one_line(note), err=True)
        click.echo(plain_text.one_line(f"Report: {written.html}, and as Markdown: {written.markdown}"))
        if not open_:
            there = f" --out {plain_text.shell(out)}" if out else ""
            click.echo(f"Open it in a browser, or: minisheep report {plain_text.shell(run)}{there} --open")
    if open_ and click.launch(str(written.html.resolve())) != 0:
        click.echo("No browser could be started; open the file yourself.", err=True)


HANDOFF_TARGETS = ("axolotl", "llamafactory")
"""As `export.handoff_files` has them, which is not loaded for the help."""


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--to", "target", type=click.Choice(HANDOFF_TARGETS), required=True, help="the program that will train")
@click.option("--round", "round_", default="last", metavar="N", help="whose kept data: a number, best or last [last]")
@click.option("--gpus", type=click.IntRange(1), default=1, metavar="N", help="GPUs that share the batch [1]")
@click.option("--base-model", metavar="ID", help="the base as that program finds it: a hub id or a folder")
@click.option("--out", metavar="DIR", help="the new folder [RUN/handoff/TARGET-round-N]")
@click.option("--json", "as_json", is_flag=True, help="one JSON object and nothing else")
def handoff(
    run: str, target: str, round_: str, gpus: int, base_model: str | None, out: str | None, as_json: bool
) -> None:
    """Write what a round of RUN trains on, and a configuration, for a program that trains on many GPUs.

    The pairs are those that minisheep itself would train on, framed by the run's template; the hyperparameters are the
    run's. Run `minisheep filter` first, which completes a round's data; nothing has to be trained here.

    \b
    minisheep filter --run runs/large
    minisheep handoff runs/large --to axolotl --gpus 8
    """
    from minisheep.export.handoff_files import read_job, write

    job = read_job(run, round_, base_model or "")
    folder = Path(out) if out else job.run / "handoff" / f"{target}-round-{job.round}"
    command = write(job, target, gpus, folder)
    if as_json:
        click.echo(
            json.dumps({
                "event": "HandedOff", "folder": str(folder), "command": command, "train": len(job.train),
                "validation": len(job.validation), "left_out": job.left_out, "unpaired": job.unpaired,
            })
        )  # fmt: skip
        return
    what = "preference pairs" if job.preference else "examples"
    click.echo(plain_text.one_line(f"{folder}: {len(job.train)} {what} and {len(job.validation)} for validation."))
    if job.unpaired:
        click.echo(f"{job.unpaired} not handed over: they have no rejected answer.")
    if job.left_out:
        click.echo(f"{job.left_out} left out: their text looks like a special token of the template.")
    click.echo(plain_text.one_line(f"Train: cd {folder} && {command}"))


@click.command()
@click.argument("run", metavar="RUN")
@click.option("--log-to", "targets", multiple=True, required=True, metavar="NAME", help="tensorboard, wandb or trackio")
@click.option("--json", "as_json", is_flag=True, help="one JSON object a service and nothing else")
def log(run: str, targets: tuple[str, ...], as_json: bool) -> None:
    """Show RUN, finished or stopped, in TensorBoard, Weights & Biases or trackio: losses, rates, measures, samples.

    What the service was told before is not told again. `minisheep align --log-to` does the same while a run goes on.

    \b
    minisheep log runs/mine --log-to tensorboard
    minisheep log runs/mine --log-to wandb --log-to trackio
    """
    from minisheep.rules.log_targets import TARGETS, log_targets
    from minisheep.tracking import following

    try:
        names = log_targets(",".join(targets))
    except ValueError as error:
        raise UsageError(f"--log-to: {error}.") from None
    if not names:
        raise UsageError("--log-to none shows the run nowhere.", f"Give one of {', '.join(TARGETS)}.")
    for name in names.split(","):
        told = following.send(Path(run), name)
        if as_json:
            click.echo(json.dumps({"event": "Logged", "to": name, "events": told.lines, "where": told.where}))
        else:
            new = "nothing new" if told.lines == told.before else f"{told.lines - told.before} events told"
            click.echo(plain_text.one_line(f"{TARGETS[name]}: {new}. Look: {told.where}"))
