"""The notebooks: whole, small, in step with the API, and run from top to bottom on the tiny model."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import inspect
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import nbformat
import pytest

from minisheep import config
from minisheep.api import Run, align
from minisheep.data.seed_tasks import HELD_OUT_SHARE
from minisheep.machine import cuda_setup
from minisheep.machine.gpu import gpus_here
from minisheep.models.registry import load_registry
from minisheep.phase_times import kept_examples
from minisheep.plan.fit import make_plan, with_gpu
from minisheep.plan.gpu_models import find_gpu_model
from minisheep.plan.memory_parts import total
from minisheep.plan.room import known_model
from minisheep.rules.corrupt import KINDS
from minisheep.run.reading import Round
from minisheep.stages.exam import CANDIDATES

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
GPU = FOLDER / "5_qwen_on_one_gpu.ipynb"
LARGEST = 200_000
"""Bytes of a notebook with its outputs."""
LIMIT = 600
"""Seconds; two to five minutes on two idle cores is what it takes, and a busy machine is no fault of a notebook."""
MACHINE = re.compile(r"(?<![\w.:/-])/(?:home|root|Users|tmp|work|var|mnt|opt|usr|content|private|data)/")
"""The beginning of a path that only one machine has."""
OPENED = {"run": Run, "by_seeds": Run, "by_prompt": Run, "round_": Round}
"""What the variables of these names are, in every notebook."""

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def sources(path: Path, kind: str) -> list[str]:
    return [cell.source for cell in read(path).cells if cell.cell_type == kind]


def nodes(path: Path) -> Iterator[ast.AST]:
    """Everything in the code cells; SyntaxError for a cell that is not plain Python."""
    for source in sources(path, "code"):
        yield from ast.walk(ast.parse(source))


def given_settings(path: Path) -> Iterator[dict[str, ast.expr]]:
    """The settings of each call of `align` or `config.make`, by name."""
    for node in nodes(path):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "align":
            yield {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "config.make":
            (given,) = node.args
            assert isinstance(given, ast.Dict)
            yield {ast.literal_eval(key): value for key, value in zip(given.keys, given.values, strict=True) if key}


def opened(node: ast.expr) -> type[Run] | type[Round] | None:
    """Whether an expression is a run or a round, as far as its form tells: ``run``, ``run.base``, ``run.rounds[0]``."""
    if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith(".rounds"):
        return Round
    if isinstance(node, ast.Attribute) and node.attr == "base":
        return Round
    return OPENED.get(node.id) if isinstance(node, ast.Name) else None


def outputs(path: Path) -> list[Any]:
    return [output for cell in read(path).cells if cell.cell_type == "code" for output in cell.outputs]


def test_there_are_five_and_the_readme_lists_them() -> None:
    told = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [path.name[0] for path in NOTEBOOKS] == list("12345")
    assert GPU in NOTEBOOKS
    assert all(f"]({path.name})" in told for path in NOTEBOOKS)


@each_notebook
def test_a_notebook_is_valid(path: Path) -> None:
    nbformat.validate(json.loads(path.read_text(encoding="utf-8")))


@each_notebook
def test_a_notebook_is_small(path: Path) -> None:
    assert path.stat().st_size < LARGEST


@each_notebook
def test_a_notebook_names_no_machine(path: Path) -> None:
    for output in outputs(path):
        for data in (output.get("data") or {}).values():
            if str(data).startswith("iVBOR"):
                # The letters of a picture may spell anything.
                continue
            assert not MACHINE.search(str(data))
        assert not MACHINE.search(output.get("text", ""))
    for source in (*sources(path, "code"), *sources(path, "markdown")):
        assert not MACHINE.search(source)


def test_a_path_of_a_machine_would_be_found() -> None:
    assert MACHINE.search('page: "/home/me/runs/x"') and MACHINE.search("/tmp/x/run")
    assert not MACHINE.search("runs/work/x and round-1/adapter/ and https://host.org/data/x")


@each_notebook
def test_no_output_is_an_error_or_a_warning(path: Path) -> None:
    for output in outputs(path):
        assert output.output_type != "error"
        assert output.get("name") != "stderr"


@each_notebook
def test_a_notebook_that_was_run_was_run_in_order(path: Path) -> None:
    counts = [cell.execution_count for cell in read(path).cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1)) or set(counts) == {None}


@each_notebook
def test_every_name_that_is_imported_exists(path: Path) -> None:
    found = [node for node in nodes(path) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in found if node.module and node.module.split(".")[0] == "minisheep"]
    assert ours
    for node in ours:
        module = importlib.import_module(str(node.module))
        for alias in node.names:
            assert hasattr(module, alias.name) or importlib.import_module(f"{node.module}.{alias.name}")


@each_notebook
def test_every_setting_exists_and_takes_the_value(path: Path) -> None:
    own = set(inspect.signature(align).parameters) - {"settings"}
    calls = list(given_settings(path))
    assert calls
    for given in calls:
        assert set(given) <= own | set(config.names())
        values = {
            name: ast.literal_eval(value)
            for name, value in given.items()
            if name in config.names() and isinstance(value, ast.Constant)
        }
        preset = given.get("preset")
        config.make(values, ast.literal_eval(preset) if preset is not None else "default")


def test_the_third_goes_on_with_the_run_of_the_first() -> None:
    """Other settings would be refused."""
    first, third = (
        {name: ast.literal_eval(value) for name, value in given.items() if isinstance(value, ast.Constant)}
        for given in (next(given_settings(path)) for path in (NOTEBOOKS[0], NOTEBOOKS[2]))
    )
    assert first == third and first["per_round"]


@each_notebook
def test_every_attribute_of_a_run_or_round_exists(path: Path) -> None:
    used = [node for node in nodes(path) if isinstance(node, ast.Attribute) and opened(node.value)]
    assert used
    for node in used:
        assert hasattr(opened(node.value), node.attr), ast.unparse(node)


@each_notebook
def test_every_link_leads_somewhere(path: Path) -> None:
    for source in sources(path, "markdown"):
        for target in re.findall(r"\]\(([^)]+)\)", source):
            assert target.startswith("https://") or (FOLDER / target).is_file(), target


@each_notebook
def test_nothing_is_a_magic_or_a_command_of_the_shell(path: Path) -> None:
    """So that a notebook is Python that any tool can read."""
    for source in sources(path, "code"):
        assert not re.search(r"^\s*[%!]", source, re.MULTILINE)


WORDS = (
    *("no", "one", "two", "three", "four", "five", "six", "seven"),
    *("eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen"),
)
DEMO, DEFAULT = config.make({}, "imitation"), config.make({})
TWELVE = next(given_settings(NOTEBOOKS[0]))["per_round"]
STATED = [
    ("1", "{} rounds of it on SmolLM2", DEMO.rounds),
    ("1", "it downloads about {} MB", round((load_registry()[DEMO.model].gguf_bytes or 0) / 1e6, -1)),
    ("2", "corrupted in {} ways", len(KINDS)),
    ("2", "sees {} seed tasks", DEMO.shots),
    ("2", "ROUGE-L above {})", DEMO.novelty),
    ("2", "the best `{}` by score", DEMO.keep),
    ("3", "{} right answers. A real run uses", ast.literal_eval(TWELVE) // 2),
    ("3", "uses {} tasks or more (`exam_tasks`)", DEFAULT.exam_tasks),
    ("4", "draft begins with {} seed tasks", DEMO.shots),
    ("4", "{} tenths are chosen at random", round(10 * HELD_OUT_SHARE)),
    ("5", "examines {} judges", len(CANDIDATES)),
    ("5", "paper's: {} seed tasks", DEFAULT.shots),
    ("5", "LoRA of rank {},", DEFAULT.lora_rank),
    ("5", "{} epochs", DEFAULT.epochs),
    ("5", "{} kept examples a round", kept_examples(config.make({"per_round": 300}, "default"))),
]
"""A notebook, a phrase of its text with a number left out, and the number as the code has it."""


@pytest.mark.parametrize(("number", "phrase", "value"), STATED, ids=lambda given: str(given)[:30])
def test_a_number_in_a_text_is_that_of_the_code(number: str, phrase: str, value: float | str) -> None:
    (path,) = (path for path in NOTEBOOKS if path.name[0] == number)
    text = "\n".join(sources(path, "markdown")).lower()
    whole = f"{value:g}" if isinstance(value, int | float) else value
    forms = {whole, *([WORDS[int(value)]] if isinstance(value, int) and value < len(WORDS) else [])}
    assert any(phrase.format(form).lower() in text for form in forms), phrase.format(whole)


@pytest.mark.parametrize("path", NOTEBOOKS[:4], ids=lambda path: path.stem)
def test_the_readme_and_a_notebook_give_the_same_minutes(path: Path) -> None:
    told = re.search(rf"\({path.name}\).*\| (\d) to (\d) minutes", (FOLDER / "README.md").read_text(encoding="utf-8"))
    text = "\n".join(sources(path, "markdown"))
    found = re.search(r"(\w+) to (\w+) minutes", text)
    assert found
    if told:
        assert [WORDS.index(word.lower()) for word in found.groups()] == [int(word) for word in told.groups()]
    else:
        # The third takes as long as the first, whose run it reads.
        first = re.search(r"(\w+) to (\w+) minutes", "\n".join(sources(NOTEBOOKS[0], "markdown")))
        assert first and first.groups() == found.groups()


class Colab:
    """What the first cell of the GPU notebook does on a machine that is lent: its commands are noted, not done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, where: Path, llama: str) -> None:
        self.asked: list[list[str]] = []
        self._llama = llama
        drive = SimpleNamespace(mount=lambda path: self.asked.append(["mount", path]))
        colab = ModuleType("google.colab")
        colab.drive = drive  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "google", ModuleType("google"))
        monkeypatch.setitem(sys.modules, "google.colab", colab)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        monkeypatch.setattr(subprocess, "run", self.run)
        monkeypatch.chdir(where)

    def run(self, command: list[str], **options: Any) -> Any:
        assert options["check"]
        self.asked.append([word for word in command if word != sys.executable])
        return SimpleNamespace(stdout=self._llama)


