"""Topics of the seed tasks: the same every time, near texts together, foreign ones outside."""

from __future__ import annotations

import pytest

from minisheep.data.seed_tasks import load_seeds
from minisheep.metrics.diversity import MOST, OUTSIDE, TEXTS_A_TOPIC, Topics
from minisheep.rules.prompts import user_text

COOKING = [f"Bake bread with flour, yeast and salt in the oven for {n} minutes." for n in range(20, 40)]
SAILING = [f"Steer the boat by compass, hoist the sail and tie rope number {n}." for n in range(20, 40)]


def test_two_subjects_are_two_topics_and_new_texts_fall_in_theirs() -> None:
    topics = Topics(COOKING + SAILING)
    cooking, sailing, foreign = topics.of(
        ["How much flour and yeast does bread need?", "Which rope holds the sail?", "zzz qqq"]
    )
    assert {*topics.of(COOKING)}.isdisjoint(topics.of(SAILING))
    assert cooking in topics.of(COOKING) and sailing in topics.of(SAILING)
    assert foreign == OUTSIDE


def test_the_same_seeds_have_the_same_topics() -> None:
    seeds = [user_text(seed.instruction, seed.input) for seed in load_seeds()]
    topics = Topics(seeds)
    assert topics.of(seeds) == Topics(seeds).of(seeds)
    assert topics.count == min(MOST, len(seeds) // TEXTS_A_TOPIC)


def test_no_topic_of_our_own_seeds_swallows_the_others() -> None:
    seeds = [user_text(seed.instruction, seed.input) for seed in load_seeds()]
    topics = Topics(seeds)
    found = topics.of(seeds)
    assert max(map(found.count, set(found))) < len(seeds) / 4
    assert len(set(found)) == topics.count


@pytest.mark.parametrize("texts", [[], ["one task"], COOKING, ["?"] * 40, ["the same task"] * 40])
def test_too_few_or_wordless_seeds_have_none(texts: list[str]) -> None:
    with pytest.raises(ValueError):
        Topics(texts)


def test_no_texts_have_no_topics() -> None:
    assert Topics(COOKING + SAILING).of([]) == []
