"""How varied a round's texts are, in numbers that more text does not change, each with its standard error.

A share of distinct n-grams falls with every text that is added, so rounds of different size could not be compared by
it. Here it is what a random choice of texts with a fixed number of words would show, computed exactly from all of them
(rarefaction: Hurlbert 1971; by whole texts as in Gotelli and Colwell 2001). Texts that come from one draft are alike,
so errors are from a jackknife that leaves out whole drafts (with unequal groups: Busing et al. 1999).

Topics say what instructions are about: TF-IDF, latent semantic analysis (Deerwester et al. 1990) and k-means on the
seed tasks, found once, by which every round is then read. Clusters of round 1 would fit round 1 best, and every later
round would look narrower for that alone. The paper's filter by density clusters pairs by their last-layer vectors.

Pure. The functions that need numpy and scikit-learn import them.
"""

from __future__ import annotations

import functools
import itertools
import math
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from statistics import geometric_mean
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from minisheep.rules import text_words as scripts

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

GROUPS = 20
"""Groups that drafts are joined to, at most: enough for an error, and each is one more computation."""
FEWEST_GROUPS = 6
"""An error from fewer groups is itself a guess, so there is none."""
LONGEST = 100
"""Words of a text that count where n-grams are compared, so that a few long texts do not outweigh the rest."""

T = TypeVar("T")


class Text(NamedTuple):
    """A text as n-grams of one n. Only texts of the same process can be compared: n-grams are hashes."""

    length: int
    """Words, all of them."""
    grams: list[int]
    """In order, repetitions included."""


class GroupedEstimate(NamedTuple):
    value: float
    error: float | None
    """Standard error; None where there are too few groups to tell."""
    groups: int
    """Groups behind the error; with so few it follows Student's t, not the normal distribution."""


def words(text: str) -> list[str]:
    """Words without case and punctuation, contractions whole; in a script without blanks each character is one."""
    return scripts.words(text, inside="'’", letters="_")


def read(text: str, n: int) -> Text:
    """The length of a text, and the n-grams of its first `LONGEST` words, both `rules.text_words.scaled`."""
    every = words(text)
    n, first = scripts.scaled(n, text), every[: scripts.scaled(LONGEST, text)]
    # 64 bits: two different n-grams practically never meet.
    return Text(len(every), [hash(tuple(first[i : i + n])) for i in range(len(first) - n + 1)])


def distinct_at(texts: Sequence[Text], size: int) -> float | None:
    """Expected distinct n-grams / all n-grams of a random choice of texts with `size` words in all; 0 .. 1.

    None where the texts do not have more than `size` words, or no n-gram.
    """
    chosen, total = _texts_with(texts, size), sum(len(text.grams) for text in texts)
    if chosen is None or not total:
        return None
    holders = Counter(_holders(texts).values())
    distinct = math.fsum(kinds * (1 - _all_missed(len(texts), held, chosen)) for held, kinds in holders.items())
    return min(1.0, distinct / (total * chosen / len(texts)))


def self_overlap(texts: Sequence[Text], size: int) -> float | None:
    """Mean over texts of the share of their n-grams that stand in others, a random choice with `size` words; 0 .. 1.

    A cheap self-BLEU (Zhu et al. 2018): its n-gram precision against the other texts, for one n, without the brevity
    penalty and without clipped counts; and against a fixed amount of other text, on which self-BLEU depends. None as
    for `distinct_at`.
    """
    chosen, others = _texts_with(texts, size), len(texts) - 1
    if chosen is None or chosen > others:
        return None
    holders = _holders(texts)
    odds = {held: 1 - _all_missed(others, held - 1, chosen) for held in set(holders.values())}
    shares = [math.fsum(odds[holders[g]] for g in text.grams) / len(text.grams) for text in texts if text.grams]
    return math.fsum(shares) / len(shares) if shares else None


