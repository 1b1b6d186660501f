"""Whether the loop feeds on itself: how varied a round's data is, and what to say when it narrows.

A model that is trained on its own texts loses what is rare first, and variety in the end (Shumailov et al. 2024). So
each round is measured in numbers that its size does not change, each with a standard error, and compared with the first
round. An alarm needs a change that matters and that chance does not explain: with thirty instructions a tenth is noise.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, TypeVar

from minisheep.data.texts import SeedTask
from minisheep.records import Example, Instruction, Rejection, Response
from minisheep.rules import diversity
from minisheep.rules.diversity import Estimate
from minisheep.rules.prompts import user_text
from minisheep.rules.statistics import quantile
from minisheep.rules.topics import Topics

SIZES = (200, 2000, 20_000)
"""Words by which variety is compared, rounds by the largest that both have. Thirty instructions have 300."""
SAMPLE_WORDS = 30_000
"""At most so many words of a round's instructions, and of its answers, are looked at: the same ones every time."""
PAIRS, PHRASES = 2, 4
"""n of the n-grams: pairs of words for variety, as in distinct-2, and phrases of four for what is said again."""

Metrics = dict[str, Any]
T = TypeVar("T")
Clusters = Mapping[str, Sequence[T]]
"""What came of each draft, by the draft's id."""


def watch(
    instructions: Sequence[Instruction],
    responses: Iterable[Response],
    kept: Sequence[Example],
    rejected: Iterable[Rejection],
    seeds: Sequence[SeedTask],
    earlier_outputs: Iterable[str],
) -> Metrics:
    """A round's variety, JSON-ready; `alarms.alarms` compares rounds by it.

    earlier_outputs: the kept answers of all rounds before; none in the first round.
    What is compared is a `diversity.Estimate` as a dictionary: value, standard error (None where there are too few
    drafts for one) and the number of groups that it is from. What is undefined is None. Needs scikit-learn, for the
    topics of the seeds.
    """
    draft_of = {instruction.id: instruction.draft for instruction in instructions}
    near = [rejection.parent for rejection in rejected if rejection.rule == "too_similar"]
    dropped = _by([*((i.draft, False) for i in instructions), *((draft, True) for draft in near)])
    ended = _by((draft_of.get(r.instruction_id, ""), r.finish != "length") for r in responses)
    asked = _sample(_by((i.draft, i) for i in instructions), lambda i: i.instruction)
    answers = _sample(_by((draft_of.get(e.parents[0], ""), e) for e in kept), lambda e: e.output)
    return {
        "instructions": {
            "count": len(instructions),
            **_variety(_each(asked, lambda i: i.instruction)),
            "openings": _openings(_each(asked, lambda i: diversity.opening(i.instruction))),
            "topics": _topics(_each(asked, lambda i: user_text(i.instruction, i.input)), seeds),
            "near_duplicates": _share(dropped),
            "similarity": _similarity(_each(asked, lambda i: i.similarity)),
        },
        "answers": {
            "count": len(kept),
            **_variety(_each(answers, lambda e: e.output)),
            "duplicates": _estimate(
                _each(answers, lambda e: tuple(diversity.words(e.output))), diversity.repeated_share
            ),
            "seen_before": _seen_before(_each(answers, lambda e: e.output), earlier_outputs),
            "ended": _share(ended),
        },
    }


def _variety(texts: Clusters[str]) -> Metrics:
    """Length, and by number of words: distinct pairs and phrases that come again."""
    pairs = _each(texts, lambda text: diversity.read(text, PAIRS))
    phrases = [diversity.read(text, PHRASES) for text in _flat(texts)]
    overlaps = {size: diversity.self_overlap(phrases, size) for size in SIZES}
    return {
        "words": _estimate(pairs, diversity.typical_length),
        "distinct": _by_size(lambda size: _estimate(pairs, lambda some: diversity.distinct_at(some, size))),
        "overlap": _by_size(lambda size: _tidy(overlaps[size])),
    }


