"""The settings that the paper compares, on the fake engine: strategies, assessment, keeping, and when a run ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import TINY, flags, minisheep, outcome, tiny_run

from minisheep import config, loop
from minisheep.engines.fake_engine import FakeEngine
from minisheep.errors import ConfigError, StarvedError
from minisheep.run.events import Note, RunFinished
from minisheep.run.files import read_json
from minisheep.run.records import Example
from minisheep.stages.train import rounds_trained_on, starts_from, together
from minisheep.workspace import Workspace


def example(name: str) -> Example:
    return Example(name, "", name, [], None, None, None, "", ())


def test_total_base_trains_on_all_rounds_so_far_and_the_others_on_their_own() -> None:
    assert list(rounds_trained_on("total-base", 3)) == [1, 2, 3]
    assert list(rounds_trained_on("one-base", 3)) == list(rounds_trained_on("one-last", 3)) == [3]


def test_only_one_last_starts_from_an_adapter() -> None:
    assert [starts_from(s, 2) for s in ("one-base", "one-last", "total-base", "direct")] == [0, 1, 0, 0]
    assert starts_from("one-last", 1) == 0


@given(st.lists(st.integers(0, 5), max_size=4))
def test_rounds_put_together_lose_nothing_and_keep_the_order_of_each(sizes: list[int]) -> None:
    rounds = [[example(f"{r}.{i}") for i in range(size)] for r, size in enumerate(sizes)]
    found = together(rounds)
    assert sorted(e.instruction for e in found) == sorted(e.instruction for r in rounds for e in r)
    for number, of_round in enumerate(rounds):
        assert [e for e in found if e.instruction.startswith(f"{number}.")] == of_round


def test_a_limit_takes_the_best_of_every_round() -> None:
    found = together([[example("a1"), example("a2")], [example("b1"), example("b2")]])
    assert {e.instruction for e in found[:2]} == {"a1", "b1"}


def test_total_base_trains_on_more_in_every_round(tmp_path: Path) -> None:
    run, _ = tiny_run(tmp_path / "run", strategy="total-base")
    trained = [read_json(r.folder.training)["examples"] for r in run.rounds]
    assert trained[1] > trained[0]


def test_one_last_goes_on_from_the_last_adapter(tmp_path: Path) -> None:
    last, _ = tiny_run(tmp_path / "last", strategy="one-last")
    base, _ = tiny_run(tmp_path / "base", strategy="one-base")
    first, second = (outcome(run.path) for run in (last, base))
    assert first["round-1/adapter"] == second["round-1/adapter"]
    assert first["round-2/adapter"] != second["round-2/adapter"]


def test_direct_is_one_round(tmp_path: Path) -> None:
    run, _ = tiny_run(tmp_path / "run", strategy="direct")
    assert run.settings.rounds == 1
    assert [r.number for r in run.rounds] == [1]


def test_without_assessment_every_pair_that_passes_the_rules_is_kept(tmp_path: Path) -> None:
    run, _ = tiny_run(tmp_path / "run", assess="none", keep="auto", rounds=1)
    (only,) = run.rounds
    assert "round-1/judge" not in run.phases_done
    assert only.verdicts == []
    assert all(e.score is None for e in only.kept)
    assert {r.rule for r in only.rejected if r.stage == "filter"}.isdisjoint({"low_score", "no_score"})


def test_without_rules_only_empty_answers_are_dropped_before_scores(tmp_path: Path) -> None:
    run, _ = tiny_run(tmp_path / "run", rules="off", rounds=1)
    (only,) = run.rounds
    assert {r.rule for r in only.rejected} <= {"empty", "low_score", "too_similar", "no_task"}


def test_of_several_answers_at_most_the_best_judged_is_kept(tmp_path: Path) -> None:
    run, _ = tiny_run(tmp_path / "run", answers=3, keep="top:1", rounds=1)
    (only,) = run.rounds
    assert len(only.responses) == 3 * TINY["per_round"]
    assert len({(r.instruction_id, r.sample) for r in only.responses}) == len(only.responses)
    scores = {v.response_id: v.score for v in only.verdicts}
    by_instruction: dict[str, list[float]] = {}
    for response in only.responses:
        score = scores.get(response.id)
        if score is not None:
            by_instruction.setdefault(response.instruction_id, []).append(score)
    kept = {e.parents[0]: e.score for e in only.kept}
    assert len(kept) == len(only.kept)
    assert kept == {id_: max(found) for id_, found in by_instruction.items()}
    dropped = [r for r in only.rejected if r.stage == "filter"]
    assert len(only.kept) + len(dropped) == len(only.responses)


def test_the_base_model_can_judge_every_round(tmp_path: Path) -> None:
    current, _ = tiny_run(tmp_path / "current")
    base, _ = tiny_run(tmp_path / "base", judge_model="base")
    first, second = (outcome(run.path) for run in (current, base))
    assert first["round-1/verdicts.jsonl"] == second["round-1/verdicts.jsonl"]
    assert {v["id"] for v in first["round-2/verdicts.jsonl"]} != {v["id"] for v in second["round-2/verdicts.jsonl"]}


@pytest.mark.parametrize("filter", ["ppl", "density", "density+ppl"])
def test_a_model_only_filter_keeps_and_drops_with_reasons(tmp_path: Path, filter: str) -> None:
    run, _ = tiny_run(tmp_path / "run", filter=filter, keep="auto", rounds=1)
    (only,) = run.rounds
    assert only.kept
    dropped = [r for r in only.rejected if r.stage == "filter"]
    assert len(only.kept) + len(dropped) == len(only.responses)
    assert {v.judge for v in only.verdicts} == {filter}


def test_only_every_second_round_and_the_last_are_measured() -> None:
    settings = config.make({"rounds": 5, "eval_every": 2})
    measured = [p.round for p in loop.phases(settings) if p.name == "evaluate"]
    assert measured == [0, 2, 4, 5]


def test_a_run_ends_when_measured_rounds_bring_no_gain_and_goes_on_when_told(tmp_path: Path) -> None:
    done: dict[str, Any] = {"round-0/evaluate": {"best": 0, "without_gain": 0}}
    settings = config.make({"rounds": 6, "patience": 2})
    for number in (1, 2):
        done |= {p.key: {} for p in loop.phases(settings) if p.round == number}
        done[f"round-{number}/evaluate"] = {"best": 0, "without_gain": number}
    assert loop.next_phase(settings, done) is None
    assert loop.standing(done).best == 0
    more = config.make({"rounds": 6, "patience": 3})
    assert loop.next_phase(more, done) == loop.phases(more)[1 + 2 * 7]
    never = config.make({"rounds": 6, "patience": 0})
    assert loop.next_phase(never, done) == loop.next_phase(more, done)


def test_a_round_that_was_begun_is_finished_whatever_the_patience() -> None:
    settings = config.make({"rounds": 3, "patience": 1})
    done = {p.key: {} for p in loop.phases(settings) if p.round <= 1} | {"round-2/exam": {}}
    done["round-1/evaluate"] = {"best": 0, "without_gain": 1}
    after = loop.next_phase(settings, done)
    assert after is not None
    assert after.key == "round-2/generate"


def test_a_run_that_ended_early_says_so_and_names_the_round_to_use(tmp_path: Path) -> None:
    run, said = tiny_run(tmp_path / "run", rounds=4, patience=1, eval_tasks=2, eval_verifiable=0)
    finished = next(e for e in said if isinstance(e, RunFinished))
    assert finished.early == run.ended_early == (finished.rounds < 4)
    assert finished.best == run.best
    if run.ended_early:
        before = outcome(run.path)
        again, _ = tiny_run(run.path, patience=0)
        assert not again.ended_early
        assert {k: v for k, v in outcome(run.path).items() if k in before} == before


CONTRADICTIONS = [
    ({"strategy": "direct", "rounds": 3}, "direct"),
    ({"filter": "ppl", "keep": "top:0.5"}, "--keep"),
    ({"filter": "density", "answers": 2}, "--answers 2"),
    ({"assess": "none", "keep": "threshold:8"}, "--assess none"),
    ({"assess": "none", "answers": 4}, "--answers 4"),
    ({"judge": "pmi", "assess": "quality"}, "--assess"),
    ({"judge": "pmi", "judge_prompt": "icl"}, "pmi"),
    ({"judge": "auto", "exam_tasks": 0}, "--exam-tasks 8"),
    ({"judge": "auto", "keep": "threshold:8"}, "--judge"),
]


@pytest.mark.parametrize(("given_", "told"), CONTRADICTIONS)
def test_settings_that_contradict_each_other_are_one_clear_line(given_: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        config.make(given_)
    assert told in raised.value.message
    assert "\n" not in str(raised.value)


def test_the_command_line_says_a_contradiction_before_anything_is_made(tmp_path: Path) -> None:
    found = minisheep("align", "--run", str(tmp_path / "run"), *flags(strategy="direct", rounds=3))
    assert found.returncode == 2
    assert len(found.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_direct_asks_for_no_rounds_and_refuses_more_later(tmp_path: Path) -> None:
    run, _ = tiny_run(tmp_path / "run", strategy="direct")
    with pytest.raises(ConfigError):
        tiny_run(run.path, rounds=2)


def test_a_limit_on_perplexity_that_nothing_meets_starves_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(StarvedError) as raised:
        tiny_run(tmp_path / "run", filter="ppl", max_perplexity=1.0001, keep="auto")
    assert "--max-perplexity" in raised.value.fix


def test_keep_auto_is_the_papers_threshold_for_grades_and_a_fraction_for_others() -> None:
    auto = config.Keep.parse("auto")
    assert auto.settled("logits") == config.Keep("threshold", 8.0)
    assert auto.settled("blend").kind == "top"
    assert config.Keep.parse("top:0.5").settled("logits") == config.Keep("top", 0.5)


def test_auto_runs_its_exam_before_every_round_and_judges_by_what_passed(tmp_path: Path) -> None:
    run, said = tiny_run(tmp_path / "run", judge="auto", keep="auto", exam_tasks=12)
    for folder in run.rounds:
        exam = read_json(folder.folder.exam)
        assert exam["chosen"] in exam["judges"]
        assert {v.judge for v in folder.verdicts} == {exam["chosen"]}
        assert folder.metrics["data"]["exam"]["chosen"] == exam["chosen"]
    assert any(isinstance(e, Note) and "AUC" in e.text for e in said)


def test_every_round_is_asked_with_its_own_adapter(tmp_path: Path) -> None:
    run, _ = tiny_run(tmp_path / "run", per_round=4, rounds=2, eval_tasks=2, eval_answers=1)
    work = Workspace(run.path)
    for number, expected in ((1, run.rounds[0].adapter_gguf), (2, run.rounds[1].adapter_gguf), (0, None)):
        engine = work.engine(number, lambda info: None)
        assert isinstance(engine, FakeEngine) and engine.adapter == expected
