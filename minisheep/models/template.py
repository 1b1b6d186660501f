"""The one place where prompts get their chat template, for inference and for training alike.

A template is reduced to the text before and after the user's words. The chat template of a GGUF is jinja code from a
stranger: it is rendered once, in a sandbox, with a sentinel where the user's text goes, and never sees model text. What
the template adds is `special` (it may become special tokens); what comes from data never is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from minisheep.engines.base import Prompt, Segment
from minisheep.errors import UnsupportedModelError

_FIX = "Give --template chatml, llama-3 or plain."
_USER, _ANSWER = "\ue0f0minisheep-user\ue0f1", "\ue0f0minisheep-answer\ue0f1"


@dataclass(frozen=True, slots=True)
class Template:
    """A single-turn frame: ``before`` + user + ``between`` + answer + ``end``.

    Base models are prompted without one (the paper's round 0), see `plain_answer_prompt`.
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
class Family:
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
    """What a text begins with where the template must say it."""
    system_in_user: bool = False
    """Whether the system's words stand in the first user's turn."""


_CHATML = Family(
    "ChatML",
    ("<|im_start|>system\n", "<|im_end|>\n"),
    "<|im_start|>user\n",
    "<|im_end|>\n<|im_start|>assistant\n",
    "<|im_end|>",
    "\n",
)
_LLAMA_3 = Family(
    "Llama 3",
    ("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"),
    "<|start_header_id|>user<|end_header_id|>\n\n",
    "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "<|eot_id|>",
    "",
    bos="<|begin_of_text|>",
)
_GEMMA = Family(
    "Gemma",
    ("", "\n\n"),
    "<start_of_turn>user\n",
    "<end_of_turn>\n<start_of_turn>model\n",
    "<end_of_turn>",
    "\n",
    system_in_user=True,
)
_PLAIN = Family("plain", ("", "\n\n"), "Instruction: ", "\nResponse: ", "", "\n")
FAMILIES = (_CHATML, _GEMMA, _LLAMA_3, _PLAIN)
OURS = {"chatml": _CHATML, "llama-3": _LLAMA_3, "plain": _PLAIN}
"""The families of the templates that minisheep itself gives, by the template's name."""


def chatml() -> Template:
    """ChatML with the system line that the paper uses for Qwen (appendix E)."""
    first, last = _CHATML.system
    before = f"{first}You are a helpful assistant.{last}{_CHATML.user}"
    return Template("chatml", before, _CHATML.between, _CHATML.end)


def llama_3() -> Template:
    """Llama-3's own header format."""
    return Template("llama-3", _LLAMA_3.bos + _LLAMA_3.user, _LLAMA_3.between, _LLAMA_3.end)


def plain(end: str) -> Template:
    """A frame of ordinary words for a base model that knows no chat template; `end` is its end-of-text token.

    LoRA on the linear layers cannot teach special tokens that the base never saw, so none are used.
    """
    return Template("plain", _PLAIN.user, _PLAIN.between, end, ("\nInstruction:", "\nInput:", "\nResponse:"))


def from_jinja(source: str, special: dict[str, str]) -> Template:
    """The frame of a model's own chat template; `special` holds ``bos_token`` and ``eos_token``.

    Raises `errors.UnsupportedModelError` where the template cannot be rendered or does not keep the user's text whole.
    """
    messages = [{"role": "user", "content": _USER}, {"role": "assistant", "content": _ANSWER}]
    asked = render_jinja(source, special, messages[:1], answer_next=True)
    answered = render_jinja(source, special, messages, answer_next=False)
    if asked.count(_USER) != 1 or answered.count(_ANSWER) != 1:
        raise UnsupportedModelError("The model's own chat template does not keep the user's text whole.", _FIX)
    before, between = asked.split(_USER)
    end = _first_token(answered.split(_ANSWER)[1]) or special.get("eos_token", "")
    return Template("model", before, between, end)


def render_jinja(source: str, special: dict[str, str], messages: list[dict[str, str]], *, answer_next: bool) -> str:
    """What a chat template makes of a conversation, rendered in a sandbox as transformers and llama.cpp do.

    Raises `errors.UnsupportedModelError`.
    """
    try:
        return renderer(source, special)(messages, answer_next)
    except Exception as error:
        # A stranger's program: it may recurse, ask for all memory, or compile to no valid Python.
        raise UnsupportedModelError(f"The model's own chat template cannot be used: {error}.", _FIX) from None


def renderer(source: str, special: dict[str, str]) -> Callable[[list[dict[str, str]], bool], str]:
    """A chat template as a function of messages and of whether an answer is to follow, in a sandbox.

    Making it and calling it may raise anything: it is a stranger's program.
    """
    from jinja2.exceptions import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = refuse
    # Templates that print the date would make training and inference differ from one day to the next.
    environment.globals["strftime_now"] = lambda _format: "1 January 2026"
    compiled = environment.from_string(source)
    options: dict[str, Any] = {**special, "tools": None, "enable_thinking": False}

    def render(messages: list[dict[str, str]], asks: bool) -> str:
        return compiled.render(messages=messages, add_generation_prompt=asks, **options)

    return render


def _first_token(tail: str) -> str:
    """The end token with which a template closes an answer: ``<|im_end|>`` of ``<|im_end|>\\n``."""
    tail = tail.strip()
    for opening, closing in (("<|", "|>"), ("<", ">"), ("[", "]")):
        if tail.startswith(opening) and closing in tail:
            return tail[: tail.index(closing) + len(closing)]
    return ""


def choose(wanted: str, registered: str, own: str, special: dict[str, str]) -> Template:
    """The template of a run: what the user `wanted`, else the registry's, else the model's `own`, else plain words."""
    name = registered if wanted == "auto" else wanted
    if name in ("auto", ""):
        name = "model" if own else "plain"
    if name == "chatml":
        return chatml()
    if name == "llama-3":
        return llama_3()
    if name == "model":
        if not own:
            raise UnsupportedModelError(
                "The model file holds no chat template.", "Give --template chatml, llama-3 or plain."
            )
        return from_jinja(own, special)
    return plain(special.get("eos_token") or "</s>")
