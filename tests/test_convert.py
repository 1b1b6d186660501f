"""A folder of weights as a GGUF: what is written is the same model, and what would be another is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import model_folders as folders
import numpy as np
import pytest
from safetensors.numpy import save_file

from minisheep import prepare
from minisheep.errors import DiskError, MinisheepError, ModelFileError, UnsupportedModelError, UsageError
from minisheep.formats import hf_to_gguf as module
from minisheep.formats import tokenizer
from minisheep.formats.gguf_header import GgufHeader, read_header
from minisheep.formats.gguf_to_hf import config_json, halves, plan_weights, read_piece
from minisheep.formats.hf_config import KINDS, llama_3_divisors, read_design
from minisheep.formats.hf_to_gguf import Converted, convert, pairs, plain_name, type_name
from minisheep.formats.safetensors_file import pieces, to_bfloat16
from minisheep.formats.same_model import check_same_model
from minisheep.models.fetch import FetchedFile
from minisheep.models.registry import HubRepo, LocalPath, find_model

TINY = ["llama", "mistral", "qwen2", "qwen3", "gemma3_text"]


@pytest.fixture(autouse=True)
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests load no llama.cpp, which is what checks the tokens of a converted file."""
    monkeypatch.setattr(tokenizer, "check_tokens", lambda gguf, folder: None)


def silent(line: str) -> None:
    pass


def made(folder: Path, type: str = "f32") -> Path:
    return convert(folder, folder.parent / f"{folder.name}-{type}.gguf", type, "Tiny", silent).path


