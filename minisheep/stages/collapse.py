"""Whether the loop feeds on itself: how varied a round's data is, and what to say when it narrows.

A model that is trained on its own texts loses what is rare first, and variety in the end (Shumailov et al. 2024). So
`watch` measures each round in numbers that its size does not change, each with a standard error, and `alarms` compares
the newest with the first. An alarm needs a change that matters and that chance does not explain: with thirty
instructions a tenth is noise. Pure.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypeVar

from minisheep.data.seed_tasks import SeedTask
from minisheep.metrics import diversity
from minisheep.metrics.stats import quantile
from minisheep.rules.prompts import user_text
from minisheep.rules.text_words import word_count
from minisheep.run.records import Example, Instruction, Rejection, Response

SIZES = (200, 2000, 20_000)
"""Words by which variety is compared, rounds by the largest that both have. Thirty instructions have 300."""
SAMPLE_WORDS = 30_000
"""Words of a round's instructions, and of its answers, that are looked at, at most: the same ones every time."""
PAIRS, PHRASES = 2, 4
"""n of the n-grams: pairs of words for variety, as in distinct-2, and phrases of four for what comes again."""

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
    """A round's variety, JSON-ready, for `alarms`. Needs scikit-learn, for the topics of the seeds.

    earlier_outputs: the kept answers of all rounds before; none in the first round.
    What `alarms` compares is a `GroupedEstimate` as a dictionary: value, standard error (None where there are too few
    drafts for one) and the number of groups behind it. What is undefined is None.
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
    """Length and, by number of words, distinct pairs and phrases that come again."""
    pairs = _each(texts, lambda text: diversity.read(text, PAIRS))
    phrases = [diversity.read(text, PHRASES) for text in _flat(texts)]
    overlaps = {size: diversity.self_overlap(phrases, size) for size in SIZES}
    return {
        "words": _estimate(pairs, diversity.typical_length),
        "distinct": _by_size(lambda size: _estimate(pairs, lambda some: diversity.distinct_at(some, size))),
        "overlap": _by_size(lambda size: _tidy(overlaps[size])),
    }


def _openings(openings: Clusters[str]) -> Metrics:
    every = _flat(openings)
    common = max(sorted(Counter(every).items()), key=lambda item: item[1], default=None)
    return {
        "different": len(set(every)),
        "commonest": common[0] if common else None,
        "share": _tidy(common[1] / len(every)) if common else None,
        "crowding": _estimate(openings, diversity.crowding),
    }


@functools.lru_cache(maxsize=1)
def _topics_of(texts: tuple[str, ...]) -> diversity.Topics:
    """Kept, since the seeds of a run are the same in every round. Raises ValueError as `Topics` does."""
    return diversity.Topics(texts)


def _topics(texts: Clusters[str], seeds: Sequence[SeedTask]) -> Metrics | None:
    """None where the seeds are too few to have topics."""
    try:
        topics = _topics_of(tuple(user_text(seed.instruction, seed.input) for seed in seeds))
    except ValueError:
        return None
    every = _flat(texts)
    topic_of = dict(zip(every, topics.of(every), strict=True))
    labels = [topic_of[text] for text in every]
    return {
        "of": topics.count,
        "hit": len({label for label in labels if label >= 0}),
        "largest": _tidy(max(Counter(labels).values()) / len(labels)) if labels else None,
        "entropy": _tidy(diversity.normalised_entropy(labels, topics.count)),
        "crowding": _estimate(_each(texts, topic_of.__getitem__), diversity.crowding),
    }


def _similarity(similarities: Clusters[float]) -> Metrics:
    """ROUGE-L with the nearest seed or earlier instruction, which the novelty rule limits."""
    every = _flat(similarities)
    return {"mean": _estimate(similarities, fmean), "p90": _tidy(quantile(every, 0.9)) if every else None}


def _seen_before(texts: Clusters[str], earlier: Iterable[str]) -> Metrics | None:
    """The share of phrases that stand in a sample of earlier rounds' kept answers; None in the first round."""
    # In the order of a digest, so that the sample is of all rounds, and of good and less good answers.
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
    return diversity.within(clusters, lambda item: min(word_count(text(item)), diversity.LONGEST), SAMPLE_WORDS)


def _by_size(measure: Callable[[int], Any]) -> Metrics:
    """`measure` of each size for which there are enough texts. Keys are text, as in JSON."""
    return {str(size): value for size in SIZES if (value := measure(size)) is not None}


def _estimate(clusters: Clusters[Any], statistic: Callable[[Sequence[Any]], float | None]) -> Metrics | None:
    return _as_dict(diversity.estimate(_in_order(clusters), lambda some: statistic(some) if some else None))


def _share(clusters: Clusters[bool]) -> Metrics | None:
    return _as_dict(diversity.estimate_share(_in_order(clusters)))


