"""``python -m benchmarks.gpucheck``, which ``make gpu-check`` runs: measures, writes two files, sums up."""

from __future__ import annotations

import json
import os
import sys
from datetime import date
from pathlib import Path

import click

from benchmarks.gpucheck import build, page, session
from minisheep.doctor.check_result import failed, verdict
from minisheep.doctor.machine_facts import look
from minisheep.machine import system
from minisheep.rules.plain_text import one_line
from minisheep.run.files import write_atomic, write_json
from minisheep.run.folder import Appender

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
@click.option(
    "--install/--no-install", default=True, help="install what is missing into this environment, or leave it as it is"
)
@click.option(
    "--only", multiple=True, type=click.Choice(session.PARTS),
    help="do only this part; may be repeated. In order of worth, in minutes: "
    + ", ".join(f"{part} {minutes}" for part, minutes in session.MINUTES.items()),
)  # fmt: skip
@click.option(
    "--resume", is_flag=True, help="keep the results of a call that was cut off or did a part, and do the rest"
)
def main(out: Path, model: str, wheels: str, install: bool, only: tuple[str, ...], resume: bool) -> None:
    """Measure everything that needs an NVIDIA GPU. A part that cannot run is named and counted as skipped.

    Each result is on disk (gpu-check.jsonl) as soon as it is known, so a machine that is taken away leaves what it did;
    it stays there after `--only`, for `--resume` to add the rest.
    The exit code is 1 if a part failed, else 0, also without a GPU.
    """
    if wheels and not Path(wheels).is_dir():
        raise click.BadParameter(f"{wheels} is not a folder.", param_hint="--wheels")
    os.environ.update(build.pip_settings(str(Path(wheels).absolute()) if wheels else ""))
    out.mkdir(parents=True, exist_ok=True)
    machine = look()
    kept = out / "gpu-check.jsonl"
    heading = {"machine": page.describe(machine), "model": model}
    results = page.kept_results(kept, heading) if resume else []
    if not results:
        kept.unlink(missing_ok=True)
    options = session.Options(model, install, only, frozenset(result.name for result in results))
    with Appender(kept) as lines:
        if not results:
            lines.append(heading)
        for result in session.run(options, machine, on_progress):
            lines.append(result.to_dict())
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
    if not only:
        kept.unlink(missing_ok=True)  # there is no rest for `--resume` to do
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
