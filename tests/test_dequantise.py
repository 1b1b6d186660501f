"""Training weights from a GGUF: whole or absent, trainable, and refused where they would be another model."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from minisheep.errors import DiskError, UnsupportedModelError
from minisheep.models import dequantise as module
from minisheep.models.dequantise import dequantise, refuse_lossy
from minisheep.trainers.lora_gguf import BaseFacts

BASE = BaseFacts("llama", 1, 1, 1, {"token_embd.weight": (10, 10)})


def test_scaled_rotary_embeddings_are_refused() -> None:
    refuse_lossy(BASE)
    with pytest.raises(UnsupportedModelError, match="rope_freqs"):
        refuse_lossy(dataclasses.replace(BASE, shapes={**BASE.shapes, "rope_freqs.weight": (32,)}))


def test_a_disk_too_small_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huge = dataclasses.replace(BASE, shapes={"token_embd.weight": (10**9, 10**9)})
    monkeypatch.setattr(module, "read_base", lambda path: huge)
    with pytest.raises(DiskError, match="GB"):
        dequantise(tmp_path / "m.gguf", tmp_path / "deep" / "out", lambda event: None)
    assert not (tmp_path / "deep").exists()


def test_an_existing_folder_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    dequantise(tmp_path / "m.gguf", tmp_path / "out", lambda event: None)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.model
def test_the_weights_load_and_are_not_quantised(tmp_path: Path) -> None:
    import real_models

    import minisheep.trainers.peft_model as peft_model

    import torch  # isort: skip

    dequantise(real_models.smollm2(), tmp_path / "weights", lambda event: None)
    assert not list(tmp_path.glob(".weights.*"))
    model = peft_model.load_base(tmp_path / "weights", peft_model.this_machine("fp32"))
    assert not getattr(model, "is_quantized", False)
    assert "quantization_config" not in (tmp_path / "weights" / "config.json").read_text()
    adapted = peft_model.add_lora(model, peft_model.TrainSettings(), "weights")
    adapted(input_ids=torch.tensor([[1, 2, 3]])).logits.sum().backward()
    gradients = [p.grad for p in adapted.parameters() if p.requires_grad]
    assert len(gradients) == 420 and all(gradient is not None for gradient in gradients)


@pytest.mark.model
def test_without_dequantising_the_model_could_not_be_saved(tmp_path: Path) -> None:
    import real_models

    import minisheep.trainers.peft_model  # noqa: F401  # takes the Hub off line

    import transformers  # isort: skip

    gguf = real_models.smollm2()
    model = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
    assert model.is_quantized
    with pytest.raises(ValueError, match="not serializable"):
        model.save_pretrained(tmp_path / "weights")
