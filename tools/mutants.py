"""Breaks promises, one at a time, in a copy of the project, and sees whether the plain tests notice.

``python -m tools.mutants [NAME ...]`` exits with 1 if a broken promise survives. A place is found by its text, which
must stand exactly once in the package: where code was rewritten, the tool says which mutant must be written anew.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "runs", "dist", "*.egg-info")
PYTEST = (sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider")


@dataclass(frozen=True)
class Mutant:
    name: str
    before: str
    """Text of the package."""
    after: str
    tests: tuple[str, ...]
    """Files that should notice; if they do not, the whole plain tier is asked."""


MUTANTS = (
    Mutant(
        "an fsync is removed",
        "os.fsync(self._handle)\n            except OSError:",
        "pass\n            except OSError:",
        ("test_store.py",),
    ),
    Mutant(
        "the manifest is written first",
        "counts = _do(folder, phase, host, emit)\n        done[phase.key]",
        "done[phase.key] = {}\n        folder.write_manifest(manifest)\n"
        "        counts = _do(folder, phase, host, emit)\n        done[phase.key]",
        ("test_loop.py",),
    ),
    Mutant(
        "the flock is dropped",
        "fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)",
        "pass",
        ("test_store.py",),
    ),
    Mutant(
        "the torn line is not repaired",
        "self._size = self._cut_torn_tail()",
        "self._size = os.fstat(self._handle).st_size",
        ("test_store.py",),
    ),
    Mutant(
        "a truncated GGUF is accepted",
        "if start + tensor.offset + tensor.bytes > file_bytes:",
        "if False:",
        ("test_gguf_header.py",),
    ),
    Mutant(
        "a special token comes through from data",
        "Segment(user), Segment(self.between, True)",
        "Segment(user, True), Segment(self.between, True)",
        ("test_template.py",),
    ),
    Mutant(
        "keep is ignored",
        "chosen = [item for item in ranked if item[0] > keep.value]",
        "chosen = list(ranked)",
        ("test_stages.py",),
    ),
    Mutant(
        "an echo counts as kept",
        "[verdict and not repeats for verdict in kept]",
        "list(kept)",
        ("test_stage_verifiable.py",),
    ),
    Mutant(
        "the wrong adapter is taken",
        "folder.round(round).adapter_gguf if round else None",
        "folder.round(1).adapter_gguf if round else None",
        ("test_strategies.py",),
    ),
    Mutant(
        "the seed's identity is forgotten",
        'key = "\\x1f".join(str(part) for part in identity)',
        "key = str(identity[0])",
        ("test_records.py",),
    ),
    Mutant(
        "a worker's death is swallowed",
        "if not data:\n                    raise self._died(",
        "if not data:\n                    return\n                    raise self._died(",
        ("test_hosts.py", "test_loop.py"),
    ),
    Mutant(
        "an escape byte is printed",
        r'"[\x00-\x08\x0b-\x1f\x7f-\x9f"',
        r'"[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f"',
        ("test_ui.py",),
    ),
    Mutant(
        "workers do not inherit the lock",
        "pass_fds=() if handle is None else (handle,)",
        "pass_fds=()",
        ("test_worker.py",),
    ),
    Mutant(
        "a worker ignores the end of stdin",
        "jobs.put(line)\n        os._exit(0)",
        "jobs.put(line)\n        threading.Event().wait()",
        ("test_worker.py",),
    ),
    Mutant(
        "the second Ctrl-C does not kill",
        "if signals:\n            host.kill()\n",
        "if signals:\n",
        ("test_hosts.py",),
    ),
    Mutant(
        "a failed worker is kept by its host",
        "self.kill()\n            self.close()\n            raise",
        "raise",
        ("test_hosts.py",),
    ),
    Mutant(
        "a filter keeps an old adapter",
        "folder.training.unlink(missing_ok=True)\n        shutil.rmtree(folder.adapter, ignore_errors=True)",
        "pass",
        ("test_integrity.py",),
    ),
    Mutant(
        "a damaged file is built upon",
        "integrity.check(folder, manifest)\n        phase = next_phase",
        "phase = next_phase",
        ("test_integrity.py",),
    ),
    Mutant(
        "a run folder's hook is believed",
        "wanted = list(_not_given(settings, run, given))",
        "wanted: list[str] = []",
        ("test_permission.py",),
    ),
)


def place_of(text: str, package: Path) -> Path | None:
    """The one file that holds `text` once; None where it stands nowhere or more than once."""
    counts = {file: file.read_text(encoding="utf-8").count(text) for file in sorted(package.rglob("*.py"))}
    return next((file for file, count in counts.items() if count), None) if sum(counts.values()) == 1 else None


def failure(copy: Path, tests: list[str]) -> str:
    """The end of what pytest says where a test of the copy fails, else nothing; without `tests`, of all plain ones.

    Raises RuntimeError if none could run.
    """
    done = subprocess.run(
        [*PYTEST, *tests], cwd=copy, env={**os.environ, "PYTHONPATH": str(copy)}, capture_output=True, text=True
    )
    # Tests that cannot be collected notice too: the mutant broke an import.
    if done.returncode not in (0, 1, 2):
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    return done.stdout[-1000:] if done.returncode else ""


def verdict(mutant: Mutant, copy: Path) -> str:
    """`noticed` and by what, or why not. The copy is as it was afterwards."""
    file = place_of(mutant.before, copy / "minisheep")
    if file is None:
        return "WRITE IT ANEW: its text does not stand exactly once in the package"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace(mutant.before, mutant.after), encoding="utf-8")
    try:
        tests = [f"tests/{name}" for name in mutant.tests if (copy / "tests" / name).exists()]
        if tests and failure(copy, tests):
            return f"noticed by {', '.join(mutant.tests)}"
        return "noticed elsewhere" if failure(copy, ["-n", "2"]) else f"SURVIVED in {file.relative_to(copy)}"
    finally:
        file.write_text(text, encoding="utf-8")


def main(names: list[str]) -> int:
    """0 if every mutant was noticed, 1 if not, 2 for a name that is none."""
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    if len(chosen) < len(set(names)):
        print("No such mutant. They are: " + "; ".join(mutant.name for mutant in MUTANTS), file=sys.stderr)
        return 2
    bad = 0
    with tempfile.TemporaryDirectory(prefix="minisheep-mutants-") as folder:
        copy = Path(shutil.copytree(ROOT, Path(folder) / "copy", ignore=LEFT_OUT))
        files = sorted({f"tests/{name}" for mutant in chosen for name in mutant.tests})
        if said := failure(copy, [file for file in files if (copy / file).exists()]):
            print(f"{said}\nThe tests fail before anything is broken: mend that first.", file=sys.stderr)
            return 1
        for mutant in chosen:
            begun = time.monotonic()
            found = verdict(mutant, copy)
            bad += not found.startswith("noticed")
            print(f"{mutant.name:<42}{found}  ({time.monotonic() - begun:.0f} s)", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
