"""Are a GGUF and a folder of weights the same model? Reads headers and a few megabytes, so a run can check it first.

An adapter is trained on the weights and loaded onto the GGUF; on another model, even the instruct version of the same
base, it would do something untrained.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from minisheep.errors import ModelFileError, UnsupportedModelError
from minisheep.formats import safetensors_file
from minisheep.formats.gguf_header import GgufHeader, TensorInfo, read_header
from minisheep.formats.gguf_to_hf import halves, heads_in_pairs, hf_names, read_rows
from minisheep.formats.hf_config import Design, read_design
from minisheep.formats.hf_to_gguf import plain_name
from minisheep.formats.model_facts import layer_count
from minisheep.formats.safetensors_file import EMBEDDING, HEAD, Stored, as_float32, row_count, tied_in_truth
from minisheep.machine.worker import WorkerProcess

ROWS = 8
"""Rows of a matrix that are compared."""
EXACT = {"F32": 0.005, "F16": 0.005, "BF16": 0.005, "Q8_0": 0.02}
QUANTISED = 0.8
"""Allowed difference of rows, as a share of their norm, by the GGUF's number format. Rounding to bfloat16 makes 0.002,
Q8_0 0.006, two bits up to 0.5; two unrelated models differ by about 1.4."""
ULP = 2.0**-8
"""Norms of the same model differ by at most half a step of bfloat16; GGUFs keep norms in float32."""
HEAD_ROWS = 64
"""Rows of the output matrix that are compared: one that was trained by itself differs little in each."""
HEAD_NOISE = EXACT | {
    "Q6_K": 0.06, "Q5_K": 0.12, "Q5_0": 0.15, "Q5_1": 0.15, "Q4_K": 0.25, "Q4_0": 0.3, "Q4_1": 0.3, "IQ4_NL": 0.25,
    "IQ4_XS": 0.25,
}  # fmt: skip
"""As `EXACT`, with two to three times what quantising normal numbers makes."""
FEW = 0.01
"""Share of a model's norm weights that may differ by more."""


def check_same_model(gguf: Path, weights: Path) -> None:
    """Raise `errors.ModelFileError` with the difference unless `weights` (safetensors) are those of `gguf`, of an
    architecture of `formats.gguf_to_hf.hf_names`; also where one of them cannot be read."""
    header = read_header(gguf)
    stored = {plain_name(name): tensor for name, tensor in safetensors_file.list_tensors(weights).items()}
    design = read_config(weights, header.architecture)
    text = difference(gguf, header, stored, tied=None if design is None else design.tied)
    text = text or ("" if design is None else config_difference(header, design))
    if text:
        raise ModelFileError(
            f"The training weights in {weights} are not those of {gguf.name}: {text}. An adapter trained on the one"
            " would not fit the other; nothing was generated.",
            "Give --gguf and --weights of the same model: base with base, instruct with instruct.",
        )


def check_loads(weights: Path) -> None:
    """Raise `errors.ModelFileError` where transformers would refuse the folder or wants to run its makers' code, which
    training would find out after hours. In a worker, since this imports torch; it reads no numbers."""
    with WorkerProcess("minisheep.trainers.lora_model:check_loads", died=ModelFileError) as worker:
        worker.do({"phase": "check", "weights": str(weights)}, f"Checking the weights in {weights}")


def read_config(folder: Path, architecture: str) -> Design | None:
    """The design in config.json; None where only training can tell whether it is the GGUF's `architecture`."""
    try:
        data = json.loads((folder / "config.json").read_bytes())
        design = read_design(data) if isinstance(data, dict) else None
    except (OSError, ValueError, RecursionError, ModelFileError, UnsupportedModelError):
        return None
    return design if design is not None and design.architecture == architecture else None


COMPUTED = (
    *("attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.sliding_window"),
    *("attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.scaling.type", "rope.scaling.factor"),
)
"""Facts with which the same tensors give other numbers."""