def tensors_of(gguf: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors of a GGUF under transformers' names, as bits of bfloat16, by the reader that training uses."""
    found = {}
    for weight in plan_weights(read_header(gguf)):
        rows = weight.shape[0] if len(weight.shape) > 1 else 1
        found[weight.name] = read_piece(gguf, weight, 0, rows).reshape(weight.shape)
    return found


def facts(folder: Path, **config: Any) -> GgufHeader:
    """The header of what a tiny llama with these settings becomes."""
    return read_header(made(folders.tiny_folder(folder, **config)))


# The weights


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("kind", TINY)
def test_the_weights_come_back_as_they_were(tmp_path: Path, kind: str, dtype: str) -> None:
    tensors = folders.random_tensors(folders.tiny_config(kind))
    found = tensors_of(made(folders.tiny_folder(tmp_path / kind, kind, dtype=dtype)))
    stored = {n: t.astype(np.float16).astype(np.float32) if dtype == "F16" else t for n, t in tensors.items()}
    if kind == "gemma3_text":  # a norm near 0 loses its last bits to the 1 that is added and taken off again
        norms = {name for name in found if "norm" in name}
        assert all(np.abs(_numbers(found[name]) - stored[name]).max() < 2e-3 for name in norms)
        stored = {name: tensor for name, tensor in stored.items() if name not in norms}
    assert all(np.array_equal(found[name], to_bfloat16(tensor)) for name, tensor in stored.items())
    assert found.keys() >= stored.keys()


def _numbers(bits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


@pytest.mark.parametrize("kind", TINY)
def test_the_configuration_comes_back_as_it_was(tmp_path: Path, kind: str) -> None:
    given = folders.tiny_config(kind)
    found = config_json(read_header(made(folders.tiny_folder(tmp_path / kind, kind))))
    same = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]
    same += ["num_key_value_heads", "max_position_embeddings", "tie_word_embeddings"]
    assert {name: found[name] for name in same} == {name: given[name] for name in same}
    assert found["rms_norm_eps"] == pytest.approx(1e-5)


@pytest.mark.parametrize(("type", "stored"), [("f32", "F32"), ("f16", "F16"), ("bf16", "BF16")])
def test_matrices_are_of_the_type_asked_for_and_vectors_of_float32(tmp_path: Path, type: str, stored: str) -> None:
    header = read_header(made(folders.tiny_folder(tmp_path / "m"), type))
    assert {t.type for t in header.tensors if len(t.shape) > 1} == {stored}
    assert {t.type for t in header.tensors if len(t.shape) == 1} == {"F32"}


def test_shards_make_the_same_file_as_one(tmp_path: Path) -> None:
    one = folders.tiny_folder(tmp_path / "one")
    many = folders.tiny_folder(tmp_path / "many")
    (many / "model.safetensors").unlink()
    folders.save_sharded(many, folders.random_tensors(folders.tiny_config("llama")), "BF16")
    assert made(one).read_bytes() == made(many).read_bytes()


def test_pieces_put_together_are_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = made(folders.tiny_folder(tmp_path / "whole")).read_bytes()
    monkeypatch.setattr("minisheep.formats.safetensors_file.PIECE", 500)
    assert len(pieces((64, 96))) == 13
    assert made(folders.tiny_folder(tmp_path / "parts")).read_bytes() == whole


def test_pairs_undo_the_halves_of_training() -> None:
    assert np.array_equal(pairs(24, 3)[halves(24, 3)], np.arange(24))


def test_numbers_that_float16_cannot_hold_are_refused(tmp_path: Path) -> None:
    folder = folders.tiny_folder(tmp_path / "m")
    tensors = folders.random_tensors(folders.tiny_config("llama"))
    tensors["model.layers.1.mlp.down_proj.weight"][3, 4] = 1e6
    folders.save(folder / "model.safetensors", tensors, "BF16")
    with pytest.raises(UnsupportedModelError, match=r"blk\.1\.ffn_down\.weight") as refused:
        made(folder, "f16")
    assert "--type bf16" in refused.value.fix
    assert made(folder, "bf16").exists()


def test_embeddings_that_are_tied_and_stored_twice_are_written_once(tmp_path: Path) -> None:
    folder = folders.tiny_folder(tmp_path / "m", tie_word_embeddings=True)
    tensors = folders.random_tensors(folders.tiny_config("llama"))
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    folders.save(folder / "model.safetensors", tensors)
    assert "output.weight" not in {tensor.name for tensor in read_header(made(folder)).tensors}


def test_another_head_stored_beside_tied_embeddings_is_written_as_transformers_computes_with_it(tmp_path: Path) -> None:
    folder = folders.tiny_folder(tmp_path / "m", tie_word_embeddings=True)
    folders.save(folder / "model.safetensors", folders.random_tensors(folders.tiny_config("llama")))
    gguf = made(folder)
    assert "output.weight" in {tensor.name for tensor in read_header(gguf).tensors}
    check_same_model(gguf, folder)


def test_a_tied_matrix_that_was_saved_as_the_head_is_the_embedding(tmp_path: Path) -> None:
    folder = folders.tiny_folder(tmp_path / "m", tie_word_embeddings=True)
    tensors = folders.random_tensors(folders.tiny_config("llama"))
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    folders.save(folder / "model.safetensors", tensors)
    gguf = made(folder)
    assert "output.weight" not in {tensor.name for tensor in read_header(gguf).tensors}
    check_same_model(gguf, folder)


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_a_language_model_inside_one_that_sees_images_is_taken_out(tmp_path: Path, prefix: str) -> None:
    alone = folders.tiny_folder(tmp_path / "alone", "gemma3_text")
    seeing = folders.tiny_folder(tmp_path / "seeing", "gemma3_text")
    inner = folders.tiny_config("gemma3_text")
    tensors = {prefix + n.removeprefix("model."): t for n, t in folders.random_tensors(inner).items()}
    tensors["vision_tower.patch.weight"] = np.ones((3, 3), np.float32)
    folders.save(seeing / "model.safetensors", tensors, "BF16")
    folders.write_json(seeing, config={"model_type": "gemma3", "text_config": inner})
    assert made(seeing).read_bytes() == made(alone).read_bytes()


def test_an_output_matrix_beside_it_keeps_its_name() -> None:
    assert plain_name("language_model.lm_head.weight") == plain_name("lm_head.weight") == "lm_head.weight"


# What is refused


def refusal(folder: Path) -> MinisheepError:
    """The error of a conversion, which leaves nothing behind."""
    with pytest.raises(MinisheepError) as refused:
        made(folder)
    assert {path.name for path in folder.parent.iterdir()} <= {folder.name, "cache", "work"}
    return refused.value


@pytest.mark.parametrize("told", ["mamba", "qwen3_moe", None, 7, ["llama"]])
def test_an_unknown_kind_of_model_is_refused_with_those_that_are_known(tmp_path: Path, told: Any) -> None:
    error = refusal(folders.tiny_folder(tmp_path / "m", model_type=told) if told else _without_type(tmp_path / "m"))
    assert isinstance(error, UnsupportedModelError) and all(kind in error.message for kind in KINDS)


def _without_type(folder: Path) -> Path:
    folders.tiny_folder(folder)
    folders.write_json(folder, config={"hidden_size": 64})
    return folder


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hidden_act": "gelu"}, "gelu"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantised already"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"num_hidden_layers": "many"}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "key-value heads"),
        ({"rms_norm_eps": None}, "rms_norm_eps"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 4.0}}, "longrope"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "dynamic"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "mscale": 0.7}}, "mscale"),
        ({"rope_scaling": {"type": "linear", "factor": -4.0}}, "factor"),
        ({"rope_scaling": [4.0]}, "rotary embedding"),
        ({"partial_rotary_factor": 0.5, "rope_parameters": {"partial_rotary_factor": 0.5}}, "a part of each head"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    assert named in refusal(folders.tiny_folder(tmp_path / "m", **change)).message


@pytest.mark.parametrize(
    "change",
    [
        {"layer_types": ["full_attention"] * folders.GEMMA_LAYERS},
        {"sliding_window_pattern": 2},
        {"query_pre_attn_scalar": 100},
        {"final_logit_softcapping": 30.0},
        {"use_bidirectional_attention": True},
        {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
    ],
)
def test_a_gemma_3_of_another_build_is_refused(change: dict[str, Any]) -> None:
    read_design(folders.tiny_config("gemma3_text"))
    with pytest.raises(UnsupportedModelError):
        read_design(folders.tiny_config("gemma3_text", **change))


def test_a_tensor_without_a_place_is_refused_by_name(tmp_path: Path) -> None:
    folder = folders.tiny_folder(tmp_path / "m")
    more = {"model.layers.0.self_attn.q_proj.bias": np.ones(64, np.float32)}
    folders.save(folder / "model.safetensors", folders.random_tensors(folders.tiny_config("llama")) | more)
    assert "model.layers.0.self_attn.q_proj.bias" in refusal(folder).message


@pytest.mark.parametrize("name", ["model.layers.1.self_attn.k_proj.weight", "lm_head.weight"])
def test_a_missing_tensor_is_refused_by_name(tmp_path: Path, name: str) -> None:
    folder = folders.tiny_folder(tmp_path / "m")
    tensors = folders.random_tensors(folders.tiny_config("llama"))
    del tensors[name]
    folders.save(folder / "model.safetensors", tensors)
    assert name in refusal(folder).message


def test_a_tensor_of_another_shape_than_the_configuration_says_is_refused(tmp_path: Path) -> None:
    wider = folders.tiny_folder(tmp_path / "m", intermediate_size=folders.INNER + 32)
    assert "blk.0.ffn_gate.weight" in refusal(wider).message


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    folder = folders.tiny_folder(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    (folder / "b.safetensors").write_bytes((folder / "a.safetensors").read_bytes())
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    folders.write_json(folder, **{"model.safetensors.index": index})
    assert str(folder) in refusal(folder).message


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_numbers_that_are_none_are_named_by_their_tensor(tmp_path: Path, number: float) -> None:
    folder = folders.tiny_folder(tmp_path / "m")
    tensors = folders.random_tensors(folders.tiny_config("llama"))
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = number
    folders.save(folder / "model.safetensors", tensors)
    assert "model.layers.1.mlp.up_proj.weight holds" in refusal(folder).message


def test_embeddings_of_another_size_than_the_configuration_says_are_refused(tmp_path: Path) -> None:
    """After a resize that forgot config.json: transformers refuses these, when it is to train."""
    told = refusal(folders.tiny_folder(tmp_path / "m", vocab_size=folders.ROWS + 24)).message
    assert "token_embd.weight" in told and str((folders.ROWS + 24, folders.WIDTH)) in told


def test_a_byte_order_mark_is_no_part_of_a_template(tmp_path: Path) -> None:
    folder = folders.tiny_folder(tmp_path / "m")
    (folder / "chat_template.jinja").write_text("\ufeff{{ messages }}", encoding="utf-8")
    assert read_header(made(folder)).metadata["tokenizer.chat_template"] == "{{ messages }}"


def test_weights_of_integers_are_refused(tmp_path: Path) -> None:
    folder = folders.tiny_folder(tmp_path / "m")
    save_file({"model.norm.weight": np.zeros(8, np.int8)}, folder / "model.safetensors")
    assert "I8" in refusal(folder).message


def test_pickles_are_refused(tmp_path: Path) -> None:
    folder = folders.tiny_folder(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "pickles" in refusal(folder).message


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = folders.tiny_folder(tmp_path / "m")
    (folder / name).unlink()
    assert name in refusal(folder).message


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_damaged_json_is_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    folder = folders.tiny_folder(tmp_path / "m")
    (folder / name).write_bytes(content)
    assert isinstance(error := refusal(folder), ModelFileError) and name in error.message


@pytest.mark.parametrize(
    "header",
    [
        {"x": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 12]}},
        {"x": {"dtype": "F32", "shape": [-1, -3], "data_offsets": [0, 12]}},
        {"x": {"dtype": "F32", "shape": [3], "data_offsets": [8, 20]}, "y": {"dtype": "F32"}},
        {"x": 3},
        {"x": {"dtype": ["F32"], "shape": [3], "data_offsets": [0, 12]}},
        {"x": {"dtype": "F32", "shape": 3, "data_offsets": [0, 12]}},
    ],
)
def test_a_damaged_safetensors_header_is_one_line(tmp_path: Path, header: dict[str, Any]) -> None:
    folder = folders.tiny_folder(tmp_path / "m")
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(12))
    assert refusal(folder).message.startswith(str(folder.parent)) or "cannot be converted" in refusal(folder).message


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out.gguf").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"out\.gguf"):
        convert(folders.tiny_folder(tmp_path / "m"), tmp_path / "out.gguf", "f16", "Tiny", silent)
    assert (tmp_path / "out.gguf").read_bytes() == b"mine"


def test_a_disk_too_small_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folders.tiny_folder(tmp_path / "m")
    monkeypatch.setattr(module, "_RESERVE", 10**18)
    with pytest.raises(DiskError):
        convert(folder, tmp_path / "deep" / "out.gguf", "Q8_0", "Tiny", silent)
    assert not (tmp_path / "deep").exists()


def test_a_file_whose_tokens_differ_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def differs(gguf: Path, folder: Path) -> None:
        assert gguf.exists()
        raise UnsupportedModelError("other tokens")

    monkeypatch.setattr(tokenizer, "check_tokens", differs)
    assert refusal(folders.tiny_folder(tmp_path / "m")).message == "other tokens"


# Rotary embeddings and windows


def test_linear_scaling_and_yarn_are_keys(tmp_path: Path) -> None:
    linear = facts(tmp_path / "l", rope_scaling={"type": "linear", "factor": 2.0}).metadata
    assert (linear["llama.rope.scaling.type"], linear["llama.rope.scaling.factor"]) == ("linear", 2.0)
    told = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 5e5}
    yarn = facts(tmp_path / "y", rope_parameters=told).metadata
    assert yarn["llama.rope.scaling.original_context_length"] == 64 and yarn["llama.rope.freq_base"] == 5e5


