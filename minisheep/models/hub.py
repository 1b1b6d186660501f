"""The edge to the Hugging Face hub: its own client and its own cache, so that files are shared with other tools.

huggingface_hub is imported inside the functions: it reads its environment when it is imported, and takes a third of a
second. Its errors become a DownloadError that says what to type. A folder of weights fit for training has a config.json
and whole safetensors, never a pickle.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minisheep.errors import DiskError, DownloadError, MinisheepError
from minisheep.models.cache import REPORT_EVERY, Report, folder_bytes
from minisheep.models.registry import HubFile, HubRepo
from minisheep.rules.plain_text import megabytes

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def what_is_missing(folder: Path) -> str:
    """Why `folder` cannot be loaded, in words; empty if it can. Never raises for a bad folder."""
    if not folder.is_dir():
        return "it is no folder"
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            return "it holds an adapter and no model (peft's merge_and_unload and save_pretrained make one of it)"
        return "it has no config.json"
    if (folder / SINGLE).is_file():
        names = {SINGLE}
    elif (folder / INDEX).is_file():
        names = _shards(folder / INDEX)
        if not names:
            return f"its {INDEX} cannot be read"
    elif any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth")):
        return "its weights are pickles, which can run code when they are loaded; minisheep loads safetensors only"
    else:
        return f"it has no {SINGLE}"
    return next((f"{name} is {fault}" for name in sorted(names) if (fault := _fault(folder / name))), "")


def shards(folder: Path) -> set[str]:
    """The names of the safetensors files of a folder in which nothing is missing, and of no others: one whole file wins
    over an index, which may be left of another save, as in transformers."""
    whole = (folder / SINGLE).is_file() or not (folder / INDEX).is_file()
    return {SINGLE} if whole else _shards(folder / INDEX)


def _shards(index: Path) -> set[str]:
    """The files that an index names; empty if it names any that is not a plain file name."""
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()
    plain = all(isinstance(name, str) and os.path.basename(name) == name for name in names)
    return names if plain and all(name.endswith(".safetensors") for name in names) else set()


def _fault(path: Path) -> str:
    """What a safetensors file is instead of one with a sound head and as long as that says; empty for a whole one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy"):
            return ""
    except (OSError, SafetensorError):
        pointer = path.is_file() and path.stat().st_size < 1000 and b"git-lfs" in path.read_bytes()
        return "a pointer of Git LFS (`git lfs pull` fetches it)" if pointer else "missing or cut short"


WEIGHT_PATTERNS = ["*.json", "*.safetensors", "tokenizer.model", "chat_template.jinja"]
SKIPPED_PATTERNS = ["*/*", "consolidated*.safetensors"]
"""Sub-folders hold other formats of the same weights, and so do Mistral's own files."""


def said_offline() -> bool:
    """Whether the environment says that there is no network."""
    names = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in names)


def cached_file(source: HubFile) -> Path | None:
    """The file in the hub's cache, without any network; None if it is not there."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(source.repo, source.file, revision=source.revision, local_files_only=True))
    except EntryNotFoundError:
        return None


def fetch_file(source: HubFile, report: Report) -> Path:
    """Download one file. Raises DownloadError. The client continues or restarts a download that broke off."""
    from huggingface_hub import hf_hub_download

    report(f"downloading {source} from the Hugging Face hub")
    with _errors(source.repo, source.revision, source.file, "--gguf"), _quiet(), _watched(source.repo, report):
        return Path(hf_hub_download(source.repo, source.file, revision=source.revision))


def cached_weights(source: HubRepo) -> Path | None:
    """The folder of a repository's safetensors in the hub's cache, only if it is whole; without any network."""
    from huggingface_hub.errors import EntryNotFoundError

    try:
        folder = _weights(source, local_files_only=True)
    except EntryNotFoundError:
        return None
    # Older clients return a folder in which an interrupted download left only some of the files.
    return None if what_is_missing(folder) else folder


def fetch_weights(source: HubRepo, report: Report) -> Path:
    """Download config and safetensors of a repository; never pickles. Raises DownloadError."""
    report(f"downloading {source} from the Hugging Face hub")
    with _errors(source.repo, source.revision, "", "--weights"), _quiet(), _watched(source.repo, report):
        return _weights(source)


def _weights(source: HubRepo, *, local_files_only: bool = False) -> Path:
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            source.repo,
            revision=source.revision,
            allow_patterns=WEIGHT_PATTERNS,
            ignore_patterns=SKIPPED_PATTERNS,
            local_files_only=local_files_only,
        )
    )


def commit_of(path: Path) -> str:
    """The commit of a file or folder in the hub's cache (``.../snapshots/COMMIT/...``); empty if it is elsewhere."""
    parts = path.parts
    at = len(parts) - 1 - parts[::-1].index("snapshots") if "snapshots" in parts else len(parts)
    return parts[at + 1] if at + 1 < len(parts) else ""


