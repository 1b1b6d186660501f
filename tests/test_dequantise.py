"""Training weights from a GGUF: whole or absent, trainable, and refused where they would be another model."""

from __future__ import annotations

import dataclasses
import itertools
import struct
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minisheep.errors import DiskError, ModelFileError, UnsupportedModelError
from minisheep.formats import gguf_to_hf as module
from minisheep.formats.gguf_header import GgufArray, GgufHeader, TensorInfo
from minisheep.formats.gguf_to_hf import config_json, dequantise, halves, hf_names, plan_weights, refuse_lossy
from minisheep.formats.hf_versions import config_for_both, tokenizer_config_for_both
from minisheep.formats.lora_gguf import ARCHITECTURES, BaseFacts, permute
from minisheep.formats.safetensors_file import pieces, to_bfloat16
from minisheep.trainers.base import TrainSettings

BASE = BaseFacts("llama", 1, 1, 1, {"token_embd.weight": (10, 10)})


def test_scaled_rotary_embeddings_are_refused() -> None:
    refuse_lossy(BASE)
    with pytest.raises(UnsupportedModelError, match="rope_freqs"):
        refuse_lossy(dataclasses.replace(BASE, shapes={**BASE.shapes, "rope_freqs.weight": (32,)}))


def test_a_disk_too_small_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huge = dataclasses.replace(BASE, shapes={"token_embd.weight": (10**9, 10**9)})
    monkeypatch.setattr(module, "read_base", lambda path: huge)
    with pytest.raises(DiskError):
        dequantise(tmp_path / "m.gguf", tmp_path / "deep" / "out", lambda event: None)
    assert not (tmp_path / "deep").exists()


def test_an_existing_folder_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    dequantise(tmp_path / "m.gguf", tmp_path / "out", lambda event: None)
    assert list((tmp_path / "out").iterdir()) == []


def test_halves_undo_the_adapter_writers_permutation() -> None:
    rows = np.arange(24, dtype=np.float32).reshape(24, 1)
    assert np.array_equal(permute(rows, 3)[halves(24, 3)], rows)


def test_bfloat16_is_rounded_to_the_nearest_and_ties_to_even() -> None:
    bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0xBF818000, 0x7F7FFFFF, 0], np.uint32)
    found = to_bfloat16(bits.view(np.float32))
    assert [hex(value) for value in found] == ["0x3f80", "0x3f82", "0x3f81", "0x3f80", "0xbf82", "0x7f80", "0x0"]


def test_pieces_cover_all_rows_once() -> None:
    cut = pieces((49152, 576))
    assert len(cut) > 1 and cut[0][0] == 0 and cut[-1][1] == 49152
    assert all(one[1] == other[0] for one, other in itertools.pairwise(cut))
    assert pieces((576,)) == [(0, 1)]


def header(
    architecture: str = "llama", shapes: dict[str, tuple[int, ...]] | None = None, **metadata: Any
) -> GgufHeader:
    """A header of one layer: 4 heads of 2 on a width of 8, a vocabulary of 10."""
    given = {f"{architecture}.{key}": value for key, value in {**FACTS, **metadata}.items()}
    shapes = {"token_embd": (8, 10), "attn_q": (8, 8), "attn_k": (8, 4)} | (shapes or {})
    tensors = [
        TensorInfo(name, shapes.get(name.split(".")[-2], (8,)), "F32", 0, 0)
        for name in hf_names(architecture, 1)
        if name != "output.weight"
    ]
    return GgufHeader(3, architecture, {k.replace("__", "."): v for k, v in given.items()}, tuple(tensors), 0)


