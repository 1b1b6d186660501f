"""A run's template for other programs: Ollama's Modelfile with a Go template, and chat templates in Jinja. Pure.

A run's template is the text before and after one user's words. Chat programs need more: which part is a system turn,
and what stands between two exchanges. minisheep knows that for a few families and refuses any other template, since a
wrong guess would prompt the model in a way it was not trained for.

Ollama fills the fields .System, .Prompt and .Response turn by turn, and cuts the last one at the answer (ollama,
template/template.go, Execute). Modelfiles are parsed and rendered here by the same rules, so that checks do not trust
the writer. Ollama's tokenizer adds the begin token where the vocabulary says so; the template then leaves it out.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from minisheep.errors import UnsupportedModelError
from minisheep.rules.plain_text import one_line
from minisheep.rules.templates import FAMILIES, Template, TemplateFamily


@dataclass(frozen=True, slots=True)
class TurnFrame:
    """A run's template, split into what comes once and what comes in each turn."""

    family: TemplateFamily
    bos: str
    """The begin token, if the template itself holds it."""
    system: str
    """The system's words in training; empty if there was no such turn."""
    opening: str
    """Begins the answer's turn after its label, such as an empty thought."""
    end: str
    stop: tuple[str, ...]
    """Strings that end an answer besides the end token."""

    @property
    def between(self) -> str:
        return self.family.between + self.opening


def take_apart(trained: Template, bos: str) -> TurnFrame:
    """The frame of a template; `bos` is the text of the begin token.

    Raises `errors.UnsupportedModelError` if it belongs to no known family.
    """
    # A begin token may also be the label of a turn, as SmolLM2's is, so try first without a separate begin token.
    for begin, family in itertools.product(dict.fromkeys(("", bos)), FAMILIES):
        rest = trained.before.removeprefix(begin)
        if begin and not trained.before.startswith(begin):
            continue
        fits = trained.between.startswith(family.between) and family.end in ("", trained.end)
        if not fits or not rest.endswith(family.user):
            continue
        system = _system(rest.removesuffix(family.user), family)
        if system is not None:
            opening = trained.between.removeprefix(family.between)
            return TurnFrame(family, begin, system, opening, trained.end, trained.stop)
    known = ", ".join(family.name for family in FAMILIES)
    raise UnsupportedModelError(
        f"The template of this run cannot be written for other programs, since it is none of {known}.",
        "Use --to gguf, adapter or merged, which contain the model's own template.",
    )


def _system(text: str, family: TemplateFamily) -> str | None:
    """The words of a system turn; empty for none, None if `text` is something else."""
    if not text:
        return ""
    first, last = family.system
    if family.system_in_user or not first or not text.startswith(first) or not text.endswith(last):
        return None
    words = text[len(first) : len(text) - len(last)]
    # A second turn inside would be taken for the system's words.
    return words if words and first.strip() not in words and last.strip() not in words else None


def chat_template(frame: TurnFrame, bos: str) -> str:
    """The frame as a chat template in Jinja, for GGUF metadata and transformers.

    `bos` begins the text, since transformers adds nothing to a rendered template; empty for no such token. Only for
    templates that minisheep itself gives (ChatML, Llama 3, plain); a model's own template is kept as it is.
    """

    def quoted(text: str) -> str:
        return json.dumps(text, ensure_ascii=False)

    family = frame.family
    first, last = (quoted(part) for part in family.system)
    otherwise = f"{{% else %}}{{{{ {first} + {quoted(frame.system)} + {last} }}}}" if frame.system else ""
    # An answer always follows a user's turn, so that turn brings the answer's label.
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
_FIX = "Use --to gguf, whose chat template does the same."


@dataclass(frozen=True, slots=True)
class Modelfile:
    """The commands that minisheep writes."""

    source: str
    """FROM: a path relative to the Modelfile's folder."""
    template: str
    system: str = ""
    parameters: tuple[tuple[str, str], ...] = ()
    """In order; ``stop`` may occur several times."""
    licence: str = ""
    comments: tuple[str, ...] = field(default=(), compare=False)

    def text(self) -> str:
        """The file. Raises `errors.UnsupportedModelError` for text that the format cannot hold."""
        lines = [f"# {one_line(comment)}" for comment in self.comments]
        lines += [f"FROM {self.source}", f"TEMPLATE {_quoted(self.template)}"]
        lines += [f"SYSTEM {_quoted(self.system)}"] if self.system else []
        lines += [
            f"PARAMETER {name} {value if _BARE.fullmatch(value) else _quoted(value)}" for name, value in self.parameters
        ]
        lines += [f"LICENSE {_quoted(self.licence)}"] if self.licence else []
        return "\n".join(lines) + "\n"


def go_template(frame: TurnFrame, *, says_bos: bool) -> str:
    """The frame as a Go template; with `says_bos` the tokenizer does not add the begin token, so the template does."""
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
    """Stop words and the run's settings for answers; everything that Ollama would add by default is off."""
    stops = dict.fromkeys((frame.end, *frame.stop))
    numbers = {**sampling, "min_p": 0, "repeat_penalty": 1, "num_ctx": context}
    return (*(("stop", stop) for stop in stops), *((name, f"{value:g}") for name, value in numbers.items()))


def parse(text: str) -> Modelfile:
    """A file of `Modelfile.text` as Ollama understands it. Raises ValueError for anything else."""
    values: dict[str, str] = {}
    parameters: list[tuple[str, str]] = []
    place = 0
    while place < len(text):
        match = _COMMAND.match(text, place)
        if match is None:
            raise ValueError(f"this is not understood: {text[place : place + 40]!r}")
        place = match.end()
        command = "FROM" if match["source"] else match["command"]
        if command in values:
            raise ValueError(f"it has two {command}")
        if match["source"]:
            values["FROM"] = match["source"]
        elif match["name"]:
            parameters.append((match["name"], match["number"] or match["stop"]))
        elif match["command"]:
            values[match["command"]] = match["value"]
    if not {"FROM", "TEMPLATE"} <= set(values):
        raise ValueError("it has no FROM or no TEMPLATE")
    system, licence = values.get("SYSTEM", ""), values.get("LICENSE", "")
    return Modelfile(values["FROM"], values["TEMPLATE"], system, tuple(parameters), licence)


def render(template: str, system: str, prompt: str) -> str:
    """The prompt of one user's turn: the filled-in template up to the answer.

    Raises ValueError for a template that `go_template` did not write.
    """
    values = {"System": system, "Prompt": prompt}
    out: list[str] = []
    shown = [True]
    place = 0
    for match in _ACTION.finditer(template):
        out.append(template[place : match.start()] if shown[-1] else "")
        place = match.end()
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
    """Text that a Go template does not take for an action."""
    return text.replace("{{", '{{ "{{" }}')


def _quoted(text: str) -> str:
    """Text in triple quotes, in which Ollama keeps lines and blanks (parser/parser.go).

    Ollama drops characters that cannot be printed, and knows no escapes.
    """
    if '"""' in text or text.endswith('"') or not all(char.isprintable() or char in "\n\t" for char in text):
        raise UnsupportedModelError(f"A Modelfile cannot hold the text {text[:40]!r}.", _FIX)
    return f'"""{text}"""'
