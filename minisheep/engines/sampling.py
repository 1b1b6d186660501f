"""From logits to results: the next token, probabilities of labels, and the text of a completion. Pure, on numpy.

Sampling takes the same steps in the same order as llama.cpp's sampler chain (llama_sampler_init_top_k, _top_p, _temp,
_dist), which takes 0.8 ms for a vocabulary of 49k, a tenth of all time when 32 sequences decode together. Most of that
orders tokens that can never be drawn; one comparison sets these aside here first, so it takes a fifth.
"""

from __future__ import annotations

import codecs
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from minisheep.engines.base import Sampling

NEGLIGIBLE = 16.0
"""Nats below the best token at temperature 1 from which a token is set aside: each is then at most 1.1e-7 as likely."""
NEAR = 8.0
"""Where at least top_k tokens lie within this many nats, the others are ignored: a flat row has half its vocabulary
within 16 nats, and ordering those takes most of the time."""


def candidates(logits: npt.NDArray[Any], sampling: Sampling) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """Token ids that may be drawn, likeliest first (the lower id where two are equal), and their probabilities.

    `logits` is one row, of the vocabulary's size. Top-k and top-p look at the distribution at temperature 1.
    """
    highest, reach = logits.max(), max(1.0, sampling.temperature)
    tokens = np.flatnonzero(logits >= highest - NEAR * reach)
    if not 0 < sampling.top_k <= len(tokens):
        tokens = np.flatnonzero(logits >= highest - NEGLIGIBLE * reach)
    values = logits[tokens]
    if 0 < sampling.top_k < len(tokens):
        best = np.argpartition(values, -sampling.top_k)[-sampling.top_k :]
        best.sort()  # argpartition's own order is not defined
        tokens, values = tokens[best], values[best]
    values = values.astype(np.float64)
    order = np.argsort(-values, kind="stable")
    tokens, values = tokens[order], values[order]
    if sampling.top_p < 1:
        mass = np.cumsum(_softmax(values))
        kept = int(np.searchsorted(mass, sampling.top_p * mass[-1])) + 1
        tokens, values = tokens[:kept], values[:kept]
    return tokens, _softmax(values / sampling.temperature)


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