def first_cell(**given: str) -> dict[str, Any]:
    source = sources(GPU, "code")[0]
    for name, value in given.items():
        source, count = re.subn(rf'^{name} = ""', f"{name} = {value!r}", source, flags=re.MULTILINE)
        assert count == 1
    names: dict[str, Any] = {}
    exec(source, names)  # a cell of ours
    return names


def test_on_colab_the_first_cell_installs_what_a_gpu_needs_and_keeps_the_run_on_the_drive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = cuda_setup.packages_for((13, 0), (7, 5), cuda_setup.InstalledTorch((2, 11), (12, 8)))
    colab = Colab(monkeypatch, tmp_path, shlex.join(wheel) + "\n")
    names = first_cell(REPOSITORY="https://example.org/minisheep")
    install = ["-m", "pip", "install", "--quiet"]
    assert colab.asked == [
        ["mount", str(tmp_path / "drive")],
        ["git", "clone", "--depth", "1", "https://example.org/minisheep", "minisheep-source"],
        ["-m", "minisheep.machine.cuda_setup"],
        [*install, *wheel],
        [*install, "./minisheep-source[gpu,plots]"],
    ]
    assert names["RUN"].is_relative_to(tmp_path / "drive" / "MyDrive")
    extras = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"gpu", "plots"} <= extras.keys()


