"""Are a GGUF and a folder of weights the same model? Reads headers and a few megabytes, so a run can check it first.

An adapter is trained on the weights and loaded onto the GGUF; on another model, even the instruct version of the same
base, it would do something untrained.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from minisheep.errors import ModelFileError
from minisheep.formats import safetensors_file
from minisheep.formats.gguf_header import GgufHeader, TensorInfo, read_header
from minisheep.formats.gguf_to_hf import hf_names, read_rows
from minisheep.formats.hf_to_gguf import plain_name
from minisheep.formats.model_facts import layer_count
from minisheep.formats.safetensors_file import Stored, as_float32, row_count

ROWS = 8
"""Rows of a matrix that are compared."""
EXACT = {"F32": 0.005, "F16": 0.005, "BF16": 0.005, "Q8_0": 0.02}
QUANTISED = 0.8
"""Allowed difference of rows, as a share of their norm, by the GGUF's number format. Rounding to bfloat16 makes 0.002,
Q8_0 0.006, two bits up to 0.5; two unrelated models differ by about 1.4."""
ULP = 2.0**-8
"""Norms of the same model differ by at most half a step of bfloat16; GGUFs keep norms in float32."""
FEW = 0.01
"""Share of a model's norm weights that may differ by more."""


def check_same_model(gguf: Path, weights: Path) -> None:
    """Raise `errors.ModelFileError` with the difference unless `weights` (safetensors) are those of `gguf`, of an
    architecture of `formats.gguf_to_hf.hf_names`; also where one of them cannot be read."""
    header = read_header(gguf)
    stored = {plain_name(name): tensor for name, tensor in safetensors_file.list_tensors(weights).items()}
    text = difference(gguf, header, stored)
    if text:
        raise ModelFileError(
            f"The training weights in {weights} are not those of {gguf.name}: {text}. An adapter trained on the one"
            " would not fit the other; nothing was generated.",
            "Give --gguf and --weights of the same model: base with base, instruct with instruct.",
        )


def difference(gguf: Path, header: GgufHeader, stored: dict[str, Stored]) -> str:
    """The first difference, in words; empty for the same model. `stored` are tensors by transformers' names."""
    layers = layer_count(header)
    names = hf_names(header.architecture, layers)
    tensors = {tensor.name: tensor for tensor in header.tensors if tensor.name in names}
    if f"model.layers.{layers}.input_layernorm.weight" in stored:
        return f"they have more than its {layers} layers"
    pairs = {name: (tensor, stored.get(names[name])) for name, tensor in tensors.items()}
    for name, (tensor, other) in pairs.items():
        if other is None:
            if name == "output.weight":  # some converters write a tied output layer
                continue
            return f"they have no {names[name]}"
        # Vocabularies are padded, here or there.
        narrow = slice(1, None) if name in ("token_embd.weight", "output.weight") else slice(None)
        if tensor.shape[::-1][narrow] != other.shape[narrow]:
            return f"{names[name]} is {list(other.shape)}, but {list(tensor.shape[::-1])} in the GGUF"
    same = [(tensor, other) for tensor, other in pairs.values() if other is not None]
    return _norms(gguf, same, plus_one=header.architecture == "gemma3") or _rows(gguf, same, layers // 2)


def _norms(gguf: Path, pairs: list[tuple[TensorInfo, Stored]], *, plus_one: bool) -> str:
    """`plus_one`: Gemma multiplies by 1 + weight, which its GGUF holds as the sum."""
    different = whole = 0
    for tensor, stored in pairs:
        if not tensor.name.endswith("norm.weight") or tensor.type not in EXACT:
            continue
        there = read_rows(gguf, tensor, slice(0, 1)).ravel()
        here = as_float32(safetensors_file.read_rows(stored, slice(0, 1))).ravel() + np.float32(plus_one)
        different += int(np.count_nonzero(~(np.abs(here - there) <= ULP * np.abs(here) + 1e-6)))
        whole += here.size
    return f"{different / whole:.0%} of the norms' weights differ" if different > FEW * whole else ""


def _rows(gguf: Path, pairs: list[tuple[TensorInfo, Stored]], layer: int) -> str:
    wanted = {"token_embd.weight", f"blk.{layer}.ffn_gate.weight", f"blk.{layer}.attn_v.weight"}
    for tensor, stored in pairs:
        if tensor.name not in wanted:
            continue
        rows = min(row_count(stored.shape), row_count(tensor.shape[::-1]))
        chosen = np.unique(np.linspace(0, rows - 1, ROWS).astype(np.intp))
        there, here = read_rows(gguf, tensor, chosen), as_float32(safetensors_file.read_rows(stored, chosen))
        size = float(np.linalg.norm(here))
        off = float(np.linalg.norm(here - there)) / size if size else float(np.linalg.norm(there))
        if not off <= EXACT.get(tensor.type, QUANTISED):
            return f"rows of {stored.name} differ by {off:.0%}"
    return ""
