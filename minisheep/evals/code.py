"""Whether programs that a model wrote pass their tests. They are run: only where the user allowed it.

A program runs in a process of its own, in an empty folder, with limits on time, memory and file size. It is no sandbox:
it has the user's rights and the network.
"""

from __future__ import annotations

import math
import os
import resource
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from minisheep.errors import UsageError
from minisheep.evals import scores

SECONDS = 3
"""For one program, as in the harness's metric."""


class CodeEval:
    """pass@k (Chen et al. 2021, arXiv 2107.03374, section 2.1), with the interface of the harness's metric."""

    def __init__(self, *, allowed: bool) -> None:
        self._allowed = allowed

    def compute(
        self, references: Sequence[str], predictions: Sequence[Sequence[str]], k: Sequence[int] = (1, 10, 100)
    ) -> tuple[dict[str, float], dict[str, Any]]:
        """``pass@k`` over all problems (0 .. 1) for each `k` that there are enough programs for.

        A problem is its test code and the programs to try. Raises `errors.UsageError` unless code may be run.
        """
        if not self._allowed:
            raise refusal("This task")
        passed = [
            [passes(f"{program}\n{test}") for program in programs]
            for test, programs in zip(references, predictions, strict=True)
        ]
        found = {}
        for size in k:
            if all(len(one) >= size for one in passed):
                found[f"pass@{size}"] = sum(pass_at_k(len(one), sum(one), size) for one in passed) / len(passed)
        return found, {"passed": passed}


def refusal(what: str) -> UsageError:
    return UsageError(
        f"{what} runs programs that the model wrote, with your rights.",
        "Give --allow-code-execution if you accept that, best in a container.",
    )


def pass_at_k(programs: int, right: int, k: int) -> float:
    """The chance that one of `k` of the `programs` is right: 1 - C(n - c, k) / C(n, k)."""
    return 1.0 - math.comb(programs - right, k) / math.comb(programs, k)


def passes(program: str, seconds: int = SECONDS) -> bool:
    """Whether a program runs to its last line within `seconds`; leaving early, even with code 0, does not count."""
    word = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="minisheep-code-") as folder:
        end = Path(folder, "end")
        file = Path(folder, "program.py")
        file.write_text(
            f"{program}\nwith open({str(end)!r}, 'w') as _end:\n    _end.write({word!r})\n",
            encoding="utf-8",
            errors="replace",
        )
        process = subprocess.Popen(
            [sys.executable, "-I", str(Path(__file__).with_name("limited.py")), str(file), str(seconds)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={"PATH": os.defpath, "HOME": folder},
            start_new_session=True,
        )
        deadline = time.monotonic() + seconds + 1
        # Not reaped before its whole group is killed: until then nobody else can have its number.
        while not os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if time.monotonic() >= deadline:
                break
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return end.is_file() and end.read_text(encoding="utf-8", errors="replace") == word


# Runs a Python file in this process's place, with little memory and time: ``python -I limited.py FILE SECONDS``.
MEMORY, FILE = 2 << 30, 16 << 20
"""Bytes of address space, and of a file that is written."""


def main() -> None:
    program, seconds = sys.argv[1], int(sys.argv[2])
    for limit, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_FSIZE, FILE),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    os.execv(sys.executable, [sys.executable, "-I", program])  # noqa: S606


# What stands in for the package ``evaluate``, by which the harness fetches metrics as programs from the hub.
#
# The harness uses its function ``load`` alone. The package itself is never imported: it would load torch and
# transformers into the process that runs llama.cpp, and take seconds.
NAME = "evaluate"


class _Squad:
    compute = staticmethod(scores.compute)


@contextmanager
def own_metrics(*, allow_code: bool) -> Iterator[None]:
    """Metrics of minisheep's own under the names that the harness asks for; any other raises `errors.UsageError`."""
    ours = {"squad_v2": _Squad(), "code_eval": CodeEval(allowed=allow_code)}

    def load(path: str, *_: Any, **__: Any) -> Any:
        if path in ours:
            return ours[path]
        raise UsageError(
            f"The metric {path!r} is a program from the hub, and minisheep runs none of those.", "Choose another task."
        )

    module = ModuleType(NAME)
    module.__spec__ = ModuleSpec(NAME, None)
    module.__dict__["load"] = load
    before = sys.modules.get(NAME)
    sys.modules[NAME] = module
    try:
        yield
    finally:
        if before is None:
            del sys.modules[NAME]
        else:
            sys.modules[NAME] = before


if __name__ == "__main__":
    main()
