"""The command line on a terminal of its own, driven as a person would."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# The terminal becomes the child's own, as a shell's is, so that Ctrl-C in it is a signal.
OWN = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"


class Terminal:
    """A command on a pseudo-terminal. `seen` is all that it has written."""

    def __init__(self, args: tuple[str, ...], size: tuple[int, int], environment: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        self._slave = slave
        self.before = termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWN, sys.executable, "-m", "minisheep", *args],
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True, env=environment,
        )  # fmt: skip
        self.seen = ""

    def until(self, text: str, seconds: float = 60.0) -> str:
        """Read until `text` has been written since the last call; returns what came. Fails after `seconds`."""
        begun, deadline = len(self.seen), time.monotonic() + seconds
        while text not in self.seen[begun:]:
            assert time.monotonic() < deadline, f"{text!r} never came: {self.seen[begun:][-3000:]!r}"
            if not self._read() and self.process.poll() is not None:
                assert text in self.seen[begun:], f"{text!r} never came: {self.seen[begun:][-3000:]!r}"
        return self.seen[begun:]

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def end(self, seconds: float = 60.0) -> int:
        """Read to the end of the command; its exit code."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"still running: {self.seen[-3000:]!r}"
            self._read()
        while self._read():
            pass
        return self.process.returncode

    @property
    def as_before(self) -> bool:
        """Whether the terminal's modes are what they were."""
        return termios.tcgetattr(self._slave) == self.before

    def close(self) -> None:
        """Take the terminal away."""
        for handle in (self._master, self._slave):
            with contextlib.suppress(OSError):
                os.close(handle)

    def _read(self) -> bool:
        if not select.select([self._master], [], [], 0.2)[0]:
            return False
        try:
            data = os.read(self._master, 1 << 16)
        except OSError:
            return False
        self.seen += data.decode(errors="replace")
        return bool(data)


@contextlib.contextmanager
def terminal(*args: str, size: tuple[int, int] = (80, 24), **environment: str) -> Iterator[Terminal]:
    """The command on a terminal, which is taken away at the end; a command that is still there is killed."""
    surroundings: dict[str, Any] = {**os.environ, "TERM": "xterm-256color", **environment}
    if "NO_COLOR" not in environment:
        surroundings.pop("NO_COLOR", None)
    found = Terminal(args, size, surroundings)
    try:
        yield found
    finally:
        found.close()
        if found.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                found.process.wait(5)
            found.process.kill()
        found.process.wait()


def wait_for(what: Any, seconds: float = 60.0) -> None:
    """Fails if `what()` is not true within `seconds`."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)


def log_of(run: Path) -> str:
    """All that a run has said so far."""
    return (run / "events.jsonl").read_text(encoding="utf-8") if (run / "events.jsonl").exists() else ""