def test_on_colab_without_a_gpu_or_an_address_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    colab = Colab(monkeypatch, tmp_path, "\n")
    with pytest.raises(SystemExit, match="REPOSITORY"):
        first_cell()
    first_cell(REPOSITORY="elsewhere")
    assert colab.asked[-1][-1] == "./minisheep-source[plots]"


def test_the_settings_for_a_t4_leave_it_room() -> None:
    """Of its 16 GB, its driver gives a little under 15 GiB."""
    given = next(given_settings(GPU))
    settings = config.make({name: ast.literal_eval(value) for name, value in given.items()})
    lent = dataclasses.replace(with_gpu(find_gpu_model("T4 16GB")), memory=int(14.6 * 2**30))
    plan = make_plan(settings, known_model(settings), lent)
    assert plan.fits and plan.slots >= 8 and not lent.bfloat16
    assert max(total(plan.inference), total(plan.training)) <= lent.memory


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all of them run, so that the third finds the run of the first."""
    return tmp_path_factory.mktemp("notebooks")


def execute(path: Path, where: Path) -> Any:
    """The notebook with fresh outputs; raises what a cell raises."""
    from nbclient import NotebookClient

    notebook = read(path)
    # A kernel that is slow to start, on a busy machine, is no fault of the notebook: the test has its own limit.
    NotebookClient(
        notebook,
        timeout=None,
        startup_timeout=LIMIT,
        kernel_name="python3",
        resources={"metadata": {"path": str(where)}},
    ).execute()
    return notebook


def pictures(notebook: Any) -> int:
    found = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return sum("image/png" in (output.get("data") or {}) for output in found)


RUNS = [pytest.param(path, marks=[pytest.mark.slow] * (path.name[0] in "234")) for path in NOTEBOOKS]


@pytest.mark.model
@pytest.mark.timeout(LIMIT)
@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path: Path, workplace: Path) -> None:
    if path == GPU and gpus_here():
        pytest.skip("the 7B model would run here: that is the slow test's work")
    notebook = execute(path, workplace)
    assert pictures(notebook) == sum(source.count("plt.show()") for source in sources(path, "code"))


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
def test_the_gpu_notebook_runs_where_there_is_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not gpus_here():
        pytest.skip("no NVIDIA GPU here")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    execute(GPU, tmp_path)
    assert (tmp_path / "runs" / "qwen-7b" / "report" / "report.html").is_file()
