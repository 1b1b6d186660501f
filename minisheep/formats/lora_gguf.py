"""A PEFT LoRA folder as the adapter GGUF that llama.cpp hot-loads onto an unchanged base.

What is written is what `llama_adapter_lora_init` reads (llama.cpp, src/llama-adapter.cpp): general.type, adapter.type,
general.architecture, adapter.lora.alpha, and for each linear layer ``NAME.weight.lora_a`` [r, in] and ``.lora_b``
[out, r]. llama.cpp scales by alpha / r. Anything that the format cannot express is refused by name: an adapter that
loads and computes something else than was trained would be worse than none.

Needs `gguf`, `safetensors` and numpy only, imported where a file is touched, so that `check_architecture` is free.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minisheep.errors import ModelFileError, UnsupportedModelError
from minisheep.formats.gguf_header import read_header
from minisheep.formats.model_facts import head_count, kv_head_count, layer_count
from minisheep.run.files import disk_errors, whole_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]
    Pair = tuple[Matrix, Matrix]

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3")
"""GGUF architectures whose tensor layout this converter knows (Mistral and SmolLM2 are `llama`, Qwen1.5 is `qwen2`)."""

TENSORS = "adapter_model.safetensors"
"""The file of a PEFT folder that holds A and B of each layer."""

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""All linear layers of a block in these architectures; the training adapts each (paper, appendix E)."""

# The second form is a language model inside one that also sees images (Gemma 3 from 4B on).
_KEY = re.compile(
    r"base_model\.model\.(?:model\.language_model|language_model\.model|model)\."
    r"(layers\.\d+\.(?:self_attn|mlp)\.[a-z]+_proj)\.lora_([AB])(?:\.default)?\.weight"
)
_PLAIN_INITS = (True, False, "gaussian", "orthogonal", "eva")
_HINT = "Train a plain LoRA on the linear layers only."


@dataclass(frozen=True, slots=True)
class BaseFacts:
    """The facts about the base GGUF that the converter needs."""

    architecture: str
    layers: int
    heads: int
    kv_heads: int
    shapes: Mapping[str, tuple[int, ...]]
    """(out, in) of each tensor by its GGUF name, as numpy and torch count."""


def check_architecture(architecture: str) -> None:
    """Raise `errors.UnsupportedModelError` where adapters for this GGUF architecture cannot be made.

    Pure; call it before the first generation, not after the first training.
    """
    if architecture not in ARCHITECTURES:
        raise UnsupportedModelError(
            f"minisheep cannot make adapters for the architecture {architecture!r}, so it cannot align this model.",
            f"Choose a model of one of these architectures: {', '.join(ARCHITECTURES)}.",
        )


def convert_adapter(peft_dir: Path, base_gguf: Path, output: Path) -> None:
    """Write the LoRA in `peft_dir` (adapter_config.json, adapter_model.safetensors) as `output`, in float32.

    Atomic: `output` is whole or absent. Raises `errors.UnsupportedModelError` where the adapter holds what an adapter
    GGUF cannot represent or does not fit the base, `errors.ModelFileError` where a file cannot be read,
    `errors.DiskError` where `output` cannot be written.
    """
    config = read_config(peft_dir)
    check_config(config)
    base = read_base(base_gguf)
    layers = map_layers(read_tensors(peft_dir), base)
    ranks = {a.shape[0] for a, _ in layers.values()}
    if ranks != {config["r"]}:
        raise UnsupportedModelError(
            f"The adapter's matrices have rank {', '.join(map(str, sorted(ranks)))}, not {config['r']}.", _HINT
        )
    _write(output, base, effective_alpha(config), layers)


def blank_adapter(base_gguf: Path, output: Path, rank: int) -> None:
    """Write an adapter of `rank` on every linear layer that changes nothing: B is zero. It takes the memory and the
    time of a trained one. Raises as `convert_adapter` does."""
    import numpy as np

    base = read_base(base_gguf)
    kinds = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    layers = {}
    for name in (f"blk.{layer}.{kind}" for layer in range(base.layers) for kind in kinds):
        if (shape := base.shapes.get(f"{name}.weight")) is not None:
            rows, columns = shape
            layers[name] = (np.ones((rank, columns), np.float32), np.zeros((rows, rank), np.float32))
    _write(output, base, float(rank), layers)


def effective_alpha(config: Mapping[str, Any]) -> float:
    """The alpha for which alpha / r is the adapter's scale; rank-stabilised LoRA scales by alpha / sqrt(r)."""
    alpha, rank = float(config["lora_alpha"]), int(config["r"])
    return alpha * rank**0.5 if config.get("use_rslora") else alpha


def check_config(config: Mapping[str, Any]) -> None:
    """Raise `errors.UnsupportedModelError` naming the part of a PEFT configuration that an adapter GGUF cannot have."""
    if config.get("peft_type") != "LORA":
        raise UnsupportedModelError(f"The adapter is of type {config.get('peft_type')!r}, not LORA.", _HINT)
    for key, what in (
        ("use_dora", "DoRA (use_dora)"),
        ("modules_to_save", "fully trained modules (modules_to_save)"),
        ("lora_bias", "trained biases of the adapter (lora_bias)"),
        ("trainable_token_indices", "trained tokens (trainable_token_indices)"),
        ("target_parameters", "adapted bare parameters (target_parameters)"),
        ("layer_replication", "repeated layers (layer_replication)"),
        ("fan_in_fan_out", "transposed weights (fan_in_fan_out)"),
        ("use_qalora", "QALoRA (use_qalora)"),
        ("use_bdlora", "block-diagonal LoRA (use_bdlora)"),
        ("alora_invocation_tokens", "an activated LoRA (alora_invocation_tokens)"),
        ("arrow_config", "a router of adapters (arrow_config)"),
    ):
        if config.get(key):
            raise UnsupportedModelError(f"The adapter uses {what}, which llama.cpp cannot represent.", _HINT)
    if config.get("bias", "none") != "none":
        raise UnsupportedModelError(f"The adapter trains biases (bias={config['bias']!r}).", _HINT)
    if config.get("init_lora_weights", True) not in _PLAIN_INITS:
        raise UnsupportedModelError(
            f"The adapter was initialised by {config['init_lora_weights']!r}, which changes the base weights too.",
            _HINT,
        )
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    for module in sorted({*ranks, *alphas}):
        if (
            ranks.get(module, config["r"]) != config["r"]
            or alphas.get(module, config["lora_alpha"]) != config["lora_alpha"]
        ):
            raise UnsupportedModelError(
                f"The adapter gives {module!r} another rank or alpha (rank_pattern, alpha_pattern), "
                "but an adapter GGUF has one scale for all.",
                _HINT,
            )


