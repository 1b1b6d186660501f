"""The filters without a judge: what they ask the engine, what they keep, and why not the rest."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from minisheep import config
from minisheep.config import Settings
from minisheep.engines.base import Embedding, EmbedRequest, Loglik, LoglikRequest
from minisheep.engines.fake_engine import FakeEngine, text_of
from minisheep.errors import StarvedError
from minisheep.rules.prompts import Frame
from minisheep.rules.templates import chatml
from minisheep.run.records import Instruction, Response, Verdict
from minisheep.stages.filter import PART, choose, measure
from minisheep.stages.judge import Pair

FRAME = Frame(chatml())


def with_filter(name: str, **more: Any) -> Settings:
    return config.make({"filter": name, **more})


def pair(number: int) -> Pair:
    instruction = Instruction(1, "draft", number, f"Tell me fact number {number}.", "Briefly.", 0.1)
    answer = f"Fact {number} is a short one."
    return Pair(instruction, Response(instruction.id, 0, answer + "\n\nUser: Thanks", "end", 6), answer)


class Recording(FakeEngine):
    def __init__(self) -> None:
        super().__init__()
        self.asked: list[LoglikRequest | EmbedRequest] = []

    def loglik(self, requests: Sequence[LoglikRequest]) -> Iterator[Loglik]:
        self.asked += requests
        return super().loglik(requests)

    def embed(self, requests: Sequence[EmbedRequest]) -> Iterator[Embedding]:
        self.asked += requests
        return super().embed(requests)


PAIRS = [pair(number) for number in range(12)]


def test_perplexity_is_that_of_the_answer_as_it_would_be_kept() -> None:
    engine = Recording()
    found = list(measure(engine, with_filter("ppl"), FRAME, PAIRS))
    (request, *_), (verdict, *_) = engine.asked, found
    assert isinstance(request, LoglikRequest)
    assert text_of(request.continuation) == PAIRS[0].answer
    (loglik,) = FakeEngine().loglik([request])
    perplexity = math.exp(-sum(loglik.logprobs) / len(loglik.logprobs))
    assert verdict.raw == {"perplexity": pytest.approx(perplexity, rel=1e-5)}
    assert verdict.score == -verdict.raw["perplexity"]
    assert (verdict.judge, verdict.quality, verdict.following) == ("ppl", None, None)


def test_density_embeds_the_instruction_with_its_answer_in_the_frame() -> None:
    engine = Recording()
    verdict, *_ = measure(engine, with_filter("density"), FRAME, PAIRS)
    request = engine.asked[0]
    assert isinstance(request, EmbedRequest)
    assert text_of(request.text).endswith(
        "<|im_start|>user\nTell me fact number 0.\nBriefly.<|im_end|>\n<|im_start|>assistant\nFact 0 is a short one."
    )
    assert any(segment.special for segment in request.text)
    (embedding,) = FakeEngine().embed([request])
    assert verdict.raw == {"vector": pytest.approx(embedding.vector, rel=1e-5)}
    assert verdict.score is None


def test_both_together_are_what_they_are_apart() -> None:
    pairs = [pair(number) for number in range(PART + 5)]
    found = {name: list(measure(FakeEngine(), with_filter(name), FRAME, pairs)) for name in ("ppl", "density")}
    both = list(measure(FakeEngine(), with_filter("density+ppl"), FRAME, pairs))
    assert [v.response_id for v in both] == [p.response.id for p in pairs]
    for apart, vector, verdict in zip(found["ppl"], found["density"], both, strict=True):
        assert verdict.raw == apart.raw | vector.raw
        assert verdict.score == apart.score


def test_a_filter_by_score_measures_nothing() -> None:
    engine = Recording()
    assert list(measure(engine, config.make({"assess": "none"}), FRAME, PAIRS)) == []
    assert engine.asked == []


@pytest.mark.parametrize("name", ["ppl", "density", "density+ppl"])
def test_verdicts_come_one_by_one(name: str) -> None:
    engine = Recording()
    verdicts = measure(engine, with_filter(name), FRAME, [pair(number) for number in range(3 * PART)])
    first = next(verdicts)
    verdicts.close()  # type: ignore[attr-defined]
    assert Verdict.from_dict(first.to_dict()) == first
    if name == "density+ppl":
        assert len(engine.asked) == 2 * PART


# Choosing


def measured(values: Mapping[str, tuple[float, Sequence[float]]]) -> dict[str, Verdict]:
    return {
        id: Verdict(id, "density+ppl", None, None, -perplexity, {"perplexity": perplexity, "vector": list(vector)})
        for id, (perplexity, vector) in values.items()
    }


VALUES = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=4),
    st.tuples(st.sampled_from([1.5, 20.0, 50.0, 50.1, 900.0]), st.tuples(*[st.floats(-5, 5)] * 3)),
    min_size=1,
    max_size=12,
)


@pytest.mark.parametrize("name", ["ppl", "density", "density+ppl"])
@hypothesis_settings(max_examples=25, deadline=None)
@given(values=VALUES, turned=st.randoms(use_true_random=False))
def test_every_pair_is_kept_or_dropped_whatever_their_order(
    name: str, values: dict[str, tuple[float, Sequence[float]]], turned: Any
) -> None:
    values["near"] = (10.0, (0.0, 0.0, 0.0))
    choice = choose(with_filter(name), 1, measured(values))
    assert sorted([*choice.kept, *choice.dropped]) == sorted(values)
    order = list(values)
    turned.shuffle(order)
    assert choose(with_filter(name), 1, measured({id: values[id] for id in order})) == choice


def test_a_perplexity_above_the_limit_is_dropped_and_the_lowest_comes_first() -> None:
    origin = (0.0,)
    verdicts = measured({"a": (83.2, origin), "b": (50.0, origin), "c": (7.0, origin), "d": (50.01, origin)})
    choice = choose(with_filter("ppl"), 1, verdicts)
    assert choice.kept == ["c", "b"]
    assert choice.dropped["a"] == ("high_perplexity", "perplexity 83.2 is above 50")
    assert choose(with_filter("ppl", max_perplexity=60), 1, verdicts).kept == ["c", "b", "d"]


def test_a_limit_that_nothing_meets_says_how_perplexities_lie() -> None:
    origin = (0.0,)
    with pytest.raises(StarvedError) as starved:
        choose(with_filter("ppl"), 1, measured({"a": (60, origin), "b": (70.5, origin), "c": (900, origin)}))
    assert all(part in starved.value.message for part in ("--filter ppl", "3", "60", "900", "70.5", "50"))
    assert "--max-perplexity 71" in starved.value.fix


def crowd() -> dict[str, tuple[float, Sequence[float]]]:
    """Three places with seven pairs each: three tenths of 21 are six clusters, three are asked for."""
    places = ((0.0, 0.0), (9.0, 0.0), (0.0, 9.0))
    return {
        f"{number}{'abcdefg'[i]}": (60.0 + (i * 5 + number) % 7, (x + i / 50, y))
        for number, (x, y) in enumerate(places)
        for i in range(7)
    }


def test_one_pair_of_each_cluster_is_drawn() -> None:
    choice = choose(with_filter("density", clusters=3), 1, measured(crowd()))
    assert sorted(id[0] for id in choice.kept) == ["0", "1", "2"]
    assert choice.kept == sorted(choice.kept)
    assert {rule for rule, _ in choice.dropped.values()} == {"crowded"}
    assert all(detail.startswith("another of cluster ") for _, detail in choice.dropped.values())


def test_the_draw_follows_from_the_runs_seed_and_the_round() -> None:
    verdicts = measured(crowd())
    drawn = {
        (seed, round): tuple(choose(with_filter("density", clusters=3, seed=seed), round, verdicts).kept)
        for seed in range(4)
        for round in (1, 2)
    }
    assert len(set(drawn.values())) > 3
    again = choose(with_filter("density", clusters=3, seed=2), 2, verdicts)
    assert tuple(again.kept) == drawn[2, 2]


def test_with_perplexity_the_lowest_of_each_cluster_is_kept_without_a_limit() -> None:
    values = crowd()
    choice = choose(with_filter("density+ppl", clusters=3), 1, measured(values))
    lowest = [min((id for id in values if id[0] == place), key=lambda id: values[id][0]) for place in "012"]
    assert sorted(choice.kept) == sorted(lowest)
    assert choice.kept == sorted(choice.kept, key=lambda id: values[id][0])
    assert {rule for rule, _ in choice.dropped.values()} == {"not_lowest"}
    assert "has one of perplexity 60" in " ".join(detail for _, detail in choice.dropped.values())


def test_no_pairs_are_no_choice() -> None:
    for name in ("ppl", "density", "density+ppl"):
        choice = choose(with_filter(name), 1, {})
        assert (choice.kept, choice.dropped) == ([], {})
