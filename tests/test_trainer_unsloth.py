"""Our Unsloth trainer keeps the contract of trainers; a stand-in takes the place of Unsloth, which wants a GPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_training import Killed, adapter, distance, job, notes, pretend_gguf, save_tiny_model, train
from trainer_contract import TrainerContract
from unsloth_stand_in import stand_in

from minisheep.errors import MinisheepError
from minisheep.run.events import Event
from minisheep.trainers import unsloth

pytestmark = [
    pytest.mark.model,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # peft asks by the old name
]
ENVIRONMENT = ("HF_HUB_OFFLINE", "UNSLOTH_DISABLE_STATISTICS", "UNSLOTH_COMPILE_LOCATION", "TOKENIZERS_PARALLELISM")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("weights") / "tiny-llama")


@pytest.fixture(autouse=True)
def _unsloth(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, "1")
    monkeypatch.setitem(sys.modules, "unsloth", stand_in())
    pretend_gguf(monkeypatch)


class TestUnsloth(TrainerContract):
    trainer = "unsloth"


def test_the_moments_of_adamw_are_kept_in_8_bits(tmp_path: Path, weights: Path) -> None:
    from safetensors.numpy import load_file

    work = job(tmp_path, weights, lora_rank=64)
    with pytest.raises(Killed):
        train(work, kill_after=3, trainer="unsloth")
    kept = load_file(next(work.scratch.glob("step-*")) / "tensors.safetensors")
    wide = [value for name, value in kept.items() if name.startswith("state1/") and value.size >= 4096]
    assert wide and {str(value.dtype) for value in wide} == {"uint8"}
    resumed, whole = [], job(tmp_path / "whole", weights, lora_rank=64)
    train(work, resumed, trainer="unsloth")
    train(whole, trainer="unsloth")
    assert "after step 2 of 10" in notes(resumed)
    assert distance(adapter(work), adapter(whole)) <= 1e-6


def test_a_training_begun_by_the_other_trainer_begins_anew(tmp_path: Path, weights: Path) -> None:
    work = job(tmp_path, weights)
    with pytest.raises(Killed):
        train(work, kill_after=5)
    said: list[Event] = []
    train(work, said, trainer="unsloth")
    assert "goes on after" not in notes(said)


def test_sequences_of_one_row_do_not_see_each_other(tmp_path: Path, weights: Path) -> None:
    import torch

    from minisheep.trainers.base import TokenPair
    from minisheep.trainers.lora_model import PADDING_FREE, load_base, loss_sum, this_machine

    model = load_base(weights, this_machine("fp32"))
    pairs = [TokenPair((5, 6, 7, 8, 9, 10), 2), TokenPair((11, 12, 13), 0), TokenPair((20, 21, 22, 23), 3)]
    padded = loss_sum(model, pairs, torch.device("cpu")).item()
    setattr(model, PADDING_FREE, True)
    assert loss_sum(model, pairs, torch.device("cpu")).item() == pytest.approx(padded, rel=1e-5)


def test_its_compiled_code_lies_in_the_run_and_it_is_off_line(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    train(job(tmp_path, weights), trainer="unsloth")
    assert Path(os.environ["UNSLOTH_COMPILE_LOCATION"]) == tmp_path / "unsloth"
    assert os.environ["HF_HUB_OFFLINE"] == os.environ["UNSLOTH_DISABLE_STATISTICS"] == "1"


def test_a_model_is_never_stretched_beyond_its_own_context(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    honest = sys.modules["unsloth"].FastLanguageModel.from_pretrained

    def listen(**given: Any) -> Any:
        asked.append(given["max_seq_length"])
        return honest(**given)

    monkeypatch.setattr(sys.modules["unsloth"].FastLanguageModel, "from_pretrained", listen)
    train(job(tmp_path, weights, max_length=1024), trainer="unsloth")
    assert asked == [json.loads((weights / "config.json").read_text())["max_position_embeddings"]]


def test_an_unsloth_that_cannot_start_is_one_line(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "unsloth", None)
    with pytest.raises(MinisheepError) as error:
        unsloth.start_unsloth(tmp_path)
    assert "--trainer peft" in error.value.fix and "\n" not in str(error.value)
