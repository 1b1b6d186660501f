"""The collapse watch speaks when data collapses, whichever way, and is silent about chance."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_rounds import COLLAPSED, HEALTHY, SEEDS, World, measured, records

from minisheep.metrics import diversity
from minisheep.metrics.diversity import Topics
from minisheep.stages import collapse
from minisheep.stages.collapse import Alarm, Metrics, alarms, watch


@pytest.fixture(autouse=True)
def _topics_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The topics of the same seeds are the same, so a test of many rounds need not find them for each."""

    def found(texts: list[str]) -> Topics:
        return _topics(tuple(texts))

    monkeypatch.setattr(diversity, "Topics", found)


@functools.cache
def _topics(texts: tuple[str, ...]) -> Topics:
    return Topics(texts)


def outputs(seed: int, count: int, world: World = HEALTHY) -> tuple[str, ...]:
    return tuple(example.output for example in records(seed, count, world)[2])


def after(seed: int, count: int, world: World) -> list[Alarm]:
    """What is said of a second round that is as `world` after a healthy first one."""
    first = measured(seed, count, HEALTHY)
    return alarms({1: first, 2: measured(seed, count, world, 2, outputs(seed, count))})


@pytest.mark.parametrize(("count", "runs"), [(20, 8), (30, 8), (150, 1)])
def test_healthy_runs_raise_no_alarm(count: int, runs: int) -> None:
    """Four rounds each of the same model, looked at after every one."""
    said = []
    for seed in range(runs):
        rounds: dict[int, Metrics] = {}
        earlier: list[str] = []
        for number in range(1, 5):
            data = records(seed, count, HEALTHY, number)
            rounds[number] = watch(*data, SEEDS, earlier)
            earlier += [example.output for example in data[2]]
            said += [alarm.text for alarm in alarms(rounds)]
    assert said == []


@pytest.mark.parametrize("name", COLLAPSED)
def test_every_kind_of_collapse_is_told_when_there_is_much_data(name: str) -> None:
    for seed in range(2):
        assert name in {alarm.name for alarm in after(seed, 150, COLLAPSED[name])}


def test_most_collapses_are_told_of_thirty_instructions() -> None:
    """And each of them at times: thirty instructions in ten drafts are little evidence."""
    heard = {
        n: sum(n in {alarm.name for alarm in after(seed, 30, COLLAPSED[n])} for seed in range(3)) for n in COLLAPSED
    }
    assert sum(heard.values()) > 0.5 * 3 * len(COLLAPSED)
    assert min(heard.values()) > 0


@pytest.mark.parametrize("name", COLLAPSED)
def test_an_alarm_is_one_sentence_with_a_way_out(name: str) -> None:
    (alarm,) = (alarm for alarm in after(1, 150, COLLAPSED[name]) if alarm.name == name)
    assert alarm.text.endswith(".") and "\n" not in alarm.text and ". " not in alarm.text
    assert "ound 2" in alarm.text
    assert any(way in alarm.text for way in ("start a new run", "in a new run"))


def test_ten_instructions_raise_no_alarm_whatever_they_are() -> None:
    """There are too few drafts for an error, and without one nothing can be told from chance."""
    for world in COLLAPSED.values():
        for seed in range(3):
            first, last = measured(seed, 6, HEALTHY), measured(seed, 6, world, 2, outputs(seed, 6))
            assert alarms({1: first, 2: last}) == []


def test_a_single_round_raises_no_alarm() -> None:
    assert alarms({}) == []
    assert alarms({1: measured(1, 30, COLLAPSED["copies"])}) == []


def test_the_newest_round_is_compared_with_the_first() -> None:
    healthy, copies = measured(1, 100, HEALTHY), measured(1, 100, COLLAPSED["copies"], 2)
    assert alarms({1: healthy, 2: copies, 3: healthy}) == []
    assert {alarm.name for alarm in alarms({1: healthy, 2: healthy, 3: copies})} >= {"copies"}
    (told,) = (a.text for a in alarms({1: healthy, 4: copies}) if a.name == "copies")
    assert "round 4's" in told.lower() and "round 1" in told


