"""What this processor can do, by /proc/cpuinfo, and llama.cpp's use of its matrix unit. Other systems show nothing.

AMX, the matrix unit of server Xeons, is used where llama.cpp was built for it and kept off where it would crash.

GCC before 15 sees only the first 8 of the 64 bytes that `_tile_loadconfig` reads, so it may drop the stores that fill
the rest; the llama.cpp built with it then dies of SIGSEGV at `ldtilecfg` in its first matrix product (seen with GCC 12
and llama-cpp-python 0.3.36). The library does not say which compiler made it, and llama.cpp has no switch for AMX.
Built with ``native/amx_tile_config.h`` (the README says how), it carries a mark, and reads prompts and decodes about
three times as fast.

A Linux process must ask for AMX, and the kernel refuses while some thread has an alternate signal stack that is too
small for the registers (Documentation/arch/x86/xstate.rst). After a refusal llama.cpp uses its AVX-512 kernels.

llama.cpp configures the tiles of a thread once and for all. PyTorch in the same process releases them after its own
products, so they are restored before each decode.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

from minisheep.machine import cgroup


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
    names = (line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name"))
    return next(names, "")


def cores() -> int:
    """How many this process may use: those that it is bound to, and no more than the time it gets (a quota of one and
    a half means one: threads that wait for their time hold up the others)."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup.cores()
    return bound if quota is None else max(1, min(bound, int(quota)))


def multiplies_bfloat16(features: frozenset[str]) -> bool:
    """Whether in hardware. Elsewhere bfloat16 is emulated, and slower than float32."""
    return bool(features & {"avx512_bf16", "amx_bf16"})


MARK = b"minisheep_amx_restore"
"""The function that ``native/amx_tile_config.h`` leaves in the library."""

_SYS_ARCH_PRCTL = 158
_ARCH_GET_XCOMP_PERM = 0x1022
_ARCH_REQ_XCOMP_PERM = 0x1023
_XTILEDATA = 18
_STACK_BYTES = 8192
"""Enough for a signal frame with AVX-512 (under 4 KiB), too little for one with 8 KiB of tiles."""


class _Stack(ctypes.Structure):
    """`stack_t` of sigaltstack(2)."""

    _fields_ = (("ss_sp", ctypes.c_void_p), ("ss_flags", ctypes.c_int), ("ss_size", ctypes.c_size_t))


_stack = ctypes.create_string_buffer(_STACK_BYTES)


def present() -> bool:
    return " amx_tile" in cpuinfo()


def usable() -> bool:
    """Whether the processor has AMX and the llama.cpp that this process has loaded was built for it."""
    library = _loaded("libggml-cpu")
    return present() and library is not None and marked(library)


def will_be_usable() -> bool:
    """`usable`, by the library that is installed and without loading llama.cpp."""
    if not present():
        return False
    # As llama_cpp finds the library; a path that does not exist where it is not installed.
    own = os.environ.get("LLAMA_CPP_LIB_PATH")
    spec = importlib.util.find_spec("llama_cpp")
    folder = Path(own) if own else Path(spec.origin).parent / "lib" if spec and spec.origin else Path()
    return marked(folder / "libggml-cpu.so")


def restore() -> None:
    """Put this thread's tiles back as llama.cpp left them. Call it before each decode; it takes a microsecond."""
    _restorer()()


@functools.cache
def _restorer() -> Callable[[], None]:
    library = _loaded("libggml-cpu")
    if library is None or not usable():
        return lambda: None
    function: Callable[[], None] = ctypes.CDLL(str(library))[MARK.decode()]
    return function


def marked(library: Path) -> bool:
    """Whether a shared library was built with ``native/amx_tile_config.h``."""
    try:
        return MARK in library.read_bytes()
    except OSError:
        return False


def _loaded(name: str, maps: Path = Path("/proc/self/maps")) -> Path | None:
    """The file of a library in this process, by the beginning of its name; None where there is none."""
    try:
        lines = maps.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    paths = (Path(parts[5]) for line in lines if len(parts := line.split(None, 5)) == 6)
    return next((path for path in paths if path.name.startswith(name)), None)


def avoid() -> bool:
    """Whether llama.cpp cannot use AMX in this process from now on; call it in a thread that lives on.

    False where the process was given AMX already (PyTorch asks for it too): then llama.cpp must be loaded without its
    extra buffer types.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64" or not present():
        return True
    libc = ctypes.CDLL(None)
    allowed = ctypes.c_ulong(0)
    libc.syscall(_SYS_ARCH_PRCTL, _ARCH_GET_XCOMP_PERM, ctypes.byref(allowed))
    if allowed.value >> _XTILEDATA & 1:
        return False
    stack = _Stack(ctypes.addressof(_stack), 0, _STACK_BYTES)
    libc.sigaltstack(ctypes.byref(stack), None)
    refused: int = libc.syscall(_SYS_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XTILEDATA)
    return refused != 0
