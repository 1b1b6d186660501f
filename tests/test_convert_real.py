"""Converted models in llama.cpp: transformers' logits, the tokenizer's own ids, and what quantising makes of them."""

from __future__ import annotations

import random
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import model_folders as folders
import numpy as np
import pytest
from test_lora_gguf import TEXT, half_precision_gelu, llama_logits

from minisheep.errors import UnsupportedModelError
from minisheep.formats import tokenizer as tokenizer_module
from minisheep.formats.gguf_header import GgufHeader, read_header
from minisheep.formats.gguf_to_hf import dequantise
from minisheep.formats.hf_to_gguf import convert
from minisheep.rules.templates import Segment

IDS = [262, *range(3, 120, 3)]


def silent(line: str) -> None:
    pass


def transformers_logits(folder: Path, ids: list[int], *, ggml_gelu: bool = False) -> np.ndarray[Any, Any]:
    """The logits [tokens, vocabulary] of a folder's model in float32."""
    import minisheep.trainers.lora_model  # noqa: F401  # takes the Hub off line

    import torch  # isort: skip
    import transformers  # isort: skip

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    model.eval()
    if ggml_gelu:
        for module in model.modules():
            if hasattr(module, "act_fn"):
                module.act_fn.forward = half_precision_gelu
    with torch.no_grad():
        logits: np.ndarray[Any, Any] = model(input_ids=torch.tensor([ids])).logits[0].numpy()
    return logits


# Tiny models, for what the real ones do not have


SCALED = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
}  # fmt: skip


@pytest.mark.model
@pytest.mark.parametrize("scaling", [None, *SCALED])
@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "gemma3_text"])
def test_llama_cpp_computes_what_transformers_does(tmp_path: Path, kind: str, scaling: str | None) -> None:
    if (kind == "gemma3_text" and scaling == "yarn") or (scaling == "llama3" and kind not in ("llama", "mistral")):
        pytest.skip("refused, or never published")
    change = {"rope_scaling": SCALED[scaling]} if scaling else {}
    folder = folders.tiny_folder(tmp_path / kind, kind, **change)
    if kind == "gemma3_text" and scaling:
        # transformers takes the older words for both sorts of layers only as it reads them from real files.
        rope = {"full_attention": SCALED[scaling] | {"rope_theta": 1e6}}
        rope["sliding_attention"] = {"rope_type": "default", "rope_theta": 1e4}
        folders.write_json(folder, config=folders.tiny_config(kind, rope_parameters=rope))
    made = convert(folder, tmp_path / "m.gguf", "f32", "Tiny", silent).path
    expected = transformers_logits(folder, IDS, ggml_gelu=kind == "gemma3_text")
    found = llama_logits(made, None, IDS)
    assert np.abs(expected - found).max() < 1e-2 < 0.1 < np.abs(expected).max()
    if scaling:
        plain = convert(folders.tiny_folder(tmp_path / "plain", kind), tmp_path / "p.gguf", "f32", "Tiny", silent).path
        assert np.abs(llama_logits(plain, None, IDS) - found).max() > 5e-2


# Tokenizers


def random_texts(count: int, seed: int = 7) -> list[str]:
    """Texts of letters, digits, marks, spaces and signs from all of Unicode, and of such in one script, composed."""
    generator = random.Random(seed)
    blocks = [
        (32, 127),
        (32, 127),
        (9, 14),
        (160, 592),
        (0x370, 0x530),
        (0x590, 0x700),
        (0x900, 0xE00),
        (0xE00, 0x10FF),
    ]
    blocks += [
        (0x2000, 0x2070),
        (0x2070, 0x2800),
        (0x3000, 0x3100),
        (0x4E00, 0x9FA5),
        (0xAC00, 0xD7A4),
        (0x1F300, 0x1F650),
    ]
    texts = []
    for number in range(count):
        if number % 4 == 0:
            letters = [chr(generator.randrange(0x110000)) for _ in range(generator.randint(1, 24))]
        else:
            chosen = generator.choices(blocks, k=generator.randint(1, 3))
            letters = [chr(generator.randrange(*generator.choice(chosen))) for _ in range(generator.randint(1, 40))]
            letters = [generator.choice((" ", "\n", "'s", "12", letter, letter, letter, letter)) for letter in letters]
        # Lone surrogates are no text; what Unicode has assigned of late is not known to both sides alike; and the sign
        # that stands for a space inside SentencePiece cannot be told from one.
        known = [c for c in letters if "▁" not in c and unicodedata.category(c[0]) not in ("Cs", "Cn")]
        texts.append(unicodedata.normalize("NFC", "".join(known)))
    return texts


