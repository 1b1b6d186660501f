"""Puts a round's adapter on a server, by a program of the user's, who knows how that server takes one.

``--engine-hook "PROGRAM ARGUMENTS"`` is run with one more argument: the folder of the round whose adapter is wanted
(``adapter/`` for PEFT, ``adapter.gguf`` for llama.cpp), or the word ``base``. It returns when the server is ready, and
may print the name of the model to ask for from now on (its last line counts); without one, that is --engine-model. So
llama.cpp's server is started anew with ``--lora``, vLLM is sent ``/v1/load_lora_adapter`` and SGLang
``/load_lora_adapter``, and the name that these gave is printed.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

from minisheep.errors import EndpointError, UsageError
from minisheep.ui.sanitise import one_line

SECONDS = 1800.0
"""A large model may take this long to load."""
BASE = "base"


def check_hook(hook: str) -> list[str]:
    """The hook as a list of words, the program first. Raises `errors.UsageError` if it cannot be run."""
    try:
        words = shlex.split(hook)
    except ValueError as error:
        raise UsageError(f"--engine-hook {hook} cannot be read: {error}.") from None
    if not words or shutil.which(words[0]) is None:
        raise UsageError(f"--engine-hook {hook} names no program.", "Give one that can be run, with its whole path.")
    return words


def run_hook(hook: str, adapter: Path | None, seconds: float = SECONDS) -> str:
    """Have the adapter GGUF of a round (None: none) put on the server; the model's name from now on, or empty.

    Raises `errors.EndpointError` if the program fails or takes longer than `seconds`.
    """
    words = check_hook(hook)
    wanted = BASE if adapter is None else str(adapter.parent.absolute())
    try:
        done = subprocess.run(
            [*words, wanted], stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise EndpointError(f"The hook {words[0]} {wanted} was not done after {seconds:g} s.") from None
    except OSError as error:
        raise EndpointError(f"The hook {words[0]} cannot be run: {error.strerror}.") from None
    if done.returncode:
        raise EndpointError(
            f"The hook {words[0]} {wanted} ended with code {done.returncode}: {_last_line(done.stderr) or 'no word'}."
        )
    return _last_line(done.stdout)


def _last_line(output: bytes) -> str:
    lines = [line for line in output.decode("utf-8", "replace").splitlines() if line.strip()]
    return one_line(lines[-1], 200).strip() if lines else ""