def _in_order(clusters: Clusters[T]) -> list[Sequence[T]]:
    """By name, since records may stand in another order after an interruption."""
    return [clusters[name] for name in sorted(clusters)]


def _as_dict(estimate: diversity.GroupedEstimate | None) -> Metrics | None:
    if estimate is None:
        return None
    return {"value": _tidy(estimate.value), "error": _tidy(estimate.error), "groups": estimate.groups}


def _tidy(number: float | None) -> float | None:
    return None if number is None else round(number, 5)


# Limits of the alarms.
BEYOND_CHANCE = 3.29
"""Normal deviate that a change must have, one in two thousand by chance, since ten measures are compared after every
round. With the usual 1.96 every third comparison of a healthy run would be an alarm for nothing."""
LESS_VARIED = 0.2
"""Fall of distinct pairs of words, as a share of the first round's. An aligned model loses some; a fifth is much."""
MORE_ALIKE = 0.2
"""Rise of the crowding of openings or of topics (`metrics.diversity.crowding`)."""
NEAR_DUPLICATES, MORE_DUPLICATES = 0.3, 0.15
"""Share of new instructions that are too near to earlier ones, and its rise. Some rise is normal, since there are ever
more earlier ones."""
MORE_COPIES = 0.1
"""Rise of the share of kept answers that are copies of another."""
SEEN_BEFORE = 0.3
"""Share of phrases of four words that earlier rounds' answers hold; a few in a hundred in healthy rounds."""
SHORTER, LONGER = 1 / 3, 0.5
"""Change of an answer's typical length, as a share of the first round's."""
FEWER_END = 0.2
"""Fall of the share of answers that end by themselves."""
SAID_BACK = 0.1
"""Share of the verifiable instructions that the model answers by repeating them, if it has risen beyond chance."""
RAMBLING = 0.5
"""Share of a first round's answers that are cut off at the limit."""

_WIDEN = "start a new run with a higher --generate-temperature or more varied --seeds"

COMPARED = {"instructions": ("near_duplicates",), "answers": ("duplicates", "words", "ended")}
"""Numbers with an error that rounds of any size have, by their part; openings have one too."""

RoundMetrics = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Alarm:
    name: str
    text: str
    """What was seen, and what to do."""


def alarms(rounds: Mapping[int, RoundMetrics]) -> list[Alarm]:
    """What is worse in the newest round's data than in the first one's. rounds: by number, what `watch` found."""
    if len(rounds) < 2:
        return []
    first, last = min(rounds), max(rounds)
    before, now = rounds[first], rounds[last]
    return [
        *_of_instructions(before["instructions"], now["instructions"], first, last),
        *_of_answers(before["answers"], now["answers"], first, last),
    ]


def comparable(before: RoundMetrics, now: RoundMetrics) -> bool:
    """Whether any of the numbers that `alarms` compares has an error in both rounds: without one, no alarm can come."""
    pairs = [(before[part].get(name), now[part].get(name)) for part, names in COMPARED.items() for name in names]
    pairs += [(before["instructions"]["openings"]["crowding"], now["instructions"]["openings"]["crowding"])]
    return any(low and high and None not in (low["error"], high["error"]) for low, high in pairs)


def rambling(answers: int, cut: int, limit: int) -> Alarm | None:
    """Whether a base model that was shown no answers (`Settings.answer_shots`) knows where one ends.

    cut: how many of its answers ran into the `limit`, in tokens.
    """
    if cut <= RAMBLING * answers:
        return None
    return Alarm(
        "rambling",
        f"{cut} of {answers} answers ran into the limit of {limit} tokens: nothing has shown this base model where an"
        " answer ends. From such answers it learns to ramble and to repeat instructions. Stop here, and start a new run"
        " with --answer-shots 3.",
    )


def echo(round: int, model: RoundMetrics) -> Alarm | None:
    """Whether a round's model learned to repeat instructions. model: what `stages.evaluate.metrics` found."""
    share = model.get("verifiable", {}).get("copied")
    change = model.get("verifiable_change", {}).get("copied")
    if not share or not change or change["low"] <= 0 or share["value"] <= SAID_BACK:
        return None
    return Alarm(
        "echo",
        f"Round {round}'s model repeats {share['value']:.0%} of the instructions with constraints instead of answering"
        f" them, the base {share['value'] - change['value']:.0%}. A repetition keeps many constraints without"
        " understanding any, so go by those kept in its own words. With a base model, start a new run with"
        " --answer-shots 3 for fewer repetitions.",
    )


