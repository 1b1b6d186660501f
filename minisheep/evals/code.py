"""Runs programs that a model wrote and checks whether they pass their tests, only where the user allowed it.

Each program runs in its own process, in an empty folder, with limits on time, memory and file size. This is no sandbox:
the program has the user's rights and the network. The file also replaces the package ``evaluate``.
"""

from __future__ import annotations

import math
import os
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
from types import ModuleType, SimpleNamespace
from typing import Any

from minisheep.errors import UsageError
from minisheep.evals import scores

SECONDS = 3
"""For one program, as in the harness's metric."""
MEMORY, FILE = 2 << 30, 16 << 20
"""Bytes of address space, and of a file that a program writes."""
_LIMITED = f"""
import os, resource, sys
program, seconds = sys.argv[1], int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))
resource.setrlimit(resource.RLIMIT_FSIZE, ({FILE}, {FILE}))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
os.execv(sys.executable, [sys.executable, "-I", program])
"""


class CodeEval:
    """pass@k (Chen et al. 2021, arXiv 2107.03374, section 2.1), with the interface of the harness's metric."""

    def __init__(self, *, allowed: bool) -> None:
        self._allowed = allowed

    def compute(
        self, references: Sequence[str], predictions: Sequence[Sequence[str]], k: Sequence[int] = (1, 10, 100)
    ) -> tuple[dict[str, float], dict[str, Any]]:
        """``pass@k`` over all problems (0 .. 1), for each `k` with enough programs.

        `references` holds each problem's test code, `predictions` its programs. Raises `errors.UsageError` unless the
        user allowed to run code.
        """
        if not self._allowed:
            raise refusal("This task")
        passed = [
            [passes(f"{program}\n{test}") for program in programs]
            for test, programs in zip(references, predictions, strict=True)
        ]
        rates = {
            f"pass@{size}": sum(pass_at_k(len(one), sum(one), size) for one in passed) / len(passed)
            for size in k
            if all(len(one) >= size for one in passed)
        }
        return rates, {"passed": passed}


def refusal(what: str) -> UsageError:
    return UsageError(
        f"{what} runs programs that the model wrote, with your rights.",
        "Give --allow-code-execution if you accept that; a container is safer.",
    )


def pass_at_k(programs: int, right: int, k: int) -> float:
    """The chance that at least one of `k` drawn programs is right: 1 - C(n - c, k) / C(n, k)."""
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
            [sys.executable, "-I", "-c", _LIMITED, str(file), str(seconds)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={"PATH": os.defpath, "HOME": folder},
            start_new_session=True,
        )
        deadline = time.monotonic() + seconds + 1
        # Reap it only after its whole group is killed: until then no other process can get its number.
        while not os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if time.monotonic() >= deadline:
                break
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return end.is_file() and end.read_text(encoding="utf-8", errors="replace") == word


@contextmanager
def own_metrics(*, allow_code: bool) -> Iterator[None]:
    """Replaces the package ``evaluate``, through which the harness fetches metrics as programs from the hub.

    The harness uses its function ``load`` alone, which here gives minisheep's own metrics and raises
    `errors.UsageError` for any other. The package is never imported: it would load torch and transformers into the
    process that runs llama.cpp, and take seconds.
    """
    ours = {"squad_v2": SimpleNamespace(compute=scores.compute), "code_eval": CodeEval(allowed=allow_code)}

    def load(path: str, *_: Any, **__: Any) -> Any:
        if path in ours:
            return ours[path]
        raise UsageError(
            f"The metric {path!r} is a program from the hub, which minisheep never runs.", "Choose another task."
        )

    module = ModuleType("evaluate")
    module.__spec__ = ModuleSpec("evaluate", None)
    module.__dict__["load"] = load
    before = sys.modules.get("evaluate")
    sys.modules["evaluate"] = module
    try:
        yield
    finally:
        del sys.modules["evaluate"]
        if before is not None:
            sys.modules["evaluate"] = before
