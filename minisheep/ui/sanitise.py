"""Makes model text safe to show: nothing in it can move the cursor, set a title, open a link or reorder a line.

rich removes only a few control characters by itself; escape sequences and the 8-bit controls would pass.
"""

from __future__ import annotations

import re

_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and newline, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # direction marks, embeddings, overrides, isolates
    "\u2028\u2029\ufeff\ufff9-\ufffb\ud800-\udfff"  # separators, byte-order mark, annotations, lone surrogates
    "\U000e0000-\U000e007f]"  # invisible tags
)


def sanitise(text: str) -> str:
    """`text` with every control, direction and invisible character replaced by the replacement character."""
    return _UNSAFE.sub("\ufffd", text.replace("\r\n", "\n").replace("\t", "    "))


def one_line(text: str, width: int = 0) -> str:
    """Sanitised, on one line, cut to `width` characters if that is given."""
    line = " ".join(sanitise(text).split())
    return line if not width or len(line) <= width else line[: width - 3] + "..."
