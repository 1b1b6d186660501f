"""What no file may do, read from the source itself: one test a rule, which lists every offender.

Which room may import which is import-linter's to hold; these are the rules that it has no word for.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import minisheep

ROOT = Path(minisheep.__file__).parent
TREES = {file.relative_to(ROOT): ast.parse(file.read_text(encoding="utf-8")) for file in sorted(ROOT.rglob("*.py"))}
HEAVY = {"torch", "transformers", "llama_cpp", "peft", "bitsandbytes", "unsloth", "gguf", "pynvml"}
HEAVY_ROOMS = {"engines", "trainers", "formats", "export", "bench"}
"""Where models are worked on: only here, and in what starts as a process of its own, may a heavy library come with a
file. Nothing else may import these when it is imported itself, so what the parent needs of them it imports late."""
PURE_ROOMS = {"stages", "rules", "metrics"}
"""The one file of these rooms that reads: the shipped seeds and prompts, or a user's."""
SYSTEM = {"rich", "click", "os", "io", "subprocess", "socket", "shutil", "sys", "tempfile", "urllib", "http"}
FILE_CALLS = {"open", "read_text", "write_text", "read_bytes", "write_bytes", "unlink", "mkdir"}
UNPACKERS = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}
RUNNERS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "torch.save"}
RUNNERS |= {"torch.hub.load", "yaml.load"}
SWITCHES = {"shell", "trust_remote_code", "allow_pickle"}
BUILT = {"Text", "SafeMarkdown", "metrics_table", "table", "history_text", "frame", "self._drawn"}
"""A table's cells are the rows that are checked here; a history, a frame and what is drawn are Text by their types."""


def at_module_level(tree: ast.Module) -> Iterator[ast.AST]:
    """Every node that is run on import: not what stands in functions."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield node
        waiting += ast.iter_child_nodes(node)


def imported(nodes: Iterable[ast.AST]) -> set[str]:
    """Every module that one of `nodes` may import, in full: of ``from a import b`` both ``a`` and ``a.b``."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def tops(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


def module_of(file: Path) -> str:
    parts = ("minisheep", *file.with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def rooms(file: Path) -> set[str]:
    """The folders that a file is in, so that a rule holds for sub-packages too."""
    return set(file.parts[:-1])


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def called(call: ast.Call) -> str:
    return ast.unparse(call.func)


def at(file: Path, node: ast.expr) -> str:
    return f"{file}:{node.lineno}: {ast.unparse(node)[:100]}"


def test_the_rules_look_at_rooms_that_exist() -> None:
    """A room that was renamed would be held to nothing."""
    there = {room for file in TREES for room in rooms(file)}
    assert {"stages", "rules", "engines", "trainers", "cli"} <= there
    assert sum(bool(rooms(file) & PURE_ROOMS) for file in TREES) > 20


def test_a_heavy_library_comes_only_with_the_files_that_work_on_models() -> None:
    """Not even through another file: importing anything else stays quick."""
    needs = {module_of(file): imported(at_module_level(tree)) for file, tree in TREES.items()}
    heavy = {module for module, wanted in needs.items() if tops(wanted) & HEAVY}
    while more := {module for module, wanted in needs.items() if wanted & heavy} - heavy:
        heavy |= more
    offenders = [
        str(file)
        for file, tree in TREES.items()
        if module_of(file) in heavy and not rooms(file) & HEAVY_ROOMS and not is_started_by_itself(tree)
    ]
    assert not offenders


def is_started_by_itself(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'" for node in tree.body)


def test_stages_and_rules_touch_neither_terminal_nor_system() -> None:
    offenders = []
    for file, tree in TREES.items():
        if rooms(file) & PURE_ROOMS:
            offenders += [f"{file}: {name}" for name in tops(imported(ast.walk(tree))) & SYSTEM]
            offenders += [at(file, call) for call in calls(tree) if called(call).rpartition(".")[2] in FILE_CALLS]
    assert not offenders


def test_nothing_runs_or_unpacks_code_from_a_file() -> None:
    offenders = []
    for file, tree in TREES.items():
        offenders += [f"{file}: {name}" for name in tops(imported(ast.walk(tree))) & UNPACKERS]
        for call in calls(tree):
            switched = any(
                keyword.arg in SWITCHES
                and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
                for keyword in call.keywords
            )
            if switched or called(call) in RUNNERS:
                offenders.append(at(file, call))
    assert not offenders


def test_only_text_objects_are_handed_to_the_console() -> None:
    """A plain string would be read as markup, and model text holds brackets."""
    offenders = []
    for file, tree in TREES.items():
        for call in calls(tree):
            if isinstance(call.func, ast.Attribute) and call.func.attr in ("add_row", "print"):
                offenders += [at(file, call) for argument in call.args if not is_text(argument)]
            elif called(call).endswith("TextColumn") and not any(
                k.arg == "markup" and ast.unparse(k.value) == "False" for k in call.keywords
            ):
                offenders.append(at(file, call))
    assert not offenders


def is_text(argument: ast.expr) -> bool:
    value = argument.value if isinstance(argument, ast.Starred) else argument
    if isinstance(value, ast.GeneratorExp | ast.ListComp):
        value = value.elt
    return (called(value) if isinstance(value, ast.Call) else ast.unparse(value)) in BUILT


def test_only_sanitised_text_is_printed() -> None:
    """The built-in print reaches the terminal as it is: what it is handed has lost its escapes before."""
    offenders = [
        at(file, call)
        for file, tree in TREES.items()
        for call in calls(tree)
        if called(call) == "print" and not all("sanitise(" in ast.unparse(argument) for argument in call.args)
    ]
    assert not offenders


def test_the_parent_process_imports_nothing_heavy() -> None:
    code = "import sys, minisheep.api, minisheep.cli.work, minisheep.cli.status, minisheep.cli.models;"
    code += "import minisheep.models.registry, minisheep.models.fetch;"
    code += f"print(sorted(set(sys.modules) & {HEAVY | {'numpy'}!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
