"""Unsloth without a GPU: the calls that we make of it, on transformers and PEFT, refusing what the real one lacks.

Which functions and keywords there are was read off the released package (tests/data/unsloth_signatures.json), which
test_unsloth_released compares with the wheels.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from unsloth_signatures import recorded


def _known(function: str, given: dict[str, Any]) -> None:
    record = recorded()
    names = [*record["functions"][function], *record["through_kwargs"]]
    unknown = [name for name in given if name not in names]
    assert not unknown, f"{function} has no {unknown}"


class FastLanguageModel:
    @staticmethod
    def from_pretrained(**given: Any) -> tuple[Any, Any]:
        _known("FastLanguageModel.from_pretrained", given)
        import torch
        from transformers import AutoTokenizer

        from minisheep.trainers.lora_model import Precision, load_base

        form = "4bit" if given["load_in_4bit"] else "bf16"
        assert given["load_in_16bit"] != given["load_in_4bit"]
        assert given["use_exact_model_name"] and not given["trust_remote_code"]
        tokenizer = AutoTokenizer.from_pretrained(given["tokenizer_name"], local_files_only=True)
        model = load_base(Path(given["model_name"]), Precision(form, given["dtype"], torch.device("cpu")))
        return model, tokenizer

    @staticmethod
    def get_peft_model(model: Any, **given: Any) -> Any:
        _known("FastLanguageModel.get_peft_model", given)
        import torch
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(given.pop("random_state"))
        assert given.pop("use_gradient_checkpointing") == "unsloth"
        return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **given))

    @staticmethod
    def for_training(model: Any) -> Any:
        return model.train()


def stand_in() -> ModuleType:
    module = ModuleType("unsloth")
    module.FastLanguageModel = FastLanguageModel  # type: ignore[attr-defined]
    return module
