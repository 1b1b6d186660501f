"""Merging: what is written is base + adapter, tensor by tensor, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from export_runs import save_adapter
from model_folders import save

from minisheep.errors import ModelFileError, UnsupportedModelError
from minisheep.formats import merge
from minisheep.formats.gguf_header import read_header
from minisheep.formats.gguf_to_hf import read_rows
from minisheep.formats.safetensors_file import as_float32, tensors_of
from minisheep.formats.safetensors_file import read_rows as stored_rows
from minisheep.models.hub import INDEX

RNG = np.random.default_rng(5)
WIDTH, RANK, ALPHA = 64, 2, 8.0
UP, NORM, EMBED = "blk.0.ffn_up.weight", "blk.0.ffn_norm.weight", "token_embd.weight"


def numbers(*shape: int, size: float = 0.1) -> np.ndarray[Any, Any]:
    return (RNG.normal(size=shape) * size).astype(np.float32)


def base_gguf(path: Path, kind: str = "Q8_0", factor: float = 1.0) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Base")
    writer.add_file_type(7)
    writer.add_uint32("tokenizer.ggml.eos_token_id", 4)
    writer.add_array("tokenizer.ggml.tokens", ["<s>", "</s>", "a", "é", "<|im_end|>"])
    writer.add_array("tokenizer.ggml.scores", [0.5, 1.5, 2.5, 3.5, 4.5])
    writer.add_array("tokenizer.ggml.token_type", [3, 3, 1, 1, 3])
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    for name, values in {EMBED: numbers(5, WIDTH), UP: numbers(48, WIDTH) * factor, NORM: numbers(WIDTH)}.items():
        if values.ndim > 1 and kind != "F32":
            number = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(name, gguf.quantize(values, number), raw_dtype=number)
        else:
            writer.add_tensor(name, values)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    return path


def adapter_gguf(path: Path, a: Any, b: Any, name: str = UP, architecture: str = "llama") -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", ALPHA)
    writer.add_tensor(f"{name}.lora_a", a)
    writer.add_tensor(f"{name}.lora_b", b)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    return path


def tensor(path: Path, name: str) -> np.ndarray[Any, Any]:
    info = next(t for t in read_header(path).tensors if t.name == name)
    return read_rows(path, info, slice(None))


def quiet(done: int, total: int) -> None:
    pass


@pytest.fixture
def merged(tmp_path: Path) -> tuple[Path, Path, Path, Any]:
    a, b = numbers(RANK, WIDTH), numbers(48, RANK)
    base, adapter = base_gguf(tmp_path / "base.gguf"), adapter_gguf(tmp_path / "adapter.gguf", a, b)
    merge.merge_gguf(base, adapter, tmp_path / "out.gguf", {"general.name": "New", "general.file_type": 1}, quiet)
    return base, adapter, tmp_path / "out.gguf", ALPHA / RANK * (b @ a)


def test_an_adapted_tensor_is_base_plus_scaled_product(merged: tuple[Path, Path, Path, Any]) -> None:
    base, _, out, delta = merged
    np.testing.assert_allclose(tensor(out, UP), tensor(base, UP) + delta, rtol=1e-3, atol=1e-4)


def test_other_tensors_are_the_bases_own(merged: tuple[Path, Path, Path, Any]) -> None:
    base, _, out, _ = merged
    np.testing.assert_array_equal(tensor(out, NORM), tensor(base, NORM))
    np.testing.assert_allclose(tensor(out, EMBED), tensor(base, EMBED), rtol=1e-3)
    types = {t.name: t.type for t in read_header(out).tensors}
    assert types == {EMBED: "F16", UP: "F16", NORM: "F32"}


def test_metadata_and_tokenizer_stay_but_for_what_is_replaced(merged: tuple[Path, Path, Path, Any]) -> None:
    base, _, out, _ = merged
    before, after = read_header(base).metadata, read_header(out).metadata
    assert set(before) == set(after)
    assert (after["general.name"], after["general.file_type"]) == ("New", 1)
    for key in set(before) - {"general.name", "general.file_type"}:
        old, new = before[key], after[key]
        assert (list(old) == list(new)) if hasattr(old, "_starts") else old == new


def test_a_right_merge_is_off_by_rounding_alone(merged: tuple[Path, Path, Path, Any]) -> None:
    base, adapter, out, _ = merged
    off = dict(merge.differences(base, adapter, out))
    assert set(off) == {UP} and off[UP] < 0.01


def test_a_lost_a_doubled_and_a_misplaced_adapter_are_seen(merged: tuple[Path, Path, Path, Any]) -> None:
    base, adapter, out, _ = merged
    a, b = numbers(RANK, WIDTH), numbers(48, RANK)
    real = merge.Lora.open(adapter, read_header(base)).matrices(UP)
    assert real is not None
    for wrong in ((a, b * 0), (real[0], real[1] * 2), (real[0], real[1][::-1].copy()), (a, b)):
        other = adapter_gguf(adapter.with_name("wrong.gguf"), *wrong)
        merge.merge_gguf(base, other, out, {}, quiet)
        assert dict(merge.differences(base, adapter, out))[UP] > 0.9


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q4_1"])
def test_every_format_of_a_base_can_be_merged(tmp_path: Path, kind: str) -> None:
    a, b = numbers(RANK, WIDTH), numbers(48, RANK)
    base, adapter = base_gguf(tmp_path / "base.gguf", kind), adapter_gguf(tmp_path / "adapter.gguf", a, b)
    merge.merge_gguf(base, adapter, tmp_path / "out.gguf", {}, quiet)
    assert dict(merge.differences(base, adapter, tmp_path / "out.gguf"))[UP] < 0.01


def test_numbers_beyond_float16_are_refused(tmp_path: Path) -> None:
    a, b = numbers(RANK, WIDTH), numbers(48, RANK)
    base = base_gguf(tmp_path / "base.gguf", "F32", factor=1e7)
    adapter = adapter_gguf(tmp_path / "adapter.gguf", a, b)
    with pytest.raises(ModelFileError, match="float16"):
        merge.merge_gguf(base, adapter, tmp_path / "out.gguf", {}, quiet)


@pytest.mark.parametrize(
    ("name", "rows", "architecture"),
    [("blk.7.ffn_up.weight", 48, "llama"), (UP, 47, "llama"), (UP, 48, "qwen2")],
)
def test_an_adapter_of_another_base_is_refused(tmp_path: Path, name: str, rows: int, architecture: str) -> None:
    base = base_gguf(tmp_path / "base.gguf")
    path = tmp_path / "adapter.gguf"
    adapter = adapter_gguf(path, numbers(RANK, WIDTH), numbers(rows, RANK), name, architecture)
    with pytest.raises(UnsupportedModelError):
        merge.merge_gguf(base, adapter, tmp_path / "out.gguf", {}, quiet)


def test_a_file_that_is_no_adapter_is_refused(tmp_path: Path) -> None:
    base = base_gguf(tmp_path / "base.gguf")
    with pytest.raises(ModelFileError):
        merge.merge_gguf(base, base, tmp_path / "out.gguf", {}, quiet)


# Safetensors


Q, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"


def peft(path: Path, *names: str, prefix: str = "base_model.model.", **config: Any) -> Path:
    tensors = {}
    for name in names:
        tensors[f"{prefix}{name}.lora_A.weight"] = numbers(RANK, WIDTH)
        tensors[f"{prefix}{name}.lora_B.weight"] = numbers(32, RANK)
    return save_adapter(path, tensors, **config)


def stored(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    return {t.name: as_float32(stored_rows(t, slice(None))).reshape(t.shape) for t in tensors_of(path)}


def test_safetensors_keep_their_layout_and_gain_the_adapter(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "out").mkdir()
    for number, name in enumerate((Q, DOWN), 1):
        values = {f"{name}.weight": numbers(32, WIDTH), f"model.norm{number}.weight": numbers(WIDTH)}
        save(tmp_path / "base" / f"model-0000{number}-of-00002.safetensors", values, "BF16")
    files = sorted((tmp_path / "base").iterdir())
    names = {str(number): path.name for number, path in enumerate(files)}
    (tmp_path / "base" / INDEX).write_text(json.dumps({"weight_map": names}))
    # Mistral publishes the same weights a second time; merged or copied, it would be the untrained model.
    save(tmp_path / "base" / "consolidated.safetensors", {"x.weight": numbers(2, WIDTH)}, "BF16")
    adapter = peft(tmp_path / "adapter", Q)
    merge.merge_weights(tmp_path / "base", adapter, tmp_path / "out", quiet)
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(names.values())
    (a, b), scale = next(iter(merge.read_pairs(adapter)[0].values())), 4.0
    for path in files:
        before, after = stored(path), stored(tmp_path / "out" / path.name)
        assert path.stat().st_size == (tmp_path / "out" / path.name).stat().st_size
        for name, values in before.items():
            wanted = values + scale * (b @ a) if name == f"{Q}.weight" else values
            np.testing.assert_allclose(after[name], wanted, rtol=0.01 if name == f"{Q}.weight" else 0, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_safetensors_keep_their_number_format(tmp_path: Path, dtype: Any) -> None:
    from safetensors.numpy import load_file, save_file

    (tmp_path / "base").mkdir()
    (tmp_path / "out").mkdir()
    save_file({f"{Q}.weight": numbers(32, WIDTH).astype(dtype)}, tmp_path / "base" / "model.safetensors")
    merge.merge_weights(tmp_path / "base", peft(tmp_path / "adapter", Q), tmp_path / "out", quiet)
    assert load_file(tmp_path / "out" / "model.safetensors")[f"{Q}.weight"].dtype == dtype


@pytest.mark.parametrize("outer", ["model.language_model.", "language_model.model."])
def test_a_language_model_inside_another_is_found_by_either_name(tmp_path: Path, outer: str) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "out").mkdir()
    inner = Q.removeprefix("model.")
    save(tmp_path / "base" / "model.safetensors", {f"{outer}{inner}.weight": numbers(32, WIDTH)}, "BF16")
    merge.merge_weights(tmp_path / "base", peft(tmp_path / "adapter", Q), tmp_path / "out", quiet)
    assert not np.array_equal(
        *(next(iter(stored(tmp_path / d / "model.safetensors").values())) for d in ("base", "out"))
    )


def test_an_adapted_weight_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "out").mkdir()
    save(tmp_path / "base" / "model.safetensors", {f"{Q}.weight": numbers(32, WIDTH)}, "BF16")
    with pytest.raises(UnsupportedModelError, match="down_proj"):
        merge.merge_weights(tmp_path / "base", peft(tmp_path / "adapter", Q, DOWN), tmp_path / "out", quiet)


def test_weights_that_are_quantised_already_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    (tmp_path / "base").mkdir()
    (tmp_path / "out").mkdir()
    save_file({f"{Q}.weight": np.zeros((32, WIDTH), np.uint8)}, tmp_path / "base" / "model.safetensors")
    with pytest.raises(UnsupportedModelError, match="U8"):
        merge.merge_weights(tmp_path / "base", peft(tmp_path / "adapter", Q), tmp_path / "out", quiet)


@pytest.mark.parametrize("change", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}])
def test_what_is_no_plain_lora_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModelError):
        merge.read_pairs(peft(tmp_path / "adapter", Q, **change))


def test_rank_stabilised_lora_is_scaled_as_it_was_trained(tmp_path: Path) -> None:
    _, scale = merge.read_pairs(peft(tmp_path / "adapter", Q, use_rslora=True))
    assert scale == pytest.approx(8 / 2**0.5)
