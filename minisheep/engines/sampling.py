"""From logits to results: the next token, probabilities of labels, and the text of a completion. Pure, on numpy.

Sampling takes the same steps in the same order as llama.cpp's sampler chain (llama_sampler_init_top_k, _top_p, _temp,
_dist), which takes 0.8 ms for a vocabulary of 49k, a tenth of all time when 32 sequences decode together. Most of that
orders tokens that can never be drawn; one comparison sets these aside here first, so it takes a fifth.
"""

from __future__ import annotations

import codecs
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from minisheep.engines.base import Sampling

NEGLIGIBLE = 16.0
"""Nats below the best token at temperature 1 from which a token is set aside: each is then at most 1.1e-7 as likely."""
NEAR = 8.0
"""Where at least top_k tokens lie within this many nats, or those that do hold the nucleus, the others are not ordered:
a flat row has half its vocabulary within 16 nats, and ordering those takes most of the time."""


def candidates(logits: npt.NDArray[Any], sampling: Sampling) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """Token ids that may be drawn, likeliest first (the lower id where two are equal), and their probabilities.

    `logits` is one row, of the vocabulary's size. Top-k and top-p look at the distribution at temperature 1.
    """
    reach = max(1.0, sampling.temperature)
    most = sampling.top_k if sampling.top_k > 0 else logits.size
    columns = _columns(logits)
    peaks = logits if columns is None else columns.max(axis=0)
    highest = peaks.max()
    tokens = None if columns is None else _near(columns, peaks, highest - NEAR * reach)
    if tokens is None:
        tokens = _at_least(logits, highest, NEAR * reach, most)
    if tokens.size < most and sampling.top_p < 1:
        found = _nucleus(logits, highest, tokens, reach, sampling)
        if found is not None:
            return found
    if tokens.size < most:
        tokens = _at_least(logits, highest, NEGLIGIBLE * reach, most)
    values = logits[tokens]
    if most < tokens.size:
        best = np.argpartition(values, -most)[-most:]
        best.sort()  # argpartition's own order is not defined
        tokens, values = tokens[best], values[best]
    tokens, values = _ordered(tokens, values)
    if sampling.top_p < 1:
        mass = np.cumsum(_softmax(values))
        kept = int(np.searchsorted(mass, sampling.top_p * mass[-1])) + 1
        tokens, values = tokens[:kept], values[:kept]
    return tokens, _softmax(values / sampling.temperature)


ENOUGH, PORTION = 2, 24
"""So many times the tokens that are wanted, or this fraction of the vocabulary, may be partitioned; of more, most are
set aside by comparing first. Partitioning one token takes as long as comparing some twenty."""
HALVINGS = 6
SURE = 1e-6
"""Relative width of the sum's rounding: a nucleus whose end lies nearer than this to a token's edge is not decided by
it."""


COLUMN = 64
"""Tokens of a column: those whose ids are equal but for a multiple of a 64th of the vocabulary."""
FEW_COLUMNS = 8
"""The tokens near the best are looked for in columns where at most one in so many holds any."""


