"""What every trainer promises, told as tests: a class of a test module that inherits them names its trainer.

The module gives a fixture `weights`, a folder with the tiny model of tiny_training.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import tiny_training
from tiny_training import Killed, adapter, distance, examples, facts, job, notes, steps

from minisheep.errors import (
    CorruptRunError,
    MinisheepError,
    ModelFileError,
    StarvedError,
    Stopped,
    UnsupportedModelError,
)
from minisheep.run.events import Event
from minisheep.trainers.base import TrainResult


class TrainerContract:
    trainer: str

    def train(self, *args: Any, **given: Any) -> TrainResult:
        return tiny_training.train(*args, trainer=self.trainer, **given)

    @pytest.mark.parametrize("kill_after", [2, 5, 6, 10])
    def test_a_killed_training_ends_with_the_adapter_of_an_undisturbed_one(
        self, tmp_path: Path, weights: Path, kill_after: int
    ) -> None:
        undisturbed, killed = job(tmp_path / "a", weights), job(tmp_path / "b", weights)
        whole = self.train(undisturbed)
        said: list[Event] = []
        with pytest.raises(Killed):
            self.train(killed, kill_after=kill_after)
        resumed = self.train(killed, said)
        assert f"after step {kill_after - 1} of 10" in notes(said)
        assert distance(adapter(undisturbed), adapter(killed)) <= 1e-6
        assert dataclasses.replace(resumed, seconds=0) == dataclasses.replace(whole, seconds=0)

    @pytest.mark.parametrize("looks", [1, 7, 14, 17])
    def test_a_stopped_training_saves_and_goes_on_exactly(self, tmp_path: Path, weights: Path, looks: int) -> None:
        undisturbed, stopped = job(tmp_path / "a", weights), job(tmp_path / "b", weights, checkpoint_seconds=9e9)
        self.train(undisturbed)
        seen: list[int] = []
        with pytest.raises(Stopped):
            self.train(stopped, should_stop=lambda: len(seen) >= looks or bool(seen.append(1)))
        assert not stopped.output.exists()
        assert len(list(stopped.scratch.glob("step-*"))) == (looks > 2)
        said: list[Event] = []
        self.train(stopped, said)
        assert distance(adapter(undisturbed), adapter(stopped)) <= 1e-6
        assert steps(said)[-1].step == 10

    def test_the_loss_falls_on_what_can_be_learned(self, tmp_path: Path, weights: Path) -> None:
        said: list[Event] = []
        result = self.train(job(tmp_path, weights, epochs=6), said)
        assert result.last_loss < result.first_loss - 0.5
        assert abs(result.first_loss - math.log(520)) < 1
        assert [event.step for event in steps(said)] == list(range(1, result.steps + 1))

    def test_counts_are_those_of_the_data(self, tmp_path: Path, weights: Path) -> None:
        result = self.train(job(tmp_path, weights))
        assert (result.examples, result.validation_examples, result.steps) == (20, 2, 10)
        lengths = [1 + sum(len(s.text) for s in (*example.prompt, *example.completion)) for example in examples()]
        assert sum(lengths) > result.tokens / 2 > sum(sorted(lengths)[:20]) - 1

    def test_a_full_memory_halves_the_micro_batch_and_goes_on(
        self, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import torch

        from minisheep.trainers import lora_model, train_loop

        honest = lora_model.loss_sum

        def small(model: Any, pairs: Any, device: Any) -> Any:
            if len(pairs) > 1:
                raise torch.OutOfMemoryError("full")
            return honest(model, pairs, device)

        alone, halved = (
            job(tmp_path / "a", weights, micro_batch_size=1),
            job(tmp_path / "b", weights, micro_batch_size=4),
        )
        self.train(alone)
        monkeypatch.setattr(train_loop, "loss_sum", small)
        said: list[Event] = []
        self.train(halved, said)
        assert "micro-batches of 1" in notes(said)
        assert distance(adapter(alone), adapter(halved)) <= 1e-6

    def test_a_full_memory_in_validation_halves_the_micro_batch_too(
        self, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import torch

        from minisheep.trainers import lora_model, train_loop

        honest = lora_model.loss_sum

        def small(model: Any, pairs: Any, device: Any) -> Any:
            if not model.training and len(pairs) > 1:
                raise torch.OutOfMemoryError("full")
            return honest(model, pairs, device)

        monkeypatch.setattr(train_loop, "loss_sum", small)
        said: list[Event] = []
        result = self.train(job(tmp_path, weights), said)
        assert "micro-batches of 1" in notes(said)
        assert result.best_validation_loss is not None and result.micro_batch_size == 1

    def test_what_fitted_the_memory_is_remembered_after_a_kill(
        self, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:

        from minisheep.trainers import lora_model, train_loop

        honest = lora_model.loss_sum
        widest: list[int] = []

        def small(model: Any, pairs: Any, device: Any) -> Any:
            widest.append(len(pairs))
            if len(pairs) > 1:
                raise RuntimeError("CUDA error: out of memory")
            return honest(model, pairs, device)

        monkeypatch.setattr(train_loop, "loss_sum", small)
        work = job(tmp_path, weights, micro_batch_size=4)
        with pytest.raises(Killed):
            self.train(work, kill_after=3)
        widest.clear()
        assert self.train(work).micro_batch_size == 1
        assert max(widest) == 1

    def test_another_error_of_the_gpu_is_not_taken_for_a_full_memory(
        self, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from minisheep.trainers import train_loop

        def broken(*_: Any) -> Any:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

        monkeypatch.setattr(train_loop, "loss_sum", broken)
        with pytest.raises(RuntimeError, match="illegal memory access"):
            self.train(job(tmp_path, weights))

    def test_a_memory_too_small_for_one_example_is_one_line(
        self, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import torch

        from minisheep.trainers import train_loop

        def full(*_: Any) -> Any:
            raise torch.OutOfMemoryError("full")

        monkeypatch.setattr(train_loop, "loss_sum", full)
        with pytest.raises(MinisheepError, match=r"max.length"):
            self.train(job(tmp_path, weights))

    @pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks by the old name
    def test_the_output_is_a_plain_peft_folder(self, tmp_path: Path, weights: Path) -> None:
        from peft import PeftModel

        from minisheep.formats.lora_gguf import check_config
        from minisheep.trainers.lora_model import adapter_tensors, load_base, this_machine

        work = job(tmp_path, weights)
        self.train(work)
        text = (work.output / "adapter_config.json").read_text()
        assert json.loads(text)["base_model_name_or_path"] == "tiny-llama"
        assert str(tmp_path) not in text and str(weights.parent) not in text
        check_config(json.loads(text))
        loaded = PeftModel.from_pretrained(load_base(weights, this_machine("fp32")), work.output)
        assert distance(adapter_tensors(loaded), adapter(work)) == 0
        assert not list(work.scratch.glob("*"))

    def test_a_finished_job_is_not_done_again(self, tmp_path: Path, weights: Path) -> None:
        work = job(tmp_path, weights)
        first, said = self.train(work), list[Event]()
        assert self.train(work, said) == first
        assert steps(said) == []

    def test_an_output_of_another_training_is_not_overwritten(self, tmp_path: Path, weights: Path) -> None:
        self.train(job(tmp_path, weights))
        before = adapter(job(tmp_path, weights))
        with pytest.raises(CorruptRunError):
            self.train(job(tmp_path, weights, count=12))
        assert distance(before, adapter(job(tmp_path, weights))) == 0

    def test_nothing_to_learn_from_is_one_line(self, tmp_path: Path, weights: Path) -> None:
        with pytest.raises(StarvedError, match="4 tokens"):
            self.train(job(tmp_path, weights, max_length=4))

    def test_weights_of_another_model_are_refused_before_training(
        self, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from minisheep.formats import lora_gguf

        other = dataclasses.replace(facts(), shapes={name: (7, 7) for name in facts().shapes})
        monkeypatch.setattr(lora_gguf, "read_base", lambda path: other)
        said: list[Event] = []
        with pytest.raises(UnsupportedModelError):
            self.train(job(tmp_path, weights), said)
        assert steps(said) == []

    def test_a_folder_without_weights_is_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(ModelFileError):
            self.train(job(tmp_path, tmp_path / "nothing"))

    @pytest.mark.parametrize("load_in", ["4bit", "bf16"])
    def test_other_number_formats_train_and_resume(self, tmp_path: Path, weights: Path, load_in: str) -> None:
        undisturbed, killed = (
            job(tmp_path / "a", weights, load_in=load_in),
            job(tmp_path / "b", weights, load_in=load_in),
        )
        result = self.train(undisturbed)
        assert result.last_loss < result.first_loss
        with pytest.raises(Killed):
            self.train(killed, kill_after=7)
        self.train(killed)
        assert distance(adapter(undisturbed), adapter(killed)) <= 1e-6
