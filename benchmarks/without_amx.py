"""Start a program that the kernel refuses AMX: ``python -m benchmarks.without_amx PROGRAM ARGUMENT...``.

llama.cpp built by an older compiler dies in its AMX kernels (see `machine.cpu`); where a library beside the program
carries the mark of a right build, nothing is refused. The trick used there, a small signal
stack, does not survive exec; a seccomp filter does (seccomp(2)), so it lets every call through except the one that asks
for the tiles. llama.cpp then takes its AVX-512 kernels: repacked weights and all, so nothing else is slowed down.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import struct
import sys
from pathlib import Path

from minisheep.machine.cpu import marked

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_MODE_FILTER = 2
_ARCH_X86_64 = 0xC000003E
_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM = 158, 0x1023
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16
"""Offsets in `struct seccomp_data`; of the argument, the low half."""

PROGRAM = (
    (_LOAD, 0, 0, _ARCH),
    (_EQUAL, 0, 5, _ARCH_X86_64),
    (_LOAD, 0, 0, _NUMBER),
    (_EQUAL, 0, 3, _SYS_ARCH_PRCTL),
    (_LOAD, 0, 0, _FIRST_ARGUMENT),
    (_EQUAL, 0, 1, _ARCH_REQ_XCOMP_PERM),
    (_RETURN, 0, 0, _REFUSE),
    (_RETURN, 0, 0, _ALLOW),
)
"""Classic BPF: (code, jump if true, jump if false, constant), the jumps counted from the next instruction."""


class _Filter(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def refuse_amx() -> bool:
    """Install the filter for this process and whatever it becomes; whether the system took it."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in PROGRAM)
    program = _Filter(len(PROGRAM), code)
    libc = ctypes.CDLL(None)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return bool(libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0) == 0)


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def built_for_amx(program: Path) -> bool:
    """Whether the program, or a ggml library beside it, carries the mark."""
    libraries = (path for folder in ("", "../lib") for path in (program.parent / folder).glob("libggml-cpu*"))
    return any(marked(path) for path in (program, *libraries))


if __name__ == "__main__":
    die_with_parent()
    if not built_for_amx(Path(sys.argv[1])):
        refuse_amx()
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606