def _columns(logits: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    """A view of a row as (COLUMN, size / COLUMN), whose columns' maxima numpy finds about as fast as the row's one;
    None where the row does not divide."""
    return logits.reshape(COLUMN, -1) if logits.size and logits.size % COLUMN == 0 else None


def _near(columns: npt.NDArray[Any], peaks: npt.NDArray[Any], floor: Any) -> npt.NDArray[Any] | None:
    """Ids of the tokens of at least `floor`, ascending; None where too many columns hold one. Reads only these."""
    some = np.flatnonzero(peaks >= floor)
    if some.size * FEW_COLUMNS > peaks.size:
        return None
    row, place = np.divmod(np.flatnonzero(columns.take(some, axis=1) >= floor), max(some.size, 1))
    return np.asarray(row * peaks.size + some[place])


def _at_least(logits: npt.NDArray[Any], highest: Any, reach: float, most: int) -> npt.NDArray[Any]:
    """Ids, ascending, of the tokens within `reach` nats of the `highest`; of more than `most`, fewer than all, but the
    `most` likeliest among them.

    In a flat row half the vocabulary is near; partitioning that takes most of the time, and comparing again little.
    """
    within = logits >= highest - reach
    count = int(np.count_nonzero(within))
    low, high = 0.0, reach
    for _ in range(HALVINGS):
        if count <= max(ENOUGH * most, logits.size // PORTION):
            break
        middle = (low + high) / 2
        nearer = logits >= highest - middle
        number = int(np.count_nonzero(nearer))
        if number >= most:
            within, count, high = nearer, number, middle
        else:
            low = middle
    return np.flatnonzero(within)


def _nucleus(
    logits: npt.NDArray[Any], highest: Any, near: npt.NDArray[Any], reach: float, sampling: Sampling
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]] | None:
    """The result of `candidates` where the tokens `near` hold `top_p` of the sum over all that count: then only these
    are ordered. None where they do not, or where rounding could decide otherwise."""
    most = sampling.top_k if sampling.top_k > 0 else logits.size
    tokens, values = _ordered(near, logits[near])
    mass = np.cumsum(np.exp(values - float(highest)))
    every = logits[_at_least(logits, highest, NEGLIGIBLE * reach, most)]
    if most < every.size:
        every.partition(every.size - most)
        every = every[-most:]
    total = float(np.exp(every - highest).sum(dtype=np.float64))
    first = int(np.searchsorted(mass, sampling.top_p * total * (1 - SURE)))
    last = int(np.searchsorted(mass, sampling.top_p * total * (1 + SURE)))
    if first != last or first >= len(mass):
        return None
    return tokens[: first + 1], _softmax(values[: first + 1] / sampling.temperature)


def _ordered(tokens: npt.NDArray[Any], values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """Both, the highest value first; `tokens` ascend."""
    values = values.astype(np.float64)
    order = np.argsort(-values, kind="stable")
    return tokens[order], values[order]


class Sampler:
    """Draws the tokens of one completion; everything random in it follows from its seed."""

    def __init__(self, sampling: Sampling, seed: int) -> None:
        self._sampling = sampling
        self._random = random.Random(seed)  # noqa: S311

    def sample(self, logits: npt.NDArray[Any]) -> int:
        """A token from one row of logits; the likeliest at temperature 0."""
        if self._sampling.temperature <= 0:
            return int(logits.argmax())
        tokens, probabilities = candidates(logits, self._sampling)
        drawn = np.searchsorted(np.cumsum(probabilities), self._random.random(), side="right")
        return int(tokens[min(int(drawn), len(tokens) - 1)])


def _softmax(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    weights = np.exp(values - values.max())
    return np.asarray(weights / weights.sum())


DRAWERS = 8
"""Threads that draw at most: numpy lets go of the interpreter for the passes over a row, not for what lies between."""
FEW = 4
"""Rows that one thread draws sooner."""


TRIALS = 8
"""Steps that each way of drawing is timed for before the faster one stays."""


class DrawingPool:
    """Draws the tokens of several rows, with up to `threads` at once; the tokens are the same, since each sampler has
    its own randomness. `close` ends the threads.

    Whether threads help depends on the machine's free cores and on the vocabulary: handing the interpreter over may
    cost more than numpy's passes bring. So both ways are tried in turn, and the faster stays.
    """

    def __init__(self, threads: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._threads = min(threads, DRAWERS)
        self._pool = ThreadPoolExecutor(self._threads - 1, "draw") if threads > 1 else None
        self._clock = clock
        self._seconds: dict[bool, list[float]] = {True: [], False: []}
        """For a row, by whether threads drew it."""
        self.in_threads: bool | None = False if self._pool is None else None
        """None while it is not decided yet."""

    def sample(self, samplers: Sequence[Sampler], rows: Sequence[npt.NDArray[Any]]) -> list[int]:
        """A token from each row, by the sampler at the same place."""
        if self._pool is None or len(rows) < FEW or self.in_threads is False:
            return _draw(samplers, rows)
        threads = self.in_threads or len(self._seconds[True]) <= len(self._seconds[False])
        began = self._clock()
        tokens = self._shared(samplers, rows) if threads else _draw(samplers, rows)
        if self.in_threads is None:
            self._seconds[threads].append((self._clock() - began) / len(rows))
            if len(self._seconds[False]) == TRIALS:
                self.in_threads = min(self._seconds[True]) < min(self._seconds[False])
        return tokens

    def _shared(self, samplers: Sequence[Sampler], rows: Sequence[npt.NDArray[Any]]) -> list[int]:
        """One share of neighbouring rows for each thread: to hand over single rows takes longer than to draw them."""
        share = -(-len(rows) // self._threads)
        starts = range(0, len(rows), share)
        assert self._pool is not None
        parts = [self._pool.submit(_draw, samplers[at : at + share], rows[at : at + share]) for at in starts[1:]]
        return _draw(samplers[:share], rows[:share]) + [token for part in parts for token in part.result()]

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


def _draw(samplers: Sequence[Sampler], rows: Sequence[npt.NDArray[Any]]) -> list[int]:
    return [sampler.sample(row) for sampler, row in zip(samplers, rows, strict=True)]


Path = tuple[int, ...]


class LabelTree:
    """The labels of one request as a tree of tokens, so that they need as few forward passes as possible.

    A label of one token needs only the logits after the prompt. A longer one, as "10" where the tokenizer splits
    digits, needs its first tokens fed as well (teacher forcing); `paths` are these token sequences.
    """

    def __init__(self, labels: Sequence[Sequence[int]]) -> None:
        if not all(labels):
            raise ValueError("a label has no tokens")
        self._labels = [tuple(label) for label in labels]
        self.children: dict[Path, list[int]] = {(): []}
        """The next tokens that matter after each path that some label continues."""
        for label in self._labels:
            for depth, token in enumerate(label):
                tokens = self.children.setdefault(label[:depth], [])
                if token not in tokens:
                    tokens.append(token)
        self.paths: list[Path] = [
            path
            for path in self.children
            if not any(len(other) > len(path) and other[: len(path)] == path for other in self.children)
        ]
        """What to feed: together they pass through every key of `children`."""

    def probabilities(self, following: Mapping[Path, Mapping[int, float]]) -> tuple[float, ...]:
        """The probability of each label, in order, given that of each child after each path of `children`.

        A label that others continue counts only where it is not continued by them, so that labels exclude each other.
        """
        return tuple(self._probability(label, following) for label in self._labels)

    def _probability(self, label: Path, following: Mapping[Path, Mapping[int, float]]) -> float:
        result = 1.0
        for depth, token in enumerate(label):
            result *= following[label[:depth]][token]
        if label in self.children:
            result *= max(0.0, 1.0 - sum(following[label].values()))
        return result


class GrowingReply:
    """Collects the bytes of one completion until a stop string appears, which may span tokens.

    `text` holds all whole characters so far, up to the stop string. Bytes that can never be UTF-8 become U+FFFD; a
    character that is cut off at the end is left out.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self.text = ""
        self.stopped = False
        self._stops = [stop for stop in stops if stop]
        self._reach = max(map(len, self._stops), default=1) - 1
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def settled(self) -> str:
        """The part of `text` that no stop string can take back: safe to show before the completion ends."""
        begun = (
            length
            for stop in (() if self.stopped else self._stops)
            for length in range(1, min(len(stop), len(self.text) + 1))
            if self.text.endswith(stop[:length])
        )
        return self.text[: len(self.text) - max(begun, default=0)]

    def feed(self, data: bytes) -> bool:
        """Add the bytes of a token; True once a stop string is complete."""
        if self.stopped:
            return True
        # A stop string may begin in earlier tokens, but no further back than its own length.
        start = max(0, len(self.text) - self._reach)
        self.text += self._decoder.decode(data)
        stops = [place for stop in self._stops if (place := self.text.find(stop, start)) >= 0]
        if stops:
            self.text = self.text[: min(stops)]
            self.stopped = True
        return self.stopped
