"""Names of licences as the hub's cards write them. Pure."""

from __future__ import annotations

from typing import Any

from minisheep.models.registry import safe_name

_KNOWN = {
    "apache-2.0": "apache-2.0",
    "apache 2.0": "apache-2.0",
    "mit": "mit",
    "gemma": "gemma",
    "gemma terms of use": "gemma",
    "meta llama 3 community licence": "llama3",
    "llama3": "llama3",
    "llama3.1": "llama3.1",
    "llama3.2": "llama3.2",
}


def card_fields(licence: str) -> dict[str, Any]:
    """``license``, and for one that the hub has no id for ``license_name`` too; ``unknown`` for none."""
    known = _KNOWN.get(licence.strip().lower())
    if known:
        return {"license": known}
    return {"license": "other", "license_name": safe_name(licence)} if licence.strip() else {"license": "unknown"}
