"""``python -m benchmarks.gpucheck``, which ``make gpu-check`` runs: measures, writes two files, sums up."""

from __future__ import annotations

import json
import os
import sys
from datetime import date
from pathlib import Path

import click

from benchmarks.gpucheck import build, page, session
from minisheep.doctor.check_result import CheckResult, failed, verdict
from minisheep.doctor.machine_facts import look
from minisheep.machine import system
from minisheep.rules.plain_text import one_line
from minisheep.run.files import write_atomic, write_json

PACKAGES = (
    *("minisheep", "llama-cpp-python", "torch", "transformers", "peft", "bitsandbytes", "unsloth", "unsloth_zoo"),
    *("trl", "accelerate", "triton", "xformers", "numpy"),
)


@click.command()
@click.option(
    "--out", default="docs", type=click.Path(file_okay=False, path_type=Path), help="folder for the two files"
)
@click.option("--model", default="smollm2-135m", help="model to measure [smollm2-135m]")
@click.option("--wheels", default="", type=click.Path(), help="take packages from this folder, and use no network")
@click.option("--install/--no-install", default=True, help="install what is missing into this environment")
def main(out: Path, model: str, wheels: str, install: bool) -> None:
    """Measure everything that needs an NVIDIA GPU. A part that cannot run is named and counted as skipped.

    The exit code is 1 if a part failed, else 0, also without a GPU.
    """
    if wheels and not Path(wheels).is_dir():
        raise click.BadParameter(f"{wheels} is not a folder.", param_hint="--wheels")
    os.environ.update(build.pip_settings(str(Path(wheels).absolute()) if wheels else ""))
    out.mkdir(parents=True, exist_ok=True)
    machine = look()
    results: list[CheckResult] = []
    for result in session.run(session.Options(model, install), machine, on_progress):
        results.append(result)
        click.echo(one_line(f"{result.outcome}: {result.name}: {result.found}"))
        if result.fix:
            click.echo(one_line(f"-> {result.fix}"))
    file, page_file = out / "gpu-check.json", out / "gpu-check.md"
    if page.may_replace(_before(file), machine):
        command = "make gpu-check" + (f" WHEELS={Path(wheels).name}" if wheels else "")
        found = page.document(results, machine, system.versions(PACKAGES), command, date.today())
        write_json(file, found)
        write_atomic(page_file, page.markdown(found, results).encode())
        click.echo(f"Written: {file} and {page_file}")
    else:
        click.echo(f"Kept: {file} was measured on a GPU, and this machine has none. Use --out to write elsewhere.")
    click.echo(verdict(results))
    sys.exit(1 if failed(results) else 0)


def on_progress(text: str) -> None:
    click.echo(one_line(text), err=True)


def _before(file: Path) -> object:
    """What the file holds; None where it is missing or not JSON."""
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None


if __name__ == "__main__":
    main()
