"""Someone else's run, as a screen watches it; see `live.Watched`."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from minisheep.screen.running import holder

LOOK_SECONDS = 1.0


class Attached:
    """The run in `folder`. It is watched until the user leaves, also after its end: somebody may want to read."""

    over = False
    wake: int | None = None

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._looked, self._holder = float("-inf"), holder(folder)

    def look(self) -> bool:
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked, self._holder = time.monotonic(), holder(self._folder)
        return self._holder is not None

    def signalled(self, number: int) -> str:
        """Ctrl-C stops the run, as on the screen of the command that started it; SIGTERM is meant for the screen."""
        if number == signal.SIGTERM:
            raise SystemExit(128 + number)
        if self._holder is None:
            return "It is not running. q leaves."
        return self._holder.stop() or "Stopping: finishing what is in hand. Once more stops at once."
