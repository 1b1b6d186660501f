"""A tokenizer.json as the keys of a GGUF (``tokenizer.ggml.*``) from which llama.cpp makes the same token ids.

Two families: byte-level BPE (``gpt2`` in llama.cpp: merges in order) and BPE over characters that falls back on bytes,
as SentencePiece makes it (``llama``: a score for each token, here the order in which the merges first make it).

llama.cpp has its ways to cut a text into words built in under names (llama-vocab.cpp, llm_tokenizer_bpe), and its own
conversion chooses by the tokens of one long text. Here the steps themselves are compared, and a tokenizer that is not
the same step by step is refused. A worker then checks that the converted file gives the same token ids.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minisheep.errors import ModelFileError, UnsupportedModelError
from minisheep.formats.hf_config import AGAIN, ANOTHER, Source
from minisheep.machine.worker import WorkerProcess
from minisheep.run.events import Emit

Steps = tuple[tuple[str, str], ...]

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"

_BY_REGEX, _PLAIN = ("ByteLevel", "regex"), ("ByteLevel", "")
_LLAMA_3: Steps = (("Split", rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}"), _PLAIN)
_QWEN_2: Steps = (("Split", rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_REST}"), _PLAIN)
_TEKKEN: Steps = (("Split", rf"{_CASED}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"), _PLAIN)

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
        kinds = " and ".join(kind for kind, _ in steps) or "nothing"
        raise UnsupportedModelError(
            f"Its tokenizer cuts words by {kinds} in a way that is not known to be one of llama.cpp's.", ANOTHER
        )
    return name


def parts(step: object, inner: str) -> list[Mapping[str, Any]]:
    """A step of a tokenizer.json as the steps that it consists of; none for null."""
    if not isinstance(step, Mapping):
        return []
    if step.get("type") == "Sequence" and isinstance(step.get(inner), list):
        return [part for each in step[inner] for part in parts(each, inner)]
    return [step]


def _step(step: Mapping[str, Any]) -> tuple[str, str]:
    kind = str(step.get("type"))
    if kind == "ByteLevel" and not step.get("add_prefix_space"):
        return _BY_REGEX if step.get("use_regex", True) else _PLAIN
    if kind == "Digits" and step.get("individual_digits"):
        return ("Digits", "each")
    pattern = step.get("pattern")
    regex = pattern.get("Regex") if isinstance(pattern, Mapping) else None
    if kind == "Split" and isinstance(regex, str) and step.get("behavior") == "Isolated" and not step.get("invert"):
        return ("Split", regex)
    return (kind, "unknown")


NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""enum llama_token_type."""
_SPACE = "\u2581"
_BYTE = re.compile("<0x[0-9A-F]{2}>")
_ADDED_SCORE = -1000.0
"""As in llama.cpp's own conversion; added tokens are found before any merging."""
_NORMALIZERS = "normalizers"


@dataclass(frozen=True, slots=True)
class GgufVocabulary:
    """A tokenizer as a GGUF states it."""

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
    """Of ``bos``, ``eos``, ``eot``, ``unknown`` and ``padding`` those that the model has."""
    flags: dict[str, bool]
    """``add_bos_token`` and the like."""
    notes: tuple[str, ...]


