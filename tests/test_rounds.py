"""A round's results from Python: plain data, whole or as far as the round has come."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_runs import tiny_run

from minisheep import load_run, loop
from minisheep.api import Run
from minisheep.rounds import Round
from minisheep.store import RoundFolder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two rounds of the fake engine, with an exam. Tests must not change it."""
    run, _ = tiny_run(tmp_path_factory.mktemp("rounds") / "run", exam_tasks=8, force=True)
    return run


def test_the_funnel_ends_with_what_was_kept(finished: Run) -> None:
    for r in finished.rounds:
        counts = list(r.funnel.values())
        assert next(iter(r.funnel)) == "drafts" and counts[0] == len(r.drafts)
        assert r.funnel["new instructions"] == len(r.instructions)
        assert counts[-1] == r.funnel["kept"] == len(r.kept)


def test_every_dropped_record_is_counted_under_its_rule(finished: Run) -> None:
    for r in finished.rounds:
        assert sum(r.dropped.values()) == len(r.rejected) > 0
        assert set(r.dropped) == {f"{rejection.stage}.{rejection.rule}" for rejection in r.rejected}
        assert list(r.dropped.values()) == sorted(r.dropped.values(), reverse=True)


def test_the_judge_is_told_by_its_exam_and_its_health(finished: Run) -> None:
    for r in finished.rounds:
        assert r.exam["chosen"] == r.judge_health["judge"] == "pmi"
        assert set(r.exam["judges"]["pmi"]["kinds"]) == set(r.exam["spoiled"])
        assert r.judge_health["judged"] == len(r.verdicts)


def test_the_steps_are_those_of_the_rounds_own_training(finished: Run) -> None:
    for r in finished.rounds:
        assert [step.step for step in r.steps] == list(range(1, r.training["steps"] + 1))
        assert {step.round for step in r.steps} == {r.number}


def test_base_and_rounds_answered_the_same_tasks(finished: Run) -> None:
    asked = [[answer["instruction"] for answer in r.answers] for r in (finished.base, *finished.rounds)]
    assert asked[0] and all(one == asked[0] for one in asked)


def test_the_base_holds_measurements_and_nothing_else(finished: Run) -> None:
    base = finished.base
    assert base.metrics == finished.metrics[0]
    assert not (base.funnel or base.dropped or base.kept or base.steps or base.training or base.exam)


def test_a_round_in_the_middle_shows_what_it_has(tmp_path: Path) -> None:
    run, _ = tiny_run(tmp_path / "run", until=loop.Phase(1, "respond"))
    (begun,) = run.rounds
    assert list(begun.funnel) == ["drafts", "tasks in them", "new instructions", "answers"]
    assert len(begun.responses) == 12
    assert not (begun.kept or begun.judge_health or begun.training or begun.steps or begun.metrics or begun.answers)


def test_a_torn_last_answer_is_not_one_yet(tmp_path: Path) -> None:
    run, _ = tiny_run(tmp_path / "run", until=loop.Phase(0, "evaluate"))
    whole = run.base.answers
    with open(run.base.folder.answers, "a", encoding="utf-8") as file:
        file.write('{"task": "half')
    assert load_run(run.path).base.answers == whole


def test_a_round_that_was_never_begun_is_empty(finished: Run) -> None:
    never = Round(9, RoundFolder(finished.path / "round-9"))
    assert not (never.drafts or never.funnel or never.dropped or never.steps or never.answers)
