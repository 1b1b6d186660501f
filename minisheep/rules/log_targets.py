"""Where a run may be told to others while it goes on (``--log-to``), and what of it must never be told. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from minisheep.rules.plain_text import without_secrets

TARGETS = {"tensorboard": "TensorBoard", "wandb": "Weights & Biases", "trackio": "trackio"}
"""The packages that can be told, by the names of their extras, with the names that people know."""
NOWHERE = "none"


def log_targets(text: Any) -> str:
    """`text`, names with commas between them, as it is kept: each once, in the order of `TARGETS`; ``none`` is empty.

    Raises ValueError for a name that is not one of them.
    """
    names = {name.strip().lower() for name in str(text).split(",")} - {""}
    wrong = sorted(names - TARGETS.keys() - {NOWHERE})
    if wrong:
        raise ValueError(f"there is no {wrong[0]!r} to log to; there are {', '.join(TARGETS)}, and {NOWHERE}")
    if NOWHERE in names and len(names) > 1:
        raise ValueError(f"{NOWHERE} stands alone")
    return ",".join(name for name in TARGETS if name in names)


LEAST_SECRET = 8
"""Characters; a shorter value of a variable is too common a text to be looked for everywhere."""
_NAMES = re.compile(r"key|token|secret|passw|credential|_auth", re.IGNORECASE)
_TOKENS = re.compile(r"\b(?:sk-|hf_|gh[pousr]_|wandb_v\d_|xox[a-z]-)[A-Za-z0-9_-]{12,}")
_ADDRESS = re.compile(r"(?P<host>\b[a-z][a-z0-9+.-]*://)(?:[^\s/@]*@)?(?P<path>[^\s?#]*)(?:[?#]\S*)?", re.IGNORECASE)


def secrets(environment: Mapping[str, str], also: Collection[str] = ()) -> tuple[str, ...]:
    """The values in an environment that must not leave this machine: of variables in `also`, and of all whose names
    speak of keys, tokens or passwords. The longest first, since one may be a part of another."""
    found = {environment.get(name, "") for name in also} | {
        value for name, value in environment.items() if _NAMES.search(name) and len(value) >= LEAST_SECRET
    }
    return tuple(sorted(found - {""}, key=len, reverse=True))


def tellable(text: str, hidden: Collection[str] = ()) -> str:
    """`text` without the `hidden` secrets, without what looks like a key, and with addresses that name no user, no
    password and no query."""
    text = _ADDRESS.sub(r"\g<host>\g<path>", without_secrets(text, hidden))
    return _TOKENS.sub("***", text)


UNTOLD = ("engine_hook", "engine_key_env", "log_to")
"""Settings that describe this machine and not the run; a hook's command line may hold anything."""


def tellable_settings(settings: Mapping[str, Any], hidden: Collection[str] = ()) -> dict[str, Any]:
    """Settings, JSON-ready, as others may see them: of a file or folder on this machine its name alone."""
    told: dict[str, Any] = {}
    for name, value in settings.items():
        if name in UNTOLD:
            continue
        plain = value if isinstance(value, bool | int | float) else tellable(str(value), hidden)
        told[name] = plain.rpartition("/")[2] if isinstance(plain, str) and plain.startswith("/") else plain
    return told
