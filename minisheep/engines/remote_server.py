"""The server that a run's settings name. Light, so that the parent refuses what is wrong before anything is made."""

from __future__ import annotations

import os

from minisheep.config import Settings
from minisheep.endpoint.post import PAUSES, Names, Post
from minisheep.engines.remote_adapter import check_hook
from minisheep.engines.remote_reading import OPTIONAL
from minisheep.errors import UsageError

NAMES = Names("--engine-url", "--engine-key-env VAR", "--engine-model", "The server")


def server(settings: Settings, pauses: tuple[float, ...] = PAUSES) -> Post:
    """Its ``/completions``. The key is read from the environment here and stored nowhere.

    Raises `errors.UsageError` for an address that is none, and for a variable that holds no key.
    """
    variable = settings.engine_key_env
    key = os.environ.get(variable, "").strip() if variable else ""
    if variable and not key:
        raise UsageError(f"The environment variable {variable} holds no key for the server.", "Nothing was sent.")
    return Post(settings.engine_url, "/completions", NAMES, key, settings.engine_timeout, pauses, OPTIONAL)


def check_server(settings: Settings) -> None:
    """Raises `errors.UsageError` for what is wrong before anything is asked; a run without a server is right."""
    if settings.engine == "openai":
        server(settings)
        if settings.engine_hook:
            check_hook(settings.engine_hook)