FACTS = {
    "block_count": 1,
    "embedding_length": 8,
    "feed_forward_length": 16,
    "attention__head_count": 4,
    "attention__head_count_kv": 2,
    "attention__layer_norm_rms_epsilon": 1e-5,
    "attention__sliding_window": 4,
    "context_length": 64,
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_known_architecture_has_a_configuration_and_all_its_tensors(architecture: str) -> None:
    known = header(architecture)
    config = config_json(known)
    assert (config["vocab_size"], config["head_dim"], config["tie_word_embeddings"]) == (10, 2, True)
    assert {weight.name for weight in plan_weights(known)} == {*hf_names(architecture, 1).values()} - {"lm_head.weight"}


@pytest.mark.parametrize("shape", [(8,), (8, 7), (8, 4, 2), (8, 16)])
def test_heads_that_do_not_fit_their_matrix_are_refused(shape: tuple[int, ...]) -> None:
    for part, name in (("attn_q", "blk.0.attn_q.weight"), ("attn_k", "blk.0.attn_k.weight")):
        with pytest.raises(ModelFileError, match=f"{name} is of .*heads of 2 do not fit"):
            plan_weights(header(shapes={part: shape}))


@pytest.mark.parametrize("key", ["attention__head_count", "attention__head_count_kv"])
def test_layers_that_differ_are_refused(key: str) -> None:
    def counts(*each: int) -> GgufArray:
        return GgufArray(struct.pack(f"<{len(each)}i", *each), "i", len(each), array("Q", [0]))

    with pytest.raises(UnsupportedModelError, match=r"layers of this GGUF differ in llama\.attention\.head_count"):
        config_json(header(**{key: counts(4, 2)}))
    assert config_json(header(**{key: counts(2, 2)}))


@pytest.mark.parametrize("scaling", ["yarn", "longrope"])
def test_other_scalings_of_the_rotary_embedding_are_refused(scaling: str) -> None:
    with pytest.raises(UnsupportedModelError, match=scaling):
        config_json(header(rope__scaling__type=scaling, rope__scaling__factor=4.0))


def test_linear_scaling_is_kept() -> None:
    rope = config_json(header(rope__scaling__type="linear", rope__scaling__factor=8.0))["rope_parameters"]
    assert rope == {"rope_type": "linear", "rope_theta": 10000.0, "factor": 8.0}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_transformers_4_finds_the_rotary_embedding_under_its_own_names(architecture: str) -> None:
    config = config_json(header(architecture, rope__freq_base=500_000.0))
    rope = config["rope_parameters"]
    assert config["rope_theta"] == 500_000.0 == rope.get("full_attention", rope)["rope_theta"]
    assert config.get("rope_local_base_freq") == rope.get("sliding_attention", {}).get("rope_theta")
    assert "rope_scaling" not in config
    assert config["torch_dtype"] == config["dtype"] == "bfloat16"


def test_a_scaled_rotary_embedding_has_both_forms_and_the_text_model_inside_too() -> None:
    rope = {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}
    made = config_for_both({"text_config": {"rope_parameters": rope}, "torch_dtype": "float16"})
    assert made["dtype"] == made["torch_dtype"] == "float16"
    assert made["text_config"]["rope_theta"] == 1e6 and made["text_config"]["rope_parameters"] == rope
    assert made["text_config"]["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}
    older = {"rope_theta": 1e6, "rope_scaling": None, "torch_dtype": "float16"}
    assert config_for_both(older) == older | {"dtype": "float16"}


def test_a_tokenizer_has_a_class_and_keys_that_both_versions_know() -> None:
    saved = {
        "backend": "tokenizers", "bos_token": "<s>", "is_local": True, "local_files_only": False,
        "model_max_length": 10**30, "tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<a>"],
    }  # fmt: skip
    assert tokenizer_config_for_both(saved, 2048) == {
        "bos_token": "<s>", "model_max_length": 2048, "tokenizer_class": "PreTrainedTokenizerFast",
        "additional_special_tokens": ["<a>"],
    }  # fmt: skip
    known = {"model_max_length": 512, "extra_special_tokens": {"image_token": "<i>"}}
    assert tokenizer_config_for_both(known, 2048) == known | {"tokenizer_class": "PreTrainedTokenizerFast"}


@pytest.mark.parametrize("change", ["blk.0.attn_q.bias", "blk.0.ffn_gate_exps.weight"])
def test_a_tensor_that_would_be_lost_is_refused_by_name(change: str) -> None:
    known = header()
    more = TensorInfo(change, (8,), "F32", 0, 0)
    with pytest.raises(UnsupportedModelError, match=change):
        plan_weights(dataclasses.replace(known, tensors=(*known.tensors, more)))


def test_a_missing_tensor_is_refused_by_name() -> None:
    known = header("qwen2")
    fewer = tuple(tensor for tensor in known.tensors if tensor.name != "blk.0.attn_k.bias")
    with pytest.raises(UnsupportedModelError, match=r"blk\.0\.attn_k\.bias"):
        plan_weights(dataclasses.replace(known, tensors=fewer))


def as_transformers_reads(gguf: Path, folder: Path) -> None:
    """Every tensor and every fact of `folder` equal what transformers' own reader makes of the GGUF, bit by bit."""
    import minisheep.trainers.lora_model  # noqa: F401  # takes the Hub off line

    import torch  # isort: skip
    import transformers  # isort: skip
    from safetensors.torch import load_file  # isort: skip

    expected = transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=transformers.GgufConfig(dequantize=True),
    )
    found, state = load_file(folder / "model.safetensors"), expected.state_dict()
    assert found.keys() | {"lm_head.weight"} == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.items())
    config, wanted = transformers.AutoConfig.from_pretrained(folder).to_dict(), expected.config.to_dict()
    # Where the model came from, a token that no model computes with, and a name that transformers fills in or not.
    for name in ("_name_or_path", "_model_name_or_path", "unk_token_id", "architectures", "transformers_version"):
        config.pop(name, None), wanted.pop(name, None)
    assert config == wanted


@pytest.mark.model
def test_smollm2_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    import real_models

    dequantise(real_models.smollm2(), tmp_path / "weights", lambda event: None)
    as_transformers_reads(real_models.smollm2(), tmp_path / "weights")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma3", "qwen2"])
def test_other_architectures_are_read_as_transformers_reads_them(tmp_path: Path, name: str) -> None:
    import real_models

    gguf = getattr(real_models, name)()
    dequantise(gguf, tmp_path / "weights", lambda event: None)
    as_transformers_reads(gguf, tmp_path / "weights")


@pytest.mark.model
def test_the_weights_load_and_are_not_quantised(tmp_path: Path) -> None:
    import real_models

    import minisheep.trainers.lora_model as peft_model

    import torch  # isort: skip

    dequantise(real_models.smollm2(), tmp_path / "weights", lambda event: None)
    assert not list(tmp_path.glob(".weights.*"))
    model = peft_model.load_base(tmp_path / "weights", peft_model.this_machine("fp32"))
    assert not getattr(model, "is_quantized", False)
    assert "quantization_config" not in (tmp_path / "weights" / "config.json").read_text()
    adapted = peft_model.add_lora(model, TrainSettings(), "weights")
    adapted(input_ids=torch.tensor([[1, 2, 3]])).logits.sum().backward()
    gradients = [p.grad for p in adapted.parameters() if p.requires_grad]
    assert len(gradients) == 420 and all(gradient is not None for gradient in gradients)


@pytest.mark.model
def test_without_dequantising_the_model_could_not_be_saved(tmp_path: Path) -> None:
    import real_models

    import minisheep.trainers.lora_model  # noqa: F401  # takes the Hub off line

    import transformers  # isort: skip

    gguf = real_models.smollm2()
    model = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
    assert model.is_quantized
    with pytest.raises(ValueError, match="not serializable"):
        model.save_pretrained(tmp_path / "weights")
