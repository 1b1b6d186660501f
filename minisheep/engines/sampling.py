"""From logits to results: the next token, probabilities of labels, and the text of a completion. Pure, on numpy.

Sampling takes the same steps in the same order as llama.cpp's sampler chain (llama_sampler_init_top_k, _top_p, _temp,
_dist), which takes 0.8 ms for a vocabulary of 49k, a tenth of all time when 32 sequences decode together. Most of that
orders tokens that can never be drawn. Here a row is read once for the maxima of parts of it, then only where these
matter; of what is left only the values are put in order, and at last it is looked up which token was meant.
"""

from __future__ import annotations

import codecs
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from minisheep.engines.base import Sampling
from minisheep.errors import ModelFileError

NEGLIGIBLE = 16.0
"""Nats below the best token at temperature 1 from which a token is set aside: each is then at most 1.1e-7 as likely."""
COLUMN = 16
"""Tokens of a column: those whose ids are equal but for a multiple of a 16th of the vocabulary. numpy finds the maxima
of all columns about as fast as one of the row, and only columns whose maximum matters are looked at again."""
BLOCK = 8
"""Rows that are drawn together at most: fewer and longer calls of numpy, and no more than a core's cache holds."""
ORDERED = 2**20
"""Tokens of all rows together that are ordered at once at most, at some 40 bytes each."""
Draw = Callable[[Sequence[npt.NDArray[Any]], Sampling, npt.NDArray[np.float64]], list[int]]
"""`draw`, or what draws the same tokens."""
SAMPLED = 256
"""The value of the last token that top_k keeps is guessed as that of the maximum of this rank in a sample."""


def finite(highest: Any) -> Any:
    """The highest value of a row, or of several, if each is a number (a NaN anywhere in a row makes it none). Raises
    ModelFileError: with NaN, every likelihood would look perfect."""
    if not np.isfinite(highest).all():
        raise ModelFileError(
            "The model computes no numbers (NaN or infinity), so nothing that it says counts: its file or its adapter"
            " is damaged, or its number format overflows.",
            "Delete the file and fetch it again, or train that round again.",
        )
    return highest


def draw(
    rows: Sequence[npt.NDArray[Any]], sampling: Sampling, chances: npt.NDArray[np.float64], sampled: int = SAMPLED
) -> list[int]:
    """A token from each row of logits, all of the vocabulary's size; `chances` are random numbers, at least 0 and below
    1, one a row.

    In order of falling logits (the lower id first where two are equal), top_k and then top_p cut off what follows, both
    at temperature 1; the chance is a place in the sum of what is left. At temperature 0 it is the likeliest. `sampled`
    changes the time that this takes, not the tokens. Raises ModelFileError where a row's highest value is no number.
    """
    if sampling.temperature <= 0:
        tokens = [int(row.argmax()) for row in rows]
        finite([row[token] for row, token in zip(rows, tokens, strict=True)])
        return tokens
    number, size = len(rows), rows[0].size
    most = sampling.top_k if 0 < sampling.top_k < size else size
    together = BLOCK if most <= size // COLUMN else max(1, min(BLOCK, ORDERED // size))
    if number > together:
        parts = [slice(at, at + together) for at in range(0, number, together)]
        return [token for part in parts for token in draw(rows[part], sampling, chances[part], sampled)]
    every = np.arange(number)
    if size % COLUMN:
        rows = [np.pad(row, (0, -size % COLUMN), constant_values=-np.inf) for row in rows]
    views = [row.reshape(COLUMN, -1) for row in rows]
    peaks = np.empty((number, views[0].shape[1]), views[0].dtype)
    for view, out in zip(views, peaks, strict=True):
        np.maximum.reduce(view, axis=0, out=out)
    highest = finite(peaks.max(axis=1, keepdims=True))
    lowest = highest - NEGLIGIBLE * max(1.0, sampling.temperature)
    floor = np.maximum(lowest, _guessed(peaks, most, sampled))

    # The columns that reach the floor, and of these the values that do.
    columns, ends = _places(peaks, floor)
    counts = np.diff(ends, prepend=0)
    columns -= np.repeat(every * peaks.shape[1], counts)
    found = [columns[end - count : end] for count, end in zip(counts, ends, strict=True)]
    kept = np.full((number, COLUMN * counts.max()), -np.inf, peaks.dtype)
    outs = [row[: COLUMN * count].reshape(COLUMN, -1) for row, count in zip(kept, counts, strict=True)]
    for view, places, out in zip(views, found, outs, strict=True):
        view.take(places, axis=1, out=out, mode="clip")
    places, stops = _places(kept, floor)
    near = np.diff(stops, prepend=0)
    values = kept.ravel().take(places)
    ordered = np.full((number, near.max()), -np.inf, peaks.dtype)
    ordered.ravel()[np.arange(places.size) + np.repeat(every * ordered.shape[1] - stops + near, near)] = values
    ordered.sort(axis=1)
    best = ordered[:, ::-1][:, :most]

    gaps = np.subtract(best, highest, dtype=np.float64)
    sums = np.exp(gaps).cumsum(axis=1)
    last = np.minimum(near, most) - 1
    if sampling.top_p < 1:
        last = (sums < sampling.top_p * sums[:, -1:]).sum(axis=1)
    if sampling.temperature != 1:
        sums = np.exp(gaps / sampling.temperature).cumsum(axis=1)
    drawn = np.minimum((sums <= (chances * sums[every, last])[:, None]).sum(axis=1), last)

    # Only now which token that is: of those with its value, as many have a lower id as stand before it.
    value = best[every, drawn]
    before = drawn - (best > value[:, None]).sum(axis=1)
    equal = np.flatnonzero(values == np.repeat(value, near))
    place = places[equal[equal.searchsorted(stops - near) + before]] - every * kept.shape[1]
    multiple, column = np.divmod(place, counts)
    tokens = [int(token) for token in multiple * peaks.shape[1] + columns[ends - counts + column]]
    for at in np.flatnonzero((near < most) & (floor > lowest)[:, 0]).tolist():
        (tokens[at],) = draw(rows[at : at + 1], sampling, chances[at : at + 1], most)
    return tokens


