"""What `minisheep eval` measures: the request, the harness's tasks by name, and rows of a file in place of a dataset.

Functions import lm_eval only when called. The harness needs a quarter of a minute to parse its 14,000 task files, so
`read_names` reads names off them without parsing.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from minisheep.data.seed_formats import RowError, lines
from minisheep.data.seed_tasks import json_text, load_items, read_file
from minisheep.errors import ConfigError, DownloadError, MinisheepError, TimeUpError, UsageError
from minisheep.evals.code import refusal
from minisheep.machine.installing import install_extra
from minisheep.models.hub import said_offline
from minisheep.rules.ifeval import loose
from minisheep.stages.checking import in_time

PLAIN = "plain text"
"""A prompt without a template, in results; a template may itself be named plain."""
FEWSHOT_SEED = 1234
"""The harness's own, so that the same examples are shown."""
FIELDS: dict[str, tuple[str, ...]] = {
    "ifeval": ("key", "prompt", "instruction_id_list", "kwargs"),
    "triviaqa": ("question", "answer.aliases"),
    "squadv2": ("id", "title", "context", "question", "answers.text"),
    "humaneval": ("task_id", "prompt", "test", "entry_point"),
    "mbpp": ("task_id", "text", "test_list"),
}
"""What a row must have. Other tasks fail by themselves if a row lacks something."""
SECONDS = 6
"""Within which the hub must answer, including a slow resolver."""
_LEAST = {"answer.aliases": 1, "test_list": 3}
"""Smallest number of entries in these lists."""
_NO_GREEDY = frozenset({"squadv2"})
"""Tasks written in Python that need likelihoods, but not whether a continuation is the greedy one."""
_NAMED = re.compile(rb"""^[ \t]*(?:-[ \t]+)?["']?(?:task|group|tag)["']?:[ \t]*["']?([^\s"'#\[\]]+)""", re.MULTILINE)
_LISTED = re.compile(rb"""(?:^[ \t]*-|[\[,])[ \t]*["']?([^\s"'#:\[\],]+)""", re.MULTILINE)


def read_names(root: Path) -> tuple[set[str], set[str]]:
    """Names of tasks, groups and tags in the files below `root`, and all words that may be one (lists of tags too)."""
    named: set[str] = set()
    possible: set[str] = set()
    for file in root.rglob("*"):
        # Included files have no suffix.
        if file.suffix not in ("", ".yaml", ".yml") or not file.is_file():
            continue
        text = file.read_bytes()
        named.update(found.decode("utf-8", "replace") for found in _NAMED.findall(text))
        possible.update(found.decode("utf-8", "replace") for found in _LISTED.findall(text))
    return named, named | possible


@dataclass(frozen=True, slots=True)
class EvalSpec:
    """One call of ``minisheep eval``, as it crosses to the worker. Either `run` or `model` (name or file) is set."""

    out: str
    """Folder of the results."""
    tasks: tuple[str, ...]
    run: str = ""
    model: str = ""
    rounds: tuple[int, ...] = (0,)
    """0 is the base model."""
    data: dict[str, str] = field(default_factory=dict)
    """By task, a file of JSON lines that replaces its dataset."""
    limit: int = 0
    """Items of each task; 0 means all."""
    shots: int | None = None
    """Examples shown in each prompt; None means the task's own number."""
    max_tokens: int = 0
    """Most new tokens of an answer; 0 means the task's own limit."""
    frame: str = "auto"
    """auto: the template, for a run and for an instruct model; plain text for a base model alone."""
    template: str = "auto"
    allow_code: bool = False
    offline: bool = False
    again: bool = False
    context: int = 2048
    slots: int = 0
    threads: int = 0

    def to_job(self) -> dict[str, Any]:
        """The job of `worker.do`."""
        return {"phase": "eval", **dataclasses.asdict(self)}

    @classmethod
    def from_job(cls, job: dict[str, Any]) -> Self:
        given = {f.name: job[f.name] for f in dataclasses.fields(cls)}
        return cls(**{**given, "tasks": tuple(given["tasks"]), "rounds": tuple(given["rounds"])})


