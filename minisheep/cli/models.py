"""``minisheep models``, ``pull`` and ``convert``: the models with a name, fetching one, and making a GGUF of one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from minisheep.errors import MinisheepError, ModelFileError, UsageError
from minisheep.models import registry
from minisheep.models.fetch import fetch_weights, not_pinned
from minisheep.models.registry import ModelEntry, find_model
from minisheep.rules.plain_text import one_line

FIELDS = ("name", "title", "kind", "architecture", "parameters", "licence", "template")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="one JSON object a line and nothing else")
@click.option("--plain", is_flag=True, help="no colours")
def models(as_json: bool, plain: bool) -> None:
    """List built-in models. Any hub id (org/repo) or GGUF file works too.

    \b
    minisheep models
    minisheep models --json
    """
    entries = list(registry.load_registry().values())
    if as_json:
        for entry in entries:
            click.echo(json.dumps(_row(entry)))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    quiet = plain or not sys.stdout.isatty()
    console = Console(width=140 if quiet else None, no_color=quiet, force_terminal=False if quiet else None)
    table = Table(box=None, pad_edge=False, header_style="" if quiet else "bold")
    for title in ("name", "parameters", "kind", "template", "licence", "GGUF for inference"):
        table.add_column(title, justify="right" if title == "parameters" else "left", overflow="fold")
    for entry in entries:
        source = "none known: converted from the weights" if entry.gguf is None else str(entry.gguf)
        cells = (entry.name, _parameters(entry.parameters), entry.kind, entry.template, entry.licence, source)
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)


def _parameters(count: int) -> str:
    return f"{count / 1e9:.1f} B" if count >= 1e9 else f"{count / 1e6:.0f} M"


def _row(entry: ModelEntry) -> dict[str, Any]:
    sources = {name: getattr(entry, name) for name in ("gguf", "weights")}
    return {
        **{name: getattr(entry, name) for name in FIELDS},
        **{name: None if source is None else str(source) for name, source in sources.items()},
        "sha256": entry.gguf_sha256,
    }


def _reporter(as_json: bool) -> Callable[[str], None]:
    """Prints progress, as events for ``--json``."""
    return lambda text: click.echo(json.dumps({"event": "Note", "text": text}) if as_json else one_line(text))


@click.command()
@click.argument("name")
@click.option("--gguf", help="another GGUF: a file, or org/repo:file.gguf")
@click.option("--weights", help="other training weights: a folder, or a hub id")
@click.option("--offline", is_flag=True, help="use what is cached, and no network")
@click.option("--json", "as_json", is_flag=True, help="one JSON object a line and nothing else")
@click.option("--plain", is_flag=True, help="no colours")
def pull(name: str, gguf: str | None, weights: str | None, offline: bool, as_json: bool, plain: bool) -> None:
    """Fetch the files of model NAME and check them, so that a run needs no network.

    \b
    minisheep pull smollm2-135m
    minisheep pull Qwen/Qwen2.5-0.5B --gguf my-qwen.gguf
    """
    from minisheep.formats.gguf_header import read_header
    from minisheep.prepare import gguf_of

    report = _reporter(as_json)
    try:
        entry = find_model(name, gguf=gguf, weights=weights)
        fetched = gguf_of(entry, report, offline)
        header = read_header(fetched.path)
        folder = fetch_weights(entry, report, offline)
    except MinisheepError as error:
        if not as_json:
            raise
        failed = {"event": "Failed", "kind": type(error).__name__, "message": error.message, "fix": error.fix}
        click.echo(json.dumps(failed))
        raise click.exceptions.Exit(error.exit_code) from None
    unpinned = not_pinned(entry, folder)
    if unpinned:
        report(unpinned)
    if as_json:
        pulled = {
            "event": "Pulled", "name": entry.name, "gguf": str(fetched.path), "sha256": fetched.sha256,
            "bytes": fetched.bytes, "source": fetched.source, "architecture": header.architecture,
            "weights": None if folder is None else str(folder),
        }  # fmt: skip
        click.echo(json.dumps(pulled))
        return
    click.echo(f"{entry.title} ({header.architecture}), {entry.licence}")
    click.echo(f"  GGUF     {fetched.path} ({fetched.bytes:,} bytes)")
    click.echo(f"  SHA-256  {fetched.sha256}" + ("" if entry.gguf_sha256 else " (no known value to check it against)"))
    click.echo(f"  weights  {folder or 'made from the GGUF when they are needed'}")


@click.command()
@click.argument("model", metavar="FOLDER")
@click.option("--out", "out", metavar="FILE.gguf", help="where to write it (default: NAME-TYPE.gguf, here)")
@click.option("--type", "kind", default="f16", show_default=True, help="f16, bf16, f32, or Q8_0, Q4_K_M and the like")
@click.option("--json", "as_json", is_flag=True, help="one JSON object a line and nothing else")
def convert(model: str, out: str | None, kind: str, as_json: bool) -> None:
    """Write the model in FOLDER (config.json, safetensors, tokenizer.json) as a GGUF. A hub id or a model's name works
    too.

    \b
    minisheep convert ~/models/my-base --type Q8_0
    minisheep align --model my-base-Q8_0.gguf --weights ~/models/my-base

    Architectures: llama, mistral, qwen2, qwen3, gemma3. The file is kept only if it gives the model's own
    token ids. `align --model FOLDER` converts by itself, to Q8_0.
    """
    from minisheep.formats import hf_to_gguf
    from minisheep.models.hub import what_is_missing

    report = _reporter(as_json)
    kind = hf_to_gguf.type_name(kind)
    if out is not None and not out.lower().endswith(".gguf"):
        raise UsageError(f"--out {out} does not end in .gguf.", "llama.cpp's tools need that ending.")
    missing = what_is_missing(Path(model)) if Path(model).is_dir() else ""
    if missing:
        raise ModelFileError(f"{model} cannot be converted: {missing}.", "Give a folder as its makers published it.")
    entry = find_model(model)
    output = Path(out) if out else Path(f"{registry.safe_name(entry.title)}-{kind}.gguf")
    folder = fetch_weights(entry, report)
    if folder is None:
        raise UsageError(f"{entry.title} is a GGUF already.", "Give a folder with safetensors, or a hub id.")
    made = hf_to_gguf.convert(folder, output, kind, entry.title, report)
    if as_json:
        converted = {"event": "Converted", "gguf": str(made.path), "bytes": made.bytes}
        facts = {"architecture": made.architecture, "parameters": made.parameters, "type": kind}
        click.echo(json.dumps({**converted, **facts}))
    else:
        click.echo(one_line(f"{made.path} ({made.architecture}, {made.bytes:,} bytes)"))
