"""The parent's part: a worker measures, and what it stored is read and paired."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from minisheep.api import load_run, resolve_round
from minisheep.errors import CorruptRunError, UnknownModelError, UsageError
from minisheep.evals import tasks as harness_tasks
from minisheep.evals.tasks import EXTRA, PLAIN, EvalSpec
from minisheep.machine.worker import WorkerProcess, stoppable
from minisheep.rules.plain_text import one_line
from minisheep.run.events import Emit, Event, TaskMeasured
from minisheep.run.files import disk_errors, read_json, write_json
from minisheep.run.folder import Lock

WORKER = "minisheep.evals.worker:do"


def measure(spec: EvalSpec, emit: Emit, tick: Callable[[], None] = lambda: None) -> list[dict[str, Any]]:
    """Measure what `spec` asks for, and return the stored results by task and round, in the order asked.

    Each is as `evals.worker` writes it, with its ``file`` and, where the base is among them,
    ``change``: by metric the paired difference to the base (value, low, high). Raises `errors.MinisheepError`;
    what was measured until then is stored.
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

    lock = Lock(out)
    try:
        _work(spec, out, lock, listen, tick)
    finally:
        lock.release()
    return _paired(spec, files)


def _work(spec: EvalSpec, out: Path, lock: Lock, emit: Emit, tick: Callable[[], None]) -> None:
    told = "Stopped. What was measured before is stored.", "Give the same command to go on."
    with WorkerProcess(WORKER, out / "worker.log", lock.handle) as worker, stoppable(*told):
        worker.do(spec.to_job(), f"Round {spec.rounds[0]}, eval", emit, tick)


def _paired(spec: EvalSpec, files: dict[tuple[str, int], TaskMeasured]) -> list[dict[str, Any]]:
    order = {task: place for place, (task, _) in enumerate(files)}
    listed = sorted(files.values(), key=lambda event: (order[event.task], event.round))
    results = [{**read_json(Path(event.file)), "file": event.file, "stored_before": event.stored} for event in listed]
    bases = {result["task"]: result for result in results if result["round"] == 0}
    for result in results:
        base = bases.get(result["task"]) or _stored_base(result, Path(spec.out))
        result["change"] = changes(result, base) if base and result["round"] else {}
    return results


def _stored_base(result: dict[str, Any], out: Path) -> dict[str, Any] | None:
    """A base that was measured before in the same way, where only rounds were asked for."""

    settings = {**result["settings"], "adapter": ""}
    return read(path(out, result["task"], 0, settings), settings)


def changes(ours: dict[str, Any], base: dict[str, Any]) -> dict[str, dict[str, float]]:
    """By metric the paired difference of two results, with its interval, on the items that both have.

    Empty where they were not measured alike.
    """
    from minisheep.evals import scores
    from minisheep.metrics.stats import ratio_interval

    if not comparable(ours, base):
        return {}
    found = {}
    for metric, known in ours["metrics"].items():
        first, second = (scores.pairs_of(result["by_item"], metric) for result in (ours, base))
        common = [id_ for id_ in first if id_ in second]
        if common and known["low"] is not None:
            pairs = ([parts[i] for i in common] for parts in (first, second))
            found[metric] = ratio_interval(*pairs, whole=scores.whole(metric)).to_dict()
    return found


# What the words of the command line mean: a run or a model, its rounds, the tasks and their files.
def check_installed() -> None:
    """Raises `errors.UsageError` without lm-eval."""
    if importlib.util.find_spec("lm_eval") is None:
        raise UsageError("minisheep eval needs lm-evaluation-harness, which is not installed.", EXTRA)


