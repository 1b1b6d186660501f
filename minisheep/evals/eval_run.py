"""The parent's part of an evaluation: checks the request, starts a worker, pairs the stored results, and shows them.

A result is ``<task>-round-<n>.json``. Results on a part of the items or on a file of the user's get other names, such
as ``ifeval-round-1-data-3f9c0d12-limit-20.json``, so that a quick look never replaces what took hours.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from minisheep.api import load_run, resolve_round
from minisheep.errors import CorruptRunError, UnknownModelError, UsageError
from minisheep.evals.tasks import PLAIN, EvalSpec, read_rows
from minisheep.machine.installing import install_extra
from minisheep.machine.worker import WorkerProcess, stoppable
from minisheep.rules.plain_text import one_line, round_name, shell
from minisheep.run.events import Emit, Event, TaskMeasured
from minisheep.run.files import disk_errors
from minisheep.run.folder import Lock
from minisheep.run.reading import read_shaped
from minisheep.run.typed import Each, Maybe

WORKER = "minisheep.evals.worker:do"


def measure(spec: EvalSpec, emit: Emit, tick: Callable[[], None] = lambda: None) -> list[dict[str, Any]]:
    """Measure what `spec` asks for, and return the stored results by task and round, in the order of the request.

    Each is as `evals.worker` writes it, plus its ``file`` and ``change``: by metric the paired difference to the base
    (value, low, high) if the base is measured too. Raises `errors.MinisheepError`; results up to then are stored.
    """
    out = Path(spec.out)
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    files: dict[tuple[str, int], TaskMeasured] = {}

    def listen(event: Event) -> None:
        if isinstance(event, TaskMeasured):
            files[event.task, event.round] = event
        else:
            emit(event)

    stopped = "Stopped. The results so far are stored.", "Give the same command to continue."
    with Lock(out) as lock, WorkerProcess(WORKER, out / "worker.log", lock.handle) as worker, stoppable(*stopped):
        worker.do(spec.to_job(), f"Round {spec.rounds[0]}, eval", listen, tick)
    return _paired(spec, files)


def _paired(spec: EvalSpec, files: dict[tuple[str, int], TaskMeasured]) -> list[dict[str, Any]]:
    order = {task: place for place, (task, _) in enumerate(files)}
    listed = sorted(files.values(), key=lambda event: (order[event.task], event.round))
    results = [
        {**read_shaped(Path(event.file), RESULT), "file": event.file, "stored_before": event.stored} for event in listed
    ]
    bases = {result["task"]: result for result in results if result["round"] == 0}
    for result in results:
        # If only rounds were asked for, the base may have been measured before in the same way.
        settings = {**result["settings"], "adapter": ""}
        base = bases.get(result["task"]) or read(path(Path(spec.out), result["task"], 0, settings), settings)
        result["change"] = changes(result, base) if base and result["round"] else {}
    return results


def changes(ours: dict[str, Any], base: dict[str, Any]) -> dict[str, dict[str, float]]:
    """By metric the paired difference of two results and its interval, on the items of both.

    Empty if they were not measured in the same way.
    """
    from minisheep.evals import scores
    from minisheep.metrics.stats import ratio_interval

    if not comparable(ours, base):
        return {}
    differences = {}
    for metric, known in ours["metrics"].items():
        first, second = (scores.pairs_of(result["by_item"], metric) for result in (ours, base))
        common = [id_ for id_ in first if id_ in second]
        if common and known["low"] is not None:
            pairs = ([parts[i] for i in common] for parts in (first, second))
            differences[metric] = ratio_interval(*pairs, whole=scores.whole(metric)).to_dict()
    return differences


def check_installed() -> None:
    """Raise `errors.UsageError` without lm-eval."""
    if importlib.util.find_spec("lm_eval") is None:
        raise UsageError(
            "minisheep eval needs lm-evaluation-harness, which is not installed.", f"Type `{install_extra('eval')}`."
        )


def task_names(text: str) -> tuple[str, ...]:
    """The names between commas, each once. Raises `errors.UsageError` if there is none."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise UsageError("--tasks names no task.", "Give a task, for example --tasks ifeval.")
    return names


