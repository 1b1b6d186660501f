"""A tokenizer.json as the keys of a GGUF (``tokenizer.ggml.*``) from which llama.cpp makes the same token ids.

Two families: byte-level BPE (``gpt2`` in llama.cpp: merges in order) and BPE over characters that falls back on bytes,
as SentencePiece makes it (``llama``: a score for each token, here the order in which the merges first make it).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from minisheep.convert.pretokenizers import parts, pre_tokenizer_name
from minisheep.convert.rope import ANOTHER
from minisheep.convert.source import AGAIN, Source
from minisheep.errors import ModelFileError, UnsupportedModelError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""enum llama_token_type."""
_SPACE = "\u2581"
_BYTE = re.compile("<0x[0-9A-F]{2}>")
_ADDED_SCORE = -1000.0
"""What llama.cpp's own conversion gives to added tokens; they are found before any merging."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a GGUF says of a tokenizer."""

    model: str
    """``gpt2`` or ``llama``."""
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float]
    """One for each token; empty for ``gpt2``."""
    merges: list[str]
    """``LEFT RIGHT`` in order; empty for ``llama``."""
    ids: dict[str, int]
    """``bos``, ``eos``, ``eot``, ``unknown``, ``padding``: those that the model has."""
    flags: dict[str, bool]
    """``add_bos_token`` and the like."""
    notes: tuple[str, ...]


