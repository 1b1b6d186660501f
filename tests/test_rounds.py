"""A round's results from Python: plain data, whole or as far as the round has come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from export_runs import finished_run
from tiny_runs import tiny_run

from minisheep import loop
from minisheep.api import Run, load_run, resolve_round
from minisheep.chat.view import sides
from minisheep.cli.browse import _items
from minisheep.errors import UsageError
from minisheep.evals.eval_run import rounds
from minisheep.export.export_choice import choose_export
from minisheep.export.handoff_files import read_job
from minisheep.run.folder import RoundFolder, RunFolder
from minisheep.run.reading import Round
from minisheep.versus.contests import choose_rounds


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


Ask = Callable[[Run, Callable[[str], None]], int]
TAKES_THE_BASE: dict[str, Ask] = {
    "chat": lambda run, on_progress: sides(run, "best", base=False, compare=False, on_progress=on_progress)[0],
    "eval": lambda run, on_progress: rounds(str(run.path), ("best",), False, on_progress)[0],
    "versus": lambda run, on_progress: choose_rounds(run, "best", "2", on_progress)[0],
}
REFUSES_THE_BASE: dict[str, Ask] = {
    "browse": lambda run, on_progress: _items(run, ("best",))[0].round,
    "export": lambda run, on_progress: choose_export(str(run.path), "best").round,
    "handoff": lambda run, on_progress: read_job(str(run.path), "best").round,
}
VERBS = TAKES_THE_BASE | REFUSES_THE_BASE


@pytest.fixture
def filtered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Two rounds that every verb could take."""
    monkeypatch.setattr("minisheep.export.handoff_files.begin_text", lambda gguf: "")
    run = finished_run(tmp_path / "run")
    folder = RunFolder(run.path)
    manifest = folder.read_manifest()
    manifest["phases"] |= {f"round-{number}/filter": {"kept": 3} for number in (1, 2)}
    folder.write_manifest(manifest)
    return run


@pytest.mark.parametrize("verb", VERBS)
def test_best_is_the_same_round_for_every_verb(filtered: Run, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    monkeypatch.setattr(Run, "best", 1)
    told: list[str] = []
    assert VERBS[verb](filtered, told.append) == 1 and not told


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("measured", [True, False])
def test_where_the_base_is_best_every_verb_says_so(
    filtered: Run, monkeypatch: pytest.MonkeyPatch, verb: str, measured: bool
) -> None:
    monkeypatch.setattr(Run, "best", 0)
    done = {key: value for key, value in filtered.phases_done.items() if not key.endswith("/evaluate")}
    monkeypatch.setattr(Run, "phases_done", done | {f"round-{number}/evaluate": {} for number in range(1 + measured)})
    told: list[str] = []
    found = "was better than its base beyond chance" if measured else "has been measured yet"
    why = f"No round of {filtered.path} {found}, so its best model is the base."
    if verb in TAKES_THE_BASE:
        assert VERBS[verb](filtered, told.append) == 0 and told == [why]
    else:
        with pytest.raises(UsageError) as refused:
            VERBS[verb](filtered, told.append)
        assert refused.value.message == why and "--round N" in refused.value.fix


@pytest.mark.parametrize("asked", ["3", "x", "", "-1", "²", "base", "1" * 5000])
def test_a_round_that_is_not_there_is_refused_with_those_there_are(filtered: Run, asked: str) -> None:
    with pytest.raises(UsageError, match="has trained rounds 1, 2") as refused:
        resolve_round(filtered, asked, [1, 2])
    assert "best or last" in refused.value.fix


def test_without_a_round_every_one_is_refused_but_the_base(filtered: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_round(filtered, "base", [], on_progress=print) == 0
    for asked in ("best", "last", "1"):
        with pytest.raises(UsageError, match="trained no round yet"):
            resolve_round(filtered, asked, [], on_progress=print)
    monkeypatch.setattr(Run, "best", 0)
    with pytest.raises(UsageError, match="trained no round yet"):
        resolve_round(filtered, "best", [])


def test_the_report_is_found_by_its_name(finished: Run, tmp_path: Path) -> None:
    assert finished.report(tmp_path / "out").read_text().startswith("<!")


def test_a_round_that_was_never_begun_is_empty(finished: Run) -> None:
    never = Round(9, RoundFolder(finished.path / "round-9"))
    assert not (never.drafts or never.funnel or never.dropped or never.steps or never.answers)
