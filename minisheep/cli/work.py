"""``minisheep align``, and each phase as a command: they differ only in where they stop."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from minisheep import api, config, loop, opening
from minisheep.cli.options import GroupedCommand, given_settings, run_options, setting_options, view_options
from minisheep.errors import MinisheepError, Stopped, UsageError
from minisheep.models.prepared import PreparedModel
from minisheep.presets import DEFAULT_PRESET
from minisheep.rules.plain_text import plural, shell
from minisheep.run.events import Event, Failed, RunStarted
from minisheep.run.folder import RunFolder
from minisheep.run.verdict import conclude
from minisheep.terminal import detached, run_list, run_summary
from minisheep.terminal.live_screen import usable
from minisheep.terminal.views import JsonView, PlainView, View, choose_view, draws


def _work(
    verb: str, run: str | None, preset: str | None, config_file: str | None, plain: bool, as_json: bool, **flags: Any
) -> None:
    if flags.pop("dry_run", False):
        from minisheep.cli.plan import dry_run

        given, preset = given_settings(config_file, preset, flags)
        return dry_run(run, preset, given, as_json=as_json, plain=plain)
    if not as_json and draws(plain=plain) and usable():
        _on_screen(verb, run, preset, config_file, flags)
        return
    with contextlib.closing(choose_view(plain=plain, as_json=as_json)) as view:
        try:
            given, preset = given_settings(config_file, preset, flags)
            until = None if verb == "align" else _target(verb, run, preset, given)
            before = _phases(_folder(run, preset, given))
            done = api.align(run, preset=preset, emit=view, tick=view.tick, until=until, **given)
        except MinisheepError as error:
            if isinstance(view, JsonView):
                view(Failed(type(error).__name__, error.message, error.fix))
                raise click.exceptions.Exit(error.exit_code) from None
            if isinstance(error, Stopped) and not error.fix:
                error.fix = "Give the same command to go on."
            raise
    if not as_json:
        _show(done, view, before)


def _on_screen(verb: str, run: str | None, preset: str | None, config_file: str | None, flags: dict[str, Any]) -> None:
    """Do the run in its own process, and show its screen on this terminal (see `terminal.detached`)."""
    given, preset = given_settings(config_file, preset, flags)
    until = None if verb == "align" else _target(verb, run, preset, given)
    before = _phases(_folder(run, preset, given))

    def work(started: Callable[[str], None]) -> None:
        def emit(event: Event) -> None:
            if isinstance(event, RunStarted):
                started(event.run)

        api.align(run, preset=preset, emit=emit, until=until, **given)

    view = PlainView()
    try:
        shown = detached.show(work)
    except Stopped as error:
        error.fix = error.fix or "Give the same command to go on."
        raise
    if shown.left:
        view.say(run_list.left(RunFolder(shown.run)))
        return
    for line in shown.last_words:
        view.say(line)
    _show(api.load_run(shown.run), view, before)


def _folder(run: str | None, preset: str | None, given: dict[str, Any]) -> Path:
    return Path(run) if run else opening.default_folder(config.make(given, preset or DEFAULT_PRESET).model, preset)


def _phases(folder: Path) -> set[str]:
    """What was done there before; nothing where there is no run yet."""
    try:
        return set(api.load_run(folder).phases_done)
    except MinisheepError:
        # Opening the run says what is wrong with it.
        return set()


def _target(verb: str, run: str | None, preset: str | None, given: dict[str, Any]) -> loop.Phase:
    """The run's next phase, if it has the command's name. Raises `errors.UsageError` where another comes before it."""
    settings, path = config.make(given, preset or DEFAULT_PRESET), _folder(run, preset, given)
    try:
        opened = api.load_run(path)
    except UsageError:
        phase: loop.Phase | None = loop.Phase(0, "evaluate")
    else:
        if (damaged := opened.damage) and damaged[0].phase == verb:
            return loop.Phase(damaged[0].round, verb)
        phase, settings = opened.next_phase, opened.settings
    if phase is None:
        raise UsageError(f"{path} is finished: {plural(len(opened.rounds), 'round')}.", _go_on(opened))
    if phase.name == verb:
        return phase
    # Measuring the base and the judge's exam, which come before the first writing, are done on the way.
    order, target = loop.phases(settings), loop.Phase(1, verb)
    if verb in ("exam", "generate") and target in order and order.index(phase) < order.index(target):
        return target
    if verb == "filter" and phase.name == "train":
        return loop.Phase(phase.round, "filter")
    if not path.exists():
        raise api.no_run(path)
    raise UsageError(
        f"{verb} is not what comes next in {path}: that is {phase.name} of round {phase.round}.",
        f"Give `minisheep {phase.name} --run {shell(path)}`, or `minisheep align --run {shell(path)}` for all of it.",
    )


def _go_on(run: api.Run) -> str:
    """How to continue a finished run: with more rounds or more patience, so that the command does something."""
    settings, done = run.settings, run.phases_done
    if settings.strategy == "direct":
        return "More:  --strategy direct has one round; start another run for more."
    # More rounds are done whatever patience says; where rounds are left, it is more patience that goes on.
    patience = f"--patience {loop.standing(done).without_gain + 2}"
    more = patience if run.ended_early else f"--rounds {settings.rounds + 1}"
    return f"More:  minisheep align --run {shell(run.path)} {more}"


def _why_nothing(run: api.Run) -> str:
    """Why a command for a run that is over did nothing."""
    settings = run.settings
    standing = loop.standing(run.phases_done)
    if standing.ends(settings) and standing.measured < settings.rounds:
        return (
            f"Nothing was done, since the run is over: {standing.without_gain} measured rounds in a row were no better"
            f" than the best before them, and --patience {settings.patience} ends a run then."
            " It goes on with more patience, or with more rounds."
        )
    return f"Nothing was done, since the run is over, after {plural(settings.rounds, 'round')}."


PIPED = (100, 10_000)
"""Columns and lines where there is no terminal: everything stays in sight."""


def _show(run: api.Run, view: View, before: set[str]) -> None:
    """What the run came to, and what can be done next. `before` holds the phases that were done before this command."""
    width, height = shutil.get_terminal_size(PIPED)
    metrics = run.metrics
    found = conclude(metrics)
    verdict = run_summary.sentence(found, width)
    after = run.next_phase
    if after is not None:
        where = shell(run.path)
        for line in verdict if found is not None else ():
            view.say(line)
        view.say(f"Next: `minisheep {after.name} --run {where}`, or `minisheep align --run {where}` for the rest.")
        return
    if set(run.phases_done) == before:
        # What it came to was shown when it ended, and `status` shows it again.
        for line in (_why_nothing(run), *verdict, *_what_next(run)):
            view.say(line)
        return
    lines = [
        *verdict, "", *run_summary.numbers(found, metrics, width), "", *run_summary.before_after(run, found, width), "",
    ]  # fmt: skip
    last = list(_what_next(run))
    if len(lines) + len(last) > height:
        # By the end the first lines have left the terminal.
        lines += [*verdict, ""]
    for line in (*lines, *last):
        view.say(line)


def _what_next(run: api.Run) -> Iterator[str]:
    """What can be done with a finished run: commands with a word for each."""
    path, model = shell(run.path), PreparedModel.read(run.path / "model.json")
    yield f"Look:  minisheep report {path} (all of it as one page)"
    yield f"       minisheep browse {path} (every record)"
    yield f"       minisheep status {path} --full (every measure)"
    yield _go_on(run)
    if model.gguf_sha256 == "fake":
        return
    mixed = [m["round"] for m in run.metrics if m.get("decision", {}).get("outcome") == "mixed"]
    later = [number for number in mixed if run.best and number > run.best]
    if later:
        rounds = ",".join(map(str, (run.best, *later)))
        better = "a later round was better in one way and worse in another; together they may keep both"
        yield f"Join:  minisheep soup {path} --rounds {rounds} ({better})"
    number = run.best or run.rounds[-1].number
    chosen = next(r for r in run.rounds if r.number == number)
    which = f"--round {number}"
    if run.best == 0:
        yield f"Note:  no round was better than the base model beyond chance; these commands use round {number}."
    yield f"Talk:  minisheep chat {path} {which} --compare"
    yield f"Use:   minisheep export {path} {which} --to ollama"
    yield "       (or gguf, lmstudio, merged, adapter, hub-folder)"
    yield f"       llama-cli -m {shell(model.inference_gguf)} --lora {shell(chosen.adapter_gguf)}"


def _command(verb: str, text: str) -> click.Command:
    def callback(**options: Any) -> None:
        _work(verb, **options)

    decorate: Callable[[Any], Any] = click.command(name=verb, cls=GroupedCommand, help=text)
    options = run_options(view_options(setting_options(callback)))
    if verb == "align":
        options = click.option("--dry-run", is_flag=True, help="print what the run will take, and do nothing else")(
            options
        )
    command = decorate(options)
    assert isinstance(command, click.Command)
    return command


align = _command(
    "align",
    """Align a model with itself: write instructions and answers, judge them, train on the best, go round again.

    To continue a run that stopped, give the same command again. The first Ctrl-C finishes the current record and stops,
    the second stops at once. On a terminal, q leaves the screen while the run goes on, and p pauses it. From any other
    terminal `minisheep runs` lists the runs, and attach, pause, resume and stop reach this one.

    \b
    minisheep align --preset demo
    minisheep align --model gemma-3-270m --per-round 300 --judge pmi
    minisheep align --model qwen1.5-7b --run runs/overnight
    """,
)
_STAGE = """Do the next {0} phase of a run, and nothing after it. {1}

    \b
    minisheep {0} --run runs/mine
    """
exam = _command("exam", _STAGE.format("exam", "Examines the judge on seed tasks; makes the run if it is new."))
generate = _command("generate", _STAGE.format("generate", "The model writes instructions; makes the run if it is new."))
respond = _command("respond", _STAGE.format("respond", "The model answers its instructions."))
judge = _command("judge", _STAGE.format("judge", "The model judges its pairs."))
filter = _command(
    "filter", _STAGE.format("filter", "Rules, then scores; may be repeated with another --keep until training.")
)
train = _command("train", _STAGE.format("train", "Trains the adapter on what was kept."))
evaluate = _command("evaluate", _STAGE.format("evaluate", "Measures the round's model on held-out tasks."))
