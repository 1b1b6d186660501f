"""Runs a Python file in this process's place, with little memory and time: ``python -I limited.py FILE SECONDS``."""

from __future__ import annotations

import os
import resource
import sys

MEMORY, FILE = 2 << 30, 16 << 20
"""Bytes of address space, and of a file that is written."""


def main() -> None:
    program, seconds = sys.argv[1], int(sys.argv[2])
    for limit, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_FSIZE, FILE),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    os.execv(sys.executable, [sys.executable, "-I", program])  # noqa: S606


if __name__ == "__main__":
    main()