def task_names(text: str) -> tuple[str, ...]:
    """The names between the commas, each once. Raises `errors.UsageError` where there is none."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise UsageError("--tasks names no task.", "For example --tasks ifeval.")
    return names


def data_files(given: Sequence[str], tasks: Sequence[str]) -> dict[str, str]:
    """By task, its file of rows, each read and checked. Raises `errors.UsageError`."""
    files: dict[str, str] = {}
    for text in given:
        task, named, file = text.partition("=")
        if not named or task not in tasks:
            task, file = tasks[0], text
            if len(tasks) > 1:
                raise UsageError(
                    f"--data {text} does not say for which of the {len(tasks)} tasks it is.",
                    f"Give --data {tasks[0]}={file}.",
                )
        if task in files:
            raise UsageError(f"--data is given twice for {task}.", "Give one file a task.")
        harness_tasks.read_rows(Path(file), task)
        files[task] = str(Path(file).absolute())
    return files


def target(text: str) -> tuple[str, str]:
    """``(run folder, "")`` or ``("", model)``. Raises `errors.UsageError` for what is neither."""
    folder = Path(text)
    if (folder / "manifest.json").is_file():
        return str(folder.absolute()), ""
    if folder.is_dir():
        raise UsageError(f"{text} is a folder and no run.", "Give a run folder, a model's name or a GGUF file.")
    from minisheep.models.registry import find_model

    try:
        find_model(text)
    except UnknownModelError as error:
        raise UsageError(f"{text[:100]!r} is neither a run nor a model: {error.message}", error.fix) from None
    return "", text


def rounds(
    run: str, wanted: Sequence[str], base: bool, on_progress: Callable[[str], None] = lambda text: None
) -> tuple[int, ...]:
    """The rounds to measure, 0 being the base: all that were trained, unless some were asked for.

    `on_progress` hears where the best is the base. Raises `errors.UsageError` for a round that was not trained, or rounds of
    a lone model.
    """
    if not run:
        if wanted:
            raise UsageError("--round is for a run, and this is a model.", "Leave --round out.")
        return (0,)
    if not Path(run, "model.json").is_file():
        raise UsageError(f"{run} has no model yet.", f"`minisheep align --run {run}` goes on with it.")
    opened = load_run(run)
    chosen = {resolve_round(opened, one, opened.trained, on_progress=on_progress) for one in wanted}
    return tuple(sorted(chosen | ({0} if base else set()))) or (0, *opened.trained)


def default_out(run: str, model: str) -> Path:
    """RUN/eval, or eval/MODEL in the working folder."""
    from minisheep.models.registry import safe_name

    return Path(run, "eval") if run else Path("eval", safe_name(Path(model).name.removesuffix(".gguf")))


# Results on disk: ``<task>-round-<n>.json``, one for each task and round, and when one may be used again.
#
# What was measured on a part of the items or on a file of the user's is named apart, so that a quick look never
# replaces what took hours: ``ifeval-round-1-data-3f9c0d12-limit-20.json``.
def path(out: Path, task: str, round: int, settings: Mapping[str, Any]) -> Path:
    """Where the result of a task belongs. `settings` are those of `Identity`."""
    parts = [
        f"data-{settings['data'][:8]}" if settings["data"] else "",
        f"limit-{settings['limit']}" if settings["limit"] else "",
        f"shots-{settings['shots']}" if settings["shots"] is not None else "",
        f"max-{settings['max_tokens']}" if settings["max_tokens"] else "",
        "plain" if settings["frame"] == PLAIN else "",
    ]
    name = "-".join([_safe(task), "round", str(round), *(part for part in parts if part)])
    return out / f"{name}.json"


def read(file: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result in `file`, if it was measured with these settings; else None, also for a damaged one."""
    if not file.exists():
        return None
    try:
        found = read_json(file)
    except CorruptRunError:
        return None
    return found if isinstance(found, dict) and found.get("settings") == dict(settings) else None


def write(file: Path, result: Mapping[str, Any]) -> None:
    """Atomically. Raises `errors.DiskError`."""
    write_json(file, dict(result))


def comparable(ours: Mapping[str, Any], base: Mapping[str, Any]) -> bool:
    """Whether two results differ in the adapter alone, so that they can be paired."""
    alone = {"adapter"}
    return {k: v for k, v in ours["settings"].items() if k not in alone} == {
        k: v for k, v in base["settings"].items() if k not in alone
    } and ours.get("decided_by") == base.get("decided_by")


def _safe(task: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]", "-", task).lstrip(".") or "task"


# Results in words: a table for a terminal, plain lines for a pipe, JSON objects. Pure but for `print_tables`.
Result = Mapping[str, Any]


def objects(results: Sequence[Result]) -> Iterator[dict[str, Any]]:
    """One object for each result, without its items."""
    for result in results:
        yield {"event": "Measured", **{name: value for name, value in result.items() if name != "by_item"}}


def lines(results: Sequence[Result]) -> Iterator[str]:
    """One line for each metric of each result, and one with where the result is."""
    for result in results:
        yield f"{_title(result)}, {_column(result)}: {result['file']}"
        for metric, found in result["metrics"].items():
            changed = _change(result, metric)
            told = f", change to base {changed}" if changed else ""
            yield f"  {one_line(result['task'])} {_column(result)} {one_line(metric)} {_value(found)}{told}"


def tables(results: Sequence[Result]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """For each task its title, the column titles and the rows: a metric, and below it its change to the base."""
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
        yield _title(own[0]), ["", *(_column(result) for result in own)], rows


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
    """What the reader of the numbers must know."""
    yield "In brackets: 95 % bootstrap intervals over items; changes are paired by item."
    for decided_by in dict.fromkeys(r["decided_by"] for r in results if r["task"] == "ifeval"):
        yield f"ifeval is decided by {one_line(decided_by)}."
    again = [result for result in results if result["stored_before"]]
    if again:
        yield f"{len(again)} of {len(results)} result(s) were stored before; --again measures anew."
    if results:
        yield f"Stored with every item: {one_line(str(results[0]['file']).rpartition('/')[0])}"


def _title(result: Result) -> str:
    settings = result["settings"]
    shots = f", {result['shots']} example(s) shown" if result["shots"] else ""
    return one_line(f"{result['task']}: {result['items']} items, {settings['frame']}{shots}")


def _column(result: Result) -> str:
    return f"round {result['round']}" if result["round"] else "base"


def _value(found: Mapping[str, Any] | None) -> str:
    if found is None or found["value"] is None:
        return "-"
    if found["low"] is None:
        return f"{found['value']:.3f}"
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def _change(result: Result, metric: str) -> str:
    found = result["change"].get(metric)
    return f"{found['value']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]" if found else ""


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
