"""The one place where prompts get their chat template, for inference and for training alike.

A template is reduced to the text before and after the user's words. The chat template of a GGUF is jinja code from a
stranger: it is rendered once, in a sandbox, with a sentinel where the user's text goes, and never sees model text. Text
of the template is `special` (it may become special tokens); text of data never is. A sandbox does not bound time and
memory, so whoever has a stranger's template gives a `Render` that does (`machine.jinja_child`).

Training and the loop use single turns only. Chat also needs what stands between an answer and the next question, and
where a system message goes. A stored template does not hold that, so it is read off the model's own chat template,
rendered with sentinels. It counts only where it frames a single turn exactly as the run does; else the model sees each
message by itself.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from minisheep.errors import UnsupportedModelError

Message = dict[str, str]
"""``{"role": "user" or "assistant", "content": text}``."""

Conversations = Sequence[tuple[list[Message], bool]]
"""Conversations to render, each with whether an answer is to follow."""
Render = Callable[[str, dict[str, str], Conversations], list[str]]
"""Renders conversations in a chat template: Jinja source, ``bos_token`` and ``eos_token``, conversations. Raises
`errors.UnsupportedModelError` for a template that cannot be used."""

_FIX = "Give --template chatml, llama-3 or plain."
_SYSTEM = "\ue0f0minisheep-system\ue0f1"
_TURNS = tuple(f"\ue0f0minisheep-turn-{number}\ue0f1" for number in range(5))
_USER, _ANSWER = "\ue0f0minisheep-user\ue0f1", "\ue0f0minisheep-answer\ue0f1"


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a prompt. `special` text may become special tokens; other text never does."""

    text: str
    special: bool = False


Prompt = tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Template:
    """A single-turn frame: ``before`` + user + ``between`` + answer + ``end``.

    Base models are prompted without one in the paper's round 0, see `rules.prompts.Frame`.
    """

    name: str
    before: str
    between: str
    end: str
    """Text of the token that ends an answer; inference stops at it and training teaches it."""
    stop: tuple[str, ...] = ()
    """Strings that end an answer besides the token, for frames whose labels are plain text."""

    def prompt(self, user: str, answer_start: str = "") -> Prompt:
        """The prompt whose continuation is the answer (after `answer_start`, if the answer's beginning is given)."""
        parts = (Segment(self.before, True), Segment(user), Segment(self.between, True), Segment(answer_start))
        return tuple(part for part in parts if part.text)

    def completion(self, answer: str) -> Prompt:
        """What training teaches as the continuation of `prompt`."""
        return (Segment(answer), Segment(self.end, True))


@dataclass(frozen=True, slots=True)
class TemplateFamily:
    """How a kind of model writes a conversation: system, then user, answer, user, answer."""

    name: str
    system: tuple[str, str]
    """Around the words of the system."""
    user: str
    between: str
    """From the user's words to the answer."""
    end: str
    """Empty where each model has its own."""
    after: str
    """From the end token to the next user."""
    bos: str = ""
    """The beginning of a text where the template must write it."""
    system_in_user: bool = False
    """Whether the system's words stand in the first user's turn."""


_CHATML = TemplateFamily(
    "ChatML",
    ("<|im_start|>system\n", "<|im_end|>\n"),
    "<|im_start|>user\n",
    "<|im_end|>\n<|im_start|>assistant\n",
    "<|im_end|>",
    "\n",
)
_LLAMA_3 = TemplateFamily(
    "Llama 3",
    ("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"),
    "<|start_header_id|>user<|end_header_id|>\n\n",
    "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "<|eot_id|>",
    "",
    bos="<|begin_of_text|>",
)
_GEMMA = TemplateFamily(
    "Gemma",
    ("", "\n\n"),
    "<start_of_turn>user\n",
    "<end_of_turn>\n<start_of_turn>model\n",
    "<end_of_turn>",
    "\n",
    system_in_user=True,
)
_PLAIN = TemplateFamily("plain", ("", "\n\n"), "Instruction: ", "\nResponse: ", "", "\n")
FAMILIES = (_CHATML, _GEMMA, _LLAMA_3, _PLAIN)
OURS = {"chatml": _CHATML, "llama-3": _LLAMA_3, "plain": _PLAIN}
"""The families of the templates that minisheep itself gives, by the template's name."""


def chatml() -> Template:
    """ChatML with the system line that the paper uses for Qwen (appendix E)."""
    first, last = _CHATML.system
    before = f"{first}You are a helpful assistant.{last}{_CHATML.user}"
    return Template("chatml", before, _CHATML.between, _CHATML.end)


def llama_3() -> Template:
    return Template("llama-3", _LLAMA_3.bos + _LLAMA_3.user, _LLAMA_3.between, _LLAMA_3.end)


