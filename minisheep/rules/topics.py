"""What instructions are about: topics of the seed tasks, found once, by which every round is then read.

TF-IDF, latent semantic analysis (Deerwester et al. 1990) and k-means. Fitted on the seeds and not on a round: clusters
of round 1 would fit round 1 best, and every later round would look narrower for that alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minisheep.rules.diversity import words

OUTSIDE = -1
"""The topic of a text that has no word of the seeds."""
TEXTS_A_TOPIC, MOST = 12, 24
"""One topic for so many seeds, and so many topics at most: with more, 30 instructions could not fill them."""
DIMENSIONS = 32
"""Of the space in which texts are near each other."""
SEED = 1


class Topics:
    """Topics of `texts`; the same texts give the same topics. Needs scikit-learn, which is imported here."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Raises ValueError where there are fewer than `2 * TEXTS_A_TOPIC` different texts, or no words in them."""
        from sklearn.cluster import KMeans
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        texts = sorted(set(texts))
        self.count = min(MOST, len(texts) // TEXTS_A_TOPIC)
        if self.count < 2:
            raise ValueError(f"{len(texts)} texts have no topics")
        self._words = TfidfVectorizer(sublinear_tf=True, analyzer=words)
        table = self._words.fit_transform(texts)
        self._space: Any = TruncatedSVD(min(DIMENSIONS, min(table.shape) - 1), random_state=SEED)
        self._clusters: Any = KMeans(self.count, n_init=4, random_state=SEED)
        self._clusters.fit(unit(self._space.fit_transform(table)))

    def of(self, texts: Sequence[str]) -> list[int]:
        """The topic of each text: 0 .. `count` - 1, or `OUTSIDE`."""
        if not texts:
            return []
        table = self._words.transform(texts)
        nearest = self._clusters.predict(unit(self._space.transform(table)))
        known = table.getnnz(axis=1)
        return [int(topic) if any_known else OUTSIDE for topic, any_known in zip(nearest, known, strict=True)]


def unit(vectors: Any) -> Any:
    """Rows [texts, dimensions] of length 1, so that distance is angle; rows of zeros stay."""
    import numpy as np

    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length, length, 1)
