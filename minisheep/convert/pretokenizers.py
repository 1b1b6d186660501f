"""Which of llama.cpp's ways to cut a text into words is that of a tokenizer.json.

llama.cpp has these built in under names (llama-vocab.cpp, llm_tokenizer_bpe) and its own conversion goes by what a
tokenizer makes of one long text. Here the steps themselves are compared: what is not the same step by step is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minisheep.convert.rope import ANOTHER
from minisheep.errors import UnsupportedModelError

Steps = tuple[tuple[str, str], ...]

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"

_BY_REGEX, _PLAIN = ("ByteLevel", "regex"), ("ByteLevel", "")
_LLAMA_3: Steps = (("Split", rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}"), _PLAIN)
_QWEN_2: Steps = (("Split", rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_REST}"), _PLAIN)
_TEKKEN: Steps = (
    ("Split", rf"{_CASED}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"),
    _PLAIN,
)

NAMES: dict[tuple[Steps, bool], str] = {
    ((_BY_REGEX,), False): "gpt-2",
    ((("Digits", "each"), _BY_REGEX), False): "smollm",
    (_QWEN_2, False): "qwen2",
    (_LLAMA_3, True): "llama-bpe",
    (_LLAMA_3, False): "smaug-bpe",
    (_TEKKEN, True): "tekken",
}
"""llama.cpp's name by the steps and by whether a word that is a token is taken whole (``ignore_merges``)."""


def pre_tokenizer_name(tokenizer: Mapping[str, Any]) -> str:
    """llama.cpp's name for how this byte-level tokenizer cuts words.

    Raises `errors.UnsupportedModelError` where llama.cpp has none.
    """
    steps = tuple(_step(each) for each in parts(tokenizer.get("pre_tokenizer"), "pretokenizers"))
    whole = bool(tokenizer["model"].get("ignore_merges"))
    name = NAMES.get((steps, whole))
    if name is None:
        told = " and ".join(kind for kind, _ in steps) or "nothing"
        raise UnsupportedModelError(
            f"Its tokenizer cuts words by {told} in a way that is not known to be one of llama.cpp's.", ANOTHER
        )
    return name


def parts(told: object, inner: str) -> list[Mapping[str, Any]]:
    """A step of a tokenizer.json as the steps that it consists of; none for null."""
    if not isinstance(told, Mapping):
        return []
    if told.get("type") == "Sequence" and isinstance(told.get(inner), list):
        return [step for each in told[inner] for step in parts(each, inner)]
    return [told]


def _step(told: Mapping[str, Any]) -> tuple[str, str]:
    kind = str(told.get("type"))
    if kind == "ByteLevel" and not told.get("add_prefix_space"):
        return _BY_REGEX if told.get("use_regex", True) else _PLAIN
    if kind == "Digits" and told.get("individual_digits"):
        return ("Digits", "each")
    pattern = told.get("pattern")
    regex = pattern.get("Regex") if isinstance(pattern, Mapping) else None
    if kind == "Split" and isinstance(regex, str) and told.get("behavior") == "Isolated" and not told.get("invert"):
        return ("Split", regex)
    return (kind, "unknown")