def disagreements(gguf: Path, folder: Path, texts: list[str]) -> list[str]:
    """The texts that llama.cpp and tokenizer.json make other ids of."""
    import tokenizers

    from minisheep.engines.native import Vocabulary

    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    with Vocabulary.from_file(gguf) as ours:
        return [
            text
            for text in texts
            if ours.encode((Segment(text),), bos=False) != theirs.encode(text, add_special_tokens=False).ids
        ]


@pytest.mark.model
@pytest.mark.parametrize("name", [*folders.PRE, "gemma", "llama 2"])
def test_tiny_tokenizers_make_the_same_ids(tmp_path: Path, name: str) -> None:
    folder = folders.tiny_folder(tmp_path / "m")
    if name in folders.PRE:
        tokenizer = folders.tiny_byte_level(name)
    else:
        tokenizer = folders.tiny_sentencepiece(gemma=name == "gemma")
    folders.write_json(folder, tokenizer=tokenizer)
    made = convert(folder, tmp_path / "m.gguf", "f32", "Tiny", silent).path
    assert disagreements(made, folder, random_texts(1000)) == []


@pytest.mark.model
def test_a_tokenizer_that_llama_cpp_sees_otherwise_is_refused(tmp_path: Path) -> None:
    folder = folders.tiny_folder(tmp_path / "m")
    made = convert(folder, tmp_path / "m.gguf", "f32", "Tiny", silent).path
    tokenizer = folders.tiny_byte_level()
    tokenizer["model"]["merges"].remove(["h", "e"])
    folders.write_json(folder, tokenizer=tokenizer)
    with pytest.raises(UnsupportedModelError):
        tokenizer_module.check_tokens(made, folder)


# Real models, taken apart and put together again


def whole_folder(gguf: Path, folder: Path) -> Path:
    """The folder that a model's makers would have published: weights, configuration, tokenizer."""
    dequantise(gguf, folder, lambda event: None)
    folders.add_tokenizer(gguf, folder)
    return folder


def same_vocabulary(one: GgufHeader, other: GgufHeader) -> None:
    for key in ("model", "pre", "tokens", "token_type", "merges", "bos_token_id", "eos_token_id", "add_bos_token"):
        found, expected = (header.metadata.get(f"tokenizer.ggml.{key}") for header in (one, other))
        assert found == expected or list(found) == list(expected), key


def converted_as_its_own(gguf: Path, tmp_path: Path, texts: int) -> None:
    folder = whole_folder(gguf, tmp_path / "model")
    made = convert(folder, tmp_path / "m.gguf", "f32", "Real", silent).path
    same_vocabulary(read_header(made), read_header(gguf))
    assert disagreements(made, folder, random_texts(texts)) == []
    from minisheep.engines.native import Vocabulary

    with Vocabulary.from_file(made) as vocabulary:
        ids = vocabulary.encode((Segment(TEXT),), bos=True)  # without its BOS, Gemma 3 is beside itself
    expected = transformers_logits(folder, ids, ggml_gelu=read_header(gguf).architecture == "gemma3")
    assert np.abs(expected - llama_logits(made, None, ids)).max() < 1e-2


@pytest.mark.model
def test_smollm2_is_converted_as_its_makers_would(tmp_path: Path) -> None:
    import real_models

    converted_as_its_own(real_models.smollm2(), tmp_path, 10_000)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma3", "qwen2"])
def test_other_architectures_are_converted_as_their_makers_would(tmp_path: Path, name: str) -> None:
    import real_models

    converted_as_its_own(getattr(real_models, name)(), tmp_path, 10_000)


@pytest.mark.model
def test_a_quantised_type_is_what_llama_cpp_makes_of_it(tmp_path: Path) -> None:
    import real_models

    folder = whole_folder(real_models.smollm2(), tmp_path / "model")
    made = convert(folder, tmp_path / "m.gguf", "Q8_0", "Real", silent)
    header = read_header(made.path)
    assert {tensor.type for tensor in header.tensors if len(tensor.shape) > 1} == {"Q8_0"}
    assert header.metadata["general.file_type"] == 7
    expected = transformers_logits(folder, IDS)
    found = llama_logits(made.path, None, IDS)
    assert np.mean(expected.argmax(-1) == found.argmax(-1)) > 0.8
    assert not list(tmp_path.glob(".m.gguf*"))


@pytest.mark.model
def test_a_conversion_takes_less_than_a_shard_of_memory(tmp_path: Path) -> None:
    import real_models

    folder = whole_folder(real_models.smollm2(), tmp_path / "model")
    code = "import sys, resource; from pathlib import Path; from minisheep.formats.hf_to_gguf import convert;"
    code += "convert(Path(sys.argv[1]), Path(sys.argv[2]), 'f16', 'Real', lambda line: None);"
    code += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    given = [sys.executable, "-c", code, str(folder), str(tmp_path / "m.gguf")]
    done = subprocess.run(given, capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < (folder / "model.safetensors").stat().st_size + 2 * 10**9
