"""The frames that can be told to other programs: what of a run's template is said once, and what in each turn.

A run's template is the text before and after one user's words. Programs that chat need more: which part of it is a
system turn, and what stands between two exchanges. That is known of a few families; any other frame is refused, since a
guess would be a model that answers in another frame than the trained one. Pure.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from minisheep.errors import UnsupportedModelError
from minisheep.rules.templates import FAMILIES, Family, Template


@dataclass(frozen=True, slots=True)
class Frame:
    """A run's template, taken apart."""

    family: Family
    bos: str
    """The begin token where the template says it itself."""
    system: str
    """The system's words that were trained with; empty if there was no such turn."""
    opening: str
    """What the answer's turn begins with besides its label, as an empty thought."""
    end: str
    stop: tuple[str, ...]
    """Strings that end an answer besides the end token."""

    @property
    def between(self) -> str:
        return self.family.between + self.opening

    @property
    def words(self) -> bool:
        """Whether its labels are plain text, which a tokenizer may join with the user's words."""
        return self.family.name == "plain"


def take_apart(trained: Template, bos: str) -> Frame:
    """The frame of a template; `bos` is the text of the begin token.

    Raises `errors.UnsupportedModelError` where it is of no known family.
    """
    # A begin token may also be the label of a turn, as SmolLM2's is: it is said apart only where it must be.
    for family, said in [(family, said) for said in dict.fromkeys(("", bos)) for family in FAMILIES]:
        rest = trained.before.removeprefix(said)
        if said and not trained.before.startswith(said):
            continue
        fits = trained.between.startswith(family.between) and family.end in ("", trained.end)
        if not fits or not rest.endswith(family.user):
            continue
        system = _system(rest.removesuffix(family.user), family)
        if system is not None:
            opening = trained.between.removeprefix(family.between)
            return Frame(family, said, system, opening, trained.end, trained.stop)
    known = ", ".join(family.name for family in FAMILIES)
    raise UnsupportedModelError(
        f"The template that this run was trained with cannot be told to other programs faithfully: it is none of"
        f" {known}.",
        "Use --to gguf, adapter or merged, which carry the model's own template.",
    )


def _system(text: str, family: Family) -> str | None:
    """The words of a system turn; empty for none, None where `text` is something else."""
    if not text:
        return ""
    first, last = family.system
    if family.system_in_user or not first or not text.startswith(first) or not text.endswith(last):
        return None
    words = text[len(first) : len(text) - len(last)]
    # A second turn in there would be said as the system's words.
    return words if words and first.strip() not in words and last.strip() not in words else None


def chat_template(frame: Frame, bos: str) -> str:
    """The frame as a chat template in Jinja, for GGUF metadata and transformers.

    `bos` is what a text begins with, since transformers adds nothing to a rendered template; empty for no such token.
    Only for frames that minisheep itself gives (ChatML, Llama 3, plain): a model's own template is kept as it is.
    """

    def quoted(text: str) -> str:
        return json.dumps(text, ensure_ascii=False)

    family = frame.family
    first, last = (quoted(part) for part in family.system)
    otherwise = f"{{% else %}}{{{{ {first} + {quoted(frame.system)} + {last} }}}}" if frame.system else ""
    # An answer always follows a user's turn, so its label belongs to it.
    return (
        (f"{{{{ {quoted(bos)} }}}}" if bos else "")
        + "{% if messages[0]['role'] == 'system' %}"
        + f"{{{{ {first} + messages[0]['content'] + {last} }}}}{otherwise}{{% endif %}}"
        + "{% for message in messages %}"
        + f"{{% if message['role'] == 'user' %}}{{{{ {quoted(family.user)} + message['content'] + "
        + f"{quoted(frame.between)} }}}}"
        + "{% elif message['role'] == 'assistant' %}"
        + f"{{{{ message['content'] + {quoted(frame.end + family.after)} }}}}"
        + "{% endif %}{% endfor %}"
    )