def pairs_of(tensors: Mapping[str, Matrix]) -> dict[str, Pair]:
    """A [r, in] and B [out, r] of each layer of a PEFT state dictionary, by names such as ``layers.0.mlp.up_proj``.

    Raises `errors.UnsupportedModelError` for anything else in it, and where one of the two is missing.
    """
    halves: dict[str, dict[str, Matrix]] = {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise UnsupportedModelError(f"The adapter changes {key!r}, which is no linear layer of a block.", _HINT)
        halves.setdefault(match[1], {})[match[2]] = tensor
    for module, found in halves.items():
        if set(found) != {"A", "B"}:
            raise UnsupportedModelError(f"The adapter has only one of the two matrices of {module!r}.", _HINT)
    return {module: (found["A"], found["B"]) for module, found in halves.items()}


def map_layers(tensors: Mapping[str, Matrix], base: BaseFacts) -> dict[str, Pair]:
    """The adapter's A and B by the layer's GGUF name, B permuted where the architecture wants it.

    Raises `errors.UnsupportedModelError` as `pairs_of` does, and for layers and shapes that the base does not have.
    """
    import gguf

    check_architecture(base.architecture)
    architecture = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == base.architecture)
    names = gguf.get_tensor_name_map(architecture, base.layers)
    layers = {}
    for module, pair in pairs_of(tensors).items():
        name = names.get_name(f"model.{module}")
        if name is None or f"{name}.weight" not in base.shapes:
            raise UnsupportedModelError(f"The adapter changes {module!r}, which the base GGUF does not have.", _HINT)
        layers[name] = _fitted(name, module.rpartition(".")[2], pair, base)
    if not layers:
        raise UnsupportedModelError("The adapter holds no LoRA matrices.", _HINT)
    return layers


def permute(b: Matrix, heads: int) -> Matrix:
    """Rows of B [out, r] in the order of llama.cpp's rotary embedding for the `llama` architecture.

    Each head's rows go from halves (rotate_half) to pairs: the same as `permute` in llama.cpp's conversion of
    LlamaModel, which the base's own q and k went through.
    """
    rows, rank = b.shape
    return b.reshape(heads, 2, rows // heads // 2, rank).swapaxes(1, 2).reshape(rows, rank)


def _fitted(name: str, projection: str, pair: Pair, base: BaseFacts) -> Pair:
    a, b = pair
    shape = base.shapes[f"{name}.weight"]
    if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or (b.shape[0], a.shape[1]) != shape:
        raise UnsupportedModelError(
            f"The adapter's {name!r} is B {b.shape} x A {a.shape}, but the base GGUF has {shape}: "
            "the adapter was trained on other weights than this GGUF's.",
            "Give training weights and a GGUF of the same model.",
        )
    heads = {"q_proj": base.heads, "k_proj": base.kv_heads}.get(projection)
    return a, permute(b, heads) if base.architecture == "llama" and heads else b


def read_base(path: Path) -> BaseFacts:
    """Architecture, head counts and tensor shapes of a GGUF, from its header alone.

    Raises `errors.ModelFileError`, or `errors.UnsupportedModelError` where `check_architecture` does.
    """
    header = read_header(path)
    check_architecture(header.architecture)
    return BaseFacts(
        architecture=header.architecture,
        layers=layer_count(header),
        heads=head_count(header),
        kv_heads=kv_head_count(header),
        shapes={tensor.name: tensor.shape[::-1] for tensor in header.tensors},
    )


def read_config(peft_dir: Path) -> dict[str, Any]:
    """The folder's adapter_config.json, with a rank and an alpha. Raises `errors.ModelFileError`."""
    path = peft_dir / "adapter_config.json"
    try:
        config = json.loads(path.read_bytes())
        if not isinstance(config, dict) or not isinstance(config["r"], int) or config["r"] < 1:
            raise ValueError("it has no rank")
        float(config["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"{path} is not a PEFT configuration: {error}.", "Train the adapter again.") from None
    return config


def read_tensors(peft_dir: Path) -> dict[str, Matrix]:
    """A [r, in] and B [out, r] of each layer by PEFT's names, as float32. Raises `errors.ModelFileError`."""
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = peft_dir / TENSORS
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise ModelFileError(f"{path} cannot be read: {error}.", "Train the adapter again.") from None
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def _write(output: Path, base: BaseFacts, alpha: float, layers: Mapping[str, Pair]) -> None:
    import gguf
    import numpy as np

    with disk_errors(output), whole_file(output) as temporary:
        writer = gguf.GGUFWriter(temporary, base.architecture)
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
        for name, (a, b) in sorted(layers.items()):
            writer.add_tensor(f"{name}.weight.lora_a", np.ascontiguousarray(a))
            writer.add_tensor(f"{name}.weight.lora_b", np.ascontiguousarray(b))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
