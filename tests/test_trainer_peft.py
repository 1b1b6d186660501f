"""Training on a tiny random model: exact continuation, the right loss, a plain PEFT folder; and once on SmolLM2."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from tiny_training import (
    Killed,
    adapter,
    distance,
    job,
    notes,
    pretend_gguf,
    save_tiny_model,
    train,
)
from trainer_contract import TrainerContract

from minisheep.errors import MinisheepError
from minisheep.run.events import Event
from minisheep.trainers.base import TrainSettings

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("weights") / "tiny-llama")


@pytest.fixture(autouse=True)
def _tiny_base(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "real" not in request.node.name:
        pretend_gguf(monkeypatch)


class TestPeft(TrainerContract):
    trainer = "peft"


def test_without_seeded_dropout_a_resumed_training_would_differ(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from minisheep.trainers import train_loop

    monkeypatch.setattr(train_loop.torch, "manual_seed", lambda seed: None)
    undisturbed, killed = job(tmp_path / "a", weights), job(tmp_path / "b", weights)
    train(undisturbed)
    with pytest.raises(Killed):
        train(killed, kill_after=5)
    train(killed)
    assert distance(adapter(undisturbed), adapter(killed)) > 1e-6


def test_micro_batches_change_nothing(tmp_path: Path, weights: Path) -> None:
    jobs = [job(tmp_path / str(n), weights, micro_batch_size=n, lora_dropout=0.0) for n in (1, 4)]
    for each in jobs:
        train(each)
    # Differences of rounding, which Adam's first steps (gradient over its own size) can lift.
    assert distance(adapter(jobs[0]), adapter(jobs[1])) < 1e-3


def test_weights_that_bring_their_own_code_are_refused_and_nobody_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from minisheep.errors import ModelFileError
    from minisheep.trainers.lora_model import load_base, this_machine

    code = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": code}))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    with pytest.raises(ModelFileError, match="custom code"):
        load_base(tmp_path, this_machine("fp32"))
    assert not (tmp_path / "ran").exists()


def test_the_loss_counts_the_completion_only_and_padding_not_at_all(weights: Path) -> None:
    import torch

    from minisheep.trainers.base import TokenPair
    from minisheep.trainers.lora_model import load_base, loss_sum, this_machine

    model = load_base(weights, this_machine("fp32"))
    pairs = [TokenPair((5, 6, 7, 8, 9, 10), 2), TokenPair((11, 12, 13), 0), TokenPair((20, 21, 22, 23), 3)]
    expected = 0.0
    for pair in pairs:
        logits = model(input_ids=torch.tensor([pair.ids])).logits[0].log_softmax(-1)
        expected -= sum(logits[at - 1, pair.ids[at]].item() for at in range(pair.first, len(pair.ids)))
    assert loss_sum(model, pairs, torch.device("cpu")).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_names_its_step(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    from minisheep.trainers import lora_model, train_loop

    calls: list[int] = []
    honest = lora_model.loss_sum

    def spoilt(*args: Any) -> Any:
        calls.append(1)
        return honest(*args) * (value if len(calls) == 6 else 1.0)

    monkeypatch.setattr(train_loop, "loss_sum", spoilt)
    with pytest.raises(MinisheepError, match="3 of 10") as error:
        train(job(tmp_path, weights))
    assert "learning_rate" in error.value.fix


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks by the old name
def test_the_written_adapter_is_the_best_by_validation(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from peft import PeftModel

    from minisheep.trainers import lora_model, train_loop
    from minisheep.trainers.base import split
    from minisheep.trainers.lora_model import load_base, this_machine
    from minisheep.trainers.peft import tokenise

    honest = lora_model.loss_sum
    validations: list[int] = []

    def worse_and_worse(model: Any, pairs: Any, device: Any) -> Any:
        if model.training:
            return honest(model, pairs, device)
        validations.append(1)
        return honest(model, pairs, device) * len(validations)

    monkeypatch.setattr(train_loop, "loss_sum", worse_and_worse)
    work = job(tmp_path, weights, epochs=3)
    result = train(work)
    assert len(validations) == 3 and result.best_step == 5 and result.best_validation_loss is not None
    model = PeftModel.from_pretrained(load_base(weights, this_machine("fp32")), work.output).eval()
    data = tokenise(work.gguf, work.examples, 1024)
    held = [data.pairs[index] for index in split(len(data.pairs), 0.1, work.settings.seed)[1]]
    loss = honest(model, held, torch.device("cpu")).item() / sum(pair.supervised for pair in held)
    assert loss == pytest.approx(result.best_validation_loss, rel=1e-5)


def test_few_examples_train_without_validation(tmp_path: Path, weights: Path) -> None:
    result = train(job(tmp_path, weights, count=5))
    assert (result.validation_examples, result.best_validation_loss, result.best_step) == (0, None, result.steps)


def test_a_short_warm_up_is_said(tmp_path: Path, weights: Path) -> None:
    said: list[Event] = []
    train(job(tmp_path, weights), said)
    assert "1 of 10" in notes(said)


def test_long_examples_are_cut_or_left_out_and_counted(tmp_path: Path, weights: Path) -> None:
    said: list[Event] = []
    result = train(job(tmp_path, weights, max_length=17), said)
    assert result.truncated > 0 < result.left_out
    assert f"{result.left_out} examples" in notes(said)


def test_a_model_that_does_not_fit_the_memory_is_one_line(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from minisheep.trainers import lora_model

    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(lora_model, "load_base", full)
    with pytest.raises(MinisheepError, match="tiny-llama") as error:
        train(job(tmp_path, weights))
    assert "minisheep plan" in error.value.fix


def test_a_training_that_needs_its_gpu_is_refused_on_the_processor(tmp_path: Path, weights: Path) -> None:
    work = dataclasses.replace(job(tmp_path, weights), needs_gpu=True)
    with pytest.raises(MinisheepError, match="cannot use the GPU") as refused:
        train(work)
    assert "--trainer peft" in refused.value.fix and not work.output.exists()


def test_precision_follows_the_machine() -> None:
    from minisheep.trainers.lora_model import choose_precision

    def chosen(load_in: str, cuda: bool, fast: bool) -> tuple[str, str, bool]:
        got = choose_precision(load_in, cuda=cuda, fast_bf16=fast)
        return got.load_in, str(got.dtype).removeprefix("torch."), bool(got.note)

    assert chosen("auto", True, True) == ("4bit", "bfloat16", False)
    assert chosen("auto", False, True) == ("bf16", "bfloat16", False)
    assert chosen("auto", False, False) == ("fp32", "float32", False)
    assert chosen("bf16", False, False) == ("fp32", "float32", True)
    assert chosen("4bit", False, False) == ("4bit", "float32", True)
    assert chosen("fp32", True, True) == ("fp32", "float32", False)
    assert chosen("auto", True, False) == ("4bit", "float16", True)
    assert chosen("bf16", True, False) == ("bf16", "float16", True)
    gemma = choose_precision("auto", cuda=True, fast_bf16=False, architecture="gemma3")
    assert (gemma.load_in, str(gemma.dtype)) == ("4bit", "torch.float32")
    with pytest.raises(MinisheepError):
        choose_precision("8bit", cuda=True, fast_bf16=True)


def test_a_scale_that_is_too_high_is_halved_until_the_gradients_are_numbers() -> None:
    import torch

    from minisheep.trainers import loss_scale

    weight = torch.nn.Parameter(torch.tensor([3.0, 1e-6]))
    scaling = loss_scale.LossScale(torch.float16)
    tries = 0
    while True:
        tries += 1
        weight.grad = None
        scaling.scaled((weight.half() * torch.tensor([64.0, 1.0]).half()).sum().float()).backward()  # type: ignore
        if scaling.unscale([weight], 0.0):
            break
    # 64 times the scale must be below 65,504; without a scale, half of float16's range below one is lost.
    assert scaling.scale == 512.0 and tries == 6
    assert weight.grad is not None and weight.grad.tolist() == [64.0, 1.0]
    for _ in range(loss_scale.GROWTH - 1):
        assert scaling.unscale([weight], 0.0)
    assert scaling.scale == 1024.0


def test_an_overflow_that_no_scale_mends_is_left_to_the_loop_and_other_formats_are_not_touched() -> None:
    import torch

    from minisheep.trainers.loss_scale import LossScale

    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([math.inf, 1.0])
    assert LossScale(torch.float16).unscale([weight], math.nan)
    for dtype in (torch.float32, torch.bfloat16):
        weight.grad = torch.tensor([math.inf, 0.3])
        scaling = LossScale(dtype)
        assert scaling.unscale([weight], 1.0) and weight.grad.tolist()[0] == math.inf and scaling.scale == 1.0
        assert scaling.scaled(weight) is weight


def test_a_training_in_float16_repeats_what_overflows_and_goes_on_exactly_after_a_kill(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny model computes in float32 here; what it lacks of float16, gradients that overflow, is put in."""
    import torch

    from minisheep.trainers import loss_scale, train_loop

    honest, overflows = train_loop.loss_sum, [0]
    monkeypatch.setattr(loss_scale, "GROWTH", 3)

    class Overflow(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, loss: torch.Tensor) -> torch.Tensor:
            return loss.clone()

        @staticmethod
        def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
            if float(grads[0]) > 100:
                overflows[0] += 1
                return grads[0] * math.inf
            return grads[0]

    monkeypatch.setattr(train_loop, "loss_sum", lambda *given: Overflow.apply(honest(*given)))
    plain = job(tmp_path / "plain", weights, 9)
    train(plain)
    assert overflows == [0]
    loop_scale = loss_scale.LossScale
    monkeypatch.setattr(train_loop, "LossScale", lambda dtype: loop_scale(torch.float16))
    whole, killed = job(tmp_path / "whole", weights, 9), job(tmp_path / "killed", weights, 9)
    train(whole)
    assert overflows[0] > 2
    # A power of two changes no digit of a float32, so every step is the one of the plain training.
    assert distance(adapter(plain), adapter(whole)) <= 1e-6
    with pytest.raises(Killed):
        train(killed, kill_after=4)
    train(killed)
    assert distance(adapter(whole), adapter(killed)) == 0


