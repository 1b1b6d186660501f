"""Training that goes on from an adapter: it begins where that one ended, and two starts are two trainings."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_training import Killed, adapter, distance, job, notes, pretend_gguf, save_tiny_model, steps, train

from minisheep.errors import CorruptRunError, ModelFileError
from minisheep.run.events import Event
from minisheep.trainers.base import TrainJob
from minisheep.trainers.checkpoint import differences

pytestmark = pytest.mark.model

RANDOM_LOSS = 6.25
"""ln 520: what the tiny random model has before any training."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("weights") / "tiny-llama")


@pytest.fixture(autouse=True)
def _tiny_base(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gguf(monkeypatch)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Path:
    """A trained adapter to go on from."""
    work = job(tmp_path_factory.mktemp("first"), weights, epochs=4)
    with pytest.MonkeyPatch.context() as patch:
        pretend_gguf(patch)
        train(work)
    return work.output


def onward(folder: Path, weights: Path, start: Path | None, count: int = 22, **settings: Any) -> TrainJob:
    return dataclasses.replace(job(folder, weights, count, **settings), start=start)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks by the old name
def test_the_first_loss_is_that_of_the_adapter_that_it_starts_from(tmp_path: Path, weights: Path, first: Path) -> None:
    import torch
    from peft import PeftModel

    from minisheep.trainers.lora_model import load_base, loss_sum, this_machine
    from minisheep.trainers.peft import tokenise

    work = onward(tmp_path, weights, first, batch_size=22, lora_dropout=0.0, validation=0.0)
    said: list[Event] = []
    result = train(work, said)
    pairs = tokenise(work.gguf, work.examples, 1024).pairs
    model = PeftModel.from_pretrained(load_base(weights, this_machine("fp32")), first).eval()
    of_adapter = loss_sum(model, pairs, torch.device("cpu")).item() / sum(pair.supervised for pair in pairs)
    assert result.first_loss == pytest.approx(of_adapter, rel=1e-5)
    assert result.first_loss < RANDOM_LOSS - 0.5
    assert str(first) in notes(said)


@pytest.mark.parametrize("load_in", ["fp32", "bf16", "4bit"])
def test_a_training_that_learns_nothing_returns_its_start(
    tmp_path: Path, weights: Path, first: Path, load_in: str
) -> None:
    work = onward(tmp_path, weights, first, learning_rate=0.0, load_in=load_in)
    train(work)
    assert distance(adapter(work), adapter(job(first.parent, weights))) == 0


@pytest.mark.parametrize("kill_after", [2, 6])
def test_a_killed_training_from_a_start_ends_as_an_undisturbed_one(
    tmp_path: Path, weights: Path, first: Path, kill_after: int
) -> None:
    undisturbed, killed = onward(tmp_path / "a", weights, first), onward(tmp_path / "b", weights, first)
    whole = train(undisturbed)
    with pytest.raises(Killed):
        train(killed, kill_after=kill_after)
    said: list[Event] = []
    resumed = train(killed, said)
    assert f"after step {kill_after - 1} of 10" in notes(said)
    assert distance(adapter(undisturbed), adapter(killed)) <= 1e-6
    assert dataclasses.replace(resumed, seconds=0) == dataclasses.replace(whole, seconds=0)


@pytest.mark.parametrize("then", ["none", "other"])
def test_a_checkpoint_of_another_start_is_not_gone_on_from(
    tmp_path: Path, weights: Path, first: Path, then: str
) -> None:
    other = onward(tmp_path / "other", weights, None, epochs=1)
    train(other)
    with pytest.raises(Killed):
        train(onward(tmp_path, weights, first), kill_after=5)
    said: list[Event] = []
    train(onward(tmp_path, weights, {"none": None, "other": other.output}[then]), said)
    assert steps(said)[0].step == 1


def test_an_adapter_made_from_another_start_is_not_taken_for_this_one(
    tmp_path: Path, weights: Path, first: Path
) -> None:
    train(onward(tmp_path, weights, None))
    with pytest.raises(CorruptRunError):
        train(onward(tmp_path, weights, first))


def test_a_finished_training_from_a_start_is_not_done_again(tmp_path: Path, weights: Path, first: Path) -> None:
    work, said = onward(tmp_path, weights, first), list[Event]()
    result = train(work)
    assert train(work, said) == result
    assert steps(said) == []


def test_a_training_from_the_base_is_identified_as_before_there_were_starts(tmp_path: Path, weights: Path) -> None:
    """Or a run that was begun with an older version would not be continued."""
    from minisheep.trainers.lora_model import this_machine
    from minisheep.trainers.peft import tokenise, training_fingerprint

    work = job(tmp_path, weights)
    fixed = dataclasses.replace(work, weights=tmp_path)
    found = training_fingerprint(fixed, tokenise(work.gguf, work.examples, 1024), this_machine("fp32"), start=None)
    assert found == "e6e1eb6a06ec68cc"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"lora_rank": 4}, "rank 8 .*rank 4"),
        ({"lora_alpha": 8.0}, "alpha 16.*alpha 8"),
        ({"rslora": True}, "rank-stabilised"),
    ],
)
def test_a_start_of_another_rank_or_scale_is_refused_in_one_line(
    tmp_path: Path, weights: Path, first: Path, settings: dict[str, Any], says: str
) -> None:
    said: list[Event] = []
    with pytest.raises(ModelFileError, match=says) as error:
        train(onward(tmp_path, weights, first, **settings), said)
    assert "\n" not in str(error.value) and error.value.fix
    assert steps(said) == []