def read_vocabulary(source: Source, size: int) -> Vocabulary:
    """The vocabulary of a model whose embeddings have `size` rows.

    Rows without a token get an unused one; tokens without a row are left out, since the model cannot read them. Raises
    `errors.UnsupportedModelError` for a tokenizer that llama.cpp does not have, `errors.ModelFileError` for a damaged
    one.
    """
    model = source.tokenizer.get("model")
    if not isinstance(model, Mapping) or model.get("type") != "BPE":
        kind = model.get("type") if isinstance(model, Mapping) else None
        raise UnsupportedModelError(f"Its tokenizer is of the kind {kind!r}; BPE can be converted.", ANOTHER)
    try:
        entries, added = _entries(model, source.tokenizer.get("added_tokens") or [])
        merges = _merges(model["merges"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelFileError(f"The tokenizer.json of {source.folder} is damaged: {error!r}.", AGAIN) from None
    refuse_odd(model, source.tokenizer)
    left_out = sum(number >= size for number in entries)
    byte_level = _has(source.tokenizer, "ByteLevel")
    tokens, types = _tokens(entries, added, size, model, byte_level=byte_level)
    if len(set(tokens)) != len(tokens):
        raise ModelFileError(f"The tokenizer.json of {source.folder} gives one text to two tokens.", AGAIN)
    flags = {f"add_{which}_token": _adds(source, which) for which in ("bos", "eos")}
    flags["add_space_prefix"] = not byte_level and _prefixes_space(source.tokenizer)
    notes = [f"{left_out} tokens of its tokenizer have no row in its embeddings and are left out."] if left_out else []
    if byte_level and any(
        each.get("type") != "NFC" for each in parts(source.tokenizer.get("normalizer"), _NORMALIZERS)
    ):
        raise UnsupportedModelError("Its tokenizer changes a text in ways that llama.cpp does not.", ANOTHER)
    if not byte_level:
        _check_spaces(source.tokenizer, model)
    return Vocabulary(
        model="gpt2" if byte_level else "llama",
        pre=pre_tokenizer_name(source.tokenizer) if byte_level else "default",
        tokens=tokens,
        types=types,
        scores=[] if byte_level else _scores(tokens, types, merges),
        merges=[f"{left} {right}" for left, right in merges] if byte_level else [],
        ids=_special_ids(source, {entries[n]: n for n in entries if n < size}),
        flags=flags,
        notes=tuple(notes),
    )


_NORMALIZERS = "normalizers"


def refuse_odd(model: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> None:
    """Raise UnsupportedModelError for settings of a BPE that llama.cpp does not have."""
    for name in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(name):
            raise UnsupportedModelError(f"Its tokenizer has {name} = {model[name]!r}.", ANOTHER)
    for added in tokenizer.get("added_tokens") or []:
        trims = [name for name in ("lstrip", "rstrip", "single_word") if added.get(name)]
        if trims and not added.get("special"):
            raise UnsupportedModelError(f"Its tokenizer finds {added['content']!r} with {trims[0]}.", ANOTHER)


def _entries(model: Mapping[str, Any], told: list[Mapping[str, Any]]) -> tuple[dict[int, str], dict[int, bool]]:
    """Texts by id, and for each added token whether it is special."""
    entries = {number: text for text, number in model["vocab"].items()}
    added = {each["id"]: bool(each.get("special")) for each in told}
    entries |= {each["id"]: each["content"] for each in told}
    if not all(type(n) is int and n >= 0 and isinstance(text, str) and text for n, text in entries.items()):
        raise ValueError("a token without a number or a text")
    return entries, added


def _merges(told: list[Any]) -> list[tuple[str, str]]:
    """Pairs in order; older files join them by a space."""
    found = [tuple(each.split(" ")) if isinstance(each, str) else tuple(each) for each in told]
    for each in found:
        if len(each) != 2 or not all(isinstance(part, str) and part for part in each):
            raise ValueError("a merge of other than two texts")
    return [(left, right) for left, right in found]


def _tokens(
    entries: Mapping[int, str], added: Mapping[int, bool], size: int, model: Mapping[str, Any], *, byte_level: bool
) -> tuple[list[str], list[int]]:
    tokens, types = [], []
    for number in range(size):
        text = entries.get(number)
        if text is None:
            kind, text = UNUSED, f"[PAD{number}]"
        elif number in added:
            kind = CONTROL if added[number] else USER_DEFINED
            # llama.cpp looks for these in the text as it came, with plain spaces.
            text = text.replace(_SPACE, " ") if kind == USER_DEFINED and not byte_level else text
        elif not byte_level and _BYTE.fullmatch(text):
            kind = BYTE
        else:
            kind = UNKNOWN if not byte_level and text == model.get("unk_token") else NORMAL
        tokens.append(text)
        types.append(kind)
    return tokens, types


def _scores(tokens: list[str], types: list[int], merges: list[tuple[str, str]]) -> list[float]:
    """What llama.cpp merges first has the highest score: the order in which the merges first make each token."""
    order: dict[str, int] = {}
    for left, right in merges:
        order.setdefault(left + right, len(order))
    last = float(len(order))
    scores = []
    for text, kind in zip(tokens, types, strict=True):
        if kind in (CONTROL, USER_DEFINED, UNUSED):
            scores.append(_ADDED_SCORE)
        elif kind in (BYTE, UNKNOWN):
            scores.append(0.0)
        else:
            # A token that no merge makes is a character, or is never made.
            scores.append(-float(order.get(text, last)))
    return scores


def _has(tokenizer: Mapping[str, Any], kind: str) -> bool:
    return any(each.get("type") == kind for each in parts(tokenizer.get("pre_tokenizer"), "pretokenizers"))


def _prefixes_space(tokenizer: Mapping[str, Any]) -> bool:
    """Whether a text gets a space in front, as in Llama 2."""
    if any(each.get("type") == "Prepend" for each in parts(tokenizer.get("normalizer"), _NORMALIZERS)):
        return True
    steps = parts(tokenizer.get("pre_tokenizer"), "pretokenizers")
    return any(each.get("type") == "Metaspace" and each.get("prepend_scheme", "always") != "never" for each in steps)


def _check_spaces(tokenizer: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    """Raise UnsupportedModelError unless this is a BPE over characters whose one change of a text is that of spaces."""
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    normalizers = parts(tokenizer.get("normalizer"), _NORMALIZERS)
    steps = parts(tokenizer.get("pre_tokenizer"), "pretokenizers")
    spaces = replace in normalizers or any(each.get("type") == "Metaspace" for each in steps)
    others = [each for each in normalizers if each != replace and each != {"type": "Prepend", "prepend": _SPACE}]
    cuts = [each for each in steps if each.get("type") != "Metaspace" and not _cuts_nothing(each)]
    if not model.get("byte_fallback") or not spaces or others or cuts:
        raise UnsupportedModelError("Its tokenizer is neither byte-level BPE nor SentencePiece's.", ANOTHER)


def _cuts_nothing(step: Mapping[str, Any]) -> bool:
    """Gemma's: it splits at spaces when none are left."""
    return step.get("type") == "Split" and step.get("pattern") == {"String": " "}


def _adds(source: Source, which: str) -> bool:
    """Whether a text begins (bos) or ends (eos) with that token: as tokenizer_config.json says, else as the template
    of tokenizer.json does."""
    told = source.special.get(f"add_{which}_token")
    if isinstance(told, bool):
        return told
    for each in parts(source.tokenizer.get("post_processor"), "processors"):
        single = each.get("single") if each.get("type") == "TemplateProcessing" else None
        if isinstance(single, list) and single:
            edge = single[0 if which == "bos" else -1]
            return isinstance(edge, Mapping) and "SpecialToken" in edge
    return False


def _special_ids(source: Source, by_text: Mapping[str, int]) -> dict[str, int]:
    """Tokens with a part to play: by their text in tokenizer_config.json, else by their number in config.json."""
    ids: dict[str, int] = {}
    for name, theirs in (("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad")):
        told = source.special.get(f"{theirs}_token")
        text = told.get("content") if isinstance(told, Mapping) else told
        number = by_text.get(text) if isinstance(text, str) else _first(source.config.get(f"{theirs}_token_id"))
        if number is not None and 0 <= number < max(by_text.values(), default=-1) + 1:
            ids[name] = number
    # Chat models list all tokens that end an answer; llama.cpp has a place for one besides eos.
    told = source.generation.get("eos_token_id")
    others = [n for n in told if type(n) is int and n != ids.get("eos")] if isinstance(told, list) else []
    if others and others[0] in by_text.values():
        ids["eot"] = others[0]
    return ids


def _first(told: object) -> int | None:
    number = told[0] if isinstance(told, list) and told else told
    return number if type(number) is int else None
