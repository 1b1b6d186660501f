"""A stranger's chat template, rendered in a process of its own with bounds on time, memory and output.

Jinja's sandbox keeps a template from the machine, but not from running for ever: two nested ranges take hours, and a
product of strings takes all memory. The child is ``python -m minisheep.machine.jinja_child``; it gets the template and
the conversations as one JSON object on stdin and writes one back. It has no environment but the paths of Python.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys

from minisheep.errors import UnsupportedModelError
from minisheep.rules.templates import Conversations, render_here, template_error

SECONDS = 10.0
"""Of the processor, for all conversations together; real ones take milliseconds, the start of Python a fifth of one."""
WAITED = 12
"""Times as long on the clock, since the machine may be busy or hold the child."""
MEMORY = 2**30
MOST = 2**22
"""Characters of one result: a real one has hundreds."""
_KEPT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "SYSTEMROOT")


def render(source: str, special: dict[str, str], conversations: Conversations) -> list[str]:
    """A `rules.templates.Render` with bounds. Raises `errors.UnsupportedModelError`, also for a template that goes
    beyond them."""
    job = {"source": source, "special": special, "conversations": list(conversations)}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "minisheep.machine.jinja_child", str(SECONDS)],
            input=json.dumps(job).encode(),
            capture_output=True,
            timeout=WAITED * SECONDS,
            env={name: os.environ[name] for name in _KEPT if name in os.environ} | {"PYTHONUTF8": "1"},
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise template_error(f"it did not end within {WAITED * SECONDS:.0f} s") from None
    if done.returncode == -signal.SIGXCPU:
        raise template_error(f"it did not end within {SECONDS:.0f} s")
    try:
        answer = json.loads(done.stdout)
        if "error" in answer:
            raise UnsupportedModelError(answer["error"], answer["fix"])
        return [str(text) for text in answer["texts"]]
    except (ValueError, KeyError, TypeError):
        raise template_error(f"its process ended with code {done.returncode} (too much time or memory)") from None


def main() -> None:
    _bound(math.ceil(float(sys.argv[1])))
    job = json.loads(sys.stdin.buffer.read())
    try:
        texts = render_here(job["source"], job["special"], job["conversations"])
        if max(map(len, texts), default=0) > MOST:
            raise template_error(f"it makes over {MOST} characters of one message")
        answer: dict[str, object] = {"texts": texts}
    except UnsupportedModelError as error:
        answer = {"error": error.message, "fix": error.fix}
    sys.stdout.write(json.dumps(answer))


def _bound(seconds: int) -> None:
    """Limits of the kernel for this process, where it has them."""
    import resource

    for limit, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(limit, (most, most + (limit == resource.RLIMIT_CPU)))  # a signal first, then the end


if __name__ == "__main__":
    main()
