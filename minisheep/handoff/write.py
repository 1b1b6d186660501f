"""Writes a handoff folder: every file, or none."""

from __future__ import annotations

from pathlib import Path

from minisheep.errors import UsageError
from minisheep.handoff import axolotl, llamafactory
from minisheep.handoff.job import Job
from minisheep.handoff.readme import readme
from minisheep.machine.files import publish, write_atomic

TITLES = {"axolotl": "Axolotl", "llamafactory": "LLaMA-Factory"}
WRITERS = {"axolotl": (axolotl.files, axolotl.COMMAND), "llamafactory": (llamafactory.files, llamafactory.COMMAND)}
"""What writes the files of a target, and the command that trains on them."""


def write(job: Job, target: str, gpus: int, folder: Path) -> str:
    """Write the files for `target` into the new `folder`; returns the command that trains.

    Raises `errors.UsageError` where the folder exists, and `errors.DiskError`.
    """
    from minisheep.trainers.lora_gguf import PROJECTIONS

    if folder.exists() or folder.is_symlink():
        raise UsageError(f"{folder} exists already. Nothing was written.", "Remove it, or give another --out.")
    files, command = WRITERS[target]
    found = files(job, gpus, PROJECTIONS)
    with publish(folder) as unfinished:
        for name, text in {**found, "README.txt": readme(job, TITLES[target], command, gpus)}.items():
            write_atomic(unfinished / name, text.encode("utf-8", "surrogatepass"))
    return command
