"""The weighted sum of LoRA adapters of one base, exactly, as one adapter.

The sum of w_i * s_i * B_i A_i, with s_i = alpha_i / r_i, is B A for B = [w_1 s_1 B_1, w_2 s_2 B_2, ...] and
A = [A_1; A_2; ...]: the ranks are added and the scale is 1. Averaging the A and the B of adapters that each began with
its own random A would be another matrix altogether.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minisheep.errors import ModelFileError
from minisheep.formats.lora_gguf import TENSORS, check_config, effective_alpha, read_config, read_tensors
from minisheep.run.files import publish, write_atomic, write_json

if TYPE_CHECKING:
    from minisheep.formats.lora_gguf import Matrix


def summed(adapters: Sequence[Mapping[str, Matrix]], factors: Sequence[float]) -> dict[str, Matrix]:
    """The sum of adapters, each times its factor (weight times scale), by PEFT's names: A [sum of r, in], B
    [out, sum of r], float32. Raises `errors.ModelFileError` where they do not change the same layers."""
    import numpy as np

    found: dict[str, Matrix] = {}
    for name in sorted({name for tensors in adapters for name in tensors}):
        if not all(name in tensors for tensors in adapters):
            raise ModelFileError(f"Not every adapter has {name}, so they have no sum.", "Take rounds of one run.")
        parts = [tensors[name] for tensors in adapters]
        across = ".lora_B." in name
        outer = {part.shape[0 if across else 1] for part in parts}
        if len(outer) != 1:
            raise ModelFileError(f"The adapters have {name} for layers of different sizes.", "Take rounds of one run.")
        if across:
            parts = [part * np.float32(factor) for part, factor in zip(parts, factors, strict=True)]
        found[name] = np.ascontiguousarray(np.concatenate(parts, axis=1 if across else 0))
    return found


def write_sum(folders: Sequence[Path], weights: Sequence[float], output: Path) -> None:
    """Write the weighted sum of the PEFT folders as the PEFT folder `output`, which appears whole.

    Raises `errors.ModelFileError` and `errors.UnsupportedModelError` for adapters that cannot be added, and
    `errors.DiskError`.
    """
    from safetensors.numpy import save

    configs: list[dict[str, Any]] = [read_config(folder) for folder in folders]
    for config in configs:
        check_config(config)
    factors = [weight * effective_alpha(config) / config["r"] for config, weight in zip(configs, weights, strict=True)]
    tensors = summed([read_tensors(folder) for folder in folders], factors)
    rank = sum(config["r"] for config in configs)
    scale = {"r": rank, "lora_alpha": rank, "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}}
    with publish(output) as unfinished:
        write_json(unfinished / "adapter_config.json", configs[0] | scale)
        write_atomic(unfinished / TENSORS, save(tensors, metadata={"format": "pt"}))
