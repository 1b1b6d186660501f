"""The fake trainer behaves as a trainer does, and nobody can take its output for an adapter."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from minisheep.errors import CorruptRunError, ModelFileError, Stopped
from minisheep.rules.templates import Segment
from minisheep.run.events import Event, TrainStep
from minisheep.trainers.base import TrainExample, TrainJob, TrainSettings
from minisheep.trainers.fake_trainer import FakeTrainer, fake_adapter_gguf


def job(path: Path, count: int = 40, text: str = "answer") -> TrainJob:
    examples = tuple(
        TrainExample((Segment(f"question {i}"),), (Segment(f"{text} {i}"), Segment("<end>", True)))
        for i in range(count)
    )
    settings = TrainSettings(batch_size=4)
    return TrainJob(1, examples, path / "m.gguf", path / "w", path / "adapter", path / "scratch", settings)


def never() -> bool:
    return False


def steps(said: list[Event]) -> list[TrainStep]:
    return [event for event in said if isinstance(event, TrainStep)]


def test_the_loss_falls_and_every_step_is_told(tmp_path: Path) -> None:
    said: list[Event] = []
    result = FakeTrainer().train(job(tmp_path), said.append, never)
    told = steps(said)
    assert [event.step for event in told] == list(range(1, result.steps + 1)) == list(range(1, 19))
    losses = [event.loss for event in told]
    assert losses == sorted(losses, reverse=True)
    assert (result.first_loss, result.last_loss) == (losses[0], losses[-1])


def test_each_epoch_ends_with_a_validation(tmp_path: Path) -> None:
    said: list[Event] = []
    FakeTrainer().train(job(tmp_path), said.append, never)
    assert [event.step for event in steps(said) if event.validation_loss is not None] == [9, 18]


def test_the_output_says_that_it_is_fake(tmp_path: Path) -> None:
    FakeTrainer().train(job(tmp_path), lambda event: None, never)
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["fake"] is True
    assert (tmp_path / "adapter" / "adapter_model.safetensors").read_text() == "FAKE\n"


def test_other_examples_give_another_adapter(tmp_path: Path) -> None:
    for name in ("answer", "reply"):
        (tmp_path / name).mkdir()
        FakeTrainer().train(job(tmp_path / name, text=name), lambda event: None, never)
    configs = [(tmp_path / name / "adapter" / "adapter_config.json").read_text() for name in ("answer", "reply")]
    assert configs[0] != configs[1]


def test_a_stopped_training_goes_on_after_its_last_step(tmp_path: Path) -> None:
    said: list[Event] = []
    with pytest.raises(Stopped):
        FakeTrainer().train(job(tmp_path), said.append, lambda: len(said) == 5)
    assert not (tmp_path / "adapter").exists()
    result = FakeTrainer().train(job(tmp_path), said.append, never)
    assert [event.step for event in steps(said)] == list(range(1, 19))
    undisturbed = FakeTrainer().train(
        dataclasses.replace(job(tmp_path), output=tmp_path / "other"), lambda event: None, never
    )
    assert result == undisturbed


@pytest.mark.parametrize("content", ["", "{", "[]", '{"step": 5}', '{"fingerprint": "other", "step": 5}'])
def test_a_damaged_or_foreign_checkpoint_is_not_used(tmp_path: Path, content: str) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "fake-checkpoint.json").write_text(content)
    said: list[Event] = []
    FakeTrainer().train(job(tmp_path), said.append, never)
    assert steps(said)[0].step == 1


def test_the_fake_adapter_is_no_gguf(tmp_path: Path) -> None:
    fake_adapter_gguf(tmp_path / "adapter.gguf", "0123456789abcdef")
    assert (tmp_path / "adapter.gguf").read_bytes() == b"FAKE adapter 0123456789abcdef\n"


def test_the_light_modules_import_nothing_heavy() -> None:
    code = (
        "import sys, minisheep.trainers.fake_trainer, minisheep.formats.lora_gguf, minisheep.trainers.base\n"
        "heavy = {'torch', 'transformers', 'peft', 'llama_cpp', 'gguf', 'numpy'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_another_start_gives_another_adapter(tmp_path: Path) -> None:
    """And the same start the same one."""
    for name in ("answer", "reply"):
        FakeTrainer().train(job(tmp_path / name, text=name), lambda event: None, never)
    starts = {"base": None, "a": tmp_path / "answer" / "adapter", "b": tmp_path / "reply" / "adapter"}
    made = {}
    for name, start in [*starts.items(), ("a again", starts["a"])]:
        work = dataclasses.replace(job(tmp_path / f"from {name}"), start=start)
        FakeTrainer().train(work, lambda event: None, never)
        made[name] = json.loads((work.output / "adapter_config.json").read_text())["examples"]
    assert made.pop("a again") == made["a"]
    assert len(set(made.values())) == 3


def test_a_checkpoint_of_another_start_is_not_used(tmp_path: Path) -> None:
    FakeTrainer().train(job(tmp_path / "first"), lambda event: None, never)
    said: list[Event] = []
    with pytest.raises(Stopped):
        FakeTrainer().train(job(tmp_path), said.append, lambda: len(said) == 5)
    FakeTrainer().train(dataclasses.replace(job(tmp_path), start=tmp_path / "first" / "adapter"), said.append, never)
    assert [event.step for event in steps(said)] == [*range(1, 6), *range(1, 19)]


def test_an_adapter_of_another_start_is_not_taken_for_this_one(tmp_path: Path) -> None:
    FakeTrainer().train(job(tmp_path / "first"), lambda event: None, never)
    FakeTrainer().train(job(tmp_path), lambda event: None, never)
    with pytest.raises(CorruptRunError):
        FakeTrainer().train(
            dataclasses.replace(job(tmp_path), start=tmp_path / "first" / "adapter"), lambda event: None, never
        )


def test_a_start_of_another_rank_or_none_at_all_is_refused(tmp_path: Path) -> None:
    FakeTrainer().train(job(tmp_path / "first"), lambda event: None, never)
    work = dataclasses.replace(job(tmp_path), start=tmp_path / "first" / "adapter")
    with pytest.raises(ModelFileError, match="rank 8"):
        FakeTrainer().train(dataclasses.replace(work, settings=TrainSettings(lora_rank=4)), lambda event: None, never)
    with pytest.raises(ModelFileError):
        FakeTrainer().train(dataclasses.replace(work, start=tmp_path / "nothing"), lambda event: None, never)
