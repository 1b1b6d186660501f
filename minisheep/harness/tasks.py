"""Tasks of the harness by name, with their own dataset or with rows of a file. Imports lm_eval."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minisheep.errors import DownloadError, MinisheepError, UsageError
from minisheep.harness import names
from minisheep.harness.code import refusal
from minisheep.harness.spec import EXTRA, Spec

FEWSHOT_SEED = 1234
"""The harness's own, so that the same examples are shown."""

_NO_GREEDY = frozenset({"squadv2"})
"""Python tasks that ask for likelihoods and not whether they are greedy."""


def load(
    name: str, spec: Spec, rows: Sequence[Mapping[str, Any]] | None, tell: Callable[[str], None]
) -> dict[str, Any]:
    """The tasks of a name (several for a group or a tag) by their own names, ready to be asked.

    Raises `errors.UsageError` for a name that there is none of, a task that runs code without leave, or rows that do
    not fit it, and `errors.DownloadError` for a dataset that is not here and cannot be fetched.
    """
    manager = _manager(name, tell)
    config = manager.task_index[name].cfg or {}
    if config.get("unsafe_code") and not spec.allow_code:
        raise refusal(f"The task {name}")
    with _one_line(name, config, from_file=rows is not None), _local(name, rows):
        loaded: dict[str, Any] = manager.load([name])["tasks"]
    for leaf, task in loaded.items():
        if getattr(task, "UNSAFE_CODE", False) and not spec.allow_code:
            raise refusal(f"The task {leaf}")
        if getattr(task, "MULTIMODAL", False):
            raise UsageError(f"The task {leaf} shows pictures or sound, and llama.cpp is given text here.")
        _set_shots(leaf, task, spec.shots, from_file=rows is not None, tell=tell)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    return loaded


def asks_greedy(name: str, task: Any) -> bool:
    """Whether a task's scores depend on a continuation being the greedy one."""
    from lm_eval.api.task import ConfigurableTask

    if type(task) is not ConfigurableTask:
        return name not in _NO_GREEDY
    metrics = task.aggregation()
    return {"loglikelihood": "acc", "multiple_choice": "exact_match"}.get(task.OUTPUT_TYPE, "") in metrics


def _manager(name: str, tell: Callable[[str], None]) -> Any:
    """A task manager that knows `name`; it parses all of the harness's files only for a name that has no own folder."""
    try:
        import lm_eval.tasks
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UsageError(f"lm-evaluation-harness cannot be loaded: {error}.", EXTRA) from None
    root = Path(lm_eval.tasks.__file__).parent
    if re.fullmatch(r"[A-Za-z0-9_-]+", name):
        for folder in (root / name, root / name.partition("_")[0]):
            if folder.is_dir():
                manager = TaskManager(include_path=str(folder), include_defaults=False)
                if name in manager.all_subtasks:
                    return manager
    named, possible = names.read(root)
    if name in possible:
        tell("Reading all of the harness's tasks.")
        manager = TaskManager()
        if name in manager.task_index:
            return manager
    near = ", ".join(difflib.get_close_matches(name, sorted(named), n=3))
    raise UsageError(
        f"The harness has no task {name[:100]!r}.{f' Nearest: {near}.' if near else ''}",
        "Names are those of lm-evaluation-harness: ifeval, triviaqa, squadv2, humaneval, mbpp and others.",
    )


@contextmanager
def _one_line(name: str, config: Mapping[str, Any], *, from_file: bool) -> Iterator[None]:
    """Whatever loading a task raises, as one line."""
    try:
        yield
    except MinisheepError:
        raise
    except ImportError as error:
        raise UsageError(f"The task {name} needs a package that is missing: {error}.", EXTRA) from None
    except Exception as error:
        told = " ".join(str(error).split())[:200]
        if from_file:
            raise UsageError(f"--data does not fit the task {name}: {type(error).__name__}: {told}.") from None
        source = f" ({config['dataset_path']})" if config.get("dataset_path") else ""
        if _is_missing(error):
            raise DownloadError(
                f"The data of {name}{source} is not on this machine and cannot be fetched: {told}.",
                "Give its rows as JSON lines with --data FILE, or the same command once where there is a network.",
            ) from None
        raise UsageError(
            f"The task {name} cannot be loaded: {type(error).__name__}: {told}.", "Choose another task."
        ) from None


def _is_missing(error: Exception) -> bool:
    """Whether a dataset could not be had: the clients raise many classes, most of them errors of the system."""
    from datasets.exceptions import DatasetsError

    offline = "Couldn't find cache" in str(error)
    return isinstance(error, OSError | DatasetsError) or offline or "huggingface_hub" in type(error).__module__


@contextmanager
def _local(name: str, rows: Sequence[Mapping[str, Any]] | None) -> Iterator[None]:
    """Every split of a task's dataset is `rows`; None leaves it alone.

    By the method that all tasks fetch their data with, since tasks written in Python do not look at a configuration.
    """
    if rows is None:
        yield
        return
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    dataset = Dataset.from_list([dict(row) for row in rows])

    class Splits(dict[str, Any]):
        def __missing__(self, split: str) -> Any:
            return dataset

    used = False

    def download(task: Any, *_: Any, **__: Any) -> None:
        nonlocal used
        used = True
        task.dataset = Splits()

    before = ConfigurableTask.download
    ConfigurableTask.download = download
    try:
        yield
    finally:
        ConfigurableTask.download = before
    if not used:
        raise UsageError(f"The task {name} gets its data in a way of its own, so --data cannot replace it.")


def _set_shots(leaf: str, task: Any, shots: int | None, *, from_file: bool, tell: Callable[[str], None]) -> None:
    own = task.get_config("num_fewshot")
    if shots is not None and own == 0 and shots:
        tell(f"{leaf} is asked without examples, whatever --shots says: its authors fixed that.")
    elif shots is not None:
        task.set_config(key="num_fewshot", value=shots)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)
    shown = task.get_config("num_fewshot")
    if from_file and shown and getattr(task.fewshot_cfg, "samples", None) is None:
        raise UsageError(
            f"{leaf} shows {shown} examples of another split, and --data has only the rows that are asked.",
            "Give --shots 0.",
        )