def test_dropout_drops_its_share_and_says_how_much() -> None:
    import torch

    from minisheep.trainers.cpu_lora import draw_dropped

    torch.manual_seed(1)
    mask, used = draw_dropped((1001, 999), 0.05)
    torch.manual_seed(1)
    again, _ = draw_dropped((1001, 999), 0.05)
    other, _ = draw_dropped((1001, 999), 0.05)
    assert mask is not None and again is not None and other is not None
    assert used == pytest.approx(0.05, abs=2e-3)
    assert mask.float().mean().item() == pytest.approx(used, abs=1e-3)
    assert torch.equal(mask, again) and not torch.equal(mask, other)
    assert draw_dropped((3, 3), 0.0) == (None, 0.0)


def four_bit_gradients(weights: Path) -> dict[str, Any]:
    """LoRA gradients of a 4-bit model before and after it was evaluated once; the cosine of each pair."""
    import torch

    from minisheep.trainers.base import TokenPair
    from minisheep.trainers.lora_model import add_lora, load_base, loss_sum, this_machine

    model = add_lora(load_base(weights, this_machine("4bit")), TrainSettings(lora_dropout=0.0), "tiny")
    pairs, found = [TokenPair(tuple(range(30, 60)), 4)], []
    for _ in range(2):
        model.train()
        model.zero_grad()
        loss_sum(model, pairs, torch.device("cpu")).backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if "lora_B" in name})
        model.eval()
        with torch.no_grad():
            loss_sum(model, pairs, torch.device("cpu"))
    return {name: torch.cosine_similarity(*(f[name].flatten() for f in found), dim=0).item() for name in found[0]}


