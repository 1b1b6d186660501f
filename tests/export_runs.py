"""Runs that could be exported, for tests: settings, measures, kept pairs and adapters that nobody trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measured_runs import measured_run

from minisheep import api
from minisheep.models.prepared import PreparedModel
from minisheep.rules.templates import Template, chatml
from minisheep.run.files import read_json, write_json
from minisheep.run.folder import RunFolder, replace_records
from minisheep.run.records import Example

SETTINGS: dict[str, Any] = {"engine": "llamacpp", "trainer": "peft", "model": "smollm2-135m"}


def example(number: int) -> Example:
    instruction, output = f"Name {number} things that float | on water.", f"Wood, ice and cork number {number}."
    return Example(
        instruction=instruction, input="", output=output, score=0.5, quality=None, following=None, cut="",
        messages=[{"role": "user", "content": instruction}, {"role": "assistant", "content": output}],
        parents=("a", "b", "c"),
    )  # fmt: skip


def finished_run(
    path: Path, rounds: int = 2, *, template: Template | None = None, kept: Sequence[float] = (), **settings: Any
) -> api.Run:
    """A run of two measured rounds, whose adapters are files of the right names."""
    run = measured_run(path, kept or [0.3, *[0.4] * rounds], **{**SETTINGS, **settings})
    folder = RunFolder(path)
    prepared(path / "none.gguf", template).write(folder.model)
    for number in range(1, rounds + 1):
        place = folder.round(number)
        metrics = read_json(place.metrics)
        metrics["data"] |= {"instructions": 30, "dropped_by_rule": {"filter.low_score": 12}}
        write_json(place.metrics, metrics)
        replace_records(place.kept, [example(i) for i in range(number, number + 3)])
        write_json(place.training, {"examples": 3, "steps": 2, "tokens": 60, "load_in": "bf16"})
        place.adapter_gguf.write_bytes(b"GGUF")
        save_adapter(place.adapter, {})
    return run


def prepared(gguf: Path, template: Template | None = None) -> PreparedModel:
    return PreparedModel(
        name="smollm2-135m", title="SmolLM2 135M Instruct", kind="instruct", architecture="llama", licence="Apache-2.0",
        gguf=gguf, gguf_sha256="ab" * 32, source="file", inference_gguf=gguf, inference_note="", weights=gguf.parent,
        weights_note="", template=template or chatml(), versions={},
    )  # fmt: skip


def save_adapter(path: Path, tensors: dict[str, np.ndarray[Any, Any]], **config: Any) -> Path:
    """A PEFT folder; the rank is 2 and the scale 4 unless `config` says otherwise."""
    from safetensors.numpy import save_file

    path.mkdir(parents=True, exist_ok=True)
    (path / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 8, "bias": "none", **config})
    )
    save_file(tensors, path / "adapter_model.safetensors")
    return path
