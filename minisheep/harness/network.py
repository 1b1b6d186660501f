"""Whether the hub may be asked, decided before any of its libraries is imported: they read their environment then."""

from __future__ import annotations

import os
import threading

from minisheep.models.hub import said_offline

SECONDS = 6
"""Within which the hub must answer, a slow resolver included."""


def settle(*, offline: bool) -> bool:
    """Set the environment of this process, and tell whether it is offline: asked for, as set already, or found."""
    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        os.environ.setdefault(name, "10")
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS", "TQDM_DISABLE"):
        os.environ.setdefault(name, "1")
    if offline or said_offline() or not reachable():
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE"):
            os.environ[name] = "1"
        from huggingface_hub import constants

        # Should somebody have imported it already.
        constants.HF_HUB_OFFLINE = True
        return True
    return False


def reachable(seconds: float = SECONDS) -> bool:
    """Whether the hub gives any answer at all, through a proxy where one is set."""
    from huggingface_hub.constants import ENDPOINT

    answered = threading.Event()

    def ask() -> None:
        from urllib.error import HTTPError, URLError
        from urllib.request import Request, urlopen

        try:
            urlopen(Request(ENDPOINT, method="HEAD"), timeout=seconds).close()  # noqa: S310
        except HTTPError:
            pass
        except (URLError, OSError, ValueError):
            return
        answered.set()

    # In a thread, since no timeout covers the look-up of the name.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    return answered.is_set()
