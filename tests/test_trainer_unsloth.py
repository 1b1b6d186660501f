"""Our Unsloth trainer keeps the contract of trainers; a stand-in takes the place of Unsloth, which wants a GPU."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_training import Killed, adapter, distance, job, notes, pretend_gguf, save_tiny_model, train
from trainer_contract import TrainerContract
from unsloth_stand_in import stand_in

from minisheep.errors import MinisheepError, TrainerFailedError
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

    def test_another_error_of_the_gpu_is_not_taken_for_a_full_memory(
        self, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Before a first step another trainer may take over; after one, the error is what it is."""
        breaks_after(monkeypatch, 0)
        work = job(tmp_path, weights)
        with pytest.raises(TrainerFailedError, match=r"before its first finished step: CalledProcessError: .*gcc"):
            self.train(work)
        assert not work.output.exists()
        breaks_after(monkeypatch, 2)
        with pytest.raises(subprocess.CalledProcessError):
            self.train(work)
        breaks_after(monkeypatch, 0)
        with pytest.raises(subprocess.CalledProcessError):  # steps of this training are on disk
            self.train(work)


def breaks_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """A forward pass that raises what Triton does without Python.h, after some optimizer steps."""
    honest, done = train_loop_loss_sum(), [0]

    def broken(model: Any, pairs: Any, device: Any) -> Any:
        done[0] += 1
        if done[0] > 2 * steps:  # two micro-batches a step
            raise subprocess.CalledProcessError(1, ["gcc", "launcher.c"])
        return honest(model, pairs, device)

    from minisheep.trainers import train_loop

    monkeypatch.setattr(train_loop, "loss_sum", broken)


def train_loop_loss_sum() -> Any:
    from minisheep.trainers.lora_model import loss_sum

    return loss_sum


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
    asked: list[Any] = []
    honest = sys.modules["unsloth"].FastLanguageModel.from_pretrained

    def listen(**given: Any) -> Any:
        asked.extend((given["max_seq_length"], given["offload_embedding"]))
        return honest(**given)

    monkeypatch.setattr(sys.modules["unsloth"].FastLanguageModel, "from_pretrained", listen)
    train(job(tmp_path, weights, max_length=1024), trainer="unsloth")
    # And its embedding may go into RAM where the GPU is small.
    assert asked == [json.loads((weights / "config.json").read_text())["max_position_embeddings"], "auto"]


def test_an_unsloth_that_cannot_start_is_one_line(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "unsloth", None)
    with pytest.raises(MinisheepError) as error:
        unsloth.start_unsloth(tmp_path)
    assert "--trainer peft" in error.value.fix and "\n" not in str(error.value)
    assert isinstance(error.value, TrainerFailedError)


def test_weights_that_unsloth_alone_cannot_load_are_left_to_peft(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**given: Any) -> Any:
        raise ValueError("this checkpoint is not supported\nby this version")

    monkeypatch.setattr(sys.modules["unsloth"].FastLanguageModel, "from_pretrained", refuse)
    with pytest.raises(TrainerFailedError, match=r"cannot load .*: ValueError: this checkpoint") as error:
        train(job(tmp_path, weights), trainer="unsloth")
    assert "--trainer peft" in error.value.fix and "\n" not in str(error.value)


def test_where_the_choice_is_ours_the_run_goes_on_with_peft_and_says_why_ever_after(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tomli_w

    from minisheep import config
    from minisheep.models.prepared import PreparedModel
    from minisheep.prepare import fake_model
    from minisheep.run.folder import RunFolder
    from minisheep.workspace import Workspace

    for trainer, falls_back in (("auto", True), ("unsloth", False)):
        folder = RunFolder(tmp_path / trainer)
        folder.create()
        folder.settings.write_text(tomli_w.dumps(config.make({"trainer": trainer}).model_dump()))
        dataclasses.replace(fake_model(), trainer="unsloth").write(folder.model)
        before = folder.model.read_bytes()
        error = Workspace(folder.path).give_up_trainer(TrainerFailedError("Unsloth failed: no Python.h.", "do"))
        after = PreparedModel.read(folder.model)
        assert (after.trainer, "no Python.h" in after.trainer_failed) == (
            ("peft", True) if falls_back else ("unsloth", False)
        )
        assert ("PEFT" in error.message) is falls_back
        assert falls_back or (folder.model.read_bytes() == before and error.fix == "do")


def test_its_tokenizer_pads_with_another_token_than_the_model(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unsloth zeroes the row of that token in an untied embedding, which must not be one of the model's own."""
    own = tmp_path / "weights"
    shutil.copytree(weights, own)
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps(config | {"pad_token_id": 3}))
    asked: list[Any] = []

    def listen(**given: Any) -> Any:
        words = json.loads((Path(given["tokenizer_name"]) / "tokenizer.json").read_text())["model"]["vocab"]
        asked.append(words["<pad>"])
        raise ValueError("enough was heard")

    monkeypatch.setattr(sys.modules["unsloth"].FastLanguageModel, "from_pretrained", listen)
    with pytest.raises(TrainerFailedError, match="enough was heard"):
        train(job(tmp_path, own), trainer="unsloth")
    assert asked and asked[0] != 3
