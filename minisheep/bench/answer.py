"""The child's side of `bench.children.conversation`: do one job, say what was found as JSON lines on stdout.

{"facts": {...}}   what was measured        {"failed": ...}   what went wrong, as the parent would say it
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from minisheep.bench.plan import Job
from minisheep.bench.without_amx import die_with_parent
from minisheep.errors import MinisheepError


def answer(argument: str, measure: Callable[[Job], dict[str, Any]]) -> NoReturn:
    """`measure` the job that is `argument` in JSON, say its facts or its failure, and end this process."""
    die_with_parent()
    # Libraries print what they like; what the parent reads is for us alone.
    said = os.dup(1)
    os.dup2(2, 1)

    def say(message: dict[str, Any]) -> None:
        os.write(said, json.dumps(message).encode() + b"\n")

    code = 0
    try:
        say({"facts": measure(Job(**json.loads(argument)))})
    except MinisheepError as error:
        say({"failed": {"kind": type(error).__name__, "message": error.message, "fix": error.fix}})
        code = error.exit_code
    except Exception as error:
        traceback.print_exc()
        say({"failed": {"kind": "WorkerError", "message": f"{type(error).__name__}: {error}"[:500], "fix": ""}})
        code = 1
    sys.stderr.flush()
    # Native libraries may crash while they are torn down, after everything was said.
    os._exit(code)
