"""``minisheep convert``: a model's own folder as a GGUF, for a base that nobody has made one of."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("model", metavar="FOLDER")
@click.option("--out", "out", metavar="FILE.gguf", help="where to write it (default: NAME-TYPE.gguf, here)")
@click.option("--type", "kind", default="f16", show_default=True, help="f16, bf16, f32, or Q8_0, Q4_K_M and the like")
@click.option("--json", "as_json", is_flag=True, help="one JSON object a line and nothing else")
def convert(model: str, out: str | None, kind: str, as_json: bool) -> None:
    """Write the model in FOLDER (config.json, safetensors, tokenizer.json) as a GGUF. A hub id or a model's name works
    as well.

    \b
    minisheep convert ~/models/my-base --type Q8_0
    minisheep align --model my-base-Q8_0.gguf --weights ~/models/my-base

    Architectures: llama, mistral, qwen2, qwen3, gemma3. The file is checked to make the model's own token ids.
    `align --model FOLDER` converts by itself, to Q8_0.
    """
    from minisheep.convert.convert import convert as convert_folder
    from minisheep.convert.convert import type_name
    from minisheep.errors import ModelFileError, UsageError
    from minisheep.models.registry import find_model, safe_name
    from minisheep.models.sources import fetch_weights
    from minisheep.models.weights_folder import what_is_missing
    from minisheep.ui.sanitise import one_line

    def report(text: str) -> None:
        click.echo(json.dumps({"event": "Note", "text": text}) if as_json else one_line(text))

    kind = type_name(kind)
    if out is not None and not out.lower().endswith(".gguf"):
        raise UsageError(f"--out {out} does not end in .gguf.", "llama.cpp's tools go by that ending.")
    missing = what_is_missing(Path(model)) if Path(model).is_dir() else ""
    if missing:
        raise ModelFileError(f"{model} cannot be converted: {missing}.", "Give a folder as its makers published it.")
    entry = find_model(model)
    output = Path(out) if out else Path(f"{safe_name(entry.title)}-{kind}.gguf")
    folder = fetch_weights(entry, report)
    if folder is None:
        raise UsageError(f"{entry.title} is a GGUF already.", "Give a folder with safetensors, or a hub id.")
    made = convert_folder(folder, output, kind, entry.title, report)
    if as_json:
        told = {"event": "Converted", "gguf": str(made.path), "bytes": made.bytes, "architecture": made.architecture}
        click.echo(json.dumps({**told, "parameters": made.parameters, "type": kind}))
    else:
        click.echo(one_line(f"{made.path} ({made.architecture}, {made.bytes:,} bytes)"))
