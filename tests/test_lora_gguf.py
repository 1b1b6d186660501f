"""The adapter converter: what it writes is what was trained, and what it cannot write it refuses by name."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minisheep.errors import ModelFileError, UnsupportedModelError
from minisheep.formats import lora_gguf
from minisheep.formats.lora_gguf import (
    ARCHITECTURES,
    PROJECTIONS,
    BaseFacts,
    check_architecture,
    check_config,
    convert_adapter,
    effective_alpha,
    map_layers,
    permute,
)

CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 16, "bias": "none"}
NAMES = {
    "q_proj": ("self_attn", "attn_q", (8, 6)),
    "k_proj": ("self_attn", "attn_k", (4, 6)),
    "v_proj": ("self_attn", "attn_v", (4, 6)),
    "o_proj": ("self_attn", "attn_output", (6, 8)),
    "gate_proj": ("mlp", "ffn_gate", (10, 6)),
    "up_proj": ("mlp", "ffn_up", (10, 6)),
    "down_proj": ("mlp", "ffn_down", (6, 10)),
}


def base(architecture: str = "llama") -> BaseFacts:
    shapes = {f"blk.{i}.{gguf}.weight": shape for i in range(2) for _, gguf, shape in NAMES.values()}
    return BaseFacts(architecture, 2, 2, 1, shapes)


def adapter(prefix: str = "model") -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(1)
    tensors = {}
    for layer in range(2):
        for module, (block, _, (out, width)) in NAMES.items():
            name = f"base_model.model.{prefix}.layers.{layer}.{block}.{module}"
            tensors[f"{name}.lora_A.weight"] = rng.normal(size=(2, width)).astype(np.float32)
            tensors[f"{name}.lora_B.weight"] = rng.normal(size=(out, 2)).astype(np.float32)
    return tensors


def folder(path: Path, config: dict[str, Any], tensors: dict[str, np.ndarray[Any, Any]]) -> Path:
    from safetensors.numpy import save_file

    path.mkdir(exist_ok=True)
    (path / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, path / "adapter_model.safetensors")
    return path


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_known_architectures_pass(architecture: str) -> None:
    check_architecture(architecture)


def test_an_unknown_architecture_is_refused_with_the_supported_ones() -> None:
    with pytest.raises(UnsupportedModelError, match="mamba") as error:
        check_architecture("mamba")
    assert all(name in error.value.fix for name in ARCHITECTURES)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"lora_bias": True}, "lora_bias"),
        ({"bias": "all"}, "biases"),
        ({"alpha_pattern": {"q_proj": 32}}, "q_proj"),
        ({"rank_pattern": {"q_proj": 4}}, "q_proj"),
        ({"trainable_token_indices": [1]}, "trained tokens"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"peft_type": "IA3"}, "IA3"),
    ],
)
def test_what_llama_cpp_cannot_represent_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedModelError, match=named):
        check_config(CONFIG | change)


def test_patterns_that_change_nothing_pass() -> None:
    check_config(CONFIG | {"alpha_pattern": {"q_proj": 16}, "rank_pattern": {"q_proj": 2}})


def test_rslora_is_written_into_alpha() -> None:
    assert effective_alpha(CONFIG) / 2 == 8
    assert effective_alpha(CONFIG | {"use_rslora": True}) / 2 == pytest.approx(16 / 2**0.5)


def test_every_projection_gets_its_gguf_name() -> None:
    layers = map_layers(adapter(), base("qwen2"))
    assert sorted(f"{name}.weight" for name in layers) == sorted(base().shapes)


@pytest.mark.parametrize("prefix", ["model.language_model", "language_model.model"])
def test_a_language_model_inside_one_that_sees_images_is_found(prefix: str) -> None:
    assert set(map_layers(adapter(prefix), base("gemma3"))) == set(map_layers(adapter(), base("gemma3")))


def test_only_q_and_k_of_llama_are_permuted() -> None:
    plain, permuted = map_layers(adapter(), base("qwen2")), map_layers(adapter(), base("llama"))
    moved = {name for name in plain if not np.array_equal(plain[name][1], permuted[name][1])}
    assert moved == {f"blk.{i}.attn_{part}" for i in range(2) for part in "qk"}
    assert all(np.array_equal(plain[name][0], permuted[name][0]) for name in plain)


def test_permute_interleaves_the_halves_of_each_head() -> None:
    rows = np.arange(8, dtype=np.float32).reshape(8, 1)
    assert permute(rows, 2).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_an_unknown_module_is_refused_by_name() -> None:
    tensors = adapter() | {"base_model.model.lm_head.lora_A.weight": np.zeros((2, 6), np.float32)}
    with pytest.raises(UnsupportedModelError, match="lm_head"):
        map_layers(tensors, base())


def test_a_layer_that_the_base_does_not_have_is_refused() -> None:
    tensors = {key.replace("layers.1", "layers.7"): value for key, value in adapter().items()}
    with pytest.raises(UnsupportedModelError, match=r"layers\.7"):
        map_layers(tensors, base())


def test_a_wrong_shape_is_refused() -> None:
    tensors = adapter()
    key = next(key for key in tensors if key.endswith("lora_B.weight"))
    tensors[key] = tensors[key][:-2]
    with pytest.raises(UnsupportedModelError):
        map_layers(tensors, base())


def test_a_missing_half_is_refused() -> None:
    tensors = adapter()
    del tensors[next(iter(tensors))]
    with pytest.raises(UnsupportedModelError):
        map_layers(tensors, base())


def test_what_is_written_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gguf

    monkeypatch.setattr(lora_gguf, "read_base", lambda path: base())
    output = tmp_path / "adapter.gguf"
    convert_adapter(folder(tmp_path / "peft", CONFIG, adapter()), tmp_path / "base.gguf", output)
    reader = gguf.GGUFReader(output)
    facts = {key: reader.get_field(key).contents() for key in ("general.type", "adapter.type", "adapter.lora.alpha")}
    assert facts == {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 16}
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    original = adapter()["base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"]
    assert np.array_equal(tensors["blk.1.ffn_up.weight.lora_b"], original)
    assert [path.name for path in tmp_path.glob("*.tmp")] == []


def test_a_rank_that_contradicts_the_configuration_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora_gguf, "read_base", lambda path: base())
    with pytest.raises(UnsupportedModelError, match=r"2.* 4"):
        convert_adapter(folder(tmp_path / "peft", CONFIG | {"r": 4}, adapter()), tmp_path, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"r": 0, "lora_alpha": 1}', '{"r": 2}'])
def test_a_damaged_configuration_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(ModelFileError, match="adapter_config"):
        convert_adapter(tmp_path, tmp_path, tmp_path / "out.gguf")


# From here on: the same logits from PEFT and from llama.cpp.

TEXT = "The miller counted nine sacks of flour, then asked his neighbour: how many loaves will that make by Friday?"


def peft_logits(gguf_path: Path, peft_dir: Path, ids: list[int], rslora: bool) -> np.ndarray[Any, Any]:
    """Save a random LoRA (r 8, B not zero) to `peft_dir`; the logits [tokens, vocabulary] of the model with it."""
    from minisheep.trainers.base import TrainSettings
    from minisheep.trainers.lora_model import add_lora  # first: it takes the Hub off line

    import torch  # isort: skip
    import transformers  # isort: skip

    model = transformers.AutoModelForCausalLM.from_pretrained(
        gguf_path.parent,
        gguf_file=gguf_path.name,
        dtype=torch.float32,
        quantization_config=transformers.GgufConfig(dequantize=True),
    )
    adapted = add_lora(model, TrainSettings(rslora=rslora), gguf_path.stem)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.01, generator=generator)
    adapted.save_pretrained(peft_dir, save_embedding_layers=False)
    adapted.eval()
    if model.config.model_type.startswith("gemma"):
        # ggml reads GELU from a table of float16 (ggml_vec_gelu_f32), whatever the weights are: so does this reference.
        for module in adapted.modules():
            if hasattr(module, "act_fn"):
                module.act_fn.forward = half_precision_gelu
    with torch.no_grad():
        logits: np.ndarray[Any, Any] = adapted(input_ids=torch.tensor([ids])).logits[0].numpy()
    return logits


def half_precision_gelu(x: Any) -> Any:
    """GELU (tanh form) as ggml computes it: argument and value rounded to float16."""
    import torch

    return torch.nn.functional.gelu(x.half().float(), approximate="tanh").half().float()


def llama_logits(gguf_path: Path, adapter_path: Path | None, ids: list[int]) -> np.ndarray[Any, Any]:
    """The same from llama.cpp in float32."""
    import llama_cpp as lib

    from minisheep.engines import native

    model = native.load_model(gguf_path)
    params = lib.llama_context_default_params()
    params.n_ctx = params.n_batch = 256
    params.type_k = params.type_v = 0
    params.flash_attn_type = 0
    params.n_threads = params.n_threads_batch = 2
    context = lib.llama_init_from_model(model, params)
    loaded = None
    if adapter_path is not None:
        loaded = lib.llama_adapter_lora_init(model, str(adapter_path).encode())
        assert loaded, native.log_line()
        adapters = (lib.llama_adapter_lora_p_ctypes * 1)(loaded)
        assert lib.llama_set_adapters_lora(context, adapters, 1, (ctypes.c_float * 1)(1.0)) == 0
    batch = lib.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
        batch.seq_id[i][0] = 0
    assert lib.llama_decode(context, batch) == 0
    size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    rows = [np.ctypeslib.as_array(lib.llama_get_logits_ith(context, i), shape=(size,)).copy() for i in range(len(ids))]
    lib.llama_batch_free(batch)
    if loaded is not None:
        lib.llama_set_adapters_lora(context, None, 0, None)
        lib.llama_adapter_lora_free(loaded)
    lib.llama_free(context)
    lib.llama_model_free(model)
    return np.stack(rows)


def differences(gguf_path: Path, tmp_path: Path, rslora: bool) -> tuple[float, float]:
    """Highest difference of any logit between PEFT and llama.cpp, and what the adapter itself changes."""
    import real_models

    from minisheep.engines.native import Vocabulary
    from minisheep.rules.templates import Segment

    with Vocabulary.from_file(gguf_path) as vocabulary:
        ids = vocabulary.encode((Segment(TEXT),), bos=True)
    expected = peft_logits(gguf_path, tmp_path / "peft", ids, rslora)
    convert_adapter(tmp_path / "peft", gguf_path, tmp_path / "adapter.gguf")
    plain = real_models.float32_copy(gguf_path)
    found = llama_logits(plain, tmp_path / "adapter.gguf", ids)
    without = llama_logits(plain, None, ids)
    return float(np.abs(expected - found).max()), float(np.abs(expected - without).max())


@pytest.mark.model
@pytest.mark.parametrize("rslora", [False, True])
def test_llama_cpp_computes_what_peft_computes(tmp_path: Path, rslora: bool) -> None:
    import real_models

    difference, effect = differences(real_models.smollm2(), tmp_path, rslora)
    assert difference < 1e-2 < 0.1 < effect


@pytest.mark.model
def test_without_the_permutation_the_logits_are_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import real_models

    monkeypatch.setattr(lora_gguf, "permute", lambda b, heads: b)
    difference, _ = differences(real_models.smollm2(), tmp_path, False)
    assert difference > 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tolerance"),
    # llama.cpp looks GELU up in a table of float16, so Gemma's logits differ by 0.03 without any adapter.
    [("qwen2", 1e-2), ("gemma3", 1e-2)],
)
def test_llama_cpp_computes_what_peft_computes_for_other_architectures(
    tmp_path: Path, name: str, tolerance: float
) -> None:
    import real_models

    difference, effect = differences(getattr(real_models, name)(), tmp_path, False)
    assert difference < tolerance < 0.1 < effect


def test_projections_are_those_that_the_names_cover() -> None:
    assert set(PROJECTIONS) == set(NAMES)