def seen_share(texts: Sequence[Text], earlier: Collection[int]) -> float | None:
    """Mean over texts of the share of their n-grams that are in `earlier`; 0 .. 1. None where no text has one."""
    shares = [sum(gram in earlier for gram in text.grams) / len(text.grams) for text in texts if text.grams]
    return math.fsum(shares) / len(shares) if shares else None


def crowding(labels: Sequence[Hashable]) -> float | None:
    """The share that one label has where no other comes twice: 0 all different, 1 all the same.

    The square root of the probability that two items, drawn at random, have the same label (Simpson 1949). Unlike an
    entropy it does not depend on how many items there are. None for fewer than two.
    """
    count = len(labels)
    if count < 2:
        return None
    return math.sqrt(sum(held * (held - 1) for held in Counter(labels).values()) / (count * (count - 1)))


def normalised_entropy(labels: Sequence[Hashable], kinds: int) -> float | None:
    """Shannon entropy of the labels over that of `kinds` equally frequent ones; 0 .. 1.

    None for no labels or fewer than two kinds. A few items cannot fill many kinds, so compare rounds of one size only.
    """
    if not labels or kinds < 2:
        return None
    shares = [held / len(labels) for held in Counter(labels).values()]
    return math.fsum(-share * math.log(share) for share in shares) / math.log(kinds)


def repeated_share(labels: Sequence[Hashable]) -> float | None:
    """Share of items whose label an earlier one has; 0 .. 1. None for no items."""
    return 1 - len(set(labels)) / len(labels) if labels else None


def typical_length(texts: Sequence[Text]) -> float | None:
    """Geometric mean of the lengths in words, each counted as one word at least: a few very long texts hardly move it,
    which makes its error small and honest. None for no texts."""
    return geometric_mean(max(1, text.length) for text in texts) if texts else None


def opening(text: str) -> str:
    """The first two words: of an instruction the verb and what follows, or the kind of question."""
    return ("" if scripts.unspaced(text) else " ").join(words(text)[: scripts.scaled(2, text)])


def within(clusters: Mapping[str, Sequence[T]], weigh: Callable[[T], int], most: int) -> dict[str, Sequence[T]]:
    """Whole clusters in the order of their names (ids, so a random order that is always the same), until their items
    weigh `most` in all."""
    chosen: dict[str, Sequence[T]] = {}
    weight = 0
    for name in sorted(clusters):
        if weight >= most:
            break
        chosen[name] = clusters[name]
        weight += sum(map(weigh, clusters[name]))
    return chosen


def estimate(
    clusters: Iterable[Sequence[T]], statistic: Callable[[Sequence[T]], float | None]
) -> GroupedEstimate | None:
    """`statistic` of all items, with a standard error from leaving out one group of clusters at a time.

    `statistic` must not depend on how many items it is given. None where it has no value.
    """
    groups = _grouped(clusters)
    everything = [item for group in groups for item in group]
    value = statistic(everything)
    if value is None:
        return None
    return GroupedEstimate(value, _jackknife_error(groups, everything, value, statistic), len(groups))


def estimate_share(clusters: Iterable[Sequence[bool]]) -> GroupedEstimate | None:
    """`estimate` of the share that is true. None for no items.

    Its error is at least that of as many independent items with two of each added (Agresti and Coull 1998): where few
    or nearly all are true, the drawn items do not show how far the share could be off.
    """
    clusters = list(clusters)
    plain = estimate(clusters, lambda some: sum(some) / len(some) if some else None)
    if plain is None or plain.error is None:
        return plain
    count = sum(map(len, clusters)) + 4
    share = (sum(map(sum, clusters)) + 2) / count
    return plain._replace(error=max(plain.error, math.sqrt(share * (1 - share) / count)))


