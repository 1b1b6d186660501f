"""What a run folder may ask of this machine: a program to start, a server to speak to, a secret to send it.

A run folder may come from anybody, so its settings are data. What starts a program (``engine_hook``), names a server
(``engine_url``), reads a secret (``engine_key_env``) or sends the run to a service in this user's name (``log_to``) is
believed only where the user gave it: on this command line, in a file named there, or earlier, by this machine's own
record. The record is beside the cached models, readable by this user alone: one empty file for each thing given, named
by a digest of the run folder's real path and of the thing.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from minisheep.config import Settings, flag
from minisheep.errors import UsageError
from minisheep.models.cache import cache_root, disk_errors
from minisheep.rules.log_targets import log_targets
from minisheep.rules.plain_text import one_line, shell

GUARDED = ("engine_url", "engine_key_env", "engine_hook", "log_to")
PAIR = "engine_key_env at engine_url"


def check_permitted(settings: Settings, run: Path, given: Mapping[str, Any] = {}) -> None:  # never changed
    """Raise `errors.UsageError` if `settings`, of the folder `run`, hold what the user gave neither now nor before.

    given: what this command line holds, by the names of settings. Nothing is started, sent or looked up.
    """
    wanted = list(_not_given(settings, run, given))
    if not wanted:
        return
    all_of_it = [(name, str(getattr(settings, name))) for name in _asked(settings)]
    flags = " ".join(f"{flag(name)} {shell(value)}" for name, value in all_of_it)
    raise UsageError(
        one_line(f"{run} wants to {' and '.join(wanted)}, and nobody gave that on this machine. Nothing was done."),
        one_line(f"If you trust the folder, say so once: minisheep align --run {shell(run)} {flags}"),
    )


def remember(settings: Settings, run: Path, given: Mapping[str, Any]) -> None:
    """Keep a record of what the user gave for `run`, for its workers and later commands. Raises `errors.DiskError`."""
    names = {name for name in _asked(settings) if _gave(given, name, getattr(settings, name))}
    marks = [(name, str(getattr(settings, name))) for name in sorted(names)]
    # A key goes to an address: both were given, together or one after the other, if `check_permitted` let them pass.
    if settings.engine_key_env and names & {"engine_url", "engine_key_env"}:
        marks.append((PAIR, f"{settings.engine_key_env} {settings.engine_url}"))
    for name, value in marks:
        mark = _mark(run, name, value)
        with disk_errors("What you gave for this run cannot be noted"):
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.parent.chmod(0o700)
            os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))


def _not_given(settings: Settings, run: Path, given: Mapping[str, Any]) -> Iterator[str]:
    """What the folder wants and the user did not give, each as a verb with its object."""

    def known(name: str) -> bool:
        value = str(getattr(settings, name))
        return _gave(given, name, value) or _noted(run, name, value)

    if "log_to" in _asked(settings) and not known("log_to"):
        yield f"send its progress to {settings.log_to} (log_to)"
    if settings.engine != "openai":
        return
    if settings.engine_hook and not known("engine_hook"):
        yield f"start the program {settings.engine_hook!r} (engine_hook)"
    if not known("engine_url"):
        yield f"send its prompts to {settings.engine_url} (engine_url)"
    variable, url = settings.engine_key_env, settings.engine_url
    if variable:
        both = "engine_key_env" in given or "engine_url" in given
        if not (known("engine_key_env") and (both or _noted(run, PAIR, f"{variable} {url}"))):
            yield f"send the secret in {variable} to {url} (engine_key_env)"


def _asked(settings: Settings) -> list[str]:
    """The guarded settings that ask for something. TensorBoard's are files in the run folder itself."""
    asked = [name for name in GUARDED if getattr(settings, name)]
    if settings.engine != "openai":
        asked = [name for name in asked if name == "log_to"]
    return [name for name in asked if name != "log_to" or settings.log_to != "tensorboard"]


def _gave(given: Mapping[str, Any], name: str, value: str) -> bool:
    found = given.get(name)
    return bool((log_targets(found) if name == "log_to" and found is not None else found) == value)


def _noted(run: Path, name: str, value: str) -> bool:
    try:
        found = os.lstat(_mark(run, name, value))
    except OSError:
        return False
    # In a cache that others share, a file of theirs is not this user's word.
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid()


def _mark(run: Path, name: str, value: str) -> Path:
    named = json.dumps([os.fsencode(os.path.realpath(run)).hex(), name, value]).encode()
    return cache_root() / f"given-{os.getuid()}" / hashlib.sha256(named).hexdigest()