def plain(end: str) -> Template:
    """A frame of ordinary words for a base model that knows no chat template; `end` is its end-of-text token.

    LoRA on the linear layers cannot teach special tokens that the base never saw, so none are used.
    """
    return Template("plain", _PLAIN.user, _PLAIN.between, end, ("\nInstruction:", "\nInput:", "\nResponse:"))


def from_jinja(source: str, special: dict[str, str], render: Render | None = None) -> Template:
    """The frame of a model's own chat template; `special` holds ``bos_token`` and ``eos_token``.

    A thought that the template opens before an answer is closed again (`closing`): training and the loop have answers
    without thoughts. Without a generation prompt, an answer begins as one that was given does. `end` is empty where
    neither template nor `special` name an end. Raises `errors.UnsupportedModelError` where the template cannot be
    rendered or does not keep the user's text whole.
    """
    question, answered, unasked = (render or render_here)(source, special, _SINGLE)
    if question.count(_USER) != 1 or answered.count(_ANSWER) != 1:
        raise UnsupportedModelError("The model's own chat template does not keep the user's text whole.", _FIX)
    before, between = question.split(_USER)
    end = _first_token(answered.split(_ANSWER)[1]) or special.get("eos_token", "")
    between += closing(question, answered)
    given = answered.partition(_USER)[2].partition(_ANSWER)[0]
    if question == unasked and given.startswith(between) and given[len(between) :].strip():
        between = given
    return Template("model", before, between, end)


def closing(question: str, answered: str) -> str:
    """What closes a thought that a template's prompt for an answer (`question`) leaves open, in the words of Qwen3's
    own empty thought; empty where it opens none. What it shows of an answer that was given (`answered`) tells a thought
    from the answer's own label."""
    opening, label = question.rpartition(_USER)[2], answered.rpartition(_ANSWER)[0].rpartition(_USER)[2]
    for start, stop in ((m[0], _THOUGHTS.get(m[0]) or f"{m[0][0]}/{m[0][1:]}") for m in _OPENS.finditer(opening)):
        if stop in opening[opening.rindex(start) :] or (start in label and stop not in label):
            continue
        if start in label and label.startswith(opening):
            return label.removeprefix(opening)  # as the template itself writes no thought
        return ("\n" if opening.endswith("\n") else "\n\n") + stop + "\n\n"
    return ""


_THOUGHTS = {
    "<|begin_of_thought|>": "<|end_of_thought|>",
    "<|START_THINKING|>": "<|END_THINKING|>",
    "<|inner_prefix|>": "<|inner_suffix|>",
    "◁think▷": "◁/think▷",
}
_OPENS = re.compile(r"<[A-Za-z][\w:.-]{0,30}>|\[[A-Z_]{2,30}\]|" + "|".join(map(re.escape, _THOUGHTS)))
"""A tag that a template may open; anything but a thought stands before answers that were given, too."""


def closed_source(source: str, special: dict[str, str], template: Template, render: Render | None = None) -> str:
    """The Jinja `source` that `template` was made of, closing thoughts where `from_jinja` did, so that a program that
    uses it prompts as the run does; `source` itself where nothing was closed. Raises as `from_jinja`."""
    (question,) = (render or render_here)(source, special, _SINGLE[:1])
    own = question.rpartition(_USER)[2]
    added = template.between.removeprefix(own)
    if not added or not template.between.startswith(own):
        return source
    return source.removesuffix("\n") + "{% if add_generation_prompt %}{{ " + json.dumps(added) + " }}{% endif %}"


_SINGLE: Conversations = (
    ([{"role": "user", "content": _USER}], True),
    ([{"role": "user", "content": _USER}, {"role": "assistant", "content": _ANSWER}], False),
    ([{"role": "user", "content": _USER}], False),
)


def render_here(source: str, special: dict[str, str], conversations: Conversations) -> list[str]:
    """Conversations in a chat template, as transformers and llama.cpp render it, but in a sandbox: a `Render` without
    bounds on time and memory, for templates that are our own and inside a process that bounds them."""
    try:
        render = renderer(source, special)
        return [render(messages, answer_next) for messages, answer_next in conversations]
    except Exception as error:
        # A stranger's program: it may recurse, ask for all memory, or compile to no valid Python.
        raise template_error(str(error) or type(error).__name__) from None


def template_error(reason: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"The model's own chat template cannot be used: {reason[:300].rstrip('.')}.", _FIX)


