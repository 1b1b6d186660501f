"""A base with a round's adapter added into its tensors, as a GGUF or as safetensors: weights that need no adapter.

In a GGUF, each adapted tensor W becomes W + alpha / r * B A (as llama.cpp computes it with the adapter hot-loaded:
llama-graph.cpp, build_lora_mm), in float32 from the dequantised base, and is then rounded to float16. The matrices are
those of the run's adapter.gguf, so names and the order of rows are those that the run was measured with. Tokenizer and
metadata are the base's own, but for the keys that an export sets.

The safetensors have the same files, tensors and number format as the base's: an adapted weight is computed in float32
and rounded to the format it had, everything else is copied byte by byte. Either way, one tensor is held at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minisheep.errors import ModelFileError, UnsupportedModelError
from minisheep.formats.gguf_header import GgufHeader, TensorInfo, read_header
from minisheep.formats.gguf_to_hf import read_rows
from minisheep.formats.hf_to_gguf import plain_name
from minisheep.formats.lora_gguf import check_config, effective_alpha, pairs_of, read_config, read_tensors
from minisheep.formats.safetensors_file import KINDS, Stored, as_float32, from_float32, pieces, row_count, tensors_of
from minisheep.models.hub import shards

SEED = 1
"""For the vectors that a merge is tested with."""
_DROPPED = frozenset({"general.architecture", "general.alignment", "general.quantization_version"})
"""Metadata that the writer or the quantiser adds itself."""
_FIX = "Use --to gguf or --to adapter."

Float32s = NDArray[np.float32]
Pair = tuple[Float32s, Float32s]


@dataclass(frozen=True, slots=True)
class Lora:
    """The matrices of an adapter GGUF by the name of the base's tensor, read on access."""

    path: Path
    header: GgufHeader
    scale: float

    @classmethod
    def open(cls, path: Path, base: GgufHeader) -> Lora:
        """Raises `errors.ModelFileError` for a file that is no adapter, `errors.UnsupportedModelError` for one of
        another base."""
        header = read_header(path)
        alpha = header.metadata.get("adapter.lora.alpha")
        ranks = {t.shape[1] for t in header.tensors if t.name.endswith(".lora_a") and len(t.shape) == 2}
        if header.metadata.get("adapter.type") != "lora" or not isinstance(alpha, float) or len(ranks) != 1:
            raise ModelFileError(f"{path} is not a LoRA adapter of one rank.", "Train the round again.")
        lora = cls(path, header, alpha / ranks.pop())
        shapes = {tensor.name: tensor.shape for tensor in base.tensors}
        for name, (a, b) in lora.pairs().items():
            if header.architecture != base.architecture or shapes.get(name) != (a.shape[0], b.shape[1]):
                raise UnsupportedModelError(
                    f"The adapter changes {name!r}, which the base GGUF does not have in that shape.",
                    "Restore the GGUF that the run began with.",
                )
        return lora

    def pairs(self) -> dict[str, tuple[TensorInfo, TensorInfo]]:
        """A (in, r) and B (r, out), shapes in ggml's order, by the tensor that they change."""
        tensors = {tensor.name: tensor for tensor in self.header.tensors}
        return {
            name.removesuffix(".lora_a"): (tensor, tensors[name.removesuffix("a") + "b"])
            for name, tensor in tensors.items()
            if name.endswith(".lora_a") and name.removesuffix("a") + "b" in tensors
        }

    def matrices(self, name: str) -> tuple[Float32s, Float32s] | None:
        """A [r, in] and B [out, r] in float32; None for a tensor that is not adapted."""
        pair = self.pairs().get(name)
        if pair is None:
            return None
        a, b = (read_rows(self.path, tensor, slice(None)) for tensor in pair)
        return a, b


def merge_gguf(
    base: Path, adapter: Path, output: Path, metadata: Mapping[str, str | int], on_progress: Callable[[int, int], None]
) -> None:
    """Write `base` + `adapter` as a GGUF in float16 (vectors in float32); `metadata` replaces or adds keys.

    Takes 2 bytes of disk a parameter; `on_progress` gets the number of finished tensors and that of all.
    Raises `errors.ModelFileError`, `errors.UnsupportedModelError` and OSError; `output` is not synced.
    """
    import gguf

    header = read_header(base)
    lora = Lora.open(adapter, header)
    writer = gguf.GGUFWriter(output, header.architecture)
    try:
        _write_metadata(writer, base, metadata)
        for tensor in header.tensors:
            shape, kind = tensor.shape[::-1], _dtype(tensor)
            writer.add_tensor_info(tensor.name, shape, kind, row_count(shape) * tensor.shape[0] * kind.itemsize)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for done, tensor in enumerate(header.tensors, 1):
            writer.write_tensor_data(merged(base, tensor, lora))
            on_progress(done, len(header.tensors))
    finally:
        writer.close()


def merged(base: Path, tensor: TensorInfo, lora: Lora) -> NDArray[Any]:
    """One tensor of the result, [out, in] in float16 or a vector in float32.

    Raises `errors.ModelFileError` where a number is not finite in that format.
    """
    pair = lora.matrices(tensor.name)
    shape = tensor.shape[::-1]
    made = np.empty(shape, _dtype(tensor))
    for first, end in pieces(shape):
        rows = read_rows(base, tensor, slice(first, end))
        if pair is not None:
            a, b = pair
            rows = rows + np.float32(lora.scale) * (b[first:end] @ a)
        with np.errstate(over="ignore"):
            made[slice(first, end) if len(shape) > 1 else slice(None)] = rows.reshape(-1, *shape[1:])
    if not np.isfinite(made).all():
        raise ModelFileError(
            f"The merged {tensor.name} has numbers that are not finite in {made.dtype}.", "Export another --round."
        )
    return made


