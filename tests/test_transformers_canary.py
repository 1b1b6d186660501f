"""What `trainers/cpu_lora.py` replaces in transformers and PEFT has the form that it expects.

The written-out training is held to theirs by numbers in `test_trainer_cpu`. Where a next release fails both, this says
which name or signature has moved.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest

pytestmark = pytest.mark.model

TYPES = ("llama", "qwen2", "qwen3", "gemma3_text", "mistral")
SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
ADAPTED = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def model_of(architecture: str) -> Any:
    import minisheep.trainers.lora_model  # noqa: F401  # takes the Hub off line

    import transformers  # isort: skip

    config = transformers.AutoConfig.for_model(architecture, **SIZES)
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def takes_any_keyword(function: Any) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values())


@pytest.mark.parametrize("architecture", TYPES)
def test_single_modules_are_what_is_replaced(architecture: str) -> None:
    model = model_of(architecture)
    modules = list(model.modules())
    norms = [module for module in modules if type(module).__name__.endswith("RMSNorm")]
    mlps = [module for module in modules if type(module).__name__.endswith("MLP")]
    assert len(mlps) == 2 and len(norms) >= 5
    for norm in norms:
        gemma = type(norm).__name__.startswith("Gemma")
        assert isinstance(norm.eps if gemma else norm.variance_epsilon, float) and norm.weight.dim() == 1
        assert len(parameters(norm.forward)) == 1
    for mlp in mlps:
        assert len(parameters(mlp.forward)) == 1
        assert {name for name, _ in mlp.named_children()} >= {"gate_proj", "up_proj", "down_proj"}
    leaves = {name.rpartition(".")[2] for name, module in model.named_modules() if type(module).__name__ == "Linear"}
    assert leaves == ADAPTED | {"lm_head"}
    activation = getattr(model.config, "hidden_act", None) or getattr(model.config, "hidden_activation", None)
    assert activation in ("silu", "gelu_pytorch_tanh") and model.config.model_type == architecture


@pytest.mark.parametrize("architecture", TYPES)
def test_an_attention_function_is_handed_what_ours_takes(architecture: str) -> None:
    """And a keyword of our own, ``bounds``, reaches it from the call of the model."""
    import torch
    from transformers import AttentionInterface

    model = model_of(architecture)
    home = importlib.import_module(type(model).__module__)
    told = parameters(home.eager_attention_forward)
    assert told[:5] == ["module", "query", "key", "value", "attention_mask"] and {"scaling", "dropout"} <= set(told)
    attention = next(module for module in model.modules() if type(module).__name__.endswith("Attention"))
    assert takes_any_keyword(attention.forward)
    seen: list[dict[str, Any]] = []

    def ours(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float, **more: Any) -> Any:
        seen.append({"query": query.shape, "key": key.shape, "scaling": scaling, **more})
        return query.transpose(1, 2).contiguous(), None

    AttentionInterface.register("minisheep_canary", ours)
    model.set_attn_implementation("minisheep_canary")
    assert model.config._attn_implementation == "minisheep_canary"
    ids = torch.arange(6)[None]
    model(input_ids=ids, position_ids=ids, bounds=(0, 2, 6), use_cache=False)
    assert len(seen) == 2
    for given in seen:
        assert (tuple(given["query"]), tuple(given["key"])) == ((1, 4, 6, 8), (1, 2, 6, 8))
        assert given["bounds"] == (0, 2, 6) and given["scaling"] > 0
        assert given.get("dropout", 0.0) == 0.0


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks by the old name
def test_peft_keeps_the_parts_of_an_adapted_layer_where_they_are_read() -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(model_of("llama"), LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"]))
    assert callable(model.get_base_model)
    (layer, *_) = [module for module in model.modules() if hasattr(module, "lora_A")]
    assert layer.lora_A["default"].weight.shape == (2, 32) and layer.lora_B["default"].weight.shape == (32, 2)
    assert layer.scaling["default"] == 2.0 and layer.base_layer.weight.shape == (32, 32)
    assert "default" in layer.lora_dropout and parameters(layer.forward)[0] == "x"
