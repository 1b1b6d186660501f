"""A run's template over several turns, for chat. Training and the loop know single turns only (`template.Template`).

What a stored template does not say (what stands between an answer and the next question, and where a system message
goes) is read off the model's own chat template, rendered with sentinels. It counts only where it frames a single turn
exactly as the run does; else every message is asked by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from minisheep.engines.base import Prompt, Segment
from minisheep.models.template import OURS, Template, renderer

Message = dict[str, str]
"""``{"role": "user" or "assistant", "content": text}``."""

_SYSTEM = "\ue0f0minisheep-system\ue0f1"
_TURNS = tuple(f"\ue0f0minisheep-turn-{number}\ue0f1" for number in range(5))


@dataclass(frozen=True, slots=True)
class Conversation:
    """How messages become a prompt. What the template adds is `special`; words of users and models never are."""

    template: Template
    earlier: str = ""
    """Between question and answer in turns before the last, where a template shows those otherwise."""
    again: str | None = None
    """Between an answer and the next question; None where the template takes a single turn."""
    system: tuple[str, str] | None = None
    """Before and after a system message, up to the first question; None where the template has no place for one."""

    def prompt(self, messages: Sequence[Message], system: str = "") -> Prompt:
        """The prompt whose continuation answers the last of `messages`, which are users' and answers in turn.

        Raises ValueError for several turns or a system message where the template takes none.
        """
        if (len(messages) > 1 and self.again is None) or (system and self.system is None):
            raise ValueError("the template has no place for this conversation")
        parts = [Segment(self.template.before, True)]
        if system and self.system is not None:
            parts = [Segment(self.system[0], True), Segment(system), Segment(self.system[1], True)]
        for number, message in enumerate(messages):
            if number:
                joint = self.earlier if number % 2 else self.again or ""
                parts.append(Segment(joint, True))
            parts.append(Segment(message["content"]))
        parts.append(Segment(self.template.between, True))
        return tuple(part for part in parts if part.text)


def conversation(template: Template, source: str, special: dict[str, str]) -> Conversation:
    """What `template` can frame; `source` is the chat template of the model's file, `special` as for `from_jinja`."""
    family = OURS.get(template.name)
    if family is not None:
        # Words' own end is not said: to a base model, what comes after its end token is another text.
        end = family.end + family.after if family.end else "\n\n"
        system = (family.bos + family.system[0], family.system[1] + family.user)
        return Conversation(template, template.between, end + family.user, system)
    try:
        render = renderer(source, special)
    except Exception:  # a stranger's program
        return Conversation(template)
    earlier, again = _several_turns(render, template)
    return Conversation(template, earlier, again, _system(render, template))


def _several_turns(render: Callable[[list[Message], bool], str], template: Template) -> tuple[str, str | None]:
    two, three = _pieces(render, _TURNS[:3]), _pieces(render, _TURNS)
    if len(two) != 4:
        return "", None
    before, earlier, again, between = two
    alike = (before, between) == (template.before, template.between)
    return (earlier, again) if alike and three == [before, earlier, again, earlier, again, between] else ("", None)


def _system(render: Callable[[list[Message], bool], str], template: Template) -> tuple[str, str] | None:
    found = _pieces(render, _TURNS[:1], system=True)
    return (found[0], found[1]) if len(found) == 3 and found[2] == template.between else None


def _pieces(render: Callable[[list[Message], bool], str], turns: Sequence[str], *, system: bool = False) -> list[str]:
    """What stands before, between and after the words of a conversation; empty where they are not kept in order."""
    words = [*([_SYSTEM] if system else []), *turns]
    messages: list[Any] = [{"role": "system", "content": _SYSTEM}] if system else []
    messages += [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(turns)]
    try:
        rest = render(messages, True)
    except Exception:  # a stranger's program
        return []
    pieces = []
    for word in words:
        piece, found, rest = rest.partition(word)
        if not found or word in rest:
            return []
        pieces.append(piece)
    return [*pieces, rest]
