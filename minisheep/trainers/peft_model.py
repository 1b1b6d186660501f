"""The base model in memory, as training wants it: where, in which number format, with which layers adapted.

The only module of training that imports transformers and peft, since the Hub must be taken off line before.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Read when the libraries are imported: training never touches the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# bitsandbytes, which peft imports, warns each time that a kernel of the Hub, which is never wanted here, is missing.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict

from minisheep.engines import cpu
from minisheep.errors import ModelFileError
from minisheep.records import derive_seed
from minisheep.trainers.base import TrainSettings
from minisheep.trainers.checkpoint import Array
from minisheep.trainers.cpu_model import quicken
from minisheep.trainers.lora_gguf import PROJECTIONS
from minisheep.trainers.precision import settle

__all__ = [
    "PeftModel",
    "Precision",
    "adapter_tensors",
    "add_lora",
    "choose_precision",
    "load_base",
    "set_adapter_tensors",
    "this_machine",
]


@dataclass(frozen=True, slots=True)
class Precision:
    """In which format the base is held (`load_in`) and computed."""

    load_in: str
    dtype: torch.dtype
    device: torch.device
    note: str = ""
    """What the user should know where it is not what they asked for."""


def choose_precision(load_in: str, *, cuda: bool, fast_bf16: bool) -> Precision:
    """What `TrainSettings.load_in` becomes on this machine. Raises `errors.ConfigError` for an unknown value."""
    settled, float32 = settle(load_in, cuda=cuda, fast_bf16=fast_bf16)
    where = "GPU" if cuda else "processor"
    missed = not fast_bf16 and (settled == "4bit" or load_in == "bf16")
    note = f"This {where} has no fast bfloat16: training computes in float32." if missed else ""
    dtype = torch.float32 if float32 else torch.bfloat16
    return Precision(settled, dtype, torch.device("cuda" if cuda else "cpu"), note)


def this_machine(load_in: str) -> Precision:
    """`choose_precision` for the machine that this runs on."""
    cuda = torch.cuda.is_available()
    if cuda:
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = cpu.multiplies_bfloat16(cpu.flags(cpu.cpuinfo()))
    return choose_precision(load_in, cuda=cuda, fast_bf16=fast)


def load_base(weights: Path, precision: Precision) -> Any:
    """The frozen base model of a folder with config.json and safetensors, on its device, in training mode.

    Raises `errors.ModelFileError` where the folder holds no such model.
    """
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    options: dict[str, Any] = {}
    if precision.load_in == "4bit":
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=precision.dtype,
        )
    if not (weights / "config.json").is_file():
        raise ModelFileError(f"{weights} holds no training weights (config.json).", "Fetch the model again.")
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            weights,
            dtype=precision.dtype,
            attn_implementation="sdpa",
            local_files_only=True,
            use_safetensors=True,
            device_map={"": str(precision.device)},
            **options,
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelFileError(
            f"The training weights in {weights} cannot be loaded: {error}", "Fetch the model again."
        ) from error
    model.requires_grad_(False)
    model.config.use_cache = False
    if precision.load_in == "4bit":
        disable_cpu_packing(model)
    if precision.device.type == "cuda":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def disable_cpu_packing(model: Any) -> None:
    """Keep bitsandbytes from repacking 4-bit weights in place.

    On processors with AVX512-BF16, `Linear4bit.forward` (bitsandbytes 0.50.2) repacks a weight at the first evaluation
    and never back; all later training steps then compute with scrambled weights and no error.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def add_lora(model: Any, settings: TrainSettings, name: str) -> PeftModel:
    """`model` with a LoRA on all linear layers of its blocks (paper, appendix E); A random by the seed, B zero.

    `name` is what the adapter's configuration calls its base: never a path of this machine.
    """
    sees_images = any("vision_tower" in module for module, _ in model.named_modules())
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        use_rslora=settings.rslora,
        target_modules=list(PROJECTIONS),
        exclude_modules=r".*vision_tower.*" if sees_images else None,
        bias="none",
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(derive_seed(settings.seed, "lora"))
    with warnings.catch_warnings():
        # peft 0.21 asks transformers 5.23 by the old name of the property.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        adapted = get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = name
    quicken(adapted)
    return adapted


def adapter_tensors(model: PeftModel) -> dict[str, Array]:
    """The adapter as PEFT saves it: A [r, in] and B [out, r] of each layer, float32."""
    found = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().float().cpu().numpy() for name, tensor in found.items()}


def set_adapter_tensors(model: PeftModel, tensors: Mapping[str, Array]) -> None:
    """Give the adapter the values of `tensors`, which have the names and shapes of `adapter_tensors`."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.from_numpy(tensors[name.replace(".default.", ".")]))