def spoilt(first: Path, folder: Path, change: str) -> Path:
    """A copy of `first` with one tensor changed."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(first / "adapter_model.safetensors")
    name = min(tensors)
    if change == "shape":
        tensors[name] = np.zeros((4, tensors[name].shape[1]), np.float32)
    elif change == "extra":
        tensors[f"{name}.more"] = tensors[name]
    elif change == "missing":
        del tensors[name]
    elif change == "nan":
        tensors[name][0, 0] = np.nan
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_bytes((first / "adapter_config.json").read_bytes())
    return folder


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("shape", r"lora_A.weight.*\[4, 128\].*\[8, 128\]"),
        ("extra", r"lora_A\.weight\.more"),
        ("missing", "is missing"),
        ("nan", "NaN"),
    ],
)
def test_a_start_that_is_not_of_this_model_is_refused_by_name(
    tmp_path: Path, weights: Path, first: Path, change: str, says: str
) -> None:
    said: list[Event] = []
    with pytest.raises(ModelFileError, match=says):
        train(onward(tmp_path, weights, spoilt(first, tmp_path / "spoilt", change)), said)
    assert steps(said) == []


@pytest.mark.parametrize("torn", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_start_that_cannot_be_read_is_one_line(tmp_path: Path, weights: Path, first: Path, torn: str) -> None:
    start = spoilt(first, tmp_path / "torn", "nothing")
    (start / torn).write_bytes((start / torn).read_bytes()[:40])
    with pytest.raises(ModelFileError, match=torn):
        train(onward(tmp_path, weights, start))
    with pytest.raises(ModelFileError):
        train(onward(tmp_path, weights, tmp_path / "nothing"))


def test_the_next_round_can_start_from_what_a_started_one_wrote(tmp_path: Path, weights: Path, first: Path) -> None:
    second = onward(tmp_path / "2", weights, first)
    train(second)
    third = onward(tmp_path / "3", weights, second.output)
    assert train(third).first_loss < train(onward(tmp_path / "fresh", weights, None)).first_loss - 0.5
    assert json.loads((third.output / "adapter_config.json").read_text())["r"] == 8


def test_differences_name_every_tensor_once() -> None:
    assert differences({"a": (1, 2), "b": (3,), "x": (1,)}, {"a": (1, 2), "b": (4,), "c": (1,)}) == [
        "c is missing",
        "x is not in the model",
        "b is [3], not [4]",
    ]
    assert differences({"a": (1,)}, {"a": (1,)}) == []
