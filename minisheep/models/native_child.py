"""Work for llama.cpp in a process of its own, so that a crash of native code is one line and costs nothing else.

The child is a module run as ``python -m``; what it raises as `errors.MinisheepError` crosses over as one JSON line.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from minisheep.errors import MinisheepError, ModelFileError, by_name


def run(module: str, arguments: Sequence[str], doing: str) -> None:
    """Run ``python -m module ARGUMENTS`` to its end. `doing` begins the sentence about a crash.

    Raises what the child raised, or `errors.ModelFileError` if it died without a word. Nothing is left running if this
    process is interrupted.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
        check=False,
    )
    if done.returncode == 0:
        return
    try:
        told = json.loads(done.stdout)
        raised = by_name(told["kind"])(told["message"], told["fix"])
    except (ValueError, KeyError, TypeError):
        raised = ModelFileError(f"{doing} failed: {_last_words(done)}.", "Run the same command again, or report it.")
    raise raised


def main(work: Callable[[list[str]], None]) -> NoReturn:
    """Be the child: do `work` with the arguments and tell its error, if any."""
    try:
        work(sys.argv[1:])
    except MinisheepError as error:
        told = {"kind": type(error).__name__, "message": error.message, "fix": error.fix}
        sys.stdout.write(json.dumps(told))
        sys.exit(error.exit_code)
    sys.exit(0)


def _last_words(done: subprocess.CompletedProcess[bytes]) -> str:
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        often = " (often: the system ran out of memory)" if -done.returncode == signal.SIGKILL else ""
        return f"the process was ended by {name}{often}"
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else f"the process ended with code {done.returncode}"
