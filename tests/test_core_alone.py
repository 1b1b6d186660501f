"""The core needs no leaf: with every leaf blocked it can be imported, and a whole run on the fakes is done."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import minisheep

ROOT = Path(minisheep.__file__).parent
LEAVES = (
    "cli",
    "terminal",
    "report",
    "export",
    "evals",
    "versus",
    "chat",
    "serve",
    "plan",
    "doctor",
    "adapter_soup",
    "tracking",
)
CORE = ("stages", "rules", "metrics", "data", "engines", "trainers", "formats", "models", "run", "machine")
CORE_FILES = ("loop", "phases", "pairing", "workspace", "config", "errors")
BLOCK = """
import importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[1:2] and name.split(".")[0] == "minisheep" and name.split(".")[1] in LEAVES:
            raise ModuleNotFoundError(f"{name} is a leaf")

sys.meta_path.insert(0, Blocked())
"""


def alone(code: str, leaves: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    program = f"LEAVES = {leaves!r}\n{BLOCK}\n{code}"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200, check=False)


def test_the_core_is_imported_without_any_leaf() -> None:
    files = [file for room in CORE for file in (ROOT / room).rglob("*.py")]
    names = [".".join(("minisheep", *file.relative_to(ROOT).with_suffix("").parts)) for file in files]
    names = [name.removesuffix(".__init__") for name in names] + [f"minisheep.{name}" for name in CORE_FILES]
    assert len(names) > 60
    if importlib.util.find_spec("numba") is None:
        names.remove("minisheep.engines.drawing")  # needs an extra, and whoever imports it asks for that first
    code = f"import importlib\nfor name in {names!r}:\n    importlib.import_module(name)\n"
    # The trainers' own libraries speak while they are loaded; only an error ends it.
    done = alone(code, LEAVES)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_run_is_done_without_any_leaf_but_the_plans_room(tmp_path: Path) -> None:
    code = f"""
from minisheep import align
run = align({str(tmp_path / "run")!r}, preset="imitation", inline=True, engine="fake", trainer="fake", per_round=12,
            eval_tasks=6, eval_answers=3, eval_verifiable=4, patience=0)
assert run.next_phase is None and len(run.metrics) == 3, run.metrics
assert not {{name.split(".")[1] for name in sys.modules if name.startswith("minisheep.")}} & set(LEAVES)
"""
    done = alone(code, tuple(leaf for leaf in LEAVES if leaf != "plan"))
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_blocked_leaf_is_really_blocked() -> None:
    assert alone("import minisheep.report.write", LEAVES).returncode != 0
