"""Ollama's Modelfile: the trained frame as a Go template, its stop words, and the parameters of the run.

The template has the three fields .System, .Prompt and .Response, which Ollama fills turn by turn, cutting the last one
at the answer (ollama, template/template.go, Execute). What is written is read back and rendered here by the same rules,
so that a check does not trust the writer. The begin token is left out where the vocabulary adds it, since Ollama's
tokenizer does so too. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from minisheep.errors import UnsupportedModelError
from minisheep.rules.templates import FAMILIES, Template, TemplateFamily


# The frames that can be told to other programs: what of a run's template is said once, and what in each turn.
#
# A run's template is the text before and after one user's words. Programs that chat need more: which part of it is a
# system turn, and what stands between two exchanges. That is known of a few families; any other frame is refused,
# since a guess would be a model that answers in another frame than the trained one. Pure.
@dataclass(frozen=True, slots=True)
class TurnFrame:
    """A run's template, taken apart."""

    family: TemplateFamily
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


def take_apart(trained: Template, bos: str) -> TurnFrame:
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
            return TurnFrame(family, said, system, opening, trained.end, trained.stop)
    known = ", ".join(family.name for family in FAMILIES)
    raise UnsupportedModelError(
        f"The template that this run was trained with cannot be told to other programs faithfully: it is none of"
        f" {known}.",
        "Use --to gguf, adapter or merged, which carry the model's own template.",
    )


def _system(text: str, family: TemplateFamily) -> str | None:
    """The words of a system turn; empty for none, None where `text` is something else."""
    if not text:
        return ""
    first, last = family.system
    if family.system_in_user or not first or not text.startswith(first) or not text.endswith(last):
        return None
    words = text[len(first) : len(text) - len(last)]
    # A second turn in there would be said as the system's words.
    return words if words and first.strip() not in words and last.strip() not in words else None


def chat_template(frame: TurnFrame, bos: str) -> str:
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


_ACTION = re.compile(r'\{\{ (?:\.(?P<field>\w+)|if \.(?P<test>\w+)|(?P<end>end)|"(?P<text>[^"]*)") \}\}')
_COMMAND = re.compile(
    r'''(?:\#[^\n]*|FROM\ (?P<source>\S+)|PARAMETER\ (?P<name>\w+)\ (?:"""(?P<stop>.*?)"""|(?P<number>[\w.-]+))
    |(?P<command>TEMPLATE|SYSTEM|LICENSE)\ """(?P<value>.*?)""")\n''',
    re.S | re.X,
)
_BARE = re.compile(r"[\w.-]+")
_FIX = "Use --to gguf: its chat template says the same."


@dataclass(frozen=True, slots=True)
class Modelfile:
    """The commands that minisheep writes."""

    source: str
    """FROM: a path from the Modelfile's own folder."""
    template: str
    system: str = ""
    parameters: tuple[tuple[str, str], ...] = ()
    """In order; ``stop`` may come several times."""
    licence: str = ""
    comments: tuple[str, ...] = field(default=(), compare=False)

    def text(self) -> str:
        """As a file. Raises `errors.UnsupportedModelError` for text that the format cannot hold."""
        lines = [f"# {comment}" for comment in self.comments]
        lines += [f"FROM {self.source}", f"TEMPLATE {_quoted(self.template)}"]
        lines += [f"SYSTEM {_quoted(self.system)}"] if self.system else []
        lines += [
            f"PARAMETER {name} {value if _BARE.fullmatch(value) else _quoted(value)}" for name, value in self.parameters
        ]
        lines += [f"LICENSE {_quoted(self.licence)}"] if self.licence else []
        return "\n".join(lines) + "\n"


def go_template(frame: TurnFrame, *, says_bos: bool) -> str:
    """The frame as a Go template; `says_bos` where the program that tokenises does not put the begin token itself."""
    family = frame.family
    first, last = (_literal(part) for part in family.system)
    system = f"{{{{ if .System }}}}{first}{{{{ .System }}}}{last}{{{{ end }}}}"
    user = _literal(family.user)
    return (
        (_literal(frame.bos) if says_bos else "")
        + (user + system if family.system_in_user else system + user)
        + "{{ .Prompt }}"
        + _literal(frame.between)
        + "{{ .Response }}"
        + _literal(frame.end + family.after)
    )


def parameters(frame: TurnFrame, sampling: Mapping[str, float], context: int) -> tuple[tuple[str, str], ...]:
    """Stop words, and the settings with which the run had its answers; whatever Ollama would add of its own is off."""
    stops = dict.fromkeys((frame.end, *frame.stop))
    numbers = {**sampling, "min_p": 0, "repeat_penalty": 1, "num_ctx": context}
    return (*(("stop", stop) for stop in stops), *((name, f"{value:g}") for name, value in numbers.items()))


def parse(text: str) -> Modelfile:
    """What Ollama understands of a Modelfile that `Modelfile.text` wrote.

    Raises ValueError for anything else.
    """
    found: dict[str, str] = {}
    given: list[tuple[str, str]] = []
    at = 0
    while at < len(text):
        match = _COMMAND.match(text, at)
        if match is None:
            raise ValueError(f"not understood: {text[at : at + 40]!r}")
        at = match.end()
        if match["source"]:
            found["FROM"] = match["source"]
        elif match["name"]:
            given.append((match["name"], match["number"] or match["stop"]))
        elif match["command"]:
            found[match["command"]] = match["value"]
    if not {"FROM", "TEMPLATE"} <= set(found):
        raise ValueError("it has no FROM or no TEMPLATE")
    return Modelfile(found["FROM"], found["TEMPLATE"], found.get("SYSTEM", ""), tuple(given), found.get("LICENSE", ""))


def render(template: str, system: str, prompt: str) -> str:
    """The prompt of one user's turn: the template with both filled in, up to the answer.

    Raises ValueError for what `go_template` does not write.
    """
    values = {"System": system, "Prompt": prompt}
    out: list[str] = []
    shown = [True]
    at = 0
    for match in _ACTION.finditer(template):
        out.append(template[at : match.start()] if shown[-1] else "")
        at = match.end()
        if match["field"] == "Response":
            return "".join(out)
        if match["field"]:
            out.append(values[match["field"]] if shown[-1] else "")
        elif match["test"]:
            shown.append(shown[-1] and bool(values[match["test"]]))
        elif match["end"]:
            shown.pop()
        else:
            out.append((match["text"] or "") if shown[-1] else "")
    raise ValueError("the template has no place for the answer")


def _literal(text: str) -> str:
    """Text that is no action in a Go template."""
    return text.replace("{{", '{{ "{{" }}')


def _quoted(text: str) -> str:
    """Within three quotation marks, which is how Ollama keeps lines and blanks (parser/parser.go); it drops what cannot
    be printed, and knows no escapes."""
    if '"""' in text or text.endswith('"') or not all(char.isprintable() or char in "\n\t" for char in text):
        raise UnsupportedModelError(f"A Modelfile cannot hold the text {text[:40]!r}.", _FIX)
    return f'"""{text}"""'
