"""The written-out training of processors computes what transformers and PEFT compute, for every architecture."""

from __future__ import annotations

import functools
from typing import Any

import pytest

pytestmark = pytest.mark.model

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3_text")


def tiny(architecture: str) -> Any:
    """A random base model in float32, heads grouped, with a window (Gemma) shorter than the test's sequences."""
    import minisheep.trainers.lora_model  # noqa: F401  # takes the Hub off line

    import torch  # isort: skip
    import transformers  # isort: skip

    torch.manual_seed(0)
    window = {"sliding_window": 8} if architecture == "gemma3_text" else {}
    config = transformers.AutoConfig.for_model(
        architecture,
        vocab_size=300,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=256,
        **window,
    )
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.requires_grad_(False)
    return model


def adapted(architecture: str, monkeypatch: pytest.MonkeyPatch, *, quick: bool) -> Any:
    """With a LoRA whose B is not zero; the same parameters whether it is quickened or not."""
    from minisheep.trainers import lora_model
    from minisheep.trainers.base import TrainSettings

    import torch  # isort: skip

    base = tiny(architecture)
    with monkeypatch.context() as patch:
        if not quick:
            patch.setattr(lora_model, "patch_for_cpu", lambda model: None)
        model = lora_model.add_lora(base, TrainSettings(lora_dropout=0.0), "tiny")
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05, generator=generator)
    return model.train()


def some_pairs() -> list[Any]:
    from minisheep.trainers.base import TokenPair

    return [
        TokenPair(tuple((7 * i * i + 3 * k + 5) % 300 for i in range(length)), prompt)
        for k, (length, prompt) in enumerate(((5, 2), (23, 9), (12, 0), (17, 16)))
    ]


def gradients(model: Any, micro_batches: list[list[Any]]) -> tuple[float, dict[str, Any]]:
    import torch

    from minisheep.trainers.lora_model import loss_sum

    model.zero_grad()
    total = 0.0
    for pairs in micro_batches:
        loss = loss_sum(model, pairs, torch.device("cpu"))
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def assert_same(one: tuple[float, dict[str, Any]], other: tuple[float, dict[str, Any]]) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        highest = other[1][name].abs().max().item()
        assert (gradient - other[1][name]).abs().max().item() <= 1e-4 * highest, name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_and_gradients_are_those_of_transformers_and_peft(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from minisheep.trainers.cpu_lora import can_pack

    quick, plain = (adapted(architecture, monkeypatch, quick=quick) for quick in (True, False))
    assert can_pack(quick) and not can_pack(plain)
    assert_same(gradients(quick, [some_pairs()]), gradients(plain, [[pair] for pair in some_pairs()]))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_examples_do_not_see_each_other(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted(architecture, monkeypatch, quick=True)
    assert_same(gradients(model, [some_pairs()]), gradients(model, [[pair] for pair in some_pairs()]))


def test_the_output_layer_in_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from minisheep.trainers import lora_model

    model = adapted("llama", monkeypatch, quick=True)
    whole = gradients(model, [some_pairs()])
    monkeypatch.setattr(lora_model, "HEAD_ELEMENTS", 700)
    assert_same(gradients(model, [some_pairs()]), whole)


def test_the_loss_is_finite_where_a_probability_underflows() -> None:
    import torch

    from minisheep.trainers.lora_model import HeadLoss

    hidden = torch.tensor([[100.0]], requires_grad=True)
    head, target = torch.tensor([[2.0], [-2.0]]), torch.tensor([1])
    loss = HeadLoss.apply(hidden, head, target)  # type: ignore[no-untyped-call]
    loss.backward()
    assert loss.item() == pytest.approx(400.0)
    assert hidden.grad is not None and hidden.grad.item() == pytest.approx(4.0)


def test_the_gated_unit_has_the_gradients_of_differences() -> None:
    import torch

    torch.manual_seed(0)
    gate, up = (torch.randn(3, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    for gelu in (False, True):
        unit = functools.partial(_gated, gelu)
        assert torch.autograd.gradcheck(unit, (gate, up))


def _gated(gelu: bool, gate: Any, up: Any) -> Any:
    from minisheep.trainers.cpu_lora import GatedUnit

    return GatedUnit.apply(gate, up, gelu)  # type: ignore[no-untyped-call]
