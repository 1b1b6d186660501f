"""What the words of the command line mean: a run or a model, its rounds, the tasks and their files."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

from minisheep.errors import UnknownModelError, UsageError
from minisheep.harness import rows
from minisheep.harness.spec import EXTRA
from minisheep.run.reading import load_run, resolve_round


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
        rows.read(Path(file), task)
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
    run: str, wanted: Sequence[str], base: bool, tell: Callable[[str], None] = lambda text: None
) -> tuple[int, ...]:
    """The rounds to measure, 0 being the base: all that were trained, unless some were asked for.

    `tell` hears where the best is the base. Raises `errors.UsageError` for a round that was not trained, or rounds of
    a lone model.
    """
    if not run:
        if wanted:
            raise UsageError("--round is for a run, and this is a model.", "Leave --round out.")
        return (0,)
    if not Path(run, "model.json").is_file():
        raise UsageError(f"{run} has no model yet.", f"`minisheep align --run {run}` goes on with it.")
    opened = load_run(run)
    chosen = {resolve_round(opened, one, opened.trained, tell=tell) for one in wanted}
    return tuple(sorted(chosen | ({0} if base else set()))) or (0, *opened.trained)


def default_out(run: str, model: str) -> Path:
    """RUN/eval, or eval/MODEL in the working folder."""
    from minisheep.models.registry import safe_name

    return Path(run, "eval") if run else Path("eval", safe_name(Path(model).name.removesuffix(".gguf")))
