"""The functions of Unsloth that we call, read from its source without importing it (which needs a GPU)."""

from __future__ import annotations

import ast
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

RECORD = Path(__file__).parent / "data" / "unsloth_signatures.json"
PLACES = {
    "FastLanguageModel.from_pretrained": ("unsloth/models/loader.py", "FastLanguageModel", "from_pretrained"),
    "FastLanguageModel.get_peft_model": ("unsloth/models/llama.py", "FastLlamaModel", "get_peft_model"),
    "FastLanguageModel.for_training": ("unsloth/models/llama.py", "FastLlamaModel", "for_training"),
}
"""File, class and function; FastLanguageModel inherits what it lacks from FastLlamaModel."""
THROUGH = {"tokenizer_name": "unsloth/models/loader_utils.py", "local_files_only": "unsloth/models/loader.py"}
"""What from_pretrained takes through **kwargs, and the file that takes it out of them."""
BODY = ("unsloth/models/llama.py", "LlamaModel_fast_forward")
"""What we call for a forward pass, in place of the model's own."""
BODY_KEYWORDS = ("input_ids", "position_ids", "use_cache")


def in_wheel(wheel: Path) -> Callable[[str], str]:
    """A reader of the text files of a wheel."""

    def read(name: str) -> str:
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(name).decode("utf-8")

    return read


def signatures(read: Callable[[str], str]) -> dict[str, Any]:
    """What RECORD holds, for the source that `read` gives. Raises StopIteration where something is missing."""
    trees = {name: ast.parse(read(name)) for name in {place[0] for place in PLACES.values()} | set(THROUGH.values())}
    functions = {}
    for called, (file, cls, function) in PLACES.items():
        body = next(node for node in trees[file].body if isinstance(node, ast.ClassDef) and node.name == cls).body
        functions[called] = _parameters(body, function)
    loader = trees["unsloth/models/loader.py"]
    own = next(n for n in loader.body if isinstance(n, ast.ClassDef) and n.name == "FastLanguageModel")
    forward = _parameters(trees[BODY[0]].body, BODY[1])
    return {
        "functions": functions,
        "through_kwargs": [name for name, file in THROUGH.items() if _taken_out(trees[file], name)],
        "inherits": [ast.unparse(base) for base in own.bases],
        "body": [name for name in BODY_KEYWORDS if name in forward],
        "packed": "packed_seq_lengths" in _strings(trees[BODY[0]]),
    }


def keywords_of_ours(source: str) -> dict[str, list[str]]:
    """The keywords that our trainer passes, by the functions of PLACES."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("fast."):
            name = "FastLanguageModel." + ast.unparse(node.func).removeprefix("fast.")
            found[name] = [keyword.arg or "**" for keyword in node.keywords]
    return found


def recorded() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    return data


def _parameters(body: list[ast.stmt], name: str) -> list[str]:
    function = next(node for node in body if isinstance(node, ast.FunctionDef) and node.name == name)
    return [argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)]


def _taken_out(tree: ast.Module, name: str) -> bool:
    calls = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return any(call.startswith((f"kwargs.pop('{name}'", f"kwargs.get('{name}'")) for call in calls)


def _strings(tree: ast.Module) -> set[str]:
    return {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
