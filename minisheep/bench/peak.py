"""The most that a card held while something ran, as the driver tells it: CUDA's own context included."""

from __future__ import annotations

import threading
from collections.abc import Callable

from minisheep.screen.nvml import Nvml

EVERY_SECONDS = 0.05


class Peak:
    """A context manager; `bytes` afterwards is the largest growth of any one card, None where no driver tells."""

    def __init__(self, read: Callable[[], list[int]] | None = None) -> None:
        self._nvml = Nvml() if read is None else None
        self._read = read or self._used
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak VRAM", daemon=True)
        self._before: list[int] = []
        self._most: list[int] = []

    def __enter__(self) -> Peak:
        self._before = self._most = self._read()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        if self._nvml is not None:
            self._nvml.close()

    @property
    def bytes(self) -> int | None:
        grown = [most - before for before, most in zip(self._before, self._most, strict=True)]
        return max(grown, default=None)

    def _watch(self) -> None:
        while not self._done.wait(EVERY_SECONDS):
            now = self._read()
            # A card that falls silent for a moment is left as it was.
            if len(now) == len(self._most):
                self._most = [max(pair) for pair in zip(self._most, now, strict=True)]

    def _used(self) -> list[int]:
        assert self._nvml is not None
        return [int(card["used"]) for card in self._nvml.read()]
