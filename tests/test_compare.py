"""Settings against results: what is read from runs, what is paired, how it fits a terminal."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from measured_runs import measured_run
from rich.cells import cell_len
from tiny_runs import tiny_run

from minisheep import comparison
from minisheep.comparison import Comparison, compare
from minisheep.errors import CorruptRunError, UsageError
from minisheep.run.metric_catalogue import (
    CATALOGUE,
    Estimate,
    Metric,
    estimate,
    harness_metric,
    harness_values,
    round_values,
)
from minisheep.terminal import comparison_table
from minisheep.terminal.columns import laid_out

SHARE, POINTS, CHANGE = (Metric("", ("", ""), form) for form in ("share", "points", "change"))


@pytest.fixture
def two(tmp_path: Path) -> Comparison:
    """Two ablations of one model: the second keeps more and is otherwise equal."""
    measured_run(tmp_path / "pmi", [0.2, 0.4], judge="pmi")
    measured_run(tmp_path / "logits", [0.2, 0.9], judge="logits", keep="threshold:8")
    return compare([str(tmp_path / "pmi"), str(tmp_path / "logits")])


# Reading


def test_only_settings_that_differ_are_shown(two: Comparison) -> None:
    assert two.differing == ("judge", "keep")


def test_settings_that_fit_a_run_to_its_machine_are_no_difference(tmp_path: Path) -> None:
    measured_run(tmp_path / "a", [0.2, 0.4], threads=2, slots=8)
    measured_run(tmp_path / "b", [0.2, 0.4], threads=16, keep="top:0.5")
    assert compare([str(tmp_path / "a"), str(tmp_path / "b")]).differing == ("keep",)


def test_a_base_that_runs_share_is_one_row(two: Comparison) -> None:
    assert [(row.key, row.measured.round) for row in two.rows] == [("A B", 0), ("A", 1), ("B", 1)]


def test_bases_that_measured_differently_are_rows_of_their_own(tmp_path: Path) -> None:
    measured_run(tmp_path / "a", [0.2, 0.4])
    measured_run(tmp_path / "b", [0.3, 0.4], seed=2)
    found = compare([str(tmp_path / "a"), str(tmp_path / "b")])
    assert [row.key for row in found.rows if row.measured.round == 0] == ["A", "B"]


def test_a_run_given_twice_counts_once(two: Comparison) -> None:
    again = compare([two.results[0].path, two.results[0].path + "/", two.results[1].path])
    assert [result.key for result in again.results] == ["A", "B"]


def test_every_metric_of_a_real_run_is_found(tmp_path: Path) -> None:
    tiny_run(tmp_path / "run", rounds=1)
    (base, first) = compare([str(tmp_path / "run")]).rows
    wanted = {metric.name for metric in CATALOGUE} - {"exam_auc"}
    assert wanted <= set(first.measured.values)
    assert "nll_change" not in base.measured.values and "prompt_strict" in base.measured.values


def test_the_exam_names_the_judge_and_its_auc(tmp_path: Path) -> None:
    measured_run(tmp_path / "run", [0.2, 0.4], judge="pmi", exam=True)
    values = compare([str(tmp_path / "run")]).rows[1].measured.values
    assert values["judge_used"] == "pmi" and values["exam_auc"] == Estimate(0.91, error=0.02)


def test_files_that_lack_everything_give_no_values() -> None:
    assert round_values({}, {}, "pmi") == {}
    assert round_values({"model": {"verifiable": 3}, "data": {"kept": "many"}}, {"judges": []}, "pmi") == {
        "judge_used": "pmi"
    }


@pytest.mark.parametrize("found", [None, "0.3", True, float("nan"), {}, {"value": None}, [0.3]])
def test_what_is_no_number_is_no_estimate(found: object) -> None:
    assert estimate(found) is None


def test_results_of_the_harness_are_columns(tmp_path: Path) -> None:
    run = measured_run(tmp_path / "run", [0.2, 0.4])
    (run.path / "eval").mkdir()
    for name, number, value in (("a", None, 0.1), ("b", 1, 0.3)):
        report = {"task": "ifeval", "round": number, "metrics": {"acc": {"value": value, "low": 0.0, "high": 0.5}}}
        (run.path / "eval" / f"{name}.json").write_text(json.dumps(report))
    (run.path / "eval" / "c.json").write_text("{torn")
    found = compare([str(run.path)])
    assert [row.measured.values["ifeval.acc"] for row in found.rows] == [
        Estimate(0.1, 0.0, 0.5),
        Estimate(0.3, 0.0, 0.5),
    ]
    assert any("c.json" in note for note in found.notes)
    assert comparison_table.metrics_of(found.rows)[-1].name == "ifeval.acc"


def test_a_part_of_a_task_is_not_shown_as_the_whole(tmp_path: Path) -> None:
    run = measured_run(tmp_path / "run", [0.2, 0.4])
    (run.path / "eval").mkdir()
    for name, value in (("ifeval-round-1", 0.1), ("ifeval-round-1-limit-20", 0.9)):
        report = {"task": "ifeval", "round": 1, "metrics": {"acc": {"value": value}}}
        (run.path / "eval" / f"{name}.json").write_text(json.dumps(report))
    values = compare([str(run.path)]).rows[1].measured.values
    assert (values["ifeval.acc"], values["ifeval-limit-20.acc"]) == (Estimate(0.1), Estimate(0.9))


def test_a_harness_result_of_another_form_is_read_as_far_as_it_goes() -> None:
    report = {"task": "t", "metrics": {"plain": 0.5, "word": "x", "nested": {"value": 1}}}
    assert harness_values(report) == {"t.plain": Estimate(0.5), "t.nested": Estimate(1.0)}
    assert harness_values({"metrics": {"a": 1}}) == {} and harness_values({"task": "t"}) == {}
    assert harness_metric("t.word_perplexity").better == "lower"


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=str(tmp_path)):
        compare([str(tmp_path)])


def test_runs_without_any_measurement_are_refused(tmp_path: Path) -> None:
    measured_run(tmp_path / "run", [])
    with pytest.raises(UsageError):
        compare([str(tmp_path / "run")])


def test_a_run_with_its_base_alone_is_shown_and_said(tmp_path: Path) -> None:
    measured_run(tmp_path / "base", [0.2])
    measured_run(tmp_path / "done", [0.2, 0.4])
    found = compare([str(tmp_path / "base"), str(tmp_path / "done")])
    assert [row.key for row in found.rows] == ["A B", "B"]
    assert found.notes and str(found.notes[0])
    assert comparison.differences(found.results) == []


def test_a_run_that_decided_nothing_has_no_best(tmp_path: Path) -> None:
    run = measured_run(tmp_path / "run", [0.2, 0.4])
    for number in (0, 1):
        path = run.path / f"round-{number}" / "metrics.json"
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "decision"}))
    found = compare([str(run.path)])
    assert found.results[0].best is None and not any(row.best for row in found.rows)


def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    run = measured_run(tmp_path / "run", [0.2, 0.4])
    (run.path / "round-1" / "metrics.json").write_text("[1]")
    with pytest.raises(CorruptRunError, match=r"round-1/metrics\.json"):
        compare([str(run.path)])


# Pairs


def test_runs_of_one_model_are_paired_by_item(two: Comparison) -> None:
    (found,) = comparison.differences(two.results)
    assert (found.first[0].key, found.second[0].key, found.not_comparable) == ("B", "A", ())
    strict = found.values["prompt_strict"]
    assert strict.value == pytest.approx(0.5) and strict.low is not None and strict.low > 0.2
    assert found.values["nll"].value == pytest.approx(0.0)


def test_equal_models_differ_by_nothing(tmp_path: Path) -> None:
    measured_run(tmp_path / "a", [0.2, 0.4])
    measured_run(tmp_path / "b", [0.2, 0.4], seed=2)
    (found,) = comparison.differences(compare([str(tmp_path / "a"), str(tmp_path / "b")]).results)
    assert found.values["prompt_strict"] == Estimate(0.0, 0.0, 0.0)


def test_different_models_are_not_comparable(tmp_path: Path) -> None:
    measured_run(tmp_path / "a", [0.2, 0.4])
    measured_run(tmp_path / "b", [0.3, 0.4], gguf="another", model="qwen2-0.5b")
    found = compare([str(tmp_path / "a"), str(tmp_path / "b")])
    (difference,) = comparison.differences(found.results)
    assert difference.values == {} and difference.not_comparable == ("different models",)
    assert any("model" in note for note in found.notes)


def test_other_seed_tasks_leave_only_verifiable_instructions(tmp_path: Path) -> None:
    measured_run(tmp_path / "a", [0.2, 0.4])
    measured_run(tmp_path / "b", [0.2, 0.4], seeds="another")
    (found,) = comparison.differences(compare([str(tmp_path / "a"), str(tmp_path / "b")]).results)
    readings = ("strict", "loose", "own")
    assert set(found.values) == {f"{level}_{name}" for level in ("prompt", "instruction") for name in readings}
    assert "different seed tasks" in found.not_comparable[0]


def test_answers_of_other_length_leave_only_likelihood(tmp_path: Path) -> None:
    measured_run(tmp_path / "a", [0.2, 0.4])
    measured_run(tmp_path / "b", [0.2, 0.4], eval_verifiable_max_tokens=32)
    (found,) = comparison.differences(compare([str(tmp_path / "a"), str(tmp_path / "b")]).results)
    assert set(found.values) == {"nll"}


def test_one_run_has_its_rounds_compared(tmp_path: Path) -> None:
    measured_run(tmp_path / "run", [0.2, 0.4, 0.5, 0.3])
    found = comparison.differences(compare([str(tmp_path / "run")]).results)
    assert [(d.first[1].round, d.second[1].round) for d in found] == [(2, 1), (3, 2)]


def test_the_best_round_is_the_one_that_the_run_decided(tmp_path: Path) -> None:
    measured_run(tmp_path / "run", [0.2, 0.9, 0.2])
    (result,) = compare([str(tmp_path / "run")]).results
    found = comparison.best(result)
    assert found is not None and found.round == 1 == result.best


def test_the_last_round_stands_for_a_run_whose_best_is_its_base(tmp_path: Path) -> None:
    measured_run(tmp_path / "run", [0.9, 0.2, 0.3], nll=[2.0, 3.0, 3.1])
    (result,) = compare([str(tmp_path / "run")]).results
    found = comparison.best(result)
    assert result.best == 0 and found is not None and found.round == 2


# Tables


def test_numbers_in_words() -> None:
    assert comparison_table.cell(SHARE, Estimate(0.304, 0.142, 0.478)) == "30% [14, 48]"
    assert comparison_table.cell(POINTS, Estimate(-0.0625, -0.1875, 0.0)) == "-6.2 [-18.8, 0.0]"
    assert comparison_table.cell(POINTS, Estimate(-0.0001, -0.0002, 0.0002)) == "0.0 [0.0, 0.0]"
    assert comparison_table.cell(CHANGE, Estimate(0.0118, error=0.0023)) == "+0.012 (0.002)"
    assert comparison_table.cell(SHARE, None) == "-"


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140, 400])
def test_no_line_is_wider_than_the_terminal(two: Comparison, width: int) -> None:
    lines = laid_out(comparison_table.index_columns(two.rows), comparison_table.value_columns(two.rows), width)
    assert max(map(cell_len, lines)) <= width


def test_each_block_says_which_row_is_which(two: Comparison) -> None:
    lines = laid_out(comparison_table.index_columns(two.rows), comparison_table.value_columns(two.rows), 60)
    assert lines.count("") >= 2
    assert sum(line.startswith("A B  base") for line in lines) == lines.count("") + 1


def test_every_value_is_in_some_block(two: Comparison) -> None:
    columns = comparison_table.value_columns(two.rows)
    told = " ".join(laid_out(comparison_table.index_columns(two.rows), columns, 60))
    assert all(cell in told for column in columns for cell in column.cells)


def test_wide_letters_keep_columns_straight() -> None:
    index = [comparison_table.Column(("run",), ["模型", "ab"], right=False)]
    lines = laid_out(index, [comparison_table.Column(("x",), ["1", "2"])], 80)
    assert [cell_len(line) for line in lines] == [7, 7, 7]


def test_sorting_puts_the_best_first_and_what_was_not_measured_last(two: Comparison) -> None:
    assert [row.key for row in comparison_table.sort_rows(two.rows, "prompt_strict")] == ["B", "A", "A B"]
    assert [row.measured.round for row in comparison_table.sort_rows(two.rows, "nll")] == [1, 1, 0]
    assert comparison_table.sort_rows(two.rows, "nll_change")[-1].measured.round == 0


def test_sorting_by_an_unknown_metric_names_the_nearest(two: Comparison) -> None:
    with pytest.raises(UsageError, match="prompt_strict"):
        comparison_table.sort_rows(two.rows, "prompts_strict")


def test_a_long_setting_is_cut_at_its_beginning() -> None:
    told = comparison_table.setting_words("/a/very/long/path/to/some/folder/with/seeds.jsonl")
    assert len(told) == comparison_table.SETTING_WIDTH and told.startswith("...") and told.endswith("seeds.jsonl")


def test_the_rounds_that_runs_call_best_have_a_star(two: Comparison) -> None:
    rounds = next(column for column in comparison_table.index_columns(two.rows) if column.title == ("round",))
    assert rounds.cells == ["base", "1*", "1*"]


def test_markdown_has_as_many_cells_in_each_line() -> None:
    columns = [
        comparison_table.Column(("a", "b"), ["1", "x|y"]),
        comparison_table.Column(("c",), ["2", "3"], right=False),
    ]
    assert comparison_table.markdown(columns) == ["| a b | c |", "| ---: | --- |", "| 1 | 2 |", "| x\\|y | 3 |"]


# For other programs


def test_csv_holds_every_number_with_its_bounds(two: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(comparison_table.csv_text(two, two.rows))))
    assert [row["round"] for row in rows] == ["0", "1", "1"]
    assert [row["keep"] for row in rows] == ["", "top:0.6", "threshold:8"]
    measured = two.rows[2].measured.values["prompt_strict"]
    assert isinstance(measured, Estimate)
    assert (float(rows[2]["prompt_strict"]), float(rows[2]["prompt_strict_low"])) == (measured.value, measured.low)
    assert rows[0]["nll_change"] == "" and float(rows[1]["nll_change_error"]) >= 0


def test_csv_names_no_column_twice(two: Comparison) -> None:
    titles = comparison_table.csv_text(two, two.rows).split("\n")[0].split(",")
    assert len(set(titles)) == len(titles)


def test_json_lines_hold_settings_rounds_and_metrics(two: Comparison) -> None:
    base, first, second = (json.loads(json.dumps(comparison_table.row_json(two, row))) for row in two.rows)
    assert base["runs"] == [result.path for result in two.results] and base["settings"] == {"judge": "", "keep": ""}
    assert second["settings"] == {"judge": "logits", "keep": "threshold:8"} and second["best"]
    assert first["metrics"]["judge_used"] == "pmi"
    assert set(first["metrics"]["prompt_strict"]) == {"value", "low", "high"}


def test_a_difference_in_json_names_both_sides(two: Comparison) -> None:
    (found,) = (comparison_table.difference_json(d) for d in comparison.differences(two.results))
    assert (found["run"], found["minus_run"]) == (two.results[1].path, two.results[0].path)
    assert found["metrics"]["prompt_strict"]["value"] == pytest.approx(0.5) and found["not_comparable"] == []


def test_a_shared_base_has_what_the_harness_measured_in_any_of_its_runs(two: Comparison) -> None:
    folder = Path(two.results[1].path) / "eval"
    folder.mkdir()
    (folder / "t.json").write_text(json.dumps({"task": "t", "round": 0, "metrics": {"acc": {"value": 0.5}}}))
    rows = compare([result.path for result in two.results]).rows
    assert [row.key for row in rows] == ["A B", "A", "B"]
    assert rows[0].measured.values["t.acc"] == Estimate(0.5)


def test_a_pair_that_cannot_be_compared_is_a_remark_and_no_row(tmp_path: Path) -> None:
    for name, gguf in (("a", "x"), ("b", "y")):
        measured_run(tmp_path / name, [0.2, 0.4], gguf=gguf)
    found = comparison.differences(compare([str(tmp_path / "a"), str(tmp_path / "b")]).results)
    index, columns = comparison_table.difference_columns(found)
    assert index[0].cells == [] and columns == []
    assert comparison_table.not_comparable(found) == ["B 1 - A 1 cannot be compared: different models."]


def by_halves(kept: list[bool], trained: list[bool]) -> tuple[comparison.RunResult, comparison.Measured]:
    """A model with one verdict an item; `trained` says of which items the constraint's kind is trained on."""
    verdicts = {
        f"item-{n}": {"strict": [v], "loose": [v], "own": [v], "ended": True, "copied": False, "trained": [mark]}
        for n, (v, mark) in enumerate(zip(kept, trained, strict=True))
    }
    run = comparison.RunResult("A", "a", {"eval_verifiable_max_tokens": 64}, "same", "same", None, ())
    return run, comparison.Measured(1, {}, {"verifiable_by_item": verdicts})


def test_trained_and_unseen_kinds_are_compared_apart_where_both_runs_train_on_the_same() -> None:
    marks = [True, True, False, False]
    ours, theirs = by_halves([True, True, False, True], marks), by_halves([False, False, True, True], marks)
    found = comparison.difference(ours, theirs)
    assert isinstance(found.values["constraints_trained"], Estimate)
    values = {name: e.value for name, e in found.values.items() if name.startswith("constraints_")}
    assert values == {"constraints_trained": 1.0, "constraints_unseen": -0.5}
    other = comparison.difference(ours, by_halves([False, False, True, True], [True, False, False, False]))
    assert not any(name.startswith("constraints_") for name in other.values)
    assert any("not the same kinds" in reason for reason in other.not_comparable)
