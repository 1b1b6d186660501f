"""Drawing a token from a row of logits: by plain code, by numpy in blocks of rows, and by compiled code in threads.

    python -m benchmarks.drawing [--vocabulary N] [--rows N] [--different N] [--seconds S]

On a fast GPU the forward pass of 64 sequences takes less time than drawing 64 tokens one after the other. All draw the
same tokens from the same chances, which is checked before the clock starts. All rows of a step lie in memory of their
own, as they come from llama.cpp; of a few `--different` ones, caches hold some. Needs numba (the extra `fast`).
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from minisheep.engines.base import Sampling
from minisheep.engines.sampling import NEGLIGIBLE, Draw, Sampler, draw, keep_pages, sample
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
    """The reference: the ids of the tokens that may be drawn, likeliest first (the lower id where two are equal), and
    their probabilities. Everything within `NEGLIGIBLE` nats is partitioned and ordered, unless top_k lie within half of
    that."""
    highest, reach = logits.max(), NEGLIGIBLE * max(1.0, sampling.temperature)
    tokens = np.flatnonzero(logits >= highest - reach / 2)
    if not 0 < sampling.top_k <= len(tokens):
        tokens = np.flatnonzero(logits >= highest - reach)
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


def plain_draw(row: npt.NDArray[Any], sampling: Sampling, chance: float) -> int:
    """The token at the place `chance`, from 0 up to 1, of the reference's candidates."""
    tokens, probabilities = plain_candidates(row, sampling)
    drawn = int(np.searchsorted(np.cumsum(probabilities), chance, side="right"))
    return int(tokens[min(drawn, len(tokens) - 1)])


def medians(works: list[Callable[[], object]], seconds: float) -> list[float]:
    """Seconds of each work, done in turns for so long in all that each has `seconds`."""
    taken: list[list[float]] = [[] for _ in works]
    ends = time.perf_counter() + seconds * len(works)
    while not taken[-1] or time.perf_counter() < ends:
        for work, times in zip(works, taken, strict=True):
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
    return [statistics.median(times) for times in taken]


def check_same(rows: list[npt.NDArray[Any]], sampling: Sampling, ways: Sequence[Draw]) -> None:
    """Raises `errors.MinisheepError` where a way of drawing differs from the plain one."""
    chances = np.random.default_rng(2).random(len(rows))
    plain = [plain_draw(row, sampling, chance) for row, chance in zip(rows, chances, strict=True)]
    if any(way(rows, sampling, chances) != plain for way in ways):
        raise MinisheepError("Other tokens are drawn than by the plain code, so speeds cannot be compared.")


def read_all(rows: Sequence[npt.NDArray[Any]]) -> None:
    for row in rows:
        row.max()


@click.command()
@click.option("--vocabulary", default=151_936, show_default=True, help="tokens of a row")
@click.option("--rows", default=64, show_default=True, help="sequences of a step")
@click.option("--different", default=0, help="rows that differ, each in memory of its own; 0 for all")
@click.option("--seconds", default=1.0, show_default=True, help="time for each figure")
def main(vocabulary: int, rows: int, different: int, seconds: float) -> None:
    """Microseconds a token: plain, by numpy, and compiled, in one thread and in several; and for reading a row once,
    alone and with another thread, which no way of drawing can beat."""
    from minisheep.engines.drawing import DRAWERS, CompiledDraw

    sampling, threads = Sampling(), max(2, min(DRAWERS, cpu.cores()))
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        alone = CompiledDraw(Path(folder), 1)
        compiled = time.perf_counter()
        together = CompiledDraw(Path(folder), threads)
        click.echo(f"compiled in {compiled - began:.1f} s; loaded again in {time.perf_counter() - compiled:.2f} s")
    keep_pages()
    different = min(different or rows, rows)
    click.echo(f"{vocabulary:,} tokens, {rows} rows, {different} of them different, {threads} threads;")
    click.echo("microseconds a token, medians of turns")
    with ThreadPoolExecutor(1) as other:
        for kind, make in KINDS.items():
            rng = np.random.default_rng(1)
            some = [make(rng, vocabulary).astype(np.float32) for _ in range(different)]
            check_same(some, sampling, [draw, alone, together])
            every = [some[i % different] for i in range(rows)]
            samplers = [Sampler(sampling, seed) for seed in range(rows)]

            def read_by_two(every: list[npt.NDArray[Any]] = every) -> None:
                half = other.submit(read_all, every[rows // 2 :])
                read_all(every[: rows // 2])
                half.result()

            works: list[Callable[[], object]] = [
                lambda every=every: [plain_draw(row, sampling, 0.5) for row in every],  # type: ignore[misc]
                lambda every=every, own=samplers: sample(own, every),  # type: ignore[misc]
                lambda every=every, own=samplers: sample(own, every, alone),  # type: ignore[misc]
                lambda every=every, own=samplers: sample(own, every, together),  # type: ignore[misc]
                lambda every=every: read_all(every),  # type: ignore[misc]
                read_by_two,
            ]
            plain, blocks, ours, shared, read, by_two = (1e6 * taken / rows for taken in medians(works, seconds))
            click.echo(
                f"{kind:8} plain {plain:6.0f}   numpy {blocks:5.0f}   compiled {ours:5.0f}   in threads {shared:5.0f}"
                f" ({ours / shared:.2f} times)   read once {read:4.0f}, by two {by_two:4.0f}"
            )


if __name__ == "__main__":
    main()