def _guessed(peaks: npt.NDArray[Any], most: int, sampled: int) -> Any:
    """For each row of maxima a value that at least `most` tokens reach, and not many more. Where `most` is above
    `sampled`, a part of the maxima is looked at, and in one row of a thousand or two too few tokens reach it."""
    groups = max(1, peaks.shape[1] // (2 * most))
    width = peaks.shape[1] // groups
    step = max(1, most // sampled)
    maxima = peaks[:, : groups * width].reshape(len(peaks), groups, width).max(axis=1)[:, ::step]
    rank = most // step
    return np.partition(maxima, -rank, axis=1)[:, -rank, None] if rank <= maxima.shape[1] else -np.inf


def _places(values: npt.NDArray[Any], floor: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Flat indices of what reaches its row's `floor`, ascending, and how many there are up to each row's end."""
    more = values.size // 8 + 1
    reached = np.empty(values.size + more, dtype=bool)
    np.greater_equal(values, floor, out=reached[:-more].reshape(values.shape))
    # Where less than a tenth is true, numpy searches with branches that the processor cannot foresee: twice as slow.
    reached[-more:] = True
    places = np.flatnonzero(reached)[:-more]
    return places, places.searchsorted(np.arange(1, len(values) + 1) * values.shape[1])


class Sampler:
    """What the tokens of one completion are drawn with; everything random in it follows from its seed."""

    def __init__(self, sampling: Sampling, seed: int) -> None:
        self.sampling = sampling
        self._random = random.Random(seed)  # noqa: S311

    def chance(self) -> float:
        """The next random number, from 0 up to 1."""
        return self._random.random()

    def sample(self, logits: npt.NDArray[Any]) -> int:
        """A token from one row of logits."""
        return sample([self], [logits])[0]


KEPT_BYTES = 31 << 20
"""Freed at the start: see `keep_pages`."""


def keep_pages() -> None:
    """glibc returns memory to the system above a limit, and each page that comes again costs as much as drawing from
    it. Whoever frees much at once raises that limit, up to 32 MiB; nothing is written here."""
    bytearray(KEPT_BYTES)


def sample(samplers: Sequence[Sampler], rows: Sequence[npt.NDArray[Any]], draw: Draw = draw) -> list[int]:
    """A token from each row, by the sampler at the same place; those together that are drawn in the same way."""
    alike: dict[tuple[float, float, int], list[int]] = {}
    for place, sampler in enumerate(samplers):
        sampling = sampler.sampling
        alike.setdefault((sampling.temperature, sampling.top_p, sampling.top_k), []).append(place)
    tokens = [0] * len(rows)
    for places in alike.values():
        chances = np.array([samplers[place].chance() for place in places])
        drawn = draw([rows[place] for place in places], samplers[places[0]].sampling, chances)
        for place, token in zip(places, drawn, strict=True):
            tokens[place] = token
    return tokens


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