def differences(base: Path, adapter: Path, result: Path) -> Iterator[tuple[str, float]]:
    """For each adapted tensor the share of the adapter that is not in `result`: 0 if it is there once and whole.

    Both are applied to one random vector x: (W' - W) x against alpha / r * B (A x), and the first is projected on the
    second, which averages the rounding of W' over all rows; a short training changes W by little more than that. An
    adapter that was lost, doubled or added to other rows gives about 1.
    """
    header, merged_tensors = read_header(base), {tensor.name: tensor for tensor in read_header(result).tensors}
    lora = Lora.open(adapter, header)
    chance = np.random.default_rng(SEED)
    for tensor in header.tensors:
        pair = lora.matrices(tensor.name)
        if pair is None:
            continue
        a, b = pair
        # Along what A reads, or the rounding in all other directions would drown it.
        x = a.T @ chance.standard_normal(len(a)).astype(np.float32)
        expected = lora.scale * (b @ (a @ x))
        other = merged_tensors[tensor.name]
        change = np.concatenate(
            [
                (read_rows(result, other, slice(*rows)) - read_rows(base, tensor, slice(*rows))) @ x
                for rows in pieces(tensor.shape[::-1])
            ]
        )
        size = float(expected @ expected)
        yield tensor.name, abs(1 - float(change @ expected) / size) if size else 0.0


def _dtype(tensor: TensorInfo) -> Any:
    return np.dtype(np.float16 if len(tensor.shape) > 1 else np.float32)


def _write_metadata(writer: Any, base: Path, replaced: Mapping[str, str | int]) -> None:
    """The base's own metadata, tokenizer included, with some keys replaced or added."""
    import gguf

    for name, field in gguf.GGUFReader(base).fields.items():
        if name in _DROPPED or name.startswith("GGUF.") or name in replaced:
            continue
        kind, content = field.types[0], field.contents()
        # The writer cannot write empty arrays; a missing one means the same.
        if kind != gguf.GGUFValueType.ARRAY:
            writer.add_key_value(name, content, kind)
        elif len(content):
            writer.add_key_value(name, content, kind, sub_type=field.types[-1])
    for name, value in replaced.items():
        kind = gguf.GGUFValueType.STRING if isinstance(value, str) else gguf.GGUFValueType.UINT32
        writer.add_key_value(name, value, kind)


def merge_weights(source: Path, adapter: Path, output: Path, on_progress: Callable[[int, int], None]) -> None:
    """Write the safetensors of the folder `source` + the PEFT folder `adapter` into the folder `output`.

    Raises `errors.UnsupportedModelError` for an adapter or a format of weights that cannot be merged,
    `errors.ModelFileError` for broken files, and OSError.
    """
    pairs, scale = read_pairs(adapter)
    # A folder may hold the weights in other formats, too: untrained, they would be a second model in the export.
    files = {source / name: tensors_of(source / name) for name in sorted(shards(source))}
    left = set(pairs)
    total, done = sum(map(len, files.values())), 0
    for path, stored in files.items():
        with open(path, "rb") as old, open(output / path.name, "wb") as new:
            new.write(old.read(stored[0].offset if stored else -1))
            for tensor in stored:
                data = old.read(tensor.bytes)
                pair = pairs.get(plain_name(tensor.name))
                if pair is not None:
                    left.discard(plain_name(tensor.name))
                    data = added(tensor, data, pair, scale)
                new.write(data)
                done += 1
                on_progress(done, total)
    if left:
        raise UnsupportedModelError(f"The adapter changes {min(left)!r}, which the base's weights do not have.", _FIX)


def read_pairs(adapter: Path) -> tuple[dict[str, Pair], float]:
    """A [r, in] and B [out, r] by the weight's plain name, and the scale. Raises as `merge_weights` does."""
    config = read_config(adapter)
    check_config(config)
    pairs = {f"model.{module}.weight": pair for module, pair in pairs_of(read_tensors(adapter)).items()}
    return pairs, effective_alpha(config) / config["r"]


def added(tensor: Stored, data: bytes, pair: Pair, scale: float) -> bytes:
    """The bytes of one weight with the adapter in it."""
    a, b = pair
    if tensor.shape != (b.shape[0], a.shape[1]) or a.shape[0] != b.shape[1]:
        raise UnsupportedModelError(
            f"The adapter's {tensor.name!r} is B {b.shape} x A {a.shape}, and the base has {tensor.shape}.", _FIX
        )
    if tensor.dtype not in KINDS:
        raise UnsupportedModelError(
            f"The base's weights are stored as {tensor.dtype}; no adapter can be merged into these.", _FIX
        )
    values = as_float32(np.frombuffer(data, KINDS[tensor.dtype])).reshape(tensor.shape)
    whole = values + np.float32(scale) * (b @ a)
    if not np.isfinite(whole).all():
        raise ModelFileError(f"The merged {tensor.name} has numbers that are not finite.", "Export another --round.")
    return from_float32(whole, tensor.dtype).tobytes()
