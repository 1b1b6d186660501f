"""Drawing tokens: the candidates and their probabilities, against a plain reading of the definitions."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from benchmarks.drawing import plain_candidates
from minisheep.engines import sampling as sampling_module
from minisheep.engines.base import Sampling
from minisheep.engines.sampling import NEGLIGIBLE, TRIALS, DrawingPool, Sampler, candidates

rows = st.lists(st.integers(-60, 60).map(lambda n: n / 4), min_size=1, max_size=40)


def plainly(logits: list[float], sampling: Sampling) -> dict[int, float]:
    """Top-k, then top-p, then temperature, in pure Python and without setting anything aside."""
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    order = order[: sampling.top_k] if sampling.top_k > 0 else order
    weights = [math.exp(logits[token] - logits[order[0]]) for token in order]
    kept, mass = 0, 0.0
    while kept < len(order) and (kept == 0 or mass < sampling.top_p * sum(weights) * (1 - 1e-12)):
        mass += weights[kept]
        kept += 1
    scaled = [math.exp((logits[token] - logits[order[0]]) / sampling.temperature) for token in order[:kept]]
    return {token: weight / sum(scaled) for token, weight in zip(order, scaled, strict=False)}


@given(rows, st.sampled_from([0.0, 1e-9, 0.3, 0.7, 0.95]), st.sampled_from([0.2, 0.7, 1.0, 3.0]))
def test_candidates_are_those_of_the_definitions(logits: list[float], top_p: float, temperature: float) -> None:
    sampling = Sampling(temperature=temperature, top_p=top_p, top_k=0)
    expected = plainly(logits, sampling)
    tokens, probabilities = candidates(np.array(logits, dtype=np.float32), sampling)
    # What is set aside beforehand is at most forty times a ten millionth.
    assert set(tokens.tolist()) <= set(expected) | set(tokens.tolist()[-1:])
    for token, probability in zip(tokens.tolist(), probabilities, strict=True):
        assert probability == pytest.approx(expected.get(token, 0.0), abs=1e-4)
    assert probabilities.sum() == pytest.approx(1)


@given(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=60, unique=True), st.integers(1, 70))
def test_top_k_keeps_the_likeliest(logits: list[float], k: int) -> None:
    tokens, _ = candidates(np.array(logits, dtype=np.float32), Sampling(top_k=k, top_p=1.0, temperature=1.0))
    likeliest = sorted(range(len(logits)), key=lambda token: -logits[token])[:k]
    aside = [token for token in likeliest if logits[token] < max(logits) - 16]
    assert tokens.tolist() == [token for token in likeliest if token not in aside]


@pytest.mark.parametrize("spread", [0.5, 2.5, 6.0])
def test_looking_only_at_the_near_ones_changes_nothing(monkeypatch: pytest.MonkeyPatch, spread: float) -> None:
    row = np.random.default_rng(1).normal(0, spread, 20_000).astype(np.float32)
    sampling = Sampling(top_k=500)
    tokens, probabilities = candidates(row, sampling)
    monkeypatch.setattr("minisheep.engines.sampling.NEAR", NEGLIGIBLE)
    others, other_probabilities = candidates(row, sampling)
    assert tokens.tolist() == others.tolist() and probabilities.tolist() == other_probabilities.tolist()


def clear(row: np.ndarray[Any, Any], sampling: Sampling) -> bool:
    """Whether no two tokens are equal where top-k cuts: which of them stays is not defined."""
    order = np.sort(row)[::-1]
    return not 0 < sampling.top_k < len(order) or bool(order[sampling.top_k - 1] != order[sampling.top_k])


@given(
    seed=st.integers(0, 2**32),
    size=st.sampled_from([1, 7, 64, 300, 4096, 5000, 60_000, 60_032]),
    spread=st.sampled_from([0.0, 0.3, 1.0, 2.5, 6.0]),
    boost=st.sampled_from([0.0, 3.0, 7.9, 8.1, 20.0]),
    grid=st.booleans(),
    top_k=st.sampled_from([0, 1, 5, 1024]),
    top_p=st.sampled_from([1e-9, 0.5, 0.95, 1.0]),
    temperature=st.sampled_from([0.3, 1.0, 1.7]),
)
def test_the_same_tokens_are_drawn_as_by_the_plain_reading(
    seed: int, size: int, spread: float, boost: float, grid: bool, top_k: int, top_p: float, temperature: float
) -> None:
    rng = np.random.default_rng(seed)
    row = rng.normal(0, spread, size)
    row[rng.integers(0, size, 3)] += boost
    row = (np.round(row * 4) / 4 if grid else row).astype(np.float32)
    sampling = Sampling(top_k=top_k, top_p=top_p, temperature=temperature)
    assume(clear(row, sampling))
    ours, plain = candidates(row, sampling), plain_candidates(row, sampling)
    assert ours[0].tolist() == plain[0].tolist() and ours[1].tolist() == plain[1].tolist()


@pytest.mark.parametrize("size", [100_000, 100_032])
def test_only_what_holds_the_nucleus_is_ordered(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """A flat half of a vocabulary within 16 nats, and a few tokens that hold all: these alone are put in order."""
    row = np.random.default_rng(2).normal(0, 0.5, size).astype(np.float32)
    row[[5, 700, 40_000]] += 20
    ordered: list[int] = []
    honest = sampling_module._ordered
    monkeypatch.setattr(
        sampling_module, "_ordered", lambda tokens, values: (ordered.append(len(tokens)), honest(tokens, values))[1]
    )
    candidates(row, Sampling())
    assert sum(ordered) == 3


def test_columns_find_the_tokens_near_the_best_in_their_order() -> None:
    row = np.random.default_rng(4).normal(0, 1, 64 * 500).astype(np.float32)
    for floor in (row.max() + 1, row.max(), row.max() - 1, row.max() - 4):
        columns = sampling_module._columns(row)
        found = sampling_module._near(columns, columns.max(axis=0), floor)
        expected = np.flatnonzero(row >= floor)
        assert found.tolist() == expected.tolist() if len(expected) < 60 else found is None
    assert sampling_module._columns(row[:-1]) is None


@pytest.mark.parametrize("threads", [1, 4])
def test_threads_draw_what_one_after_the_other_would(threads: int) -> None:
    rows = list(np.random.default_rng(3).normal(0, 2, (9, 20_000)).astype(np.float32))
    alone = [Sampler(Sampling(), seed) for seed in range(9)]
    together = [Sampler(Sampling(), seed) for seed in range(9)]
    pool = DrawingPool(threads)
    for count in (9, 2, *[9] * 5):
        expected = [sampler.sample(row) for sampler, row in zip(alone[:count], rows, strict=False)]
        assert pool.sample(together[:count], rows[:count]) == expected
    pool.close()


@pytest.mark.parametrize("helps", [True, False])
def test_threads_stay_only_where_they_are_faster(helps: bool) -> None:
    now, seconds = [0.0], {True: 1.0 if helps else 3.0, False: 2.0}

    class Timed(DrawingPool):
        def sample(self, samplers: Any, rows: Any) -> list[int]:
            turn = self.in_threads is None and len(self._seconds[True]) <= len(self._seconds[False])
            self._clock = lambda: now.__setitem__(0, now[0] + seconds[turn]) or now[0]
            return super().sample(samplers, rows)

    pool = Timed(2)
    samplers, rows = [Sampler(Sampling(), 1)] * 4, [np.zeros(10, dtype=np.float32)] * 4
    for step in range(2 * TRIALS):
        assert pool.in_threads is None, step
        pool.sample(samplers, rows)
    assert pool.in_threads is helps
    pool.close()


def test_greedy_takes_the_likeliest_and_the_first_of_equals() -> None:
    assert Sampler(Sampling(temperature=0), 1).sample(np.array([1, 5, 5, 2], dtype=np.float32)) == 1


def test_draws_have_the_probabilities() -> None:
    sampler = Sampler(Sampling(temperature=1.0, top_p=1.0, top_k=0), 7)
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))
    drawn = Counter(sampler.sample(logits) for _ in range(4000))
    for token, probability in enumerate((0.5, 0.3, 0.15, 0.05)):
        assert drawn[token] / 4000 == pytest.approx(probability, abs=4 * math.sqrt(0.25 / 4000))


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    logits = np.zeros(50, dtype=np.float32)

    def drawn(seed: int) -> list[int]:
        sampler = Sampler(Sampling(), seed)
        return [sampler.sample(logits) for _ in range(20)]

    assert drawn(3) == drawn(3) != drawn(4)


@pytest.mark.parametrize("top_p", [1.0, 1e-6])
def test_a_certain_token_is_always_drawn(top_p: float) -> None:
    logits = np.full(1000, -1e4, dtype=np.float32)
    logits[321] = 0
    assert Sampler(Sampling(top_p=top_p), 1).sample(logits) == 321


@pytest.mark.model
@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(temperature=0.7, top_p=0.8, top_k=50), Sampling(temperature=1.5, top_p=0.95, top_k=200)],
)
def test_llama_cpp_s_own_chain_has_the_same_candidates(sampling: Sampling) -> None:
    import ctypes

    import llama_cpp

    logits = (np.random.default_rng(5).gumbel(size=49152) * 2).astype(np.float32)
    data = (llama_cpp.llama_token_data * len(logits))(
        *(llama_cpp.llama_token_data(i, float(x), 0.0) for i, x in enumerate(logits))
    )
    array = llama_cpp.llama_token_data_array(data, len(logits), -1, False)
    for sampler in (
        llama_cpp.llama_sampler_init_top_k(sampling.top_k),
        llama_cpp.llama_sampler_init_top_p(sampling.top_p, 1),
        llama_cpp.llama_sampler_init_temp(sampling.temperature),
    ):
        llama_cpp.llama_sampler_apply(sampler, ctypes.byref(array))
        llama_cpp.llama_sampler_free(sampler)
    theirs = sorted((-array.data[i].logit, array.data[i].id) for i in range(array.size))
    tokens, probabilities = candidates(logits, sampling)
    # Theirs sums in 32 bits, so the last candidate may be one more or one less.
    assert abs(len(tokens) - len(theirs)) <= 1
    n = min(len(tokens), len(theirs))
    assert tokens[:n].tolist() == [id for _, id in theirs[:n]]
    weights = np.exp([theirs[0][0] - logit for logit, _ in theirs])
    assert probabilities[:n] == pytest.approx(weights[:n] / weights.sum(), rel=0.02)
