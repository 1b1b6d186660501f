"""The notebooks: whole, small, in step with the API, and run from top to bottom on the tiny model."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from minisheep import config
from minisheep.api import Run, align
from minisheep.machine.gpu import gpus_here
from minisheep.run.reading import Round

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