def promised_sha256(path: Path) -> str | None:
    """The SHA-256 by which the hub knows a large file: its cache names the blob so. None for a small file."""
    blob = path.resolve().name
    return blob if re.fullmatch(r"[0-9a-f]{64}", blob) else None


@contextmanager
def _errors(repo: str, revision: str, file: str, option: str) -> Iterator[None]:
    try:
        yield
    except MinisheepError:
        raise
    except Exception as error:
        # The client raises its own classes, those of two HTTP libraries (by version) and OSError: all mean one thing.
        raise explain(error, repo, revision, file, option) from error


def explain(error: Exception, repo: str, revision: str, file: str, option: str) -> MinisheepError:
    """The message for the user when the hub's client raised `error`."""
    from huggingface_hub import errors

    mine = f"or pass files that you already have with {option} PATH."
    if isinstance(error, errors.GatedRepoError):
        return DownloadError(
            f"{repo} is gated: its makers ask you to accept a licence first.",
            f"Accept it on the repository's page, log in with `hf auth login` (or set HF_TOKEN), and run again, {mine}",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return DownloadError(f"{repo} has no revision {revision}.", f"Check the part after @, {mine}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return DownloadError(
            f"There is no repository {repo} on the hub, or it is private.",
            f"Check its name; for a private one log in with `hf auth login`, {mine}",
        )
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return DownloadError(f"{repo} has no file {file}.", f"Look on the repository's page for its file names, {mine}")
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return DiskError(f"The disk filled up with {repo}.", "Free some space and run the same command again.")
    # The client's class for a hub that does not answer speaks of its cache; what happened is in its cause.
    silent = isinstance(error, errors.LocalEntryNotFoundError)
    cause = (error.__cause__ or error) if silent else error
    reason = f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}".rstrip(".")
    reason = f"the hub does not answer ({reason})" if silent else reason
    return DownloadError(
        f"{repo} cannot be fetched: {reason}.",
        f"Check the network and run the same command again (what came so far is kept), {mine}",
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and logs on stderr: progress goes through `report`."""
    from huggingface_hub import utils
    from huggingface_hub.utils import logging as hub_logging

    bars: Any = utils  # the client documents these switches, but does not export them for type checkers
    level, were_disabled = hub_logging.get_verbosity(), bars.are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # HF_HUB_DISABLE_PROGRESS_BARS=0 makes the next line warn
        bars.disable_progress_bars()
    hub_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        hub_logging.set_verbosity(level)
        if not were_disabled:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                bars.enable_progress_bars()


def blobs(repo: str) -> Path:
    """Where the hub's client keeps the files of a repository, those that it is still fetching too."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE) / ("models--" + repo.replace("/", "--")) / "blobs"


@contextmanager
def _watched(repo: str, report: Report) -> Iterator[None]:
    """Report every few seconds how much of `repo` is in the cache.

    The lines come from a second thread, but never while the first one reports: that one is inside the download.
    """
    folder = blobs(repo)
    ended = threading.Event()
    began, before = time.monotonic(), folder_bytes(folder)

    def watch() -> None:
        while not ended.wait(REPORT_EVERY):
            so_far, seconds = folder_bytes(folder) - before, time.monotonic() - began
            report(f"downloading {repo}: {megabytes(max(so_far, 0))}, {seconds:.0f} s")

    watcher = threading.Thread(target=watch, name="download progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
