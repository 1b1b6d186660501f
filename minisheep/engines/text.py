"""The text of a completion as its tokens arrive: UTF-8 that may be cut anywhere, and stop strings that span tokens."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class Reply:
    """Collects the bytes of one completion until a stop string appears.

    `text` holds all whole characters so far, without the stop string and what came after it. Bytes that can never be
    UTF-8 become U+FFFD; a character that is cut off at the end is left out.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self.text = ""
        self.stopped = False
        self._stops = [stop for stop in stops if stop]
        self._reach = max(map(len, self._stops), default=1) - 1
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def settled(self) -> str:
        """`text` as far as no stop string can take it back: what may be shown before the completion ends."""
        begun = (
            length
            for stop in (() if self.stopped else self._stops)
            for length in range(1, min(len(stop), len(self.text) + 1))
            if self.text.endswith(stop[:length])
        )
        return self.text[: len(self.text) - max(begun, default=0)]

    def feed(self, data: bytes) -> bool:
        """Add the bytes of a token; True once a stop string is complete."""
        if self.stopped:
            return True
        # A stop string may begin in earlier tokens, but never further back than its own length.
        start = max(0, len(self.text) - self._reach)
        self.text += self._decoder.decode(data)
        found = [place for stop in self._stops if (place := self.text.find(stop, start)) >= 0]
        if found:
            self.text = self.text[: min(found)]
            self.stopped = True
        return self.stopped
