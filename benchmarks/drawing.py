"""Drawing a token from a row of logits: today's code beside the plain one that it replaced, and threads over rows.

    python -m benchmarks.drawing [--vocabulary N] [--rows N] [--seconds S]

On a fast GPU the forward pass of 64 sequences takes less time than drawing 64 tokens one after the other. Both draw the
same tokens from the same seeds, which is checked before the clock starts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from minisheep.engines.base import Sampling
from minisheep.engines.sampling import DRAWERS, NEAR, NEGLIGIBLE, DrawingPool, Sampler, candidates
from minisheep.errors import MinisheepError
from minisheep.machine import cpu

Found = tuple[npt.NDArray[Any], npt.NDArray[np.float64]]
KINDS: dict[str, Callable[[np.random.Generator, int], npt.NDArray[Any]]] = {
    "peaked": lambda rng, size: rng.gumbel(size=size) * 1.5,
    "usual": lambda rng, size: rng.normal(0, 2.2, size) + 12 * (np.arange(size) < 20),
    "open": lambda rng, size: rng.normal(0, 2.2, size),
    "flat": lambda rng, size: rng.normal(0, 0.5, size),
}
"""Rows by how much of the distribution a few tokens hold."""


def plain_candidates(logits: npt.NDArray[Any], sampling: Sampling) -> Found:
    """The reference: everything within `NEGLIGIBLE` nats is partitioned and ordered, unless top_k lie within `NEAR`."""
    highest, reach = logits.max(), max(1.0, sampling.temperature)
    tokens = np.flatnonzero(logits >= highest - NEAR * reach)
    if not 0 < sampling.top_k <= len(tokens):
        tokens = np.flatnonzero(logits >= highest - NEGLIGIBLE * reach)
    values = logits[tokens]
    if 0 < sampling.top_k < len(tokens):
        best = np.argpartition(values, -sampling.top_k)[-sampling.top_k :]
        best.sort()
        tokens, values = tokens[best], values[best]
    values = values.astype(np.float64)
    order = np.argsort(-values, kind="stable")
    tokens, values = tokens[order], values[order]
    if sampling.top_p < 1:
        mass = np.cumsum(_softmax(values))
        kept = int(np.searchsorted(mass, sampling.top_p * mass[-1])) + 1
        tokens, values = tokens[:kept], values[:kept]
    return tokens, _softmax(values / sampling.temperature)


def _softmax(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    weights = np.exp(values - values.max())
    return np.asarray(weights / weights.sum())


def rate(work: Callable[[], object], seconds: float) -> float:
    """Runs a second, by the fastest: another program's turn is not ours."""
    best, ends = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < ends:
        began = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - began)
    return 1 / best


def check_same(rows: list[npt.NDArray[Any]], sampling: Sampling) -> None:
    """Raises `errors.MinisheepError` where the two differ."""
    for row in rows:
        ours, plain = candidates(row, sampling), plain_candidates(row, sampling)
        if not (np.array_equal(ours[0], plain[0]) and np.array_equal(ours[1], plain[1])):
            raise MinisheepError("The two draw from different candidates, so their speeds cannot be compared.")


@click.command()
@click.option("--vocabulary", default=151_936, show_default=True, help="tokens of a row")
@click.option("--rows", default=64, show_default=True, help="sequences of a step")
@click.option("--seconds", default=1.0, show_default=True, help="time for each figure")
def main(vocabulary: int, rows: int, seconds: float) -> None:
    """Microseconds a token: plain, ours, and ours with threads over the rows of a step."""
    sampling, threads = Sampling(), min(DRAWERS, cpu.cores())
    pool = DrawingPool(threads)
    click.echo(f"{vocabulary:,} tokens, {rows} rows, {threads} threads; microseconds a token, the fastest of each")
    for kind, make in KINDS.items():
        rng = np.random.default_rng(1)
        some = [make(rng, vocabulary).astype(np.float32) for _ in range(min(rows, 8))]
        check_same(some, sampling)
        every = [some[i % len(some)] for i in range(rows)]
        samplers = [Sampler(sampling, seed) for seed in range(rows)]
        plain = 1e6 / rate(lambda some=some: plain_candidates(some[0], sampling), seconds)  # type: ignore[misc]
        ours = 1e6 / rate(lambda some=some: candidates(some[0], sampling), seconds)  # type: ignore[misc]
        pool.in_threads = threads > 1
        step = rate(lambda every=every, own=samplers: pool.sample(own, every), seconds)  # type: ignore[misc]
        click.echo(f"{kind:8} plain {plain:7.0f}   ours {ours:7.0f}   in threads {1e6 / (step * rows):7.0f}")
    pool.close()


if __name__ == "__main__":
    main()
