"""What this processor can do, by the text of /proc/cpuinfo; on other systems nothing is known of it."""

from __future__ import annotations

import os
from pathlib import Path


def cpuinfo(path: Path = Path("/proc/cpuinfo")) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def flags(text: str) -> frozenset[str]:
    """The feature flags of all cores."""
    lines = (line.partition(":") for line in text.splitlines())
    return frozenset(word for name, _, words in lines if name.strip() == "flags" for word in words.split())


def name(text: str) -> str:
    """The model's name, or empty."""
    names = (line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name"))
    return next(names, "")


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def multiplies_bfloat16(found: frozenset[str]) -> bool:
    """In hardware; elsewhere it is emulated, and slower than float32."""
    return bool(found & {"avx512_bf16", "amx_bf16"})