def _of_instructions(before: RoundMetrics, now: RoundMetrics, first: int, last: int) -> Iterator[Alarm]:
    if fall := _fallen(before["distinct"], now["distinct"]):
        yield Alarm(
            "instructions_less_varied",
            f"Round {last}'s instructions are less varied ({fall} in round {first}): {_WIDEN}.",
        )
    was, is_ = before["openings"], now["openings"]
    if _risen(was["crowding"], is_["crowding"], MORE_ALIKE):
        yield Alarm(
            "openings",
            f'{is_["share"]:.0%} of round {last}\'s instructions begin with "{is_["commonest"]}"; in round {first} at'
            f" most {was['share']:.0%} began alike: {_WIDEN}.",
        )
    was, is_ = before["topics"], now["topics"]
    if was and is_ and _risen(was["crowding"], is_["crowding"], MORE_ALIKE):
        yield Alarm(
            "topics",
            f"{is_['largest']:.0%} of round {last}'s instructions are on one topic; in round {first} the"
            f" largest had {was['largest']:.0%}: {_WIDEN}.",
        )
    was, is_ = before["near_duplicates"], now["near_duplicates"]
    if _risen(was, is_, MORE_DUPLICATES) and is_["value"] > NEAR_DUPLICATES:
        yield Alarm(
            "near_duplicates",
            f"{is_['value']:.0%} of round {last}'s new instructions were too near to earlier ones, {was['value']:.0%}"
            f" in round {first}: the model has few new ideas, so stop here, or {_WIDEN}.",
        )


def _of_answers(before: RoundMetrics, now: RoundMetrics, first: int, last: int) -> Iterator[Alarm]:
    back = f"round {first}'s model may be the better one, and a higher --answer-temperature in a new run may help"
    if fall := _fallen(before["distinct"], now["distinct"]):
        yield Alarm(
            "answers_less_varied", f"Round {last}'s kept answers are less varied ({fall} in round {first}): {back}."
        )
    was, is_ = before["duplicates"], now["duplicates"]
    if _risen(was, is_, MORE_COPIES):
        yield Alarm(
            "copies",
            f"{is_['value']:.0%} of round {last}'s kept answers repeat another word for word, {was['value']:.0%} in"
            f" round {first}: {back}.",
        )
    seen = now["seen_before"]
    if seen and seen["error"] is not None and seen["value"] > SEEN_BEFORE:
        yield Alarm(
            "seen_before",
            f"{seen['value']:.0%} of the phrases in round {last}'s kept answers stand in earlier rounds' answers: the"
            f" model learns its own old answers, so stop here, or {_WIDEN}.",
        )
    yield from _of_lengths(before["words"], now["words"], first, last)
    was, is_ = before["ended"], now["ended"]
    if _risen(is_, was, FEWER_END):
        yield Alarm(
            "fewer_end",
            f"{is_['value']:.0%} of round {last}'s answers end by themselves, {was['value']:.0%} in round {first}:"
            f" round {first}'s model may be the better one, and more --answer-max-tokens in a new run may help.",
        )


def _of_lengths(before: RoundMetrics | None, now: RoundMetrics | None, first: int, last: int) -> Iterator[Alarm]:
    for name, shorter, longer, share, kind in (
        ("shorter", now, before, SHORTER, "short"),
        ("longer", before, now, LONGER, "long"),
    ):
        if before and now and _risen(shorter, longer, share * before["value"]):
            yield Alarm(
                name,
                f"Round {last}'s kept answers typically have {now['value']:.0f} words, {before['value']:.0f} in round"
                f" {first}: if the judge prefers {kind} ones, start a new run with another --judge.",
            )


def _fallen(before: RoundMetrics, now: RoundMetrics) -> str:
    """How distinct pairs fell at the largest number of words for which both rounds have an error; empty if not."""
    common = [size for size in now if size in before and None not in (before[size]["error"], now[size]["error"])]
    size = max(common, key=int, default=None)
    if size is None or not _risen(now[size], before[size], LESS_VARIED * before[size]["value"]):
        return ""
    return f"{now[size]['value']:.0%} of the pairs in {size} words are different, {before[size]['value']:.0%}"


def _risen(low: RoundMetrics | None, high: RoundMetrics | None, by: float) -> bool:
    """Whether `high` is above `low` by more than `by` and by more than chance explains.

    False where one is not known or has no error: then nothing can be told apart from chance.
    """
    if low is None or high is None or low["error"] is None or high["error"] is None:
        return False
    rise = high["value"] - low["value"]
    squares = [low["error"] ** 2, high["error"] ** 2]
    if not any(squares):
        return bool(rise > by)
    # Welch's degrees of freedom, and the first term by which Student's t is wider than the normal distribution.
    freedom = sum(squares) ** 2 / sum(s**2 / (e["groups"] - 1) for s, e in zip(squares, (low, high), strict=True))
    wider = 1 + (BEYOND_CHANCE**2 + 1) / (4 * freedom)
    return bool(rise > by and rise > BEYOND_CHANCE * wider * math.sqrt(sum(squares)))
