"""?"""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest(kind: str, content: dict[str, Any]) -> str:
    """Sixteen hexadecimal digits of SHA-256 over the kind and the canonical JSON of the content."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(f"{kind}\n{text}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def derive_seed(*identity: object) -> int:
    """A sampler seed from identity (run seed, round, what for, which), in 1 .. 2**32 - 2, the same on every machine.

    Zero and the highest value mean "random" to llama.cpp, so they are left out.
    """
    key = "\x1f".join(str(part) for part in identity)
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "big") % (2**32 - 2) + 1


def six_decimals(number: float) -> float:
    """As figures are stored: more is noise."""
    return round(number, 6)


def six_digits(number: float) -> float:
    """Six significant digits: more is noise, and would make equal runs differ in their last bit."""
    return float(f"{number:.6g}")
