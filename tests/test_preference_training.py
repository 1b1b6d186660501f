"""Training on pairs of answers: the published losses to 1e-5, the same on every path, and an exact continuation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_training import (
    Killed,
    adapter,
    distance,
    examples,
    job,
    notes,
    pretend_gguf,
    save_tiny_model,
    steps,
    train,
)

from minisheep.errors import CorruptRunError
from minisheep.rules.templates import Segment
from minisheep.run.events import Event
from minisheep.trainers.base import TokenPair, TrainExample, TrainJob, TrainSettings

PAIRS = (
    TokenPair((5, 6, 7, 8, 9, 10), 2, (5, 6, 20, 21, 22)),
    TokenPair((11, 12, 13, 40, 41), 3, (11, 12, 13, 50, 51, 52, 53)),
    TokenPair((30, 31, 32, 33), 1),
    TokenPair((60, 61, 62, 63, 64), 2, (60, 61, 70, 71)),
)
"""The third has no worse answer, so `orpo` alone can use it."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("weights") / "tiny-llama")


@pytest.fixture(autouse=True)
def _tiny_base(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "real" not in request.node.name:
        pretend_gguf(monkeypatch)


def paired(made: TrainJob, loss: str, *, without: int = 0, **settings: Any) -> TrainJob:
    """The job with a rejected answer for all but the last `without` examples."""
    given = [
        dataclasses.replace(e, rejected=(Segment(f"wrong {i % 3}" + "?" * (i % 4)), Segment("E", True)))
        if i < len(made.examples) - without
        else e
        for i, e in enumerate(made.examples)
    ]
    chosen = dataclasses.replace(made.settings, loss=loss, lora_dropout=0.0, **settings)
    return dataclasses.replace(made, examples=tuple(given), settings=chosen)


def log_likelihood(logits: np.ndarray[Any, Any], pair: TokenPair) -> np.float64:
    """Summed over an answer's tokens, from the whole text's logits [tokens, vocabulary], in float64."""
    z = logits.astype(np.float64)
    logp = z - z.max(-1, keepdims=True)
    logp = logp - np.log(np.exp(logp).sum(-1, keepdims=True))
    return np.float64(sum(logp[at - 1, pair.ids[at]] for at in range(pair.first, len(pair.ids))))


def published(
    loss: str, beta: float, batch: list[TokenPair], p: dict[TokenPair, float], q: dict[TokenPair, float]
) -> float:
    """The papers' formulas, as TRL averages them, in float64: `p` of the model, `q` of its base."""
    terms = []
    for pair in batch:
        worse = pair.rejected
        if worse is None:
            continue
        if loss == "dpo":
            x = beta * ((p[pair] - q[pair]) - (p[worse] - q[worse]))
        else:
            (a, b) = (np.exp(p[text] / text.supervised) for text in (pair, worse))
            x = np.log(a / (1 - a)) - np.log(b / (1 - b))
        terms.append(np.log1p(np.exp(-x)))
    if loss == "dpo":
        return float(np.mean(terms))
    nll = -sum(p[pair] for pair in batch) / sum(pair.supervised for pair in batch)
    return float(nll + beta * np.sum(terms) / len(batch))


def adapted(weights: Path, *, quick: bool, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The tiny model with a LoRA that is not zero; `quick`: with the layers written out for a processor."""
    import torch

    from minisheep.trainers import lora_model

    with monkeypatch.context() as patch:
        if not quick:
            patch.setattr(lora_model, "patch_for_cpu", lambda model: None)
        base = lora_model.load_base(weights, lora_model.this_machine("fp32"))
        model = lora_model.add_lora(base, TrainSettings(lora_dropout=0.0), "tiny")
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=generator)
    return model.train()


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize(("loss", "beta"), [("orpo", 0.1), ("orpo", 1.0), ("dpo", 0.1), ("dpo", 0.5)])
def test_the_losses_are_the_published_ones(
    weights: Path, monkeypatch: pytest.MonkeyPatch, loss: str, beta: float, quick: bool
) -> None:
    import torch

    from minisheep.trainers.lora_model import sequence_losses
    from minisheep.trainers.preference import Portion, preference_loss, sequences

    model = adapted(weights, quick=quick, monkeypatch=monkeypatch)
    reference = adapted(weights, quick=False, monkeypatch=monkeypatch)
    batch = [pair for pair in PAIRS if pair.worse or loss == "orpo"]
    p: dict[TokenPair, float] = {}
    q: dict[TokenPair, float] = {}
    with torch.no_grad():
        for text in sequences(batch):
            ids = torch.tensor([text.ids])
            p[text] = log_likelihood(reference(input_ids=ids).logits[0].numpy(), text)
            with reference.disable_adapter():
                q[text] = log_likelihood(reference(input_ids=ids).logits[0].numpy(), text)
    assert max(abs(p[text] - q[text]) for text in p) > 0.1

    device, texts = torch.device("cpu"), sequences(batch)
    with torch.no_grad(), model.disable_adapter():
        base = sequence_losses(model, texts, device)
    found = preference_loss(loss, beta, batch, sequence_losses(model, texts, device), base, Portion.of(batch))
    assert found.item() == pytest.approx(published(loss, beta, batch, p, q), abs=1e-5)


AS_TRL = (
    TokenPair((5, 6, 7, 8, 9, 10), 1, (5, 20, 21, 22)),
    TokenPair((11, 12, 13, 40, 41), 1, (11, 50, 51, 52, 53, 54, 55)),
    TokenPair((60, 61, 62, 63, 64), 1, (60, 70, 71)),
)
"""Prompts of one token: TRL's ORPO counts the NLL of the prompt too, ours that of the answer alone."""
TRL_LOSSES = {
    ("dpo", 0.1): 0.6738755,
    ("dpo", 0.5): 0.6243450,
    ("orpo", 0.1): 6.2680721,
    ("orpo", 1.0): 6.8508215,
}
"""Of `AS_TRL` by TRL 1.15.0 on the model of `adapted` (torch 2.13.0, CPU): ``DPOTrainer._compute_loss``, no adapter
being named ``ref``, so that its reference is the base, and ``ORPOTrainer.get_batch_loss_metrics``."""


@pytest.mark.parametrize(("loss", "beta"), TRL_LOSSES)
def test_the_losses_are_those_that_trl_gave(
    weights: Path, monkeypatch: pytest.MonkeyPatch, loss: str, beta: float
) -> None:
    import torch

    from minisheep.trainers.lora_model import sequence_losses
    from minisheep.trainers.preference import Portion, preference_loss, sequences

    model, device = adapted(weights, quick=False, monkeypatch=monkeypatch), torch.device("cpu")
    with torch.no_grad():
        nll = sequence_losses(model, sequences(AS_TRL), device)
        with model.disable_adapter():
            base = sequence_losses(model, sequences(AS_TRL), device)
        found = preference_loss(loss, beta, AS_TRL, nll, base, Portion.of(AS_TRL))
    assert found.item() == pytest.approx(TRL_LOSSES[loss, beta], abs=1e-5)


def test_a_certain_answer_has_a_finite_loss_and_gradient() -> None:
    import torch

    from minisheep.trainers.preference import odds_ratio_loss

    chosen = torch.tensor([0.0, -1e-9, -80.0], requires_grad=True)
    rejected = torch.tensor([-80.0, 0.0, 0.0], requires_grad=True)
    loss = odds_ratio_loss(chosen, rejected).sum()
    loss.backward()
    assert loss.isfinite() and chosen.grad is not None and rejected.grad is not None
    assert chosen.grad.isfinite().all() and rejected.grad.isfinite().all()


@pytest.mark.parametrize("loss", ["orpo", "dpo"])
def test_gradients_are_those_of_the_plain_layers_in_one_pass(
    weights: Path, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    """The written-out layers, in micro-batches of one pair, against autograd over whole logits."""
    import torch
    from torch.nn.functional import logsigmoid

    from minisheep.trainers.lora_model import sequence_losses
    from minisheep.trainers.preference import Portion, preference_loss, sequences

    batch, device = [pair for pair in PAIRS if pair.worse], torch.device("cpu")
    quick = adapted(weights, quick=True, monkeypatch=monkeypatch)
    for pair in batch:
        texts = sequences([pair])
        with torch.no_grad(), quick.disable_adapter():
            base = sequence_losses(quick, texts, device)
        nll = sequence_losses(quick, texts, device)
        preference_loss(loss, 0.5, [pair], nll, base, Portion.of(batch)).backward()  # type: ignore[no-untyped-call]

    plain = adapted(weights, quick=False, monkeypatch=monkeypatch)

    def logp(text: TokenPair) -> Any:
        rows = plain(input_ids=torch.tensor([text.ids])).logits[0].log_softmax(-1)
        return sum(rows[at - 1, text.ids[at]] for at in range(text.first, len(text.ids)))

    total: Any = 0.0
    for pair in batch:
        worse = pair.rejected
        assert worse is not None
        if loss == "dpo":
            with torch.no_grad(), plain.disable_adapter():
                off = logp(pair) - logp(worse)
            total = total - logsigmoid(0.5 * (logp(pair) - logp(worse) - off)) / len(batch)
        else:
            a, b = (logp(text) / text.supervised for text in (pair, worse))
            odds = torch.log(a.exp() / (1 - a.exp())) - torch.log(b.exp() / (1 - b.exp()))
            tokens = sum(other.supervised for other in batch)
            total = total - logp(pair) / tokens - 0.5 * logsigmoid(odds) / len(batch)
    total.backward()
    expected = {name: p.grad for name, p in plain.named_parameters() if p.requires_grad}
    for name, parameter in quick.named_parameters():
        if parameter.requires_grad:
            highest = expected[name].abs().max().item()
            assert (parameter.grad - expected[name]).abs().max().item() <= 1e-4 * max(highest, 1e-3), name


@pytest.mark.model
@pytest.mark.parametrize(("loss", "without"), [("dpo", 0), ("orpo", 6)])
def test_a_killed_training_on_pairs_ends_with_the_adapter_of_an_undisturbed_one(
    tmp_path: Path, weights: Path, loss: str, without: int
) -> None:
    undisturbed, killed = (paired(job(tmp_path / name, weights), loss, without=without) for name in "ab")
    said: list[Event] = []
    whole = train(undisturbed, said)
    assert whole.pairs and f"by {loss.upper()}" in notes(said)
    assert any(step.validation_loss is not None for step in steps(said))
    with pytest.raises(Killed):
        train(killed, kill_after=5)
    said.clear()
    resumed = train(killed, said)
    assert "after step 4 of 10" in notes(said)
    assert distance(adapter(undisturbed), adapter(killed)) <= 1e-6
    assert dataclasses.replace(resumed, seconds=0) == dataclasses.replace(whole, seconds=0)


@pytest.mark.model
def test_each_loss_learns_to_prefer_and_gives_another_adapter(tmp_path: Path, weights: Path) -> None:
    made = {}
    for loss in ("sft", "orpo", "dpo"):
        work = paired(job(tmp_path / loss, weights, count=8, epochs=6), loss)
        if loss == "sft":
            work = dataclasses.replace(work, examples=examples(8))
        result = train(work)
        made[loss] = adapter(work)
        assert result.last_loss < result.first_loss
        assert result.pairs == (0 if loss == "sft" else 8)
        # Before its first step the model is its base, so DPO begins with log 2.
        if loss == "dpo":
            assert result.first_loss == pytest.approx(np.log(2), abs=1e-5) and result.last_loss < 0.5
    assert distance(made["sft"], made["orpo"]) > 1e-4 < distance(made["orpo"], made["dpo"])


@pytest.mark.model
def test_micro_batches_change_nothing_for_pairs(tmp_path: Path, weights: Path) -> None:
    jobs = [paired(job(tmp_path / str(n), weights, micro_batch_size=n), "dpo") for n in (1, 8)]
    first = [train(each).first_loss for each in jobs]
    assert first[0] == pytest.approx(first[1], abs=1e-6)
    assert distance(adapter(jobs[0]), adapter(jobs[1])) < 1e-3


@pytest.mark.model
def test_a_full_memory_halves_the_pairs_of_a_pass(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from minisheep.trainers import lora_model, train_loop

    honest, widest = lora_model.sequence_losses, []

    def small(model: Any, pairs: Any, device: Any) -> Any:
        widest.append(len(pairs))
        if len(pairs) > 2:
            raise torch.OutOfMemoryError("full")
        return honest(model, pairs, device)

    monkeypatch.setattr(train_loop, "sequence_losses", small)
    said: list[Event] = []
    train(paired(job(tmp_path, weights, count=8, micro_batch_size=8), "dpo"), said)
    assert "Out of memory" in notes(said) and max(widest[-8:]) == 2


@pytest.mark.model
def test_the_loss_is_part_of_what_a_training_is(tmp_path: Path, weights: Path) -> None:
    work = paired(job(tmp_path, weights, count=8), "orpo")
    train(work)
    with pytest.raises(CorruptRunError):
        train(paired(job(tmp_path, weights, count=8), "dpo"))
    with pytest.raises(CorruptRunError):
        train(dataclasses.replace(work, examples=tuple(TrainExample(e.prompt, e.completion) for e in work.examples)))


def test_a_rejected_answer_is_cut_like_a_kept_one() -> None:
    from minisheep.trainers.base import join_pairs

    data = join_pairs([([1, 2], [3], [4, 5, 6]), ([1], [2], [])], 4)
    assert [pair.worse for pair in data.pairs] == [(1, 2, 4, 5), ()]
    assert (data.truncated, data.left_out) == (1, 0)
    assert data.pairs[0].length == 7 and data.pairs[1].rejected is None


@pytest.mark.model
@pytest.mark.parametrize("loss", ["orpo", "dpo"])
def test_a_real_model_takes_a_step(tmp_path: Path, loss: str) -> None:
    import real_models

    from minisheep.formats.gguf_to_hf import dequantise

    gguf = real_models.smollm2()
    folder = gguf.with_name("smollm2-135m-weights")
    dequantise(gguf, folder, lambda event: None)
    work = dataclasses.replace(
        paired(job(tmp_path, folder, count=4, epochs=1, learning_rate=1e-4), loss), gguf=gguf, weights=folder
    )
    result = train(work)
    assert result.steps == 1 and result.pairs == 4 and np.isfinite(result.last_loss)
    if loss == "dpo":
        assert result.first_loss == pytest.approx(np.log(2), abs=2e-2)
    assert any(np.abs(tensor).max() > 0 for name, tensor in adapter(work).items() if "lora_B" in name)
