"""The plan against what then happens on this machine: llama.cpp's own buffers, resident memory, autograd's tensors."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import real_models

from minisheep import config
from minisheep.engines import budget
from minisheep.engines.base import GenerateRequest, LoglikRequest, Sampling
from minisheep.formats.gguf_header import read_header
from minisheep.formats.model_facts import shape_of
from minisheep.models.registry import load_registry
from minisheep.plan import memory_parts
from minisheep.plan.fit import make_plan, this_processor
from minisheep.plan.memory_parts import weights_as, weights_in
from minisheep.plan.room import known_model
from minisheep.rules.templates import Segment

pytestmark = pytest.mark.model

ASKING = """
import json, re, sys
from pathlib import Path
from minisheep.engines import native
from minisheep.engines.base import GenerateRequest, Sampling
from minisheep.engines.llamacpp import LlamaCppEngine
from minisheep.rules.templates import Segment

engine = LlamaCppEngine(Path(sys.argv[1]), slots=int(sys.argv[2]), context=int(sys.argv[3]), kv_type=sys.argv[4])
said = [line for _, line in native._lines]
prompt = (Segment("A list of three things to do on a rainy day, each with a reason. " * 8),)
jobs = [GenerateRequest(str(n), prompt, Sampling(max_tokens=8), n) for n in range(2 * int(sys.argv[2]))]
list(engine.generate(jobs))
status = Path("/proc/self/status").read_text()
print(json.dumps({"lines": said, "rss": int(re.search(r"VmRSS:\\s+(\\d+)", status)[1]) * 1024}))
"""


@pytest.mark.parametrize(("slots", "context", "kv"), [(16, 1024, "auto"), (31, 2048, "q8_0")])
def test_a_worker_that_asks_takes_the_memory_that_was_planned(slots: int, context: int, kv: str) -> None:
    gguf = real_models.smollm2()
    command = [sys.executable, "-c", ASKING, str(gguf), str(slots), str(context), kv]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    given = config.make({"model": str(gguf), "slots": slots, "context": context, "kv_type": kv})
    # The file itself is mapped here, not the copy that a run would make of it.
    plan = make_plan(given, replace(known_model(given), fast_on_cpu=True), this_processor(0))
    parts = {part.name: part.bytes for part in plan.inference}
    # What the kernel counts is not the same everywhere: pages of a mapped file, and those of a buffer not touched yet,
    # may be missing. More than was planned is what would end a run.
    planned = sum(parts.values())
    assert 0.65 * planned < found["rss"] < 1.05 * planned
    said = {kind: _said(found["lines"], kind) for kind in ("KV", "compute", "output")}
    assert parts["KV cache"] == pytest.approx(said["KV"], rel=0.001)
    assert parts["compute buffers"] == pytest.approx(said["compute"] + said["output"], rel=0.05)


def _said(lines: list[str], kind: str) -> float:
    """Bytes of the buffers of a kind that llama.cpp told of."""
    found = [re.search(rf" {kind} buffer size = +([\d.]+) MiB", line) for line in lines]
    return sum(float(match[1]) for match in found if match) * 2**20


def test_the_registry_has_the_dimensions_of_the_real_file() -> None:
    for name, gguf in (("smollm2-135m", real_models.smollm2()), ("gemma-3-270m", real_models.gemma3())):
        entry, header = load_registry()[name], read_header(gguf)
        assert shape_of(header) == entry.shape
        real = weights_in(header, "")
        foretold = weights_as(shape_of(header), entry.architecture, "Q4_1" if "smol" in name else "Q4_K_M")
        assert (foretold.tensors, foretold.embedding, foretold.tied) == (real.tensors, real.embedding, real.tied)


def test_a_cache_in_q8_0_computes_nearly_the_same() -> None:
    from minisheep.engines.llamacpp import LlamaCppEngine

    prompt = (Segment("The capital of France is Paris, and that of Italy is"),)
    means = []
    for kv in ("f16", "q8_0"):
        engine = LlamaCppEngine(real_models.smollm2(), slots=4, context=256, kv_type=kv)
        try:
            (found,) = engine.loglik([LoglikRequest("a", prompt, (Segment(" Rome, a city with a long history."),))])
            texts = [c.text for c in engine.generate([GenerateRequest("b", prompt, Sampling(max_tokens=8), 1)])]
        finally:
            engine.close()
        assert texts and texts[0]
        means.append(sum(found.logprobs) / len(found.logprobs))
    assert means[0] == pytest.approx(means[1], abs=0.1)


@pytest.mark.parametrize("written_out", [True, False])
def test_autograd_keeps_what_was_planned(written_out: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from minisheep.formats.gguf_to_hf import dequantise
    from minisheep.trainers import lora_model
    from minisheep.trainers.base import TokenPair, TrainSettings
    from minisheep.trainers.lora_model import loss_sum

    if not written_out:
        monkeypatch.setattr(lora_model, "patch_for_cpu", lambda model: None)
    folder = tmp_path / "weights"
    dequantise(real_models.smollm2(), folder, lambda event: None)
    precision = lora_model.choose_precision("bf16", cuda=False, fast_bf16=True)
    model = lora_model.add_lora(lora_model.load_base(folder, precision), TrainSettings(), "x")
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    pairs = [TokenPair(tuple(range(5, 133)), 40) for _ in range(2)]
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss_sum(model, pairs, torch.device("cpu"))
    shape = load_registry()["smollm2-135m"].shape
    assert shape is not None
    how = memory_parts.TrainingMemory("bf16" if written_out else "4bit", False, False, 8, 2, 128)
    planned = 256 * shape.layers * memory_parts.kept_bytes(shape, "llama", how)
    assert planned == pytest.approx(sum(storage.nbytes() for storage in kept.values()), rel=0.05)


def test_the_engine_takes_as_many_slots_as_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 900 MiB: neither the most of use nor the least."""
    from minisheep.engines.llamacpp import LlamaCppEngine

    free, gguf = 900 * 2**20, real_models.smollm2()
    monkeypatch.setattr(budget, "free_bytes", lambda offload: free)
    given = config.make({"model": str(gguf), "context": 1280})
    # The file itself is mapped here, not the copy that a run would make of it.
    model = replace(known_model(given), fast_on_cpu=True)
    planned = make_plan(given, model, replace(this_processor(0), memory=free))
    engine = LlamaCppEngine(gguf, context=1280)
    try:
        assert 1 < engine.info.slots == planned.slots < 16
        found = budget.token_bytes(engine._decoder._model, budget.F16)
        assert found == memory_parts.token_bytes(model.shape, budget.F16)
    finally:
        engine.close()
