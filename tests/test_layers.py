"""What may import what, and what is never written, read from the source itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import minisheep

ROOT = Path(minisheep.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
HEAVY = {"torch", "transformers", "llama_cpp", "peft", "bitsandbytes", "unsloth", "gguf", "pynvml"}
LIGHT = [
    file
    for file in FILES
    if str(file.relative_to(ROOT)).startswith(
        (
            "errors",
            "events",
            "records",
            "config",
            "store",
            "loop",
            "hosts",
            "api",
            "present",
            "ui/",
            "screen/",
            "cli/",
            "doctor/",
            "gpucheck/",
            "machine/",
            "stages/",
            "rules/",
        )
    )
]
PURE = [file for file in FILES if file.parent.name in ("stages", "rules")]


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imported(nodes: Iterator[ast.AST] | list[ast.stmt]) -> set[str]:
    """The first part of the name of every module that is imported by one of `nodes`."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def at_module_level(tree: ast.Module) -> Iterator[ast.AST]:
    """Every node that is run on import: not what stands in functions."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield node
        waiting += ast.iter_child_nodes(node)


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def called(call: ast.Call) -> str:
    return ast.unparse(call.func)


@pytest.mark.parametrize("file", LIGHT, ids=name_of)
def test_light_modules_import_nothing_heavy(file: Path) -> None:
    assert not imported(at_module_level(tree_of(file))) & HEAVY


@pytest.mark.parametrize("file", PURE, ids=name_of)
def test_stages_and_rules_touch_neither_terminal_nor_system(file: Path) -> None:
    assert not imported(ast.walk(tree_of(file))) & {"rich", "click", "os", "subprocess", "socket", "shutil", "sys"}


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_nothing_runs_or_unpacks_code_from_a_file(file: Path) -> None:
    tree = tree_of(file)
    assert not imported(ast.walk(tree)) & {"pickle", "marshal", "shelve", "dill", "cloudpickle"}
    for call in calls(tree):
        assert called(call) not in {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load"}
        assert called(call) not in {"torch.save", "torch.hub.load", "yaml.load"}
        for keyword in call.keywords:
            assert not (
                keyword.arg in ("shell", "trust_remote_code", "allow_pickle")
                and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
            ), ast.unparse(call)


@pytest.mark.parametrize("file", [file for file in FILES if file.parent.name in ("ui", "cli")], ids=name_of)
def test_only_text_objects_are_handed_to_the_console(file: Path) -> None:
    """A plain string would be read as markup, and model text holds brackets."""
    for call in calls(tree_of(file)):
        if isinstance(call.func, ast.Attribute) and call.func.attr in ("add_row", "print") and "." in called(call):
            for argument in call.args:
                value = argument.value if isinstance(argument, ast.Starred) else argument
                if isinstance(value, ast.GeneratorExp):
                    value = value.elt
                # A table's cells are the rows that are checked here; a history is a list of Text objects by its type.
                built = called(value) if isinstance(value, ast.Call) else ast.unparse(value)
                right = built in {"Text", "metrics_table", "table", "history_text"}
                assert right, ast.unparse(call)
        if called(call).endswith("TextColumn"):
            assert any(k.arg == "markup" and ast.unparse(k.value) == "False" for k in call.keywords)


def test_the_parent_process_imports_nothing_heavy() -> None:
    code = "import sys, minisheep.api, minisheep.cli.work, minisheep.cli.status, minisheep.cli.models;"
    code += "import minisheep.models.registry, minisheep.models.sources;"
    code += f"print(sorted(set(sys.modules) & {HEAVY!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
