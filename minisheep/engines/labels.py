"""Probabilities of labels that may be several tokens long, from as few forward passes as possible."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Path = tuple[int, ...]


class LabelTree:
    """The labels of one request as a tree of tokens.

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
