"""A GGUF and weights that are not the same model are refused before a run, and the same model in any format is not."""

from __future__ import annotations

from pathlib import Path

import model_folders as folders
import numpy as np
import pytest

from minisheep.errors import ModelFileError
from minisheep.formats import tokenizer
from minisheep.formats.hf_to_gguf import convert
from minisheep.formats.same_model import check_same_model

KINDS = ["llama", "qwen2", "qwen3", "gemma3_text"]


@pytest.fixture(autouse=True)
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests load no llama.cpp, which is what checks the tokens of a converted file."""
    monkeypatch.setattr(tokenizer, "check_tokens", lambda gguf, folder: None)


def gguf_of(folder: Path, type: str = "f32") -> Path:
    return convert(folder, folder.parent / f"{folder.name}-{type}.gguf", type, "Tiny", lambda line: None).path


def changed(folder: Path, kind: str, name: str, factor: float) -> Path:
    """The model of `folders.tiny_folder` with all tensors whose name ends in `name` multiplied."""
    folders.tiny_folder(folder, kind)
    tensors = folders.random_tensors(folders.tiny_config(kind))
    folders.save(
        folder / "model.safetensors",
        {n: (t * np.float32(factor) if n.endswith(name) else t) for n, t in tensors.items()},
        "BF16",
    )
    return folder


@pytest.mark.parametrize("type", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_model_is_the_same_in_every_float_format(tmp_path: Path, kind: str, type: str) -> None:
    folder = folders.tiny_folder(tmp_path / "a", kind)
    check_same_model(gguf_of(folder, type), folder)


@pytest.mark.parametrize("kind", KINDS)
def test_norms_that_were_trained_further_are_found(tmp_path: Path, kind: str) -> None:
    gguf = gguf_of(folders.tiny_folder(tmp_path / "a", kind))
    with pytest.raises(ModelFileError, match="norm") as refused:
        check_same_model(gguf, changed(tmp_path / "b", kind, "norm.weight", 1.25))
    assert refused.value.fix


@pytest.mark.parametrize("name", ["embed_tokens.weight", "gate_proj.weight", "v_proj.weight"])
def test_matrices_of_another_model_of_the_same_size_are_found(tmp_path: Path, name: str) -> None:
    gguf = gguf_of(folders.tiny_folder(tmp_path / "a"))
    with pytest.raises(ModelFileError, match=name.split(".")[0]):
        check_same_model(gguf, changed(tmp_path / "b", "llama", name, -1.0))


@pytest.mark.parametrize(("layers", "words"), [(3, "2"), (1, r"model\.layers\.1")])
def test_another_depth_is_named(tmp_path: Path, layers: int, words: str) -> None:
    gguf = gguf_of(folders.tiny_folder(tmp_path / "a"))
    other = folders.tiny_folder(tmp_path / "b")
    tensors = folders.random_tensors(folders.tiny_config("llama", num_hidden_layers=layers))
    folders.save(other / "model.safetensors", tensors, "BF16")
    with pytest.raises(ModelFileError, match=words):
        check_same_model(gguf, other)


def test_another_width_is_named(tmp_path: Path) -> None:
    gguf = gguf_of(folders.tiny_folder(tmp_path / "a"))
    other = folders.tiny_folder(tmp_path / "b")
    tensors = folders.random_tensors(folders.tiny_config("llama"))
    wider = {n: np.concatenate([t, t]) if n.endswith("gate_proj.weight") else t for n, t in tensors.items()}
    folders.save(other / "model.safetensors", wider, "BF16")
    with pytest.raises(ModelFileError):
        check_same_model(gguf, other)


def test_a_padded_vocabulary_is_the_same_model(tmp_path: Path) -> None:
    folder = folders.tiny_folder(tmp_path / "a")
    gguf = gguf_of(folder)
    tensors = folders.random_tensors(folders.tiny_config("llama"))
    embedding = tensors["model.embed_tokens.weight"]
    padded = np.concatenate([embedding, np.zeros_like(embedding[:8])])
    folders.save(folder / "model.safetensors", tensors | {"model.embed_tokens.weight": padded}, "BF16")
    check_same_model(gguf, folder)
