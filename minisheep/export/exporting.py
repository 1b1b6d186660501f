"""The parent's part of an export: a worker makes and checks the files, then come the cards and the folder's name."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from minisheep import __version__
from minisheep.errors import WorkerError
from minisheep.export import export_choice, model_cards
from minisheep.export.export_choice import MAKE, MARK, WEIGHTS, ExportChoice, ExportSpec
from minisheep.machine.worker import WorkerProcess, stoppable
from minisheep.run.events import Emit, Note
from minisheep.run.files import disk_errors, fsync_folder, read_json, sha256_of, sweep, sync_tree, write_json
from minisheep.run.folder import Lock

WORKER = "minisheep.export.worker:do"


def export(
    choice: ExportChoice,
    target: str,
    format: str,
    out: Path,
    emit: Emit,
    tick: Callable[[], None] = lambda: None,
    *,
    overwrite: bool = False,
    threads: int = 0,
    repo: str = "",
) -> dict[str, Any]:
    """Export a round to the folder `out`, which appears once every check has passed; returns its ``export.json``.

    `repo` is where a folder for the hub will be pushed, for its cards.

    Raises `errors.ExportError` if a check fails, `errors.UsageError` if `out` exists and may not be replaced, and
    `errors.MinisheepError`. A failed export leaves nothing behind.
    """
    export_choice.check_output(out, overwrite=overwrite)
    begun = time.monotonic()
    if choice.note:
        emit(Note(choice.note, "warning"))
    with _workplace(out) as work:
        spec = ExportSpec(
            run=str(choice.run.path.absolute()), round=choice.round, target=target, work=str(work.absolute()),
            format=format, name=choice.name, title=choice.title, base_id=choice.base_id,
            licence=choice.licence, threads=threads,
        )  # fmt: skip
        for phase in (MAKE, *([WEIGHTS] if spec.needs_weights else [])):
            _work(spec, phase, out, emit, tick)
        checks = read_json(spec.report)["checks"]
        with disk_errors(out):
            model_cards.write(choice, spec, checks, repo)
            made = _description(choice, spec, checks)
            write_json(spec.output / MARK, made)
            sync_tree(spec.output)
            _take_the_name(spec.output, out, work, overwrite=overwrite)
    return {**made, "folder": str(out), "seconds": round(time.monotonic() - begun, 1)}


def _work(spec: ExportSpec, phase: str, out: Path, emit: Emit, tick: Callable[[], None]) -> None:
    """One job in its own process. Its log stays only if the process died."""
    log = out.with_name(f"{out.name}.log")
    died = False
    with Lock(Path(spec.work)) as lock:
        try:
            with WorkerProcess(WORKER, log, lock.handle) as worker, stoppable("Stopped. Nothing was exported."):
                worker.do(spec.to_job(phase), f"Round {spec.round}, {phase}", emit, tick)
        except WorkerError:
            died = True
            raise
        finally:
            if not died:
                log.unlink(missing_ok=True)


@contextlib.contextmanager
def _workplace(out: Path) -> Iterator[Path]:
    """A folder beside `out`, on the same disk, always deleted at the end."""
    work = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        sweep(out.parent, out.name)
        work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _take_the_name(made: Path, out: Path, work: Path, *, overwrite: bool) -> None:
    """Rename `made` to `out`. An export that it replaces is kept until the new one is there."""
    export_choice.check_output(out, overwrite=overwrite)
    before = work / "before"
    if out.exists():
        os.rename(out, before)
    try:
        os.rename(made, out)
    except OSError:
        if before.exists():
            os.rename(before, out)
        raise
    fsync_folder(out.parent)


def _description(choice: ExportChoice, spec: ExportSpec, checks: list[dict[str, Any]]) -> dict[str, Any]:
    """An export for programs: where it comes from, its files, and the results of the checks."""
    files = [path for path in sorted(spec.output.rglob("*")) if path.is_file()]
    return {
        "minisheep": __version__,
        "target": spec.target,
        "round": spec.round,
        "format": spec.format if any(path.suffix == ".gguf" for path in files) else "",
        "name": spec.name,
        "base": {
            "name": choice.model.name,
            "title": choice.model.title,
            "hub": choice.base_id,
            "licence": choice.model.licence,
            "gguf_sha256": choice.model.gguf_sha256,
        },
        "checks": checks,
        "files": {
            str(path.relative_to(spec.output)): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
            for path in files
        },
    }