def test_four_bit_gradients_survive_an_evaluation(weights: Path) -> None:
    assert min(four_bit_gradients(weights).values()) > 0.9999


@pytest.mark.filterwarnings("ignore:bitsandbytes..gemv_4bit:UserWarning")  # the wrong kernel, as expected
def test_without_the_workaround_an_evaluation_spoils_four_bit_gradients(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from minisheep.trainers import lora_model

    if "avx512_bf16" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("bitsandbytes repacks 4-bit weights on processors with AVX512-BF16 only")
    monkeypatch.setattr(lora_model, "disable_cpu_packing", lambda model: None)
    with pytest.raises(AssertionError):
        assert min(four_bit_gradients(weights).values()) > 0.9999


def test_a_real_model_trains_converts_and_gets_better(tmp_path: Path) -> None:
    import llama_cpp
    import real_models

    from minisheep.engines import native
    from minisheep.formats.gguf_to_hf import dequantise
    from minisheep.formats.lora_gguf import convert_adapter

    gguf = real_models.smollm2()
    folder = gguf.with_name("smollm2-135m-weights")
    dequantise(gguf, folder, lambda event: None)
    work = dataclasses.replace(
        job(tmp_path, folder, count=9, load_in="auto", learning_rate=1e-3, epochs=3, batch_size=9), gguf=gguf
    )
    result = train(work)
    assert result.last_loss < result.first_loss
    convert_adapter(work.output, gguf, tmp_path / "adapter.gguf")
    model = native.load_model(gguf)
    loaded = llama_cpp.llama_adapter_lora_init(model, str(tmp_path / "adapter.gguf").encode())
    assert loaded
    llama_cpp.llama_adapter_lora_free(loaded)
    llama_cpp.llama_model_free(model)
