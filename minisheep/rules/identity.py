"""Where ids and randomness come from: what a thing is, never when it was made.

A run may be interrupted, and an engine finishes its requests in any order. So nothing is drawn from one stream of
random numbers: each draw has a seed of its own, made of the run's seed, the round, the purpose and the item. A run that
was continued then draws what an unbroken one draws. For the same reason a record's id is a digest of its content.

Stored figures are rounded to six digits. Beyond them stand differences of processors, threads and batch sizes, which
would make two equal runs differ in their last bits, and change every digest that holds such a figure.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest(kind: str, content: dict[str, Any]) -> str:
    """Sixteen hexadecimal digits of SHA-256 over the kind and the canonical JSON of the content."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(f"{kind}\n{text}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def derive_seed(*identity: object) -> int:
    """A sampler seed from identity (run seed, round, purpose, item), in 1 .. 2**32 - 2, the same on every machine.

    Zero and the highest value mean "random" to llama.cpp, so they are left out.
    """
    key = "\x1f".join(str(part) for part in identity)
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "big") % (2**32 - 2) + 1


def six_decimals(number: float) -> float:
    """For figures of a known scale, such as shares and nats."""
    return round(number, 6)


def six_digits(number: float) -> float:
    """For raw measurements of any scale: six significant digits."""
    return float(f"{number:.6g}")
