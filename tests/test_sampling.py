"""Drawing tokens: the candidates and their probabilities, against a plain reading of the definitions."""

from __future__ import annotations

import math
import platform
import subprocess
import sys
from collections import Counter
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from benchmarks.drawing import plain_candidates, plain_draw
from minisheep.engines import sampling as sampling_module
from minisheep.engines.base import Sampling
from minisheep.engines.sampling import BLOCK, NEGLIGIBLE, Sampler, draw, finite, sample
from minisheep.errors import ModelFileError

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
def test_the_reference_is_that_of_the_definitions(logits: list[float], top_p: float, temperature: float) -> None:
    sampling = Sampling(temperature=temperature, top_p=top_p, top_k=0)
    expected = plainly(logits, sampling)
    tokens, probabilities = plain_candidates(np.array(logits, dtype=np.float32), sampling)
    # What is set aside beforehand is at most forty times a ten millionth.
    assert set(tokens.tolist()) <= set(expected) | set(tokens.tolist()[-1:])
    for token, probability in zip(tokens.tolist(), probabilities, strict=True):
        assert probability == pytest.approx(expected.get(token, 0.0), abs=1e-4)
    assert probabilities.sum() == pytest.approx(1)


@given(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=60, unique=True), st.integers(1, 70))
def test_top_k_keeps_the_likeliest(logits: list[float], k: int) -> None:
    row, sampling = np.array(logits, dtype=np.float32), Sampling(top_k=k, top_p=1.0, temperature=1.0)
    likeliest = sorted(range(len(logits)), key=lambda token: -logits[token])[:k]
    likeliest = [token for token in likeliest if logits[token] >= max(logits) - 16]
    assert plain_candidates(row, sampling)[0].tolist() == likeliest
    edges = np.cumsum([math.exp(logits[token] - logits[likeliest[0]]) for token in likeliest])
    middles = np.diff(edges, prepend=0) / 2 + np.concatenate([[0], edges[:-1]])
    assert draw([row] * len(likeliest), sampling, middles / edges[-1]) == likeliest


def clear(row: np.ndarray[Any, Any], sampling: Sampling, chances: np.ndarray[Any, Any]) -> bool:
    """Whether nothing is decided by a tie: which of equal tokens top-k keeps is not defined by the reference, and where
    a sum ends exactly at top_p or at the chance, the last bit of the sum decides."""
    order = np.sort(row)[::-1].astype(np.float64)
    if 0 < sampling.top_k < len(order):
        if order[sampling.top_k - 1] == order[sampling.top_k]:
            return False
        order = order[: sampling.top_k]
    order = order[order >= order[0] - NEGLIGIBLE * max(1.0, sampling.temperature)]
    mass = np.cumsum(np.exp(order - order[0]))
    _, probabilities = plain_candidates(row, sampling)
    nearest = np.abs(np.cumsum(probabilities)[:, None] - chances[None]).min()
    return bool(np.abs(mass / mass[-1] - sampling.top_p)[:-1].min(initial=1) > 1e-9 and nearest > 1e-9)


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32),
    size=st.sampled_from([1, 7, 64, 300, 4096, 5000, 60_001, 60_032]),
    spread=st.sampled_from([0.0, 0.3, 1.0, 2.5, 6.0]),
    boost=st.sampled_from([0.0, 3.0, 7.9, 8.1, 20.0]),
    grid=st.booleans(),
    top_k=st.sampled_from([0, 1, 5, 300, 1024]),
    top_p=st.sampled_from([1e-9, 0.5, 0.95, 1.0]),
    temperature=st.sampled_from([0.3, 1.0, 1.7]),
)
def test_the_same_tokens_are_drawn_as_by_the_reference(
    seed: int, size: int, spread: float, boost: float, grid: bool, top_k: int, top_p: float, temperature: float
) -> None:
    rng = np.random.default_rng(seed)
    several = rng.normal(0, spread, (3, size))
    several[:, rng.integers(0, size, 3)] += boost
    several = (np.round(several * 4) / 4 if grid else several).astype(np.float32)
    sampling, chances = Sampling(top_k=top_k, top_p=top_p, temperature=temperature), rng.random((3, 3))
    assume(all(clear(row, sampling, chances[:, at]) for at, row in enumerate(several)))
    for some in (*chances, np.zeros(3), np.full(3, 1 - 1e-7)):
        expected = [plain_draw(row, sampling, chance) for row, chance in zip(several, some, strict=True)]
        assert draw(list(several), sampling, some) == expected


