"""Clusters: as many as asked, the same for the same points, and what lies together stays together."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minisheep.metrics.diversity import PROJECTED_DIMENSIONS, assign, clusters_for, project


@pytest.mark.parametrize(
    ("count", "wanted", "clusters"),
    [(10_000, 3000, 3000), (20_000, 3000, 3000), (100, 3000, 30), (5, 3000, 2), (1, 3000, 1), (100, 7, 7), (0, 9, 1)],
)
def test_clusters_are_at_most_three_tenths_of_the_pairs(count: int, wanted: int, clusters: int) -> None:
    assert clusters_for(count, wanted) == clusters


def blobs(centres: int, each: int, width: int = 6, spread: float = 0.01) -> tuple[list[list[float]], list[int]]:
    """Points about centres that are far apart, in a shuffled order, and the centre of each."""
    chance = random.Random(7)
    middles = [[chance.uniform(-10, 10) for _ in range(width)] for _ in range(centres)]
    found = [
        ([x + chance.gauss(0, spread) for x in middle], number)
        for number, middle in enumerate(middles)
        for _ in range(each)
    ]
    chance.shuffle(found)
    return [point for point, _ in found], [number for _, number in found]


def same_partition(first: list[int], second: list[int]) -> bool:
    pairs = set(zip(first, second, strict=True))
    return len(pairs) == len(set(first)) == len(set(second))


def test_points_that_lie_together_share_a_cluster() -> None:
    points, centres = blobs(5, 12)
    assert same_partition(assign(points, 5, 1), centres)


def test_the_order_of_the_points_does_not_matter() -> None:
    points, _ = blobs(9, 6, spread=3.0)
    assert assign(points[::-1], 7, 3) == assign(points, 7, 3)[::-1]


@given(st.integers(1, 12), st.integers(1, 20), st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_copies_share_a_cluster_and_no_more_clusters_are_made_than_asked(
    different: int, clusters: int, seed: int
) -> None:
    points, _ = blobs(different, 1)
    labels = assign(points * 3, clusters, seed)
    assert labels[:different] * 3 == labels
    assert len(set(labels)) <= min(clusters, different)


def test_points_that_differ_by_rounding_alone_are_clustered_without_a_warning() -> None:
    points = [[1.0 + i * 1e-16, 2.0, 3.0 + (i % 3) * 4e-16] for i in range(30)]
    assert len(assign(points, 9, 1)) == 30


def test_no_points_have_no_clusters() -> None:
    assert assign([], 3, 1) == []


def test_a_narrow_vector_is_only_rounded() -> None:
    assert project([1 / 3, -20000 / 3]) == [0.333333, -6666.67]


def test_a_projection_is_short_and_keeps_distances() -> None:
    chance = np.random.default_rng(1)
    points = chance.normal(size=(20, 900)) * np.linspace(0.1, 3, 20)[:, None]
    small = [project(point.tolist()) for point in points]
    assert {len(point) for point in small} == {PROJECTED_DIMENSIONS}
    ratios = [
        math.dist(small[i], small[j]) / float(np.linalg.norm(points[i] - points[j]))
        for i in range(20)
        for j in range(i)
    ]
    assert min(ratios) > 0.75 and max(ratios) < 1.25
    assert abs(sum(ratios) / len(ratios) - 1) < 0.05


def test_the_projection_is_the_same_on_every_machine() -> None:
    # Stored vectors are compared with those of a later version: the matrix may never change.
    vector = [0.0] * 200
    vector[3] = math.sqrt(PROJECTED_DIMENSIONS)
    bits = "".join("+" if number > 0 else "-" for number in project(vector))
    assert bits == FOURTH_COLUMN


FOURTH_COLUMN = (
    "+-+++-+++-+-+----+-++--+-+-+-+-+++-----+-+++-++++---+--++--++-+"
    "+-+-+---+-+-----+-+---++-+---+-++-+-+--+++-+-+-+-++-+--++-+++++-+"
)
