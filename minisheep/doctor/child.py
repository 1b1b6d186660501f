"""The child process of one group of probes: ``python -m minisheep.doctor.child JOB``, JSON lines on stdout.

{"probe": NAME, "facts": {...}}   what a probe found, or why it could not
{"note": ...}                     something to tell, such as a download
{"failed": ...}                   the model cannot be had
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minisheep.bench.plan import Job
from minisheep.bench.without_amx import die_with_parent
from minisheep.doctor.probes import GROUPS, NEED_MODEL
from minisheep.doctor.result import Facts
from minisheep.errors import MinisheepError
from minisheep.models.prepared import PreparedModel

MODEL = "model.json"
Say = Callable[[dict[str, Any]], None]


def main(argument: str) -> int:
    die_with_parent()
    # Libraries print what they like; what the parent reads is for us alone.
    said = os.dup(1)
    os.dup2(2, 1)
    job = Job(**json.loads(argument))

    def say(message: dict[str, Any]) -> None:
        os.write(said, json.dumps(message).encode() + b"\n")

    # Unsloth writes a folder of compiled code wherever it is.
    os.chdir(job.folder)
    if job.part == "prepare":
        from minisheep.doctor.prepare import prepare

        return prepare(job, Path(job.folder) / MODEL, say)
    ask(job, say)
    return 0


def ask(job: Job, say: Say) -> None:
    """Run the group's probes one after the other; those that need a model only where there is one."""
    stored = Path(job.folder) / MODEL
    model = PreparedModel.read(stored) if stored.exists() else None
    scratch = Path(job.folder) / job.part
    scratch.mkdir()
    for name, probe in GROUPS[job.part].items():
        if name in NEED_MODEL and model is None:
            continue
        say({"probe": name, "facts": answer(probe, model, scratch)})


def answer(probe: Callable[..., Facts], model: PreparedModel | None, folder: Path) -> Facts:
    """What a probe finds; what it raises becomes ``error`` (and ``fix``), with the traceback on stderr."""
    try:
        return probe(model, folder)
    except MinisheepError as error:
        return {"error": error.message, "fix": error.fix}
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"[:500]}


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stderr.flush()
    # Native libraries may crash while they are torn down, after everything was said.
    os._exit(code)
