"""What the package is like to live in, counted: ``python -m tools.house``; with ``--check``, 1 beyond the limits.

Words: a small file has under 40 lines and is no ``__init__``, ``__main__`` or list of names (a file without a function
or class); a circle is a group of files that import one another, late imports counted too.
"""

from __future__ import annotations

import argparse
import ast
import statistics
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "minisheep"
MOST = {"files": 230, "lines": 47_410, "longest": 450, "classes": 0, "circles": 0, "imports": 6.4}
SMALL = 40
TYPES = "TYPE_CHECKING"
SHARED_NAMES = {"__init__", "base", "worker"}
"""File names that a room may have whatever other rooms have."""


@dataclass(frozen=True)
class File:
    path: Path
    """From the package's own folder."""
    text: str
    tree: ast.Module

    @property
    def module(self) -> str:
        parts = (PACKAGE.name, *self.path.with_suffix("").parts)
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def lines(self) -> int:
        return self.text.count("\n")

    @property
    def import_lines(self) -> int:
        return sum(1 + (node.end_lineno or node.lineno) - node.lineno for node in self._imports())

    def imported(self, known: set[str]) -> set[str]:
        """The other `known` modules that it imports, early or late: of ``from a import b``, ``a.b`` if it is one."""
        found: set[str] = set()
        for node in set(self._imports()) - self._for_types_alone():
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif node.module:
                inner = (f"{node.module}.{alias.name}" for alias in node.names)
                found |= {name if name in known else node.module for name in inner}
        return (found & known) - {self.module}

    def _imports(self) -> list[ast.Import | ast.ImportFrom]:
        return [node for node in ast.walk(self.tree) if isinstance(node, ast.Import | ast.ImportFrom)]

    def _for_types_alone(self) -> set[ast.AST]:
        """What stands under ``if TYPE_CHECKING``: nothing is loaded by it."""
        guards = [node for node in ast.walk(self.tree) if isinstance(node, ast.If) and ast.unparse(node.test) == TYPES]
        return {inner for guard in guards for statement in guard.body for inner in ast.walk(statement)}

    @property
    def is_small(self) -> bool:
        defines = any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in self.tree.body)
        return self.lines < SMALL and defines and self.path.stem not in ("__init__", "__main__")


def read(folder: Path) -> list[File]:
    files = sorted(folder.rglob("*.py"))
    texts = [file.read_text(encoding="utf-8") for file in files]
    return [File(f.relative_to(folder), text, ast.parse(text)) for f, text in zip(files, texts, strict=True)]


def repeated(names: Iterable[str]) -> list[str]:
    """Each name that stands more than once, with its count."""
    return [f"{name} x{count}" for name, count in sorted(Counter(names).items()) if count > 1]


def circles(needs: dict[str, set[str]]) -> list[list[str]]:
    """Groups of two or more that can reach one another (strongly connected components), by Tarjan's algorithm."""
    found: list[list[str]] = []
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    path: list[str] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        path.append(name)
        for other in sorted(needs[name]):
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in path:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            start = path.index(name)
            group, path[start:] = sorted(path[start:]), []
            if len(group) > 1:
                found.append(group)

    for name in sorted(needs):
        if name not in order:
            visit(name)
    return found


def all_circles(files: list[File]) -> list[list[str]]:
    known = {file.module for file in files}
    return circles({file.module: file.imported(known) for file in files})


def classes(files: list[File]) -> list[str]:
    return [node.name for file in files for node in ast.walk(file.tree) if isinstance(node, ast.ClassDef)]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.house", description="Counts of the package.")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a limit is passed")
    check = parser.parse_args(arguments).check
    files = read(PACKAGE)
    longest = max(files, key=lambda file: file.lines)
    lines = sum(file.lines for file in files)
    twice, rings = repeated(classes(files)), all_circles(files)
    stems = [file.path.stem for file in files if file.path.stem not in SHARED_NAMES]
    small = [f"{file.path} {file.lines}" for file in files if file.is_small]
    rows: list[tuple[str, str, float, list[str]]] = [
        ("files", "files", len(files), []),
        ("lines", "lines", lines, []),
        ("", "median file", statistics.median(file.lines for file in files), []),
        ("longest", "longest file", longest.lines, [str(longest.path)]),
        ("", f"files under {SMALL} lines", len(small), small),
        ("classes", "repeated class names", len(twice), twice),
        ("", "repeated file names", len(repeated(stems)), repeated(stems)),
        ("imports", "imports, % of lines", 100 * sum(file.import_lines for file in files) / lines, []),
        ("circles", "circles of files", len(rings), [" - ".join(ring) for ring in rings]),
    ]
    for key, words, value, details in rows:
        most = MOST.get(key)
        verdict = "" if most is None else f"  at most {most:,}" + ("" if value <= most else "  BEYOND")
        print(f"{words:<24}{round(value, 1):>9,}{verdict}")
        for detail in details:
            print(f"    {detail}")
    beyond = [key for key, _, value, _ in rows if key and value > MOST[key]]
    return int(check and bool(beyond))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
