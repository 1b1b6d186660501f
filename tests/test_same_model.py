"""A GGUF and weights that are not the same model are refused before a run, and the same model in any format is not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import model_folders as folders
import numpy as np
import pytest

from minisheep import config, prepare
from minisheep.errors import ModelFileError
from minisheep.formats import tokenizer
from minisheep.formats.gguf_to_hf import halves
from minisheep.formats.hf_to_gguf import convert
from minisheep.formats.same_model import check_loads, check_same_model

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


@pytest.mark.parametrize(
    "name", ["embed_tokens.weight", "gate_proj.weight", "v_proj.weight", "q_proj.weight", "k_proj.weight"]
)
def test_matrices_of_another_model_of_the_same_size_are_found(tmp_path: Path, name: str) -> None:
    gguf = gguf_of(folders.tiny_folder(tmp_path / "a"))
    with pytest.raises(ModelFileError, match=name.split(".")[0]):
        check_same_model(gguf, changed(tmp_path / "b", "llama", name, -1.0))


@pytest.mark.parametrize("type", ["f32", "Q8_0"])
def test_heads_whose_rows_stand_in_another_order_are_found(tmp_path: Path, type: str) -> None:
    """A conversion that left out llama.cpp's order has every number, and computes something else."""
    gguf = gguf_of(folders.tiny_folder(tmp_path / "a"), type)
    other = folders.tiny_folder(tmp_path / "b")
    tensors = folders.random_tensors(folders.tiny_config("llama"))
    name = "model.layers.1.self_attn.q_proj.weight"
    rows = halves(len(tensors[name]), folders.tiny_config("llama")["num_attention_heads"])
    folders.save(other / "model.safetensors", tensors | {name: tensors[name][rows]}, "BF16")
    with pytest.raises(ModelFileError, match="q_proj"):
        check_same_model(gguf, other)


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


def with_head(folder: Path, head: float | None, **config: object) -> Path:
    """A tiny model whose lm_head is `head` times the embedding, or is not stored at all."""
    folders.tiny_folder(folder, "llama", **config)
    tensors = folders.random_tensors(folders.tiny_config("llama"))
    embedding = tensors["model.embed_tokens.weight"]
    tensors.pop("lm_head.weight")
    if head is not None:
        tensors["lm_head.weight"] = embedding * np.float32(head)
    folders.save(folder / "model.safetensors", tensors, "BF16")
    return folder


@pytest.mark.parametrize("type", ["f32", "Q8_0"])
@pytest.mark.parametrize(("gguf", "weights"), [(None, 1.125), (1.125, None), (0.875, 1.125)])
def test_another_output_matrix_is_found_on_either_side(
    tmp_path: Path, gguf: float | None, weights: float | None, type: str
) -> None:
    """Tied in config.json, as models with a head of their own are often published."""
    one = gguf_of(with_head(tmp_path / "a", gguf, tie_word_embeddings=True), type)
    with pytest.raises(ModelFileError, match=r"embedding|output matrix"):
        check_same_model(one, with_head(tmp_path / "b", weights, tie_word_embeddings=True))


@pytest.mark.parametrize("stored", [None, 1.0])
def test_a_tied_output_is_the_same_however_often_it_is_stored(tmp_path: Path, stored: float | None) -> None:
    one = gguf_of(with_head(tmp_path / "a", stored, tie_word_embeddings=True))
    for number, other in enumerate((None, 1.0)):
        check_same_model(one, with_head(tmp_path / str(number), other, tie_word_embeddings=True))


def test_an_output_that_is_tied_to_nothing_is_found(tmp_path: Path) -> None:
    one = gguf_of(with_head(tmp_path / "a", None, tie_word_embeddings=True))
    with pytest.raises(ModelFileError, match="lm_head"):
        check_same_model(one, with_head(tmp_path / "b", None, tie_word_embeddings=False))


@pytest.mark.parametrize(
    "change",
    [
        {"rope_theta": 50_000.0},
        {"rms_norm_eps": 1e-6},
        {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    ],
)
def test_the_same_tensors_with_other_facts_are_another_model(tmp_path: Path, change: dict[str, object]) -> None:
    gguf = gguf_of(folders.tiny_folder(tmp_path / "a"))
    with pytest.raises(ModelFileError, match=r"config\.json means llama\."):
        check_same_model(gguf, folders.tiny_folder(tmp_path / "b", "llama", **change))


UNLOADABLE = {
    "a wrong type": {"tie_word_embeddings": "false"},
    "another size": {"vocab_size": folders.ROWS + 24},
    "code of its makers": {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Config"}},
}


@pytest.mark.parametrize("config", UNLOADABLE.values(), ids=UNLOADABLE)
def test_what_training_could_not_load_is_refused_and_no_code_in_it_runs(tmp_path: Path, config: dict[str, Any]) -> None:
    from minisheep.trainers import lora_model

    folder = folders.tiny_folder(tmp_path / "m", **config)
    (folder / "theirs.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelFileError, match="cannot be loaded"):
        lora_model.check_loads({"weights": str(folder)}, print, None)
    assert not (tmp_path / "ran").exists()


def test_weights_are_loaded_without_their_numbers_in_a_process_of_its_own(tmp_path: Path) -> None:
    folder = folders.tiny_folder(tmp_path / "m")
    check_loads(folder)
    tensors = folders.random_tensors(folders.tiny_config("llama"))
    (folder / "model.safetensors").unlink()
    folders.save_sharded(folder, tensors)  # its index lacks what transformers reads of it
    with pytest.raises(ModelFileError, match="metadata"):
        check_loads(folder)


def test_a_new_run_checks_that_its_weights_can_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    model = dataclasses.replace(prepare.fake_model(), weights=tmp_path, gguf=tmp_path)
    monkeypatch.setattr(prepare, "_prepare_real", lambda settings, emit: model)
    for name in ("_check_offload", "_check_before_fetching", "_check_gpu", "_check_lengths"):
        monkeypatch.setattr(prepare, name, lambda *given: None)
    monkeypatch.setattr("minisheep.formats.same_model.check_loads", seen.append)
    settings = config.make({"model": "smollm2-135m"})
    prepare.prepare(settings, tmp_path / "model.json", lambda event: None)
    assert seen == [tmp_path]
    prepare.prepare(settings, tmp_path / "model.json", lambda event: None)
    assert seen == [tmp_path]  # a run that goes on has passed it
    model = dataclasses.replace(model, weights_note="made here")
    prepare.prepare(settings, tmp_path / "other.json", lambda event: None)
    assert seen == [tmp_path]