def test_a_larger_round_is_no_less_varied() -> None:
    few, many = measured(1, 30, HEALTHY), measured(2, 300, HEALTHY)
    assert alarms({1: few, 2: many}) == [] == alarms({1: many, 2: few})
    small, large = few["instructions"]["distinct"]["200"], many["instructions"]["distinct"]["200"]
    assert small["value"] == pytest.approx(large["value"], abs=0.1)


def test_metrics_are_small_json_and_the_same_every_time() -> None:
    data = records(1, 300, HEALTHY, 2)
    found = watch(*data, SEEDS, outputs(1, 300))
    text = json.dumps(found, allow_nan=False)
    assert len(text) < 3000
    assert json.loads(text) == found == watch(*data, SEEDS, outputs(1, 300))


def test_alarms_read_what_was_stored_as_json() -> None:
    rounds = {1: measured(1, 100, HEALTHY), 2: measured(1, 100, COLLAPSED["copies"], 2)}
    assert alarms({number: json.loads(json.dumps(metrics)) for number, metrics in rounds.items()}) == alarms(rounds)
    assert alarms(rounds) != []


def test_a_round_without_anything_is_measured_as_nothing() -> None:
    found = watch([], [], [], [], SEEDS, [])
    assert found["instructions"]["count"] == found["answers"]["count"] == 0
    assert found["instructions"]["openings"]["commonest"] is None
    assert found["answers"]["distinct"] == {} and found["answers"]["seen_before"] is None
    assert alarms({1: found, 2: found}) == []
    assert alarms({1: measured(1, 100, HEALTHY), 2: found}) == [] == alarms({1: found, 2: measured(1, 100, HEALTHY)})


def test_few_seeds_have_no_topics_and_everything_else_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diversity, "Topics", Topics)
    found = watch(*records(1, 60, HEALTHY), SEEDS[:5], [])
    assert found["instructions"]["topics"] is None
    other = watch(*records(1, 60, COLLAPSED["openings"], 2), SEEDS[:5], [])
    assert "openings" in {alarm.name for alarm in alarms({1: found, 2: other})}


def test_known_numbers() -> None:
    instructions, responses, kept, rejected = records(1, 100, HEALTHY)
    found: dict[str, Any] = watch(instructions, responses, kept, rejected, SEEDS, [])
    near = sum(rejection.rule == "too_similar" for rejection in rejected)
    assert found["instructions"]["near_duplicates"]["value"] == pytest.approx(near / (near + 100), abs=1e-4)
    ended = sum(response.finish == "end" for response in responses) / 100
    assert found["answers"]["ended"]["value"] == pytest.approx(ended)
    lengths = sorted(len(example.output.split()) for example in kept)
    assert found["answers"]["words"]["value"] == pytest.approx(lengths[len(lengths) // 2], rel=0.2)
    assert found["answers"]["count"] == len(kept)


def test_phrases_from_before_are_those_of_earlier_rounds() -> None:
    data = records(1, 60, HEALTHY)
    said = [example.output for example in data[2]]
    again = watch(*data, SEEDS, said)["answers"]["seen_before"]
    never = watch(*data, SEEDS, [" ".join(reversed(text.split())) for text in said])["answers"]["seen_before"]
    assert again["value"] == 1
    assert never["value"] < 0.1


def test_a_huge_round_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most so many words are looked at, whatever the round's size."""
    monkeypatch.setattr(collapse, "SAMPLE_WORDS", 300)
    read: list[str] = []
    honest = diversity.opening
    monkeypatch.setattr(diversity, "opening", lambda text: read.append(text) or honest(text))
    found = watch(*records(1, 200, HEALTHY), SEEDS, outputs(2, 200))
    assert set(found["instructions"]["distinct"]) == set(found["answers"]["distinct"]) == {"200"}
    assert found["instructions"]["count"] == 200
    assert sum(len(text.split()) for text in read) < 400


def test_reading_alarms_imports_nothing_heavy() -> None:
    code = (
        "import sys, minisheep.stages.collapse\n"
        "heavy = {'torch', 'sklearn', 'scipy', 'llama_cpp', 'numpy'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)


def test_the_order_of_records_on_disk_changes_nothing() -> None:
    instructions, responses, kept, rejected = records(1, 60, HEALTHY)
    assert watch(instructions, responses, kept, rejected, SEEDS, ["a b", "c d"]) == watch(
        instructions, responses[::-1], kept, rejected, SEEDS, ["c d", "a b"]
    )
