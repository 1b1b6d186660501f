"""Tasks of the harness by name, with their own dataset or with rows of a file. Imports lm_eval."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from minisheep.errors import ConfigError, DownloadError, MinisheepError, UsageError
from minisheep.evals.code import refusal
from minisheep.models.hub import said_offline

# The names of the harness's tasks, read off its files without parsing them: 14,000 of them take the harness a quarter
# of a minute.
_NAMED = re.compile(rb"""^[ \t]*(?:-[ \t]+)?["']?(?:task|group|tag)["']?:[ \t]*["']?([^\s"'#\[\]]+)""", re.MULTILINE)
_LISTED = re.compile(rb"""(?:^[ \t]*-|[\[,])[ \t]*["']?([^\s"'#:\[\],]+)""", re.MULTILINE)


def read_names(root: Path) -> tuple[set[str], set[str]]:
    """Names that tasks, groups and tags give themselves below `root`, and all that may be one (lists of tags too)."""
    named: set[str] = set()
    possible: set[str] = set()
    for file in root.rglob("*"):
        # Files that others include have no suffix.
        if file.suffix not in ("", ".yaml", ".yml") or not file.is_file():
            continue
        text = file.read_bytes()
        named.update(found.decode("utf-8", "replace") for found in _NAMED.findall(text))
        possible.update(found.decode("utf-8", "replace") for found in _LISTED.findall(text))
    return named, named | possible


# What is to be measured, as the command line says it and as it crosses to the worker.
FRAMES = ("auto", "template", "plain")
PLAIN = "plain text"
"""How results call a prompt without a template; one may itself be called plain."""
EXTRA = 'pip install "minisheep[eval]"'
"""What brings the harness."""


@dataclass(frozen=True, slots=True)
class EvalSpec:
    """One call of ``minisheep eval``. Either `run` (a folder) or `model` (a name or a file) is set."""

    out: str
    """Folder of the results."""
    tasks: tuple[str, ...]
    run: str = ""
    model: str = ""
    rounds: tuple[int, ...] = (0,)
    """0 is the base model."""
    data: dict[str, str] = field(default_factory=dict)
    """By task, a file of JSON lines in place of its dataset."""
    limit: int = 0
    """Items of each task; 0 means all."""
    shots: int | None = None
    """Examples shown in each prompt; None means as the task says."""
    max_tokens: int = 0
    """New tokens of an answer at most; 0 means as the task says."""
    frame: str = "auto"
    """auto: a run's template for all of its rounds; of a lone model, its template if it is an instruct model."""
    template: str = "auto"
    allow_code: bool = False
    offline: bool = False
    again: bool = False
    context: int = 2048
    slots: int = 0
    threads: int = 0

    def to_job(self) -> dict[str, Any]:
        """The job of `desk.do`."""
        return {"phase": "eval", **dataclasses.asdict(self)}

    @classmethod
    def from_job(cls, job: dict[str, Any]) -> Self:
        given = {f.name: job[f.name] for f in dataclasses.fields(cls)}
        return cls(**{**given, "tasks": tuple(given["tasks"]), "rounds": tuple(given["rounds"])})


FEWSHOT_SEED = 1234
"""The harness's own, so that the same examples are shown."""

_NO_GREEDY = frozenset({"squadv2"})
"""Python tasks that ask for likelihoods and not whether they are greedy."""


def load(
    name: str, spec: EvalSpec, rows: Sequence[Mapping[str, Any]] | None, on_progress: Callable[[str], None]
) -> dict[str, Any]:
    """The tasks of a name (several for a group or a tag) by their own names, ready to be asked.

    Raises `errors.UsageError` for a name that there is none of, a task that runs code without leave, or rows that do
    not fit it, and `errors.DownloadError` for a dataset that is not here and cannot be fetched.
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
            raise UsageError(f"The task {leaf} shows pictures or sound, and llama.cpp is given text here.")
        _set_shots(leaf, task, spec.shots, from_file=rows is not None, on_progress=on_progress)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    return loaded


def asks_greedy(name: str, task: Any) -> bool:
    """Whether a task's scores depend on a continuation being the greedy one."""
    from lm_eval.api.task import ConfigurableTask

    if type(task) is not ConfigurableTask:
        return name not in _NO_GREEDY
    metrics = task.aggregation()
    return {"loglikelihood": "acc", "multiple_choice": "exact_match"}.get(task.OUTPUT_TYPE, "") in metrics


def _manager(name: str, on_progress: Callable[[str], None]) -> Any:
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
    named, possible = read_names(root)
    if name in possible:
        on_progress("Reading all of the harness's tasks.")
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


def _set_shots(leaf: str, task: Any, shots: int | None, *, from_file: bool, on_progress: Callable[[str], None]) -> None:
    own = task.get_config("num_fewshot")
    if shots is not None and own == 0 and shots:
        on_progress(f"{leaf} is asked without examples, whatever --shots says: its authors fixed that.")
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


# Rows of a task from a file of JSON lines, in the format of the task's own dataset.
FIELDS: dict[str, tuple[str, ...]] = {
    "ifeval": ("key", "prompt", "instruction_id_list", "kwargs"),
    "triviaqa": ("question", "answer.aliases"),
    "squadv2": ("id", "title", "context", "question", "answers.text"),
    "humaneval": ("task_id", "prompt", "test", "entry_point"),
    "mbpp": ("task_id", "text", "test_list"),
}
"""What a row must have. Other tasks find out for themselves what a row lacks."""

_LEAST = {"answer.aliases": 1, "test_list": 3}
"""Lists that need so many entries."""


def read_rows(path: Path, task: str) -> list[dict[str, Any]]:
    """The rows of a file, in its order. Raises `errors.UsageError` naming the file and the line."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"--data {path} cannot be read: {error.strerror}.", "Give a file of JSON lines.") from None
    except UnicodeDecodeError:
        raise UsageError(f"--data {path} is not UTF-8 text.", "Give a file of JSON lines.") from None
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            rows.append(_row(f"--data {path}, line {number},", task, line))
    if not rows:
        raise UsageError(f"--data {path} holds no row.", _fix(task))
    if task == "ifeval":
        _check_ifeval(path)
    return rows


def _row(where: str, task: str, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise UsageError(f"{where} is not JSON.", _fix(task)) from None
    if not isinstance(row, dict):
        raise UsageError(f"{where} is not a JSON object.", _fix(task))
    for name in FIELDS.get(task, ()):
        found: Any = row
        for part in name.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if found is None or (name in _LEAST and not (isinstance(found, list) and len(found) >= _LEAST[name])):
            raise UsageError(f"{where} is no row of {task}: {name} is missing or too short.", _fix(task))
    return row


def _check_ifeval(path: Path) -> None:
    from minisheep.rules.seed_tasks import load_items

    try:
        load_items(str(path))
    except ConfigError as error:
        raise UsageError(f"--data {error.message}", error.fix) from None


def _fix(task: str) -> str:
    fields = ", ".join(FIELDS.get(task, ()))
    return f"One JSON object a line, {f'with {fields}' if fields else f'as in the dataset of {task}'}."


# Whether the hub may be asked, decided before any of its libraries is imported: they read their environment then.
SECONDS = 6
"""Within which the hub must answer, a slow resolver included."""


def settle(*, offline: bool) -> bool:
    """Set the environment of this process, and tell whether it is offline: asked for, as set already, or found."""
    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        os.environ.setdefault(name, "10")
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS", "TQDM_DISABLE"):
        os.environ.setdefault(name, "1")
    if offline or said_offline() or not reachable():
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE"):
            os.environ[name] = "1"
        from huggingface_hub import constants

        # Should somebody have imported it already.
        constants.HF_HUB_OFFLINE = True
        return True
    return False


def reachable(seconds: float = SECONDS) -> bool:
    """Whether the hub gives any answer at all, through a proxy where one is set."""
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

    # In a thread, since no timeout covers the look-up of the name.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    return answered.is_set()