def load(
    name: str, spec: EvalSpec, rows: Sequence[Mapping[str, Any]] | None, on_progress: Callable[[str], None]
) -> dict[str, Any]:
    """The tasks of a name (several for a group or a tag), by their own names, ready to use.

    Raises `errors.UsageError` for an unknown name, a task that runs code if that is not allowed, and rows that do not
    fit, and `errors.DownloadError` for a dataset that is missing and cannot be fetched.
    """
    manager = _manager(name, on_progress)
    config = manager.task_index[name].cfg or {}
    if config.get("unsafe_code") and not spec.allow_code:
        raise refusal(f"The task {name}")
    with _one_line(name, config, from_file=rows is not None), _local(name, rows):
        loaded: dict[str, Any] = manager.load([name])["tasks"]
    for leaf, task in loaded.items():
        if getattr(task, "UNSAFE_CODE", False) and not spec.allow_code:
            raise refusal(f"The task {leaf}")
        if getattr(task, "MULTIMODAL", False):
            raise UsageError(
                f"The task {leaf} shows pictures or sound, but minisheep gives llama.cpp only text.",
                "Choose another task.",
            )
        _set_shots(leaf, task, spec.shots, from_file=rows is not None, on_progress=on_progress)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    return loaded


def asks_greedy(name: str, task: Any) -> bool:
    """Whether a task's scores depend on whether a continuation is the greedy one."""
    from lm_eval.api.task import ConfigurableTask

    if type(task) is not ConfigurableTask:
        return name not in _NO_GREEDY
    metrics = task.aggregation()
    return {"loglikelihood": "acc", "multiple_choice": "exact_match"}.get(task.OUTPUT_TYPE, "") in metrics


def _manager(name: str, on_progress: Callable[[str], None]) -> Any:
    """A task manager that knows `name`. It parses all of the harness's files only if the name has no own folder."""
    try:
        import lm_eval.tasks
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UsageError(
            f"lm-evaluation-harness cannot be loaded: {error}.", f"Type `{install_extra('eval')}`."
        ) from None
    root = Path(lm_eval.tasks.__file__).parent
    if re.fullmatch(r"[A-Za-z0-9_-]+", name):
        for folder in (root / name, root / name.partition("_")[0]):
            if folder.is_dir():
                manager = TaskManager(include_path=str(folder), include_defaults=False)
                if name in manager.all_subtasks:
                    return manager
    named, possible = read_names(root)
    if name in possible:
        on_progress("Reading all of the harness's tasks.")
        manager = TaskManager()
        if name in manager.task_index:
            return manager
    near = ", ".join(difflib.get_close_matches(name, sorted(named), n=3))
    raise UsageError(
        f"The harness has no task {name[:100]!r}.{f' Nearest: {near}.' if near else ''}",
        "Use a name of lm-evaluation-harness: ifeval, triviaqa, squadv2, humaneval, mbpp and others.",
    )


@contextmanager
def _one_line(name: str, config: Mapping[str, Any], *, from_file: bool) -> Iterator[None]:
    """Turns whatever loading a task raises into one line."""
    try:
        yield
    except MinisheepError:
        raise
    except ImportError as error:
        raise UsageError(
            f"The task {name} needs a package that is missing: {error}.", f"Type `{install_extra('eval')}`."
        ) from None
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        if from_file:
            raise UsageError(f"--data does not fit the task {name}: {type(error).__name__}: {reason}.") from None
        source = f" ({config['dataset_path']})" if config.get("dataset_path") else ""
        from datasets.exceptions import DatasetsError

        # The clients raise many classes, most of them OSErrors.
        offline = "Couldn't find cache" in str(error) or "huggingface_hub" in type(error).__module__
        if offline or isinstance(error, OSError | DatasetsError):
            raise DownloadError(
                f"The data of {name}{source} is not on this machine and cannot be fetched: {reason}.",
                "Give its rows as JSON lines with --data FILE, or run the same command once with a network.",
            ) from None
        raise UsageError(
            f"The task {name} cannot be loaded: {type(error).__name__}: {reason}.", "Choose another task."
        ) from None