def test_the_same_seeds_draw_the_same_tokens_as_the_reference() -> None:
    """Step after step for many sequences, of different ways of drawing, from rows as a model gives them."""
    rng = np.random.default_rng(6)
    ways = (Sampling(), Sampling(temperature=0.7, top_p=0.8, top_k=50), Sampling(temperature=0), Sampling(top_k=0))
    seeds = [(ways[seed % 4], seed) for seed in range(37)]
    samplers = [Sampler(*both) for both in seeds]
    chances = [Random(seed) for _, seed in seeds]
    for spread in (0.5, 2.2, 4.0):
        several = list((rng.gumbel(size=(37, 49_152)) * spread).astype(np.float32))
        expected = [
            plain_draw(row, way, chance.random()) if way.temperature else int(row.argmax())
            for row, (way, _), chance in zip(several, seeds, chances, strict=True)
        ]
        assert sample(samplers, several) == expected


def test_where_a_sum_ends_at_top_p_it_is_that_of_the_weights() -> None:
    """Of 300 equal tokens 285 hold 95 %: their weights are summed, which is exact, where the reference sums 300ths."""
    assert draw([np.zeros(300, dtype=np.float32)], Sampling(), np.array([1 - 1e-9])) == [284]
    row = np.zeros(300, dtype=np.float32)
    row[100:] = 1
    # Of equal tokens the lower ids stay.
    assert draw([row] * 2, Sampling(top_k=150, top_p=1), np.array([0.0, 1 - 1e-9])) == [100, 249]


@pytest.mark.parametrize("spread", [0.01, 0.5, 2.2, 6.0])
def test_few_values_are_put_in_order(monkeypatch: pytest.MonkeyPatch, spread: float) -> None:
    """However flat a row is, little more than what top_k keeps is looked at after the first pass."""
    row = np.random.default_rng(2).normal(0, spread, 100_000).astype(np.float32)
    found: list[int] = []
    honest = sampling_module._places
    monkeypatch.setattr(
        sampling_module, "_places", lambda *both: (places := honest(*both), found.append(len(places[0])))[0]
    )
    draw([row], Sampling(), np.array([0.5]))
    assert len(found) == 2 and max(found) < 1.6 * Sampling().top_k


def test_a_floor_that_was_guessed_too_high_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    several, chances = list(rng.normal(0, 1, (6, 60_000)).astype(np.float32)), rng.random(6)
    expected = draw(several, Sampling(), chances)
    honest, asked = sampling_module._guessed, []

    def high(peaks: Any, most: int, sampled: int) -> Any:
        asked.append(len(peaks))
        return honest(peaks, most, sampled) + (np.arange(len(peaks))[:, None] % 2 if sampled < most else 0)

    monkeypatch.setattr(sampling_module, "_guessed", high)
    assert draw(several, Sampling(), chances) == expected
    assert asked == [6, 1, 1, 1]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_refused(value: float, temperature: float) -> None:
    several = np.zeros((3, 50), dtype=np.float32)
    several[:, 0] = -np.inf
    sampling = Sampling(temperature=temperature)
    draw(list(several), sampling, np.array([0.1, 0.5, 0.9]))
    several[1, 30] = value
    with pytest.raises(ModelFileError, match="no numbers"):
        draw(list(several), sampling, np.array([0.1, 0.5, 0.9]))
    with pytest.raises(ModelFileError, match="no numbers"):
        finite(several[1].max())


def test_blocks_of_rows_draw_what_single_rows_would() -> None:
    rng = np.random.default_rng(3)
    several, chances = list(rng.normal(0, 2, (3 * BLOCK + 1, 20_000)).astype(np.float32)), rng.random(3 * BLOCK + 1)
    for sampling in (Sampling(), Sampling(top_k=0)):
        alone = [draw([row], sampling, chances[at : at + 1])[0] for at, row in enumerate(several)]
        assert draw(several, sampling, chances) == alone


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the limit is glibc's")
def test_drawing_takes_no_new_pages_from_the_system() -> None:
    """In a process of its own, since whoever freed much before would have raised the limit: so the rows stay."""
    program = """if True:
        import resource
        import numpy as np
        from minisheep.engines.base import Sampling
        from minisheep.engines.sampling import Sampler, keep_pages, sample
        rows = list(np.random.default_rng(1).standard_normal((64, 151_936), dtype=np.float32))
        samplers = [Sampler(Sampling(), seed) for seed in range(64)]
        keep_pages()
        for _ in range(3):
            sample(samplers, rows)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(5):
            sample(samplers, rows)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    """
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 1000, "with the limit as it is at first, some 15,000"


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
    tokens, probabilities = plain_candidates(logits, sampling)
    # Theirs sums in 32 bits, so the last candidate may be one more or one less.
    assert abs(len(tokens) - len(theirs)) <= 1
    n = min(len(tokens), len(theirs))
    assert tokens[:n].tolist() == [id for _, id in theirs[:n]]
    weights = np.exp([theirs[0][0] - logit for logit, _ in theirs])
    assert probabilities[:n] == pytest.approx(weights[:n] / weights.sum(), rel=0.02)