def _openings(openings: Clusters[str]) -> Metrics:
    found = _flat(openings)
    common = max(sorted(Counter(found).items()), key=lambda item: item[1], default=None)
    return {
        "different": len(set(found)),
        "commonest": common[0] if common else None,
        "share": _tidy(common[1] / len(found)) if common else None,
        "crowding": _estimate(openings, diversity.crowding),
    }


@functools.lru_cache(maxsize=1)
def _topics_of(texts: tuple[str, ...]) -> Topics:
    """The seeds of a run are the same in every round. Raises ValueError as `Topics` does."""
    return Topics(texts)


def _topics(texts: Clusters[str], seeds: Sequence[SeedTask]) -> Metrics | None:
    """None where the seeds are too few to have topics."""
    try:
        topics = _topics_of(tuple(user_text(seed.instruction, seed.input) for seed in seeds))
    except ValueError:
        return None
    found = _flat(texts)
    topic_of = dict(zip(found, topics.of(found), strict=True))
    labels = [topic_of[text] for text in found]
    return {
        "of": topics.count,
        "hit": len({label for label in labels if label >= 0}),
        "largest": _tidy(max(Counter(labels).values()) / len(labels)) if labels else None,
        "entropy": _tidy(diversity.normalised_entropy(labels, topics.count)),
        "crowding": _estimate(_each(texts, topic_of.__getitem__), diversity.crowding),
    }


def _similarity(similarities: Clusters[float]) -> Metrics:
    """ROUGE-L with the nearest seed or earlier instruction, which the novelty rule limits."""
    found = _flat(similarities)
    return {"mean": _estimate(similarities, fmean), "p90": _tidy(quantile(found, 0.9)) if found else None}


def _seen_before(texts: Clusters[str], earlier: Iterable[str]) -> Metrics | None:
    """Phrases of kept answers that stand in a sample of earlier rounds' kept answers; None in the first round."""
    # By a digest, so that the sample is of all rounds, and of good and less good answers.
    by_chance = _by((hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(), text) for text in earlier)
    seen = {gram for text in _flat(_sample(by_chance, str)) for gram in diversity.read(text, PHRASES).grams}
    phrases = _each(texts, lambda text: diversity.read(text, PHRASES))
    return _estimate(phrases, lambda some: diversity.seen_share(some, seen)) if by_chance else None


def _by(items: Iterable[tuple[str, T]]) -> dict[str, list[T]]:
    clusters: dict[str, list[T]] = {}
    for name, item in items:
        clusters.setdefault(name, []).append(item)
    return clusters


def _each(clusters: Clusters[T], what: Callable[[T], Any]) -> dict[str, list[Any]]:
    return {name: [what(item) for item in cluster] for name, cluster in clusters.items()}


def _flat(clusters: Clusters[T]) -> list[T]:
    return [item for cluster in clusters.values() for item in cluster]


def _sample(clusters: Clusters[T], text: Callable[[T], str]) -> dict[str, Sequence[T]]:
    return diversity.within(clusters, lambda item: min(len(text(item).split()), diversity.LONGEST), SAMPLE_WORDS)


def _by_size(measure: Callable[[int], Any]) -> Metrics:
    """`measure` of each size that the texts suffice for. Keys are text, as they are in JSON."""
    return {str(size): found for size in SIZES if (found := measure(size)) is not None}


def _estimate(clusters: Clusters[Any], statistic: Callable[[Sequence[Any]], float | None]) -> Metrics | None:
    return _told(diversity.estimate(_in_order(clusters), lambda some: statistic(some) if some else None))


def _share(clusters: Clusters[bool]) -> Metrics | None:
    return _told(diversity.estimate_share(_in_order(clusters)))


def _in_order(clusters: Clusters[T]) -> list[Sequence[T]]:
    """By name, since records may stand in another order after an interruption."""
    return [clusters[name] for name in sorted(clusters)]


def _told(found: Estimate | None) -> Metrics | None:
    if found is None:
        return None
    return {"value": _tidy(found.value), "error": _tidy(found.error), "groups": found.groups}


def _tidy(number: float | None) -> float | None:
    return None if number is None else round(number, 5)
