"""Embeddings without a model: how texts are packed, and the fake engine's vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minisheep.engines.base import EmbedRequest
from minisheep.engines.embed import Piece, pack
from minisheep.engines.fake_engine import FakeEngine
from minisheep.rules.templates import Segment

LENGTHS = st.lists(st.integers(1, 40), max_size=30)
LIMITS = st.tuples(st.integers(1, 64), st.integers(40, 90), st.integers(1, 8))


@given(LENGTHS, LIMITS)
def test_every_token_is_in_one_batch_and_a_text_is_never_interrupted(
    lengths: list[int], limits: tuple[int, int, int]
) -> None:
    batch, cells, texts = limits
    pieces = [piece for pieces in pack(lengths, batch=batch, cells=cells, texts=texts) for piece in pieces]
    tokens = [(piece.key, token) for piece in pieces for token in range(piece.start, piece.stop)]
    assert tokens == [(key, token) for key, length in enumerate(lengths) for token in range(length)]


@given(LENGTHS, LIMITS)
def test_no_batch_is_beyond_a_limit(lengths: list[int], limits: tuple[int, int, int]) -> None:
    batch, cells, texts = limits
    for pieces in pack(lengths, batch=batch, cells=cells, texts=texts):
        tokens = sum(piece.stop - piece.start for piece in pieces)
        assert 0 < tokens <= batch
        assert pieces[0].start + tokens <= cells
        assert len({piece.key for piece in pieces}) == len(pieces) <= texts


def test_a_batch_is_filled_before_the_next() -> None:
    assert list(pack([5, 9, 2], batch=8, cells=16, texts=4)) == [
        [Piece(0, 0, 5), Piece(1, 0, 3)],
        [Piece(1, 3, 9), Piece(2, 0, 2)],
    ]


@pytest.mark.parametrize("lengths", [[3, 0], [3, 17]])
def test_an_empty_or_too_long_text_is_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="16"):
        list(pack(lengths, batch=8, cells=16, texts=4))


def vectors(texts: Sequence[str], adapter: Path | None = None) -> list[tuple[float, ...]]:
    engine = FakeEngine()
    engine.set_adapter(adapter)
    return [found.vector for found in engine.embed([EmbedRequest(text, (Segment(text),)) for text in texts])]


def test_the_fake_gives_similar_texts_near_vectors() -> None:
    text, near, far = vectors(
        [
            "Boil the pasta in salted water for nine minutes.",
            "Boil the rice in salted water for nine minutes.",
            "Trains to the coast leave every hour.",
        ]
    )
    assert math.dist(text, near) < 0.5 * math.dist(text, far)


def test_the_fakes_vector_depends_on_the_text_and_the_adapter_alone() -> None:
    first, second = vectors(["A fish.", "a fish"])
    assert first == second and len(first) == 32
    assert vectors(["A fish."]) == [first]
    (adapted,) = vectors(["A fish."], Path("round-1/adapter.gguf"))
    assert 0 < math.dist(first, adapted) < 0.5


def test_the_fake_embeds_a_text_without_words() -> None:
    (nothing,) = vectors([""])
    assert len(nothing) == 32 and any(nothing)
