"""What a person types in a chat: messages of one line or several, with an editor's keys and the messages before."""

from __future__ import annotations

import contextlib
import sys
import termios
from collections.abc import Iterator
from typing import Any

HINT = "Enter sends. Alt-Enter begins a new line, as does a \\ at the end of one; pasted lines are one message."
PROMPT, CONTINUED = "you> ", "...> "


class Keyboard:
    """Reads messages from the terminal on stdin; the up key brings back what was sent in this chat."""

    def __init__(self) -> None:
        # Loaded here, since a pipe needs none of it.
        from prompt_toolkit import PromptSession
        from prompt_toolkit.key_binding import KeyBindings
        from prompt_toolkit.key_binding.key_processor import KeyPressEvent

        keys = KeyBindings()

        @keys.add("enter")
        def _(event: KeyPressEvent) -> None:
            typed = event.current_buffer
            if typed.document.text_before_cursor.endswith("\\"):
                typed.delete_before_cursor()
                typed.insert_text("\n")
            else:
                typed.validate_and_handle()

        @keys.add("escape", "enter")
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        self._session: PromptSession[str] = PromptSession(
            PROMPT, multiline=True, prompt_continuation=CONTINUED, key_bindings=keys, reserve_space_for_menu=0
        )

    def __call__(self) -> str:
        """A message. Raises EOFError for Ctrl-D and KeyboardInterrupt for Ctrl-C."""
        return self._session.prompt()


@contextlib.contextmanager
def unseen() -> Iterator[None]:
    """What is typed meanwhile is not shown, and Ctrl-C throws nothing away that is on its way to the terminal (NOFLSH):
    either would leave doubled lines, or erase too many, where lines are drawn over. It is there for the next prompt."""
    try:
        handle = sys.stdin.fileno()
        before: list[Any] = termios.tcgetattr(handle)
    except (OSError, ValueError, termios.error):  # no terminal, or no stdin at all
        yield
        return
    try:
        quiet = (before[3] & ~termios.ECHO) | termios.NOFLSH
        termios.tcsetattr(handle, termios.TCSANOW, [*before[:3], quiet, *before[4:]])
        yield
    finally:
        with contextlib.suppress(termios.error):
            termios.tcsetattr(handle, termios.TCSANOW, before)