def renderer(source: str, special: dict[str, str]) -> Callable[[list[Message], bool], str]:
    """A chat template as a function of messages and of whether an answer follows, in a sandbox.

    Making it and calling it may raise anything: it is a stranger's program.
    """
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}``, with which transformers marks what training should learn: rendered as its content."""

        tags = {"generation"}  # noqa: RUF012  # as jinja2 declares it

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    environment.globals["raise_exception"] = refuse
    environment.filters["tojson"] = functools.partial(json.dumps, ensure_ascii=False)  # Jinja's own escapes for HTML
    # Templates that print the date would make training and inference differ from one day to the next.
    environment.globals["strftime_now"] = lambda _format: "1 January 2026"
    compiled = environment.from_string(source)
    options: dict[str, Any] = {**special, "tools": None, "documents": None, "enable_thinking": False}

    def render(messages: list[Message], answer_next: bool) -> str:
        return compiled.render(messages=messages, add_generation_prompt=answer_next, **options)

    return render


KNOWN_ENDS = (
    *("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<｜end▁of▁sentence｜>"),
    *("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|eot|>", "<|EOT|>", "<|endofturn|>", "<|return|>"),
)
"""Tokens that end a text or an answer in public models, for files that name none."""


_ABOUT_ENDS = re.compile(r"html|markdown|markup|token|strike|struck|\btags?\b", re.IGNORECASE)
_HASHES = re.compile(r"^[ \t]*#[# \t]*$", re.MULTILINE)


def end_as_text(answer: str, asked: str) -> str:
    """The end that an answer spells out as its last words: a token of some model, or a line of ``###``; else empty.

    An answer that is nothing else is about it, as is one that was `asked` for it or about HTML or tokens; HTML's
    ``</s>`` closes something, and a ``###`` below another line of such signs a comment or a drawing.
    """
    end = "###" if answer.endswith("\n###") else next((end for end in KNOWN_ENDS if answer.endswith(end)), "")
    closes = {"</s>": re.search(r"<s\s|(?<!^)<s>", answer), "###": _HASHES.search(answer[:-4])}.get(end)
    return "" if closes or answer == end or end in asked or _ABOUT_ENDS.search(asked) else end


def _first_token(tail: str) -> str:
    """The end token with which a template closes an answer: ``<|im_end|>`` of ``<|im_end|>\\n``."""
    tail = tail.strip()
    for opening, closing in (("<|", "|>"), ("<", ">"), ("[", "]")):
        if tail.startswith(opening) and closing in tail:
            return tail[: tail.index(closing) + len(closing)]
    return ""


def choose(wanted: str, registered: str, own: str, special: dict[str, str], render: Render | None = None) -> Template:
    """The template of a run: what the user `wanted`, else the registry's, else the model's `own`, else plain words.

    `Template.end` is empty where the model names no end of a text. Raises as `from_jinja`."""
    name = registered if wanted == "auto" else wanted
    if name in ("auto", ""):
        name = "model" if own else "plain"
    if name == "chatml":
        return chatml()
    if name == "llama-3":
        return llama_3()
    if name == "model":
        if not own:
            raise UnsupportedModelError("The model file holds no chat template.", _FIX)
        return from_jinja(own, special, render)
    return plain(special.get("eos_token", ""))


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


def conversation(
    template: Template, source: str, special: dict[str, str], render: Render | None = None
) -> Conversation:
    """What `template` can frame; `source` is the chat template of the model's file, `special` as for `from_jinja`."""
    if template.name in ("chatml", "llama-3"):
        family = OURS[template.name]
        user = family.end + family.after + family.user
        return Conversation(template, template.between, user, (family.bos + family.system[0], user))
    if template.name == "plain":
        # Without the end token: to a base model, what comes after it is another text.
        user = f"\n\n{template.before}"
        return Conversation(template, template.between, user, ("", user))
    render = render or render_here
    try:
        closed = closed_source(source, special, template, render)
    except UnsupportedModelError:
        return Conversation(template)

    def pieces(turns: Sequence[str], *, system: bool = False) -> list[str]:
        return _pieces(render, closed, special, turns, system=system)

    earlier, again = _several_turns(pieces(_TURNS[:3]), pieces(_TURNS), template)
    return Conversation(template, earlier, again, _system(pieces(_TURNS[:1], system=True), template))


def _several_turns(two: list[str], three: list[str], template: Template) -> tuple[str, str | None]:
    """From the pieces of conversations of two and of three questions."""
    if len(two) != 4:
        return "", None
    before, earlier, again, between = two
    alike = (before, between) == (template.before, template.between)
    return (earlier, again) if alike and three == [before, earlier, again, earlier, again, between] else ("", None)


def _system(pieces: list[str], template: Template) -> tuple[str, str] | None:
    return (pieces[0], pieces[1]) if len(pieces) == 3 and pieces[2] == template.between else None


def _pieces(render: Render, source: str, special: dict[str, str], turns: Sequence[str], *, system: bool) -> list[str]:
    """What stands before, between and after the words of a conversation; empty where they are not kept in order."""
    words = [*([_SYSTEM] if system else []), *turns]
    messages = [{"role": "system", "content": _SYSTEM}] if system else []
    messages += [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(turns)]
    try:
        (rest,) = render(source, special, [(messages, True)])
    except UnsupportedModelError:
        return []
    pieces = []
    for word in words:
        piece, found, rest = rest.partition(word)
        if not found or word in rest:
            return []
        pieces.append(piece)
    return [*pieces, rest]