def _jackknife_error(
    groups: Sequence[Sequence[T]],
    everything: Sequence[T],
    value: float,
    statistic: Callable[[Sequence[T]], float | None],
) -> float | None:
    if len(groups) < FEWEST_GROUPS:
        return None
    weighted = []
    for number, group in enumerate(groups):
        without = statistic([item for i, other in enumerate(groups) if i != number for item in other])
        if without is None:
            return None
        share = len(everything) / len(group)
        weighted.append((share, share * value - (share - 1) * without))
    centre = math.fsum(pseudo / share for share, pseudo in weighted)
    variance = math.fsum((pseudo - centre) ** 2 / (share - 1) for share, pseudo in weighted) / len(weighted)
    return math.sqrt(variance)


def _grouped(clusters: Iterable[Sequence[T]]) -> list[list[T]]:
    """At most `GROUPS` groups of whole clusters, dealt out largest first so that they become much the same size."""
    groups: list[list[T]] = [[] for _ in range(GROUPS)]
    for cluster in sorted(clusters, key=len, reverse=True):
        min(groups, key=len).extend(cluster)
    return [group for group in groups if group]


def _texts_with(texts: Sequence[Text], size: int) -> float | None:
    """How many of the texts have `size` words; None where all of them have not more."""
    length = sum(min(text.length, LONGEST) for text in texts)
    return len(texts) * size / length if length > size else None


def _holders(texts: Sequence[Text]) -> Counter[int]:
    """How many texts hold each n-gram."""
    return Counter(itertools.chain.from_iterable(set(text.grams) for text in texts))


def _all_missed(count: int, holders: int, chosen: float) -> float:
    """Probability that `chosen` of `count` texts, drawn without replacement, miss all `holders` of them.

    C(count - holders, chosen) / C(count, chosen), with gamma functions where `chosen` is no whole number.
    """
    left = count - holders - chosen
    if left <= -1:
        return 0.0
    above = math.lgamma(count - holders + 1) + math.lgamma(count - chosen + 1)
    return math.exp(above - math.lgamma(left + 1) - math.lgamma(count + 1))


OUTSIDE = -1
"""The topic of a text that has no word of the seeds."""
TEXTS_A_TOPIC, MOST = 12, 24
"""Seeds for one topic, and topics at most: with more, 30 instructions could not fill them."""
DIMENSIONS = 32
"""Of the space in which texts are compared."""
SEED = 1


class Topics:
    """Topics of `texts`; the same texts give the same topics."""

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


PROJECTED_DIMENSIONS = 128
"""Numbers of a vector that is stored."""
MOST_SHARE = 0.3
"""Clusters a pair: the paper's 3,000 for 10,000."""
STARTS = 2
ITERATIONS = 50


def clusters_for(count: int, wanted: int) -> int:
    """Clusters for `count` pairs: `wanted`, at most three tenths of the pairs, at least 1."""
    return max(1, min(wanted, int(count * MOST_SHARE + 0.5)))


def project(vector: Sequence[float]) -> list[float]:
    """The vector in `PROJECTED_DIMENSIONS` numbers of six digits; one that has no more is only rounded.

    Multiplies by a fixed matrix of random signs (Achlioptas 2003): distances are kept within some six per cent
    (Johnson-Lindenstrauss), and clusters are made of distances alone.
    """
    import numpy as np

    numbers = np.asarray(vector, dtype=np.float64)
    if len(numbers) > PROJECTED_DIMENSIONS:
        numbers = _signs(len(numbers)) @ numbers / math.sqrt(PROJECTED_DIMENSIONS)
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
    """The matrix of `project`, 1 and -1, [PROJECTED_DIMENSIONS, width]. The bits of PCG64 are the same everywhere."""
    import numpy as np

    count = PROJECTED_DIMENSIONS * width
    raw = np.random.PCG64(128).random_raw(-(-count // 64)).astype("<u8")
    bits = np.unpackbits(raw.view(np.uint8))[:count]
    return bits.reshape(PROJECTED_DIMENSIONS, width).astype(np.float64) * 2 - 1