def data_files(given: Sequence[str], tasks: Sequence[str]) -> dict[str, str]:
    """The file of rows of each task, read and checked. Raises `errors.UsageError`."""
    files: dict[str, str] = {}
    for text in given:
        task, named, file = text.partition("=")
        if not named or task not in tasks:
            task, file = tasks[0], text
            if len(tasks) > 1:
                raise UsageError(
                    f"--data {text} does not name one of the {len(tasks)} tasks.", f"Give --data {tasks[0]}={file}."
                )
        if task in files:
            raise UsageError(f"--data is given twice for {task}.", "Give one file for each task.")
        if Path(file).is_fifo():
            raise UsageError(f"--data {file} is a pipe, and its rows are read again for each round.", "Give a file.")
        read_rows(Path(file), task)
        files[task] = str(Path(file).absolute())
    return files


def target(text: str) -> tuple[str, str]:
    """``(run folder, "")`` or ``("", model)``. Raises `errors.UsageError` if `text` is neither."""
    folder = Path(text)
    if (folder / "manifest.json").is_file():
        return str(folder.absolute()), ""
    if folder.is_dir():
        raise UsageError(f"{text} is a folder but not a run.", "Give a run folder, a model's name or a GGUF file.")
    from minisheep.models.registry import find_model

    try:
        find_model(text)
    except UnknownModelError as error:
        raise UsageError(f"{text[:100]!r} is neither a run nor a model: {error.message}", error.fix) from None
    return "", text


def rounds(
    run: str, given: Sequence[str], base: bool, on_progress: Callable[[str], None] = lambda text: None
) -> tuple[int, ...]:
    """The rounds to measure (0 is the base): those `given`, or all trained ones.

    `on_progress` gets a message if the best round is the base. Raises `errors.UsageError` for a round that was not
    trained, and for rounds of a lone model.
    """
    if not run:
        if given:
            raise UsageError("--round is for a run, but this is a model.", "Leave --round out.")
        return (0,)
    if not Path(run, "model.json").is_file():
        raise UsageError(f"{run} has no model yet.", f"Continue the run with `minisheep align --run {shell(run)}`.")
    opened = load_run(run)
    chosen = {resolve_round(opened, one, opened.trained, on_progress=on_progress) for one in given}
    wanted = tuple(sorted(chosen | ({0} if base else set()))) or (0, *opened.trained)
    opened.check_whole("train", wanted)
    return wanted


def default_out(run: str, model: str) -> Path:
    """RUN/eval, or eval/MODEL in the working folder."""
    from minisheep.models.registry import safe_name

    return Path(run, "eval") if run else Path("eval", safe_name(Path(model).name.removesuffix(".gguf")))


def path(out: Path, task: str, round: int, settings: Mapping[str, Any]) -> Path:
    """The file of a task's result. `settings` are those of `ModelUnderTest.identity`."""
    parts = [
        f"data-{settings['data'][:8]}" if settings["data"] else "",
        f"limit-{settings['limit']}" if settings["limit"] else "",
        f"shots-{settings['shots']}" if settings["shots"] is not None else "",
        f"max-{settings['max_tokens']}" if settings["max_tokens"] else "",
        "plain" if settings["frame"] == PLAIN else "",
    ]
    safe = re.sub(r"[^A-Za-z0-9._+-]", "-", task).lstrip(".") or "task"
    return out / f"{'-'.join([safe, 'round', str(round), *(part for part in parts if part)])}.json"


_SHARE = {"value": Maybe(float), "low": Maybe(float), "high": Maybe(float)}
RESULT: dict[str, Any] = {
    "task!": str,
    "round!": int,
    "settings!": dict[str, Any],
    "decided_by!": str,
    "shots!": Maybe(int),
    "items!": int,
    "metrics!": Each({f"{name}!": shape for name, shape in _SHARE.items()}),
    "answers!": {"ended": Maybe(float), "tokens_per_second": Maybe(float)},
    "by_item!": [{"id!": str, "scores!": Each([float])}],
}
"""A stored result, as far as this file reads it."""