def read_vocabulary(source: Source, size: int) -> GgufVocabulary:
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
    steps = parts(source.tokenizer.get("pre_tokenizer"), "pretokenizers")
    byte_level = any(each.get("type") == "ByteLevel" for each in steps)
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
    return GgufVocabulary(
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


def refuse_odd(model: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> None:
    """Raise UnsupportedModelError for settings of a BPE that llama.cpp does not have."""
    for name in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(name):
            raise UnsupportedModelError(f"Its tokenizer has {name} = {model[name]!r}.", ANOTHER)
    for added in tokenizer.get("added_tokens") or []:
        trims = [name for name in ("lstrip", "rstrip", "single_word") if added.get(name)]
        if trims and not added.get("special"):
            raise UnsupportedModelError(f"Its tokenizer finds {added['content']!r} with {trims[0]}.", ANOTHER)


def _entries(model: Mapping[str, Any], added_tokens: list[Mapping[str, Any]]) -> tuple[dict[int, str], dict[int, bool]]:
    """Texts by id, and for each added token whether it is special."""
    entries = {number: text for text, number in model["vocab"].items()}
    added = {each["id"]: bool(each.get("special")) for each in added_tokens}
    entries |= {each["id"]: each["content"] for each in added_tokens}
    if not all(type(n) is int and n >= 0 and isinstance(text, str) and text for n, text in entries.items()):
        raise ValueError("a token without a number or a text")
    return entries, added


def _merges(merges: list[Any]) -> list[tuple[str, str]]:
    """Pairs in order; older files join them by a space."""
    pairs = [tuple(each.split(" ")) if isinstance(each, str) else tuple(each) for each in merges]
    for each in pairs:
        if len(each) != 2 or not all(isinstance(part, str) and part for part in each):
            raise ValueError("a merge of other than two texts")
    return [(left, right) for left, right in pairs]


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
    """The first merge has the highest score: the order in which the merges first make each token."""
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


def _prefixes_space(tokenizer: Mapping[str, Any]) -> bool:
    """Whether a text gets a space in front, as in Llama 2."""
    if any(each.get("type") == "Prepend" for each in parts(tokenizer.get("normalizer"), _NORMALIZERS)):
        return True
    steps = parts(tokenizer.get("pre_tokenizer"), "pretokenizers")
    return any(each.get("type") == "Metaspace" and each.get("prepend_scheme", "always") != "never" for each in steps)


def _check_spaces(tokenizer: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    """Raise UnsupportedModelError unless this is a BPE over characters that changes only the spaces of a text."""
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    normalizers = parts(tokenizer.get("normalizer"), _NORMALIZERS)
    steps = parts(tokenizer.get("pre_tokenizer"), "pretokenizers")
    spaces = replace in normalizers or any(each.get("type") == "Metaspace" for each in steps)
    others = [each for each in normalizers if each != replace and each != {"type": "Prepend", "prepend": _SPACE}]
    # Gemma's Split cuts at spaces when none are left, so it cuts nothing.
    cuts = [
        each
        for each in steps
        if each.get("type") != "Metaspace"
        and not (each.get("type") == "Split" and each.get("pattern") == {"String": " "})
    ]
    if not model.get("byte_fallback") or not spaces or others or cuts:
        raise UnsupportedModelError("Its tokenizer is neither byte-level BPE nor SentencePiece's.", ANOTHER)


def _adds(source: Source, which: str) -> bool:
    """Whether a text begins (bos) or ends (eos) with that token: as tokenizer_config.json says, else as the template
    of tokenizer.json does."""
    setting = source.special.get(f"add_{which}_token")
    if isinstance(setting, bool):
        return setting
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
        token = source.special.get(f"{theirs}_token")
        text = token.get("content") if isinstance(token, Mapping) else token
        number = by_text.get(text) if isinstance(text, str) else _first(source.config.get(f"{theirs}_token_id"))
        if number is not None and 0 <= number < max(by_text.values(), default=-1) + 1:
            ids[name] = number
    # Chat models list all tokens that end an answer; llama.cpp has a place for one besides eos.
    ends = source.generation.get("eos_token_id")
    others = [n for n in ends if type(n) is int and n != ids.get("eos")] if isinstance(ends, list) else []
    if others and others[0] in by_text.values():
        ids["eot"] = others[0]
    return ids


def _first(value: object) -> int | None:
    number = value[0] if isinstance(value, list) and value else value
    return number if type(number) is int else None


# The texts cover differences between tokenizers: how words, numbers, spaces and line ends are cut, scripts, marks,
# emoji, code, and bytes without a token.
TEXTS = (
    "The shepherd counted 48 sheep, then 1,234,567 more; she'd lost none.",
    "I'm sure THEY'LL say it's fine, won't they? WE'VE heard that before!",
    "a  b   c    d     e\tf\t\tg \t h",
    "  leading and trailing  ",
    "one\ntwo\n\nthree\n\n\nfour\r\nfive \n six",
    "x=3.14159;y=-2e10;z=0xFF // 100% [a_b]{c}<d>",
    "def f(x):\n    if x > 1:\n        return x ** 2\n    return None\n",
    "Déjà vu à Genève, naïve façade, Ærøskøbing, Łódź, İstanbul",
    "Быстрая лиса прыгает, Η γρήγορη αλεπού, שועל מהיר, ثعلب سريع",
    "素早い狐が犬を飛び越える。快速的棕色狐狸。빠른 갈색 여우",
    "तेज़ लोमड़ी, ஒரு நரி, สุนัขจิ้งจอก, ქართული, አማርኛ",
    "emoji 🐑🐏 family 👩‍👩‍👧‍👦 flag 🇨🇭 skin 👍🏽",
    "½ ² ⅷ ٣ ৪ 五 ①",
    "“quotes” — dashes… ‹›  narrow no-break 　ideographic",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \U00010330\U00010331 \u0001 \u200b \ufffd",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa ################ ----------------",
    "CamelCaseWords snake_case_words kebab-case-words https://example.org/a?b=c&d=e#f",
    "",
)


def check_tokens(gguf: Path, folder: Path) -> None:
    """Raise `errors.UnsupportedModelError` with the first text of `TEXTS` that the GGUF tokenises differently from the
    model's own tokenizer.json; in a worker, since this loads llama.cpp."""
    with WorkerProcess("minisheep.formats.tokenizer:compare", died=ModelFileError) as worker:
        job = {"phase": "check", "gguf": str(gguf), "folder": str(folder)}
        worker.do(job, f"Checking the tokenizer of {gguf.name}")


def compare(job: dict[str, Any], emit: Emit, should_stop: Callable[[], bool]) -> None:
    import tokenizers

    from minisheep.engines.native import Vocabulary
    from minisheep.rules.templates import Segment

    theirs = tokenizers.Tokenizer.from_file(str(Path(job["folder"]) / "tokenizer.json"))
    theirs.no_padding()
    theirs.no_truncation()
    with Vocabulary.from_file(Path(job["gguf"])) as ours:
        for text in TEXTS:
            # llama.cpp composes no characters: a tokenizer that does is compared on composed text.
            composed = unicodedata.normalize("NFC", text)
            expected = theirs.encode(composed, add_special_tokens=False).ids
            found = ours.encode((Segment(composed),), bos=False)
            if found != expected:
                raise UnsupportedModelError(
                    f"llama.cpp does not tokenise as this model's tokenizer does: {composed[:40]!r} becomes"
                    f" {found[:8]}, not {expected[:8]}.",
                    ANOTHER,
                )