def config_difference(header: GgufHeader, design: Design) -> str:
    """The first fact in which config.json and the GGUF differ, in words; one that either leaves out is not compared,
    but for a scaled rotary embedding, whose absence is a fact."""
    unscaled = {f"{header.architecture}.rope.scaling.type": "none"}
    there, here = unscaled | dict(header.metadata), unscaled | dict(design.keys)
    for fact in (f"{header.architecture}.{name}" for name in COMPUTED):
        if fact not in there or fact not in here:
            continue
        one, other = there[fact], here[fact]
        if isinstance(one, int | float) and isinstance(other, int | float):
            alike = math.isclose(one, other, rel_tol=1e-5)
        else:
            alike = one == other or not isinstance(one, str)
        if not alike:
            return f"config.json means {fact} = {other}, and the GGUF says {one}"
    return ""


def difference(gguf: Path, header: GgufHeader, stored: dict[str, Stored], tied: bool | None = None) -> str:
    """The first difference, in words; empty for the same model. `stored` are tensors by transformers' names, and `tied`
    what config.json says of the output, None where it cannot be told."""
    layers = layer_count(header)
    names = hf_names(header.architecture, layers)
    tensors = {tensor.name: tensor for tensor in header.tensors if tensor.name in names}
    if f"model.layers.{layers}.input_layernorm.weight" in stored:
        return f"they have more than its {layers} layers"
    pairs = {name: (tensor, stored.get(names[name])) for name, tensor in tensors.items()}
    if tied is False and HEAD not in stored:
        return f"they have no {HEAD}, and config.json ties the output to nothing"
    for name, (tensor, other) in pairs.items():
        if other is None:
            # Some converters write a tied output layer; some programs save it in place of the embedding.
            if name == "output.weight" or (name == "token_embd.weight" and HEAD in stored):
                continue
            return f"they have no {names[name]}"
        # Vocabularies are padded, here or there.
        narrow = slice(1, None) if name in ("token_embd.weight", "output.weight") else slice(None)
        if tensor.shape[::-1][narrow] != other.shape[narrow]:
            return f"{names[name]} is {list(other.shape)}, but {list(tensor.shape[::-1])} in the GGUF"
    same = [(tensor, other) for tensor, other in pairs.values() if other is not None]
    return (
        _norms(gguf, same, plus_one=header.architecture == "gemma3")
        or _rows(gguf, header, same, layers // 2)
        or _heads(gguf, tensors, stored)
    )


def _heads(gguf: Path, tensors: dict[str, TensorInfo], stored: dict[str, Stored]) -> str:
    """Whether both sides compute their output with the same matrix, be it one of its own or the embedding."""
    there = tensors.get("output.weight") or tensors.get("token_embd.weight")
    here = stored.get(HEAD) or stored.get(EMBEDDING)
    if there is None or here is None:
        return ""
    # Where the embedding of the GGUF is quantised, a head that differs a little would pass for it.
    if "output.weight" not in tensors and not tied_in_truth(stored, tied=True):
        return f"they hold a {HEAD} that differs from the embedding, and the GGUF computes its output with that"
    off = _distance(gguf, there, here, HEAD_ROWS)
    return f"rows of the output matrix differ by {off:.0%}" if not off <= HEAD_NOISE.get(there.type, QUANTISED) else ""


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


def _rows(gguf: Path, header: GgufHeader, pairs: list[tuple[TensorInfo, Stored]], layer: int) -> str:
    parts = ("attn_q", "attn_k", "attn_v", "ffn_gate")
    wanted = {"token_embd.weight", *(f"blk.{layer}.{part}.weight" for part in parts)}
    heads = heads_in_pairs(header)
    for tensor, stored in pairs:
        if tensor.name not in wanted:
            continue
        off = _distance(gguf, tensor, stored, ROWS, heads.get(tensor.name.split(".")[-2], 0))
        if not off <= EXACT.get(tensor.type, QUANTISED):
            return f"rows of {stored.name} differ by {off:.0%}"
    return ""


def _distance(gguf: Path, tensor: TensorInfo, stored: Stored, count: int, heads: int = 0) -> float:
    """Difference of `count` rows, as a share of their norm; `heads` whose rows the GGUF has in pairs, if any."""
    rows = min(row_count(stored.shape), row_count(tensor.shape[::-1]))
    chosen = np.unique(np.linspace(0, rows - 1, count).astype(np.intp))
    placed = halves(rows, heads)[chosen] if heads else chosen
    there, here = read_rows(gguf, tensor, placed), as_float32(safetensors_file.read_rows(stored, chosen))
    size = float(np.linalg.norm(here))
    return float(np.linalg.norm(here - there)) / size if size else float(np.linalg.norm(there))