def read(file: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result in `file` if it was measured with these settings; None otherwise, and for a damaged file, so that it
    is measured again."""
    if not file.exists():
        return None
    try:
        result = read_shaped(file, RESULT)
    except CorruptRunError:
        return None
    return result if result["settings"] == dict(settings) else None


def comparable(ours: Mapping[str, Any], base: Mapping[str, Any]) -> bool:
    """Whether two results differ only in the adapter, so that they can be paired."""
    first, second = ({**result["settings"], "adapter": None} for result in (ours, base))
    return first == second and ours.get("decided_by") == base.get("decided_by")


# Results in words: a table for a terminal, plain lines for a pipe, JSON objects.
Result = Mapping[str, Any]


def objects(results: Sequence[Result]) -> Iterator[dict[str, Any]]:
    for result in results:
        yield {"event": "Measured", **{name: value for name, value in result.items() if name != "by_item"}}


def lines(results: Sequence[Result]) -> Iterator[str]:
    """One line for each result with its file, and one for each of its metrics."""
    for result in results:
        model = round_name(result["round"])
        yield f"{_title(result)}, {model}: {result['file']}"
        for metric, value in result["metrics"].items():
            changed = _change(result, metric)
            change = f", change to base {changed}" if changed else ""
            yield f"  {one_line(result['task'])} {model} {one_line(metric)} {_value(value)}{change}"


def tables(results: Sequence[Result]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """For each task its title, column titles and rows: each metric, and below it the change to the base."""
    for task in dict.fromkeys(result["task"] for result in results):
        own = [result for result in results if result["task"] == task]
        rows = []
        for metric in dict.fromkeys(metric for result in own for metric in result["metrics"]):
            rows.append([one_line(metric), *(_value(r["metrics"].get(metric)) for r in own)])
            changes = [_change(result, metric) for result in own]
            if any(changes):
                rows.append(["  change to base", *changes])
        speeds = [result["answers"].get("tokens_per_second") for result in own]
        if any(speeds):
            rows.append(["answers that ended", *(_share(result["answers"].get("ended")) for result in own)])
            rows.append(["tokens/s of answers", *("-" if not speed else f"{speed:.0f}" for speed in speeds)])
        yield _title(own[0]), ["", *(round_name(result["round"]) for result in own)], rows


def print_tables(results: Sequence[Result]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    for title, columns, rows in tables(results):
        table = Table(title=Text(title), title_style="", header_style="")
        for place, column in enumerate(columns):
            table.add_column(column, justify="right" if place else "left")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
    for note in notes(results):
        console.print(Text(note))


def notes(results: Sequence[Result]) -> Iterator[str]:
    """What a reader of the numbers must know."""
    yield "Brackets hold 95 % bootstrap intervals over items. Changes are paired by item."
    for decided_by in dict.fromkeys(r["decided_by"] for r in results if r["task"] == "ifeval"):
        yield f"ifeval is decided by {one_line(decided_by)}."
    again = [result for result in results if result["stored_before"]]
    if again:
        yield f"{len(again)} of {len(results)} result(s) were stored before. Give --again to measure them again."
    if results:
        yield f"Stored, with every item, in {one_line(str(results[0]['file']).rpartition('/')[0])}"


def _title(result: Result) -> str:
    settings = result["settings"]
    shots = f", {result['shots']} example(s) shown" if result["shots"] else ""
    return one_line(f"{result['task']}: {result['items']} items, {settings['frame']}{shots}")


def _value(metric: Mapping[str, Any] | None) -> str:
    if metric is None or metric["value"] is None:
        return "-"
    interval = "" if metric["low"] is None else f" [{metric['low']:.3f}, {metric['high']:.3f}]"
    return f"{metric['value']:.3f}{interval}"


def _change(result: Result, metric: str) -> str:
    change = result["change"].get(metric)
    return f"{change['value']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}]" if change else ""


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
