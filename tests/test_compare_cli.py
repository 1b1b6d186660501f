"""`minisheep compare` as it is typed: tables, files, and one line for every mistake."""

from __future__ import annotations

import builtins
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from measured_runs import measured_run

from minisheep.cli.main import main
from minisheep.comparison import compare
from minisheep.machine.installing import install_extra
from minisheep.terminal import comparison_plot


class Said(NamedTuple):
    code: int
    out: str
    err: str


Call = Callable[..., Said]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*args: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["minisheep", *args])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Said(int(ended.value.code or 0), said.out, said.err)

    return run


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    measured_run(tmp_path / "pmi", [0.2, 0.4, 0.5], judge="pmi")
    measured_run(tmp_path / "logits", [0.2, 0.9, 0.6], judge="logits", keep="threshold:8")
    return [str(tmp_path / "pmi"), str(tmp_path / "logits")]


def test_settings_stand_beside_results_and_differences(call: Call, runs: list[str]) -> None:
    said = call("compare", *runs)
    assert (said.code, said.err) == (0, "")
    assert "threshold:8" in said.out and "90% [" in said.out and "B 1 - A 2" in said.out


def test_nothing_is_wider_than_a_terminal_of_eighty_columns(
    call: Call, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = [line for line in call("compare", *runs).out.splitlines() if "/" not in line]
    assert max(map(len, lines)) <= 80 and len(lines) > 10


def test_one_run_alone_is_compared_with_itself(call: Call, runs: list[str]) -> None:
    assert "Each round minus the one before" in call("compare", runs[0]).out


def test_json_is_only_json(call: Call, runs: list[str]) -> None:
    lines = [json.loads(line) for line in call("compare", "--json", *runs).out.splitlines()]
    assert [line["row"] for line in lines] == ["round"] * 5 + ["difference"]


def test_sorting_orders_the_output(call: Call, runs: list[str]) -> None:
    lines = [json.loads(line) for line in call("compare", "--json", "--sort", "prompt_strict", *runs).out.splitlines()]
    shares = [line["metrics"]["prompt_strict"]["value"] for line in lines if line["row"] == "round"]
    assert shares == sorted(shares, reverse=True)


def test_markdown_is_tables(call: Call, runs: list[str]) -> None:
    said, empty, *tables = call("compare", "--markdown", *runs).out.splitlines()
    assert said.startswith("Round 1 of B is better than round 2 of A in following constraints") and empty == ""
    assert tables[0] == "| run | judge | keep | folder |" and any(row.startswith("| A B |") for row in tables)


def test_a_sentence_comes_first_and_what_decides_unless_all_is_asked_for(
    call: Call, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")  # A table in pieces would have more titles.
    said = call("compare", *runs)
    assert " ".join(said.out.split()).startswith(
        "Round 1 of B is better than round 2 of A in following constraints (50 %"
    )
    assert "keep rate" not in " ".join(said.out.split()) and "--full" in said.out
    titles = [line for line in said.out.splitlines() if line.startswith(("run ", "minus "))]
    assert len(titles) == 3, "the runs, their rounds, the differences"
    whole = call("compare", *runs, "--full")
    for word in ("loose", "strict", "held-out", "rate"):
        assert word in whole.out and word not in said.out.partition("\nrun ")[2], word
    assert whole.out.startswith(said.out.partition("\nrun ")[0]) and "--full" not in whole.out


def test_one_run_says_how_each_round_compares_with_the_one_before(call: Call, runs: list[str]) -> None:
    said = " ".join(call("compare", runs[0]).out.split())
    assert (
        said.startswith("Round 2 ") and "round 1" in said.partition(". ")[0] and " of A" not in said.partition(". ")[0]
    )


def test_a_model_that_is_not_its_runs_best_is_called_that(call: Call, tmp_path: Path) -> None:
    measured_run(tmp_path / "worse", [0.9, 0.2], nll=(2.0, 2.0))
    measured_run(tmp_path / "other", [0.9, 0.8], nll=(2.0, 1.5))
    said = " ".join(call("compare", str(tmp_path / "worse"), str(tmp_path / "other")).out.split())
    assert "round 1 of A (its last: its best is the base)" in said
    measured_run(tmp_path / "foreign", [0.9, 0.8], gguf="another")
    said = " ".join(call("compare", str(tmp_path / "worse"), str(tmp_path / "foreign")).out.split())
    assert said.startswith("Round 1 of B") and "so they cannot be compared. " in said


@pytest.mark.parametrize("form", [[], ["--markdown"]])
def test_the_tables_can_be_of_a_few_metrics(call: Call, runs: list[str], form: list[str]) -> None:
    out = call("compare", *form, "--only", "instruction_own,nll_change", *runs).out
    assert "own words" in out and "NLL" in out and "loose" not in out and "held-out" not in out


def test_csv_and_figure_are_written(call: Call, runs: list[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    said = call("compare", *runs, "--csv", str(tmp_path / "t.csv"), "--plot", str(tmp_path / "t.png"))
    assert said.code == 0
    assert (tmp_path / "t.csv").read_text().startswith("run,judge,keep,round,")
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_runs_give_the_same_figure(runs: list[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = compare(runs)
    for name in ("a", "b"):
        comparison_plot.plot(found, str(tmp_path / f"{name}.svg"))
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_names_with_signs_of_mathematics_or_unknown_letters_are_drawn_as_they_are(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    measured_run(tmp_path / "$x^{$", [0.2, 0.4], prompts="$\\frac{")
    measured_run(tmp_path / "_模", [0.2, 0.4], prompts="b")
    found = compare([str(tmp_path / "$x^{$"), str(tmp_path / "_模")])
    comparison_plot.plot(found, str(tmp_path / "t.svg"))
    assert comparison_plot.label(found, found.results[0]) == "A: prompts $\\frac{"


def test_runs_are_told_apart_without_colour() -> None:
    styles = [comparison_plot._style(place) for place in range(8)]
    assert len({(style["marker"], style["linestyle"]) for style in styles}) == 8
    assert all(0 <= float(style["color"]) <= 0.7 for style in styles)


def test_error_bars_are_the_interval_or_twice_the_standard_error() -> None:
    from minisheep.run.metric_catalogue import Estimate

    below, above = comparison_plot._bars([Estimate(0.5, 0.4, 0.7), Estimate(1.0, error=0.1), Estimate(1.0)])
    assert below == pytest.approx([0.1, 0.196, 0.0]) and above == pytest.approx([0.2, 0.196, 0.0])


MISTAKES: dict[str, tuple[list[str], str]] = {
    "no run": (["{0}/none"], "does not exist. Start it with"),
    "nothing": ([], "Missing argument"),
    "a foreign folder": (["{0}"], "is not a run folder"),
    "metric": (["{1}", "--sort", "promt_strict"], "nearest: prompt_strict"),
    "metric of a table": (["{1}", "--only", "nll,instruction_ow"], "nearest: instruction_own"),
    "no metric": (["{1}", "--only", " ,"], "--only names no metric"),
    "a table's metrics in JSON": (["{1}", "--only", "nll", "--json"], "--only is for the tables"),
    "two forms": (["{1}", "--json", "--markdown"], "two forms of the same output"),
    "plot's ending": (["{1}", "--plot", "{0}/x.jpeg"], "a name that ends in .png, .svg, .pdf"),
    "plot's folder": (["{1}", "--plot", "{0}/none/x.png"], "there is no folder {0}/none"),
    "plot is a folder": (["{1}", "--plot", "{0}/folder.png"], "is a folder"),
    "csv's folder": (["{1}", "--csv", "{0}/none/x.csv"], "there is no folder {0}/none"),
}


@pytest.mark.parametrize("name", list(MISTAKES))
def test_a_mistake_is_one_line(call: Call, runs: list[str], tmp_path: Path, name: str) -> None:
    args, told = MISTAKES[name]
    (tmp_path / "folder.png").mkdir()
    before = sorted(tmp_path.rglob("*"))
    said = call("compare", *(arg.format(tmp_path, runs[0]) for arg in args))
    assert said.code == 2
    assert told.format(tmp_path) in (said.out if "--json" in args else said.err)
    assert len((said.out + said.err).splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_figure_that_cannot_be_written_is_one_line(
    call: Call, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, data: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    pytest.importorskip("matplotlib")
    monkeypatch.setattr(comparison_plot, "write_atomic", refuse)
    said = call("compare", *runs, "--plot", "x.png")
    assert said.code == 74 and len(said.err.splitlines()) == 1 and "Permission denied" in said.err


def test_without_matplotlib_a_figure_is_one_line(call: Call, runs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    said = call("compare", *runs, "--plot", "x.png")
    assert said.code == 2 and install_extra("plots") in said.err and len(said.err.splitlines()) == 1