def test_llama_3_keeps_short_waves_and_stretches_long_ones() -> None:
    divisors = llama_3_divisors(500_000.0, 128, 8.0, 1.0, 4.0, 8192)
    assert (divisors[0], divisors[-1], len(divisors)) == (1.0, 8.0, 64)
    assert list(divisors) == sorted(divisors) and any(1.0 < divisor < 8.0 for divisor in divisors)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "gemma3_text"])
def test_llama_3s_scaling_is_refused_where_llama_cpp_reads_no_divisors(kind: str) -> None:
    told = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    with pytest.raises(UnsupportedModelError, match=r"(?i)llama.?3"):
        read_design(folders.tiny_config(kind, rope_scaling=told))


def test_llama_3_travels_as_a_tensor_of_divisors(tmp_path: Path) -> None:
    told = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    header = facts(tmp_path / "m", rope_scaling=told | {"original_max_position_embeddings": 32})
    (found,) = [tensor for tensor in header.tensors if tensor.name == "rope_freqs.weight"]
    assert (found.shape, found.type) == ((folders.WIDTH // folders.HEADS // 2,), "F32")


@pytest.mark.parametrize(
    ("config", "context"),
    [
        (folders.tiny_config("mistral", sliding_window=100), 100),
        (folders.tiny_config("mistral", sliding_window=None), 256),
        (folders.tiny_config("mistral", sliding_window=1000), 256),
        (folders.tiny_config("qwen2", sliding_window=100, use_sliding_window=False), 256),
        (folders.tiny_config("qwen2", sliding_window=100, use_sliding_window=True, max_window_layers=1), 100),
        (folders.tiny_config("qwen2", sliding_window=100, use_sliding_window=True, max_window_layers=2), 256),
        (folders.tiny_config("qwen2", sliding_window=100, layer_types=["full_attention"] * 2), 256),
    ],
)
def test_a_windows_length_is_the_context_that_llama_cpp_computes_alike(config: dict[str, Any], context: int) -> None:
    design = read_design(config)
    assert design.keys[f"{design.architecture}.context_length"] == context
    assert bool(design.notes) == (context == 100)


# Types, names


@pytest.mark.parametrize(("text", "name"), [("F16", "f16"), ("q4_k_m", "Q4_K_M"), ("Q8_0", "Q8_0"), ("BF16", "bf16")])
def test_a_type_is_understood_in_any_case(text: str, name: str) -> None:
    assert type_name(text) == name


def test_an_unknown_type_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(UsageError) as refused:
        type_name("Q9_9")
    assert "Q4_K_M" in refused.value.fix and "f16" in refused.value.fix


def test_a_folder_with_a_model_is_a_model(tmp_path: Path) -> None:
    folder = folders.tiny_folder(tmp_path / "work" / "maker" / "My Base")
    entry = find_model(str(folder))
    assert (entry.name, entry.weights, entry.gguf) == ("my-base", LocalPath(folder), None)
    (tmp_path / "work" / "maker" / "empty").mkdir()
    assert find_model("maker/empty").weights == HubRepo("maker/empty")


def test_a_model_without_a_gguf_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folders.tiny_folder(tmp_path / "base")
    calls: list[str] = []

    def pretend(source: Path, output: Path, type: str, title: str, report: Any) -> Converted:
        calls.append(f"{source.name} {type} {title}")
        output.write_bytes(b"GGUF")
        return Converted(output, "llama", 1, 4)

    monkeypatch.setattr(module, "convert", pretend)
    lines: list[str] = []
    found = [prepare.gguf_of(find_model(str(folder)), lines.append) for _ in range(2)]
    assert calls == ["base Q8_0 base"] and found[0] == found[1] and isinstance(found[0], FetchedFile)
    assert "once for this model" in "".join(lines)
    (folder / "config.json").write_text(json.dumps(folders.tiny_config("llama")) + " ")
    assert prepare.gguf_of(find_model(str(folder)), silent).path != found[0].path


def test_a_model_that_cannot_be_converted_is_said_to_have_no_gguf(tmp_path: Path) -> None:
    folder = folders.tiny_folder(tmp_path / "base", model_type="mamba")
    with pytest.raises(UnsupportedModelError, match="mamba"):
        prepare.gguf_of(find_model(str(folder)), silent)
