"""Folders as model makers publish them, for tests: tiny random ones, and those of real GGUFs taken apart again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from minisheep.formats.gguf_header import GgufHeader, read_header
from minisheep.formats.gguf_to_hf import hf_names
from minisheep.formats.safetensors_file import as_float32, from_float32, head, to_bfloat16
from minisheep.formats.tokenizer import _LLAMA_3, _QWEN_2

WIDTH, INNER, LAYERS, HEADS, KV, ROWS = 64, 96, 2, 4, 2, 280
GEMMA_LAYERS, GEMMA_HEAD = 7, 32
NFC = {"type": "NFC"}
DIGITS = {"type": "Digits", "individual_digits": True}
TO_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
GEMMA_SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
LLAMA_2_NORMALIZER = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, TO_SPACES]}


def byte_level(*, regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": regex}


def split(regex: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


PRE = {
    "gpt-2": byte_level(regex=True),
    "smollm": sequence(DIGITS, byte_level(regex=True)),
    "qwen2": sequence(split(_QWEN_2[0][1]), byte_level(regex=False)),
    "llama-bpe": sequence(split(_LLAMA_3[0][1]), byte_level(regex=False)),
}
"""pre_tokenizer of tokenizer.json by llama.cpp's name for it."""


def byte_letters() -> list[str]:
    """The letter that stands for each byte in a byte-level vocabulary (OpenAI's GPT-2)."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in plain else next(others)) for byte in range(256)]


def added(number: int, text: str, *, special: bool) -> dict[str, Any]:
    attributes = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": text, **attributes, "special": special}


def tiny_byte_level(pre: str = "gpt-2") -> dict[str, Any]:
    """A tokenizer.json of all bytes, a few merges and three added tokens: 265 tokens."""
    merges = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("i", "n"), ("a", "n"), ("1", "2")]
    texts = [*byte_letters(), *(left + right for left, right in merges)]
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "",
        "fuse_unk": False, "byte_fallback": False, "ignore_merges": pre == "llama-bpe",
        "vocab": {text: number for number, text in enumerate(texts)}, "merges": [list(pair) for pair in merges],
    }  # fmt: skip
    first = len(texts)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            added(first, "<|endoftext|>", special=True),
            added(first + 1, "<|im_end|>", special=True),
            added(first + 2, "<tool>", special=False),
        ],
        "normalizer": NFC if pre == "qwen2" else None,
        "pre_tokenizer": PRE[pre],
        "post_processor": None,
        "decoder": byte_level(regex=True),
        "model": model,
    }


def tiny_sentencepiece(*, gemma: bool) -> dict[str, Any]:
    """A tokenizer.json as Gemma's, or as Llama 2's with a space in front of every text."""
    merges = [("▁", "▁"), ("▁", "t"), ("h", "e"), ("▁t", "he"), ("i", "n"), ("▁", "a")]
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    letters = sorted({letter for pair in merges for letter in pair if len(letter) == 1})
    joined = [left + right for left, right in merges]
    texts += [*joined, *letters, "x"]
    model = {
        "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
        "vocab": {text: number for number, text in enumerate(texts)}, "merges": [" ".join(pair) for pair in merges],
    }  # fmt: skip
    template = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added(number, texts[number], special=True) for number in range(3)]
        + ([added(texts.index("▁▁"), "▁▁", special=False)] if gemma else []),
        "normalizer": TO_SPACES if gemma else LLAMA_2_NORMALIZER,
        "pre_tokenizer": GEMMA_SPLIT if gemma else None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": template,
            "pair": template,
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": None,
        "model": model,
    }


def tiny_config(kind: str, **changes: Any) -> dict[str, Any]:
    """A config.json of `kind` (model_type)."""
    config: dict[str, Any] = {
        "model_type": kind, "vocab_size": ROWS, "hidden_size": WIDTH, "intermediate_size": INNER,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "tie_word_embeddings": kind == "gemma3_text",
        "dtype": "float32",
    }  # fmt: skip
    if kind == "qwen3":
        config["head_dim"] = 32
    if kind == "gemma3_text":
        config |= {"num_hidden_layers": GEMMA_LAYERS, "head_dim": GEMMA_HEAD, "query_pre_attn_scalar": GEMMA_HEAD}
        config |= {"sliding_window": 16, "rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0}
    return config | changes


def random_tensors(config: dict[str, Any], seed: int = 1) -> dict[str, np.ndarray[Any, Any]]:
    """Weights for a `tiny_config`, by transformers' names, float32 values that bfloat16 holds."""
    kind = {"gemma3_text": "gemma3", "mistral": "llama"}.get(config["model_type"], config["model_type"])
    head = config.get("head_dim", WIDTH // HEADS)
    query, value = HEADS * head, KV * head
    shapes = {
        "embed_tokens": (ROWS, WIDTH), "lm_head": (ROWS, WIDTH), "q_proj": (query, WIDTH), "k_proj": (value, WIDTH),
        "v_proj": (value, WIDTH), "o_proj": (WIDTH, query), "gate_proj": (INNER, WIDTH), "up_proj": (INNER, WIDTH),
        "down_proj": (WIDTH, INNER), "q_norm": (head,), "k_norm": (head,),
    }  # fmt: skip
    generator = np.random.default_rng(seed)
    tensors = {}
    for name in hf_names(kind, config["num_hidden_layers"]).values():
        if name == "lm_head.weight" and config["tie_word_embeddings"]:
            continue
        shape = shapes.get(name.split(".")[-2], (WIDTH,))
        shape = shape[:1] if name.endswith(".bias") else shape
        values = generator.normal(0.0, 0.15, shape)
        if "norm" in name and kind != "gemma3":
            values += 1.0
        tensors[name] = as_float32(to_bfloat16(values.astype(np.float32)))
    return tensors


def save(path: Path, tensors: dict[str, np.ndarray[Any, Any]], dtype: str = "F32") -> None:
    """A safetensors file, its numbers as `dtype`, a float."""
    begin, _ = head([(name, tensor.shape) for name, tensor in tensors.items()], dtype)
    data = (from_float32(tensor.astype(np.float32), dtype).tobytes() for tensor in tensors.values())
    path.write_bytes(begin + b"".join(data))


def save_sharded(folder: Path, tensors: dict[str, np.ndarray[Any, Any]], dtype: str = "F32") -> None:
    """Two shards and their index."""
    names = list(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, members in shards.items():
        save(folder / shard, {name: tensors[name] for name in members}, dtype)
    index = {"weight_map": {name: shard for shard, members in shards.items() for name in members}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_json(folder: Path, **files: Any) -> None:
    """``name=content`` as FOLDER/NAME.json."""
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def tiny_folder(folder: Path, kind: str = "llama", *, dtype: str = "BF16", **changes: Any) -> Path:
    """A whole model of `kind` with random weights; `changes` go into config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    config = tiny_config(kind, **changes)
    save(folder / "model.safetensors", random_tensors(tiny_config(kind)), dtype)
    gemma = kind == "gemma3_text"
    tokenizer = tiny_sentencepiece(gemma=True) if gemma else tiny_byte_level()
    special = {"bos_token": "<s>", "eos_token": "</s>"} if gemma else {"eos_token": "<|endoftext|>"}
    write_json(folder, config=config, tokenizer=tokenizer, tokenizer_config=special)
    return folder


def add_tokenizer(gguf: Path, folder: Path) -> None:
    """Put the tokenizer of a real GGUF into `folder` as its makers published it: the vocabulary and merges are the
    file's, the steps around them those of the model family."""
    header = read_header(gguf)
    tokenizer = _sentencepiece(header) if header.metadata["tokenizer.ggml.model"] == "llama" else _byte_level(header)
    tokens = header.metadata["tokenizer.ggml.tokens"]
    special: dict[str, Any] = {}
    for theirs, ours in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        number = header.metadata.get(f"tokenizer.ggml.{ours}_token_id")
        special[f"{theirs}_token"] = None if number is None else tokens[number]
    special["add_bos_token"] = header.metadata["tokenizer.ggml.add_bos_token"]
    if "tokenizer.chat_template" in header.metadata:
        special["chat_template"] = header.metadata["tokenizer.chat_template"]
    write_json(folder, tokenizer=tokenizer, tokenizer_config=special)


def _byte_level(header: GgufHeader) -> dict[str, Any]:
    tokens, types = _vocabulary(header)
    merges = [merge.split(" ") for merge in header.metadata["tokenizer.ggml.merges"]]
    whole = tiny_byte_level(header.metadata["tokenizer.ggml.pre"])
    whole["model"] |= {"vocab": {t: n for n, t in enumerate(tokens) if types[n] == 1}, "merges": merges}
    whole["added_tokens"] = [added(n, t, special=types[n] == 3) for n, t in enumerate(tokens) if types[n] in (3, 4)]
    return whole


def _sentencepiece(header: GgufHeader) -> dict[str, Any]:
    tokens, types = _vocabulary(header)
    scores = list(header.metadata["tokenizer.ggml.scores"])
    texts = [text.replace(" ", "▁") if kind == 4 else text for text, kind in zip(tokens, types, strict=True)]
    numbers = {text: number for number, text in enumerate(texts)}
    whole = tiny_sentencepiece(gemma=True)
    whole["model"] |= {"vocab": numbers, "merges": _all_merges(numbers, types, scores)}
    whole["added_tokens"] = [added(n, t, special=types[n] == 3) for n, t in enumerate(texts) if types[n] in (3, 4)]
    return whole


def _all_merges(numbers: dict[str, int], types: list[int], scores: list[float]) -> list[list[str]]:
    """Every pair of pieces that makes a piece, the best piece first: how a SentencePiece model becomes a BPE."""
    found = []
    for text, number in numbers.items():
        if types[number] not in (1, 4):
            continue
        score = 1.0 if types[number] == 4 else scores[number]
        cuts = [(text[:i], text[i:]) for i in range(1, len(text)) if text[:i] in numbers and text[i:] in numbers]
        found += [(-score, numbers[text], numbers[left], numbers[right], [left, right]) for left, right in cuts]
    return [merge for *_, merge in sorted(found)]


def _vocabulary(header: GgufHeader) -> tuple[list[str], list[int]]:
    return list(header.metadata["tokenizer.ggml.tokens"]), list(header.metadata["tokenizer.ggml.token_type"])
