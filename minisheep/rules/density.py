"""Clusters of pairs by their last-layer vectors, for the paper's filter by density. Pure.

numpy and scikit-learn are imported by the functions that need them.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

DIMENSIONS = 128
"""Numbers of a vector that is stored."""
MOST_SHARE = 0.3
"""Clusters a pair: the paper's 3,000 for 10,000."""
STARTS = 2
ITERATIONS = 50


def clusters_for(count: int, wanted: int) -> int:
    """How many clusters `count` pairs are put in: `wanted`, at most three tenths of them, at least 1."""
    return max(1, min(wanted, int(count * MOST_SHARE + 0.5)))


def project(vector: Sequence[float]) -> list[float]:
    """The vector in `DIMENSIONS` numbers of six digits; one that has no more is only rounded.

    Multiplies by a fixed matrix of random signs (Achlioptas 2003): distances are kept within some six per cent
    (Johnson-Lindenstrauss), and clusters are made of distances alone.
    """
    import numpy as np

    numbers = np.asarray(vector, dtype=np.float64)
    if len(numbers) > DIMENSIONS:
        numbers = _signs(len(numbers)) @ numbers / math.sqrt(DIMENSIONS)
    return [float(f"{number:.6g}") for number in numbers]


def assign(vectors: Sequence[Sequence[float]], clusters: int, seed: int) -> list[int]:
    """The cluster of each vector, by k-means with `clusters` (at least 1) centres; fewer where vectors coincide.

    Depends on the vectors and the seed, not on their order.
    """
    import numpy as np
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    if not len(vectors):
        return []
    # Copies count by their weight: k-means would put several centres on them.
    points, place = np.unique(np.asarray(vectors, dtype=np.float64), axis=0, return_inverse=True)
    place = place.reshape(-1)
    if clusters >= len(points):
        return [int(label) for label in place]
    # Not by small batches: with thousands of clusters those are no faster, and what they find is far worse.
    model = KMeans(clusters, random_state=seed % 2**32, n_init=STARTS, max_iter=ITERATIONS)
    with warnings.catch_warnings():
        # Points that differ by rounding alone leave centres without any, which does no harm.
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = model.fit(points, sample_weight=np.bincount(place)).labels_
    return [int(label) for label in labels[place]]


@functools.lru_cache(maxsize=2)
def _signs(width: int) -> npt.NDArray[np.float64]:
    """The matrix of `project`, (DIMENSIONS, width) of 1 and -1, from raw bits of PCG64, the same in every numpy."""
    import numpy as np

    count = DIMENSIONS * width
    raw = np.random.PCG64(128).random_raw(-(-count // 64)).astype("<u8")
    bits = np.unpackbits(raw.view(np.uint8))[:count]
    return bits.reshape(DIMENSIONS, width).astype(np.float64) * 2 - 1
