"""``minisheep plan`` and ``minisheep align --dry-run``: what a run will take, before it begins."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from minisheep import config, opening
from minisheep.cli.options import GroupedCommand, fitted, given_settings, run_options, setting_options, view_options
from minisheep.config import Settings
from minisheep.errors import MinisheepError, UsageError
from minisheep.machine.gpu import find_gpu
from minisheep.models.registry import find_model
from minisheep.plan import fit, plan_table
from minisheep.plan.gpu_models import COMMON, find_gpu_model
from minisheep.plan.room import gguf_here, known_model
from minisheep.run.files import check_links
from minisheep.run.folder import RunFolder

WIDTH = 120


@click.command(cls=GroupedCommand)
@click.option("--gpu", metavar="GPU", help="plan for this GPU, such as 'RTX 3060 12GB'")
@click.option(
    "--calibrate/--no-calibrate",
    default=None,
    help="run the model here for a minute or two, and correct the times by it [on a GPU: once]",
)
@click.option("--full", is_flag=True, help="every part of memory, disk and time too, and what common GPUs would take")
@run_options
@view_options
@setting_options
def plan(
    gpu: str | None,
    calibrate: bool | None,
    full: bool,
    run: str | None,
    preset: str | None,
    config_file: str | None,
    as_json: bool,
    plain: bool,
    **flags: Any,
) -> None:
    """Say whether a run fits, how long it takes and what decides; then memory, disk and time, and settings that fit.

    Without --gpu the plan is for this machine, and where that is too small a table of common GPUs follows. Nothing is
    fetched, and nothing is measured unless there is a GPU or you give --calibrate. How memory is counted:
    docs/memory.md.

    \b
    minisheep plan --model qwen1.5-7b --gpu "RTX 3060 12GB" --full
    minisheep plan --model qwen1.5-7b --answers 4 --kv-type q8_0
    minisheep plan --model gemma-3-270m --calibrate
    """
    if gpu is not None and calibrate:
        raise UsageError("--calibrate measures this machine, and --gpu plans for another.", "Leave out one of them.")
    given, preset = given_settings(config_file, preset, flags)
    settings = _settings(run, preset, given)
    if gpu is None and calibrate is not False:
        _calibrate(settings, wanted=bool(calibrate))
    _show(settings, gpu, as_json=as_json, plain=plain, gpus=gpu is None, search=True, full=full)


def dry_run(run: str | None, preset: str | None, given: dict[str, Any], *, as_json: bool, plain: bool) -> None:
    """The plan for the settings that ``align`` would work with, on this machine."""
    _show(_settings(run, preset, given), None, as_json=as_json, plain=plain, gpus=False, search=False, full=False)


def _settings(run: str | None, preset: str | None, given: dict[str, Any]) -> Settings:
    """The settings that a run would begin or go on with. Raises `errors.UsageError`."""
    wanted = opening.asked_for(given, preset)
    folder = RunFolder(Path(run) if run else opening.default_folder(config.make(wanted).model, preset))
    check_links(folder.path, writing=False)
    stored, manifest = opening.read_standing(folder, preset)
    opened = opening.resolve(opening.asked_for(given, preset, stored), stored, manifest)
    settings = opened.settings
    if settings.engine == "fake":
        raise UsageError("The fake engine runs no model, so there is nothing to plan.", "Leave out --engine fake.")
    if settings.engine == "openai":
        raise UsageError(
            "The needs of a server are not known here, so there is nothing to plan.",
            "Without --engine openai, the plan shows the training and measuring that run on this machine.",
        )
    opening.read_given(opened)
    return settings


def _calibrate(settings: Settings, *, wanted: bool) -> None:
    """Measure short work that corrects the times: if it is `wanted`, or once on a GPU.

    Raises `errors.MinisheepError` if it was wanted and does not work.
    """
    from minisheep.plan.calibration import calibrate

    here = find_gpu()
    if not wanted and here is None:
        return
    model = known_model(settings)
    machine, _ = fit.machine_for(None, settings.threads, here)
    plan = fit.recommend(settings, model, machine)
    gguf = gguf_here(find_model(settings.model, gguf=settings.gguf or None, weights=settings.weights or None))
    if not wanted and (not machine.is_gpu or plan is None or gguf is None or plan.calibration is not None):
        return
    if plan is None:
        raise UsageError(
            f"{model.name} does not fit this machine, so it cannot be measured here.", "Leave out --calibrate."
        )
    try:
        calibrate(plan, gguf, lambda text: click.echo(text, err=True))
    except MinisheepError as error:
        if wanted:
            raise
        click.echo(f"Measuring failed, so times stay estimates: {error.message}", err=True)


def _show(
    settings: Settings, gpu: str | None, *, as_json: bool, plain: bool, gpus: bool, search: bool, full: bool
) -> None:
    model = known_model(settings)
    machine, note = fit.machine_for(gpu, settings.threads, None if gpu is not None else find_gpu())
    given = fit.make_plan(settings, model, machine)
    best = fit.recommend(settings, model, machine)
    each = []
    for name in COMMON if gpus and (full or as_json or best is None) else ():
        there = fit.with_gpu(find_gpu_model(name))
        each.append((name, fit.recommend(settings, model, there), settings))
    advice = plan_table.advice(given, best)
    if gpu is None:
        given, best = fit.with_history(given), best and fit.with_history(best)
    if as_json:
        _echo_json(given, best)
        for name, found, _ in each:
            click.echo(json.dumps({"event": "Card", "card": name, "plan": found and plan_table.to_dict(found)}))
        return
    other = best is not None and fit.changes(settings, best.settings)
    shown = [given, best] if search and best is not None and other else [given]
    instead = None if given.fits else best
    answer = plan_table.decides(instead or given, recommended=instead is not None)
    for line in (*advice, *answer, "", *plan_table.model_lines(model, full=full), plan_table.machine_line(given)):
        click.echo("\n".join(fitted(line)))
    _print(
        ["", *plan_table.titles(shown)] if len(shown) > 1 else [],
        [[n, *c] for n, c in plan_table.rows(shown) if full or not n.startswith(plan_table.PART)],
        plain=plain,
    )
    below = [*plan_table.remarks(given, full=full), *([note] if note else [])]
    if not full:
        more = ", and what common GPUs would take" * (gpus and not each)
        below.append(f"Every part{more}: `minisheep plan` with the same settings and --full.")
    for line in below:
        click.echo("\n".join(fitted(line)))
    if each:
        click.echo("\nCommon GPUs, with settings that fit and are fastest:")
        names, lines = plan_table.overview(each)
        _print(names, lines, plain=plain)


def _echo_json(given: fit.Plan, best: fit.Plan | None) -> None:
    plan = {
        "event": "Plan",
        "model": given.model.name,
        "given": plan_table.to_dict(given),
        "recommended": best and plan_table.to_dict(best),
        "changes": best and fit.changes(given.settings, best.settings),
    }
    click.echo(json.dumps(plan))


def _print(titles: list[str], lines: list[list[str]], *, plain: bool) -> None:
    """A table without a frame: numbers to the right, the first column and one of settings to the left."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    quiet = plain or not sys.stdout.isatty()
    console = Console(width=WIDTH if quiet else None, no_color=quiet, force_terminal=False if quiet else None)
    table = Table(box=None, pad_edge=False, show_header=bool(titles), header_style="" if quiet else "bold")
    for index in range(len(lines[0])):
        words = index == 0 or (titles and titles[index] == "settings")
        title = titles[index] if titles else ""
        table.add_column(title, justify="left" if words else "right", overflow="fold")
    for line in lines:
        table.add_row(*(Text(cell) for cell in line))
    console.print(table)
