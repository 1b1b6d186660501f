"""The one check of a model before its first token, for runs, chats, evaluations and exports: how an answer ends.

A template that ends answers in a way that the model's file does not know costs hours: nothing stops, training teaches
an end that is ordinary text, and the export is refused after the whole run. So it is refused here, or mended and told.
What llama.cpp warns of while it loads a file is told too; it is said nowhere else.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from minisheep.engines import native
from minisheep.engines.native import Vocabulary
from minisheep.errors import UnsupportedModelError
from minisheep.formats.gguf_header import GgufHeader
from minisheep.rules.plain_text import one_line
from minisheep.rules.templates import KNOWN_ENDS, Template

MENDED = "its type will be overridden"
"""In a warning of what llama.cpp puts right itself: an end token that the file calls an ordinary one."""
MOST_WARNINGS = 5
_MARKER = re.compile(r"<\|[^|<>\s]{1,40}\|>|<(?:start|end)_of_turn>")
_EOS = "tokenizer.ggml.eos_token_id"


@dataclasses.dataclass(frozen=True, slots=True)
class ModelCheck:
    """What the check found."""

    template: Template
    """The template to use: with an end that the model has."""
    warnings: tuple[str, ...]


def check_model(gguf: Path, header: GgufHeader, template: Template, tells_log: bool = True) -> ModelCheck:
    """Whether the model in `gguf` can end its answers as `template` says.

    Raises `errors.UnsupportedModelError` where it cannot, and as `Vocabulary.from_file` does. `tells_log` adds what
    llama.cpp warned of.
    """
    with Vocabulary.from_file(gguf, checked=True) as vocabulary:
        warnings = [text for text in native.warnings() if MENDED not in text] if tells_log else []
        shown = [f"llama.cpp warns of this model file: {one_line(text, 200)}" for text in warnings[:MOST_WARNINGS]]
        if len(warnings) > MOST_WARNINGS:
            shown.append(f"llama.cpp gave {len(warnings) - MOST_WARNINGS} more warnings of this model file.")
        mended, told = with_end(vocabulary, header, template)
        markers = dict.fromkeys(_MARKER.findall(mended.before + mended.between))
        unknown = [marker for marker in markers if vocabulary.token(marker) is None]
    if unknown:
        told.append(
            f"The template {template.name} writes {', '.join(unknown)}, which the model does not know as a token but"
            " reads as ordinary text."
            + (" --template auto takes the model's own frame." if template.name != "model" else "")
        )
    return ModelCheck(mended, (*shown, *told))


def with_end(vocabulary: Vocabulary, header: GgufHeader, template: Template) -> tuple[Template, list[str]]:
    """`template` with an end at which this model stops, and what was mended, in words.

    Raises `errors.UnsupportedModelError` where there is none.
    """
    told = []
    if _EOS not in header.metadata and not vocabulary.is_control(vocabulary.eos):
        text = vocabulary.decode([vocabulary.eos]) if vocabulary.eos >= 0 else ""
        raise UnsupportedModelError(
            f"The model file does not say which token ends a text ({_EOS}), and llama.cpp takes {text!r} for it:"
            " answers would end at the wrong place. Nothing was generated.",
            "Give --gguf with a file that names it, or write it into this one with llama.cpp's gguf_set_metadata.py.",
        )
    if (text := vocabulary.decode([vocabulary.eos]) if vocabulary.eos >= 0 else "").strip().isalnum():
        told.append(f"The model file ends texts with the word {one_line(text, 40)!r}: answers end wherever it stands.")
    if not template.end:
        end = next((text for text in KNOWN_ENDS if vocabulary.ends((text,))), "")
        if not end:
            raise UnsupportedModelError(
                f"The model file names no token that ends a text ({_EOS}), and has none of the usual ones. Nothing was"
                " generated.",
                "Give --gguf with a file that names it.",
            )
        told.append(f"The model file names no token that ends a text ({_EOS}), so answers end with its {end}.")
        template = dataclasses.replace(template, end=end)
    token = vocabulary.token(template.end)
    if token is None:
        other = "--template plain" if template.name != "plain" else "--template chatml or llama-3"
        whose = "The model's own chat template" if template.name == "model" else f"The template {template.name}"
        raise UnsupportedModelError(
            f"{whose} ends answers with {one_line(template.end, 40)!r}, which is no token of this model: nothing would"
            " end an answer, and no export could either. Nothing was generated.",
            f"Give {other} if that suits the model, or --gguf with a file whose template ends in a token of it.",
        )
    if not vocabulary.is_end(token) and template.end not in template.stop:
        told.append(
            f"The template ends answers with {template.end}, which the model file does not mark as an end. Answers"
            " stop there all the same."
        )
        template = dataclasses.replace(template, stop=(*template.stop, template.end))
    return template, told
