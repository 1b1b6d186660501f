"""The child process that measures one part: ``python -m minisheep.bench.run JOB``, JSON lines on stdout.

{"row": ...}     a figure             {"note": ...}    something to tell, such as a download
{"value": ...}   a bare number        {"failed": ...}  what went wrong, as the parent would say it
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from minisheep.bench.desk import Desk
from minisheep.bench.measure import to_wire
from minisheep.bench.plan import Job
from minisheep.bench.without_amx import die_with_parent
from minisheep.errors import MinisheepError
from minisheep.events import Event, Note

PARTS: dict[str, tuple[str, str]] = {
    "engine": ("engine", "measure"),
    "judge": ("judge", "measure"),
    "novelty": ("novelty", "measure"),
    "train": ("train", "measure"),
    "data": ("data_phase", "measure"),
    "turnaround": ("turnaround", "measure"),
    "growth": ("growth", "measure"),
    "help": ("process", "measure_help"),
    "parent": ("process", "measure_parent"),
    "records": ("process", "measure_records"),
}
"""Module and function of each part; imported only in the process that runs it."""


def main(argument: str) -> int:
    die_with_parent()
    # Libraries print what they like; what the parent reads is for us alone.
    said = os.dup(1)
    os.dup2(2, 1)

    def say(message: dict[str, Any]) -> None:
        os.write(said, json.dumps(message).encode() + b"\n")

    try:
        do(Desk(Job(**json.loads(argument))), say)
    except MinisheepError as error:
        say({"failed": {"kind": type(error).__name__, "message": error.message, "fix": error.fix}})
        return error.exit_code
    except Exception as error:
        # A fault of minisheep or of a library: the traceback goes to the log, the other parts go on.
        traceback.print_exc()
        say({"failed": {"kind": "WorkerError", "message": f"{type(error).__name__}: {error}.", "fix": ""}})
        return 1
    return 0


def do(desk: Desk, say: Callable[[dict[str, Any]], None]) -> None:
    """One part. Raises `errors.MinisheepError` for what a user can act on."""
    part = desk.job.part
    if part == "prepare":
        prepare(desk, say)
    elif part == "answers":
        from minisheep.bench.growth import answer

        say({"value": answer(desk)})
    else:
        module, function = PARTS[part]
        for row in getattr(importlib.import_module(f"minisheep.bench.{module}"), function)(desk):
            say({"row": to_wire(row)})


def prepare(desk: Desk, say: Callable[[dict[str, Any]], None]) -> None:
    """Fetch, check and convert the model as a run does, into the job's ``model.json``."""
    from minisheep.models.prepare import prepare as prepare_model

    def tell(event: Event) -> None:
        if isinstance(event, Note):
            say({"note": event.text})

    prepare_model(desk.settings(), desk.model_file, tell)


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stderr.flush()
    # Native libraries may crash while they are torn down, after everything was said.
    os._exit(code)
