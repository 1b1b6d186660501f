"""A model of a given shape with random weights, for llama.cpp and for training, so that nothing is downloaded.

What it says is noise, but it takes the memory and the time of a real one: a GGUF in Q4_0, and a folder of bfloat16
weights, both of the architecture Qwen2. The vocabulary has a token for each byte, and fillers up to its real size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minisheep.models.shape import OUTPUT, Matrix, Shape

if TYPE_CHECKING:  # who only lists the probes does not wait for numpy
    import numpy as np
    from numpy.typing import NDArray

ARCHITECTURE = "qwen2"
BLOCK, BLOCK_BYTES = 32, 18
"""Of Q4_0: weights that share a scale, a float16, and their bytes with it."""
NIBBLE = math.sqrt(21.5)
"""Root mean square of a random nibble less 8: what a weight in Q4_0 is of its scale."""
SPREAD = 0.02
"""Standard deviation of a weight."""
LOGITS = 4.2
"""Standard deviation of a row of logits, with which 152,000 tokens have the entropy of a text (about 3 nats)."""


def gguf_bytes(shape: Shape) -> int:
    return sum(matrix.weights // BLOCK * BLOCK_BYTES for matrix in shape.matrices())


def weights_bytes(shape: Shape) -> int:
    return 2 * shape.parameters(ARCHITECTURE)


def scale_of(matrix: Matrix) -> float:
    return LOGITS / math.sqrt(matrix.columns) if matrix.name == OUTPUT else SPREAD


def write_gguf(path: Path, shape: Shape, seed: int = 1) -> None:
    """Write the GGUF; rows must divide into blocks of 32."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    writer.add_name("Random weights")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    tokens = _tokens(shape.vocabulary)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (len(tokens) - 1) + [3])  # normal, and the end: a control token
    writer.add_token_merges([f"{tokens[0]} {tokens[1]}"])
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_add_bos_token(False)
    tensors = list(_gguf_tensors(shape))
    for name, size, matrix in tensors:
        kind = gguf.GGMLQuantizationType.F32 if matrix is None else gguf.GGMLQuantizationType.Q4_0
        dimensions = [size] if matrix is None else [matrix.rows, matrix.columns]
        length = 4 * size if matrix is None else matrix.weights // BLOCK * BLOCK_BYTES
        writer.add_tensor_info(name, dimensions, np.dtype(np.float32), length, raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        draw = np.random.default_rng(seed)
        for name, size, matrix in tensors:
            if matrix is not None:
                writer.write_tensor_data(q4_0(matrix, draw))
            else:
                writer.write_tensor_data(np.full(size, 0.0 if name.endswith(".bias") else 1.0, np.float32))
    finally:
        writer.close()


def q4_0(matrix: Matrix, draw: np.random.Generator) -> NDArray[np.uint8]:
    """Random blocks [rows, bytes of a row] whose weights have the standard deviation `scale_of` the matrix."""
    import numpy as np

    blocks = np.empty((matrix.weights // BLOCK, BLOCK_BYTES), np.uint8)
    blocks[:, :2] = np.frombuffer(np.float16(scale_of(matrix) / NIBBLE).tobytes(), np.uint8)
    blocks[:, 2:] = np.frombuffer(draw.bytes(len(blocks) * (BLOCK_BYTES - 2)), np.uint8).reshape(len(blocks), -1)
    return blocks.reshape(matrix.rows, -1)


def _gguf_tensors(shape: Shape) -> Iterator[tuple[str, int, Matrix | None]]:
    """Name, size and matrix of each tensor; a vector has no matrix."""
    for matrix in shape.matrices():
        name = matrix.name if matrix.layer < 0 else f"blk.{matrix.layer}.{matrix.name}"
        yield f"{name}.weight", matrix.weights, matrix
    for layer in range(shape.layers):
        for norm in ("attn_norm", "ffn_norm"):
            yield f"blk.{layer}.{norm}.weight", shape.width, None
        for part, size in (("q", shape.query_width), ("k", shape.kv_width), ("v", shape.kv_width)):
            yield f"blk.{layer}.attn_{part}.bias", size, None
    yield "output_norm.weight", shape.width, None


def _tokens(count: int) -> list[str]:
    """The bytes as GPT-2 writes them, then fillers; the last ends a text."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    letters = [chr(byte if byte in printable else next(others)) for byte in range(256)]
    return [*letters, *(f"filler{number}" for number in range(count - 257)), "<|end|>"]


def write_weights(folder: Path, shape: Shape) -> None:
    """Write config.json and safetensors, a file a layer; drawn on the GPU where there is one."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(1)
    index: dict[str, str] = {}

    def new(rows: int, columns: int, spread: float = SPREAD) -> Any:
        return torch.empty(rows, columns, dtype=torch.bfloat16, device=device).normal_(std=spread).cpu()

    def save(name: str, tensors: dict[str, Any]) -> None:
        save_file(tensors, folder / name, metadata={"format": "pt"})
        index.update(dict.fromkeys(tensors, name))

    attention, mlp = ("attn_q", "attn_k", "attn_v", "attn_output"), "mlp"
    theirs = dict(zip(attention, ("q_proj", "k_proj", "v_proj", "o_proj"), strict=True))
    ones = torch.ones(shape.width, dtype=torch.bfloat16)
    for layer in range(shape.layers):
        tensors = {}
        for name, rows, columns in shape.layer_matrices:
            part = f"self_attn.{theirs[name]}" if name in theirs else f"{mlp}.{name.removeprefix('ffn_')}_proj"
            tensors[f"model.layers.{layer}.{part}.weight"] = new(rows, columns)
            if name in attention[:3]:
                tensors[f"model.layers.{layer}.{part}.bias"] = torch.zeros(rows, dtype=torch.bfloat16)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{norm}.weight"] = ones.clone()
        save(f"layer-{layer:02}.safetensors", tensors)
    ends = {f"model.{name}": value for name, value in (("embed_tokens.weight", new(shape.vocabulary, shape.width)),
            ("norm.weight", ones.clone()))}  # fmt: skip
    save("ends.safetensors", ends | {"lm_head.weight": new(shape.vocabulary, shape.width, LOGITS / shape.width**0.5)})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / "config.json").write_text(json.dumps(_config(shape)))


def _config(shape: Shape) -> dict[str, Any]:
    return {
        "architectures": ["Qwen2ForCausalLM"], "model_type": ARCHITECTURE, "hidden_size": shape.width,
        "intermediate_size": shape.feed_forward, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.context, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "hidden_act": "silu",
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "eos_token_id": shape.vocabulary - 1,
        "initializer_range": SPREAD, "use_sliding_window": False, "attention_dropout": 0.0,
    }  # fmt: skip