@contextmanager
def _local(name: str, rows: Sequence[Mapping[str, Any]] | None) -> Iterator[None]:
    """Make `rows` every split of a task's dataset; None changes nothing.

    This replaces the method by which all tasks fetch data, since tasks written in Python ignore a configuration.
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
        raise UsageError(
            f"The task {name} fetches its data in its own way, so --data cannot replace it.", "Leave --data out."
        )


def _set_shots(leaf: str, task: Any, shots: int | None, *, from_file: bool, on_progress: Callable[[str], None]) -> None:
    own = task.get_config("num_fewshot")
    if shots is not None and own == 0 and shots:
        on_progress(f"{leaf} shows no examples and ignores --shots, since its authors fixed that.")
    elif shots is not None:
        task.set_config(key="num_fewshot", value=shots)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)
    shown = task.get_config("num_fewshot")
    if from_file and shown and getattr(task.fewshot_cfg, "samples", None) is None:
        raise UsageError(
            f"{leaf} shows {shown} examples from another split, but --data holds only the rows to ask.",
            "Give --shots 0.",
        )


def read_rows(path: Path, task: str) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines, in the format of the task's own dataset.

    Raises `errors.UsageError` with the file and the line.
    """
    data, _ = read_file(str(path), "", "file of --data", UsageError)
    text = json_text(data, str(path), UsageError, "--data takes a file of JSON lines.")
    rows = [_row(f"--data {path}, {row.place},", task, row.value) for row in lines(text)]
    if not rows:
        raise UsageError(f"--data {path} holds no rows.", _fix(task))
    if task == "ifeval":
        try:
            for item in load_items(str(path)):
                with row_in_time(f"{path}, row {item.id}"):
                    loose(item, item.prompt)  # some text to try it on, before hours of answers
        except ConfigError as error:
            raise UsageError(f"--data {error.message}", error.fix) from None
    return rows


@contextmanager
def row_in_time(row: str) -> Iterator[None]:
    """Raise `errors.UsageError` where deciding an answer to a `row` of ``--data`` takes too long."""
    try:
        with in_time(f"--data {row}: a check of an answer"):
            yield
    except TimeUpError as error:
        raise UsageError(
            error.message, "Its words are regular expressions that search for ever: write plain words, or escape them."
        ) from None


def _row(where: str, task: str, row: Any) -> dict[str, Any]:
    if isinstance(row, RowError):
        raise UsageError(f"{where} is {row}.", _fix(task))
    for name in FIELDS.get(task, ()):
        value: Any = row
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is None or (name in _LEAST and not (isinstance(value, list) and len(value) >= _LEAST[name])):
            raise UsageError(f"{where} is not a row of {task}: {name} is missing or too short.", _fix(task))
    return dict(row)


def _fix(task: str) -> str:
    fields = ", ".join(FIELDS.get(task, ()))
    return f"Write one JSON object per line, {f'with {fields}' if fields else f'as in the dataset of {task}'}."


def settle(*, offline: bool) -> bool:
    """Decide whether this process uses the network, set its environment accordingly, and return whether it is offline.

    It is offline by request, by the environment, or because the hub gives no answer. Call this before any of the hub's
    libraries is imported, since they read their environment then.
    """
    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        os.environ.setdefault(name, "10")
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS", "TQDM_DISABLE"):
        os.environ.setdefault(name, "1")
    if offline or said_offline() or not reachable():
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE"):
            os.environ[name] = "1"
        from huggingface_hub import constants

        # In case it was imported already.
        constants.HF_HUB_OFFLINE = True
        return True
    return False


def reachable(seconds: float = SECONDS) -> bool:
    """Whether the hub gives any answer, through a proxy if one is set."""
    from huggingface_hub.constants import ENDPOINT

    answered = threading.Event()

    def ask() -> None:
        from urllib.error import HTTPError, URLError
        from urllib.request import Request, urlopen

        try:
            urlopen(Request(ENDPOINT, method="HEAD"), timeout=seconds).close()  # noqa: S310
        except HTTPError:
            pass
        except (URLError, OSError, ValueError):
            return
        answered.set()

    # In a thread, since no timeout covers the DNS lookup.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    return answered.is_set()
