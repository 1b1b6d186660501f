"""`minisheep report`: what the sections say of a run, whole, unfinished, damaged or of another kind."""

from __future__ import annotations

import dataclasses
import html as entities
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from measured_runs import measured_run
from tiny_runs import tiny_run

from minisheep import api, loop
from minisheep.cli.main import main
from minisheep.errors import UsageError
from minisheep.machine.installing import install_extra
from minisheep.report import distributions, findings, sections
from minisheep.report import plots as plots_module
from minisheep.report.blocks import Bars, Block, Document, Fold, Items, Table
from minisheep.report.gather import Gathered, gather
from minisheep.report.write import document, html_page, markdown, write
from minisheep.rules.ifeval import HALVES
from minisheep.run import verdict
from minisheep.run.files import write_json
from minisheep.run.records import Example, Rejection
from minisheep.terminal import record_browser, words

ANCHORS = (
    "answers", "metrics", "findings", "next", "funnel", "distributions", "training", "map", "watch", "kept", "dropped",
    "origins",
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rounds of the fake engine, with an exam. Tests must not change it."""
    path = tmp_path_factory.mktemp("report") / "run"
    tiny_run(path, judge="auto", exam_tasks=8, force=True)
    return path


@pytest.fixture(scope="module")
def read(finished: Path) -> Gathered:
    return gather(finished)


@pytest.fixture(scope="module")
def told(read: Gathered) -> Document:
    return document(read)


@pytest.fixture(scope="module")
def drawings(told: Document) -> dict[str, str]:
    pytest.importorskip("matplotlib")
    return plots_module.drawn(told.plots)


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what is not about them, since they take the most time."""
    monkeypatch.setattr(plots_module, "drawn", lambda plots: {})


def broken(finished: Path, to: Path) -> Path:
    return Path(shutil.copytree(finished, to))


def words_of(blocks: Iterable[Block]) -> str:
    """All that a section says."""
    return json.dumps([dataclasses.asdict(block) for block in blocks], ensure_ascii=False)


# A whole run


def test_every_section_is_there_in_both_forms(told: Document) -> None:
    html, text = html_page(told, {}), markdown(told)
    assert tuple(s.anchor for s in told.sections) == ANCHORS
    assert all(f'<section id="{anchor}">' in html for anchor in ANCHORS)
    assert all(f"\n## {s.title}\n" in text for s in told.sections)


def test_what_the_table_with_intervals_shows_are_rows_of_the_status_table() -> None:
    verifiable = {name: {"value": 0.5} for name in ("instruction_strict", "instruction_own", "copied")}
    change = {"mean": -0.1, "standard_error": 0.02}
    model = {"held_out_nll": 2.5, "nll_change": change, "ended": 0.5, "answer_words": 30.0, "verifiable": verifiable}
    model |= {f"verifiable_{half}": {"instruction_own": {"value": 0.5}} for half in HALVES}
    exam = {"chosen": "pmi", "judges": {"pmi": {"auc": 0.9}}}
    data = {"kept": 18, "keep_rate": 0.6, "scores": {"judge": "pmi"}, "exam": exam}
    _, rows = words.metric_rows([{"round": 1, "model": model, "data": data}])
    assert {name for name, _ in rows} >= sections.WITH_INTERVALS


def test_a_whole_run_leaves_nothing_to_note(read: Gathered) -> None:
    assert read.notes == () and read.best is not None and read.next_phase is None


@pytest.mark.usefixtures("without_pictures")
def test_the_same_run_gives_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    once, again = write(finished, tmp_path / "a"), write(finished, tmp_path / "b")
    assert once.html.read_bytes() == again.html.read_bytes()
    assert once.markdown.read_bytes() == again.markdown.read_bytes()


def test_the_same_plot_gives_the_same_picture(told: Document, drawings: dict[str, str]) -> None:
    assert plots_module.svg(told.plots[0]) == drawings[told.plots[0].name]


@pytest.mark.usefixtures("without_pictures")
def test_a_report_leaves_the_run_as_it_was(finished: Path, tmp_path: Path) -> None:
    def state() -> dict[str, tuple[int, int]]:
        return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in finished.rglob("*")}

    before = state()
    write(finished, tmp_path / "out")
    assert state() == before


@pytest.mark.usefixtures("without_pictures")
def test_it_stands_in_the_run_unless_told_otherwise(finished: Path, tmp_path: Path) -> None:
    run = broken(finished, tmp_path / "run")
    assert api.load_run(run).report() == run / "report" / "report.html"
    assert (run / "report" / "report.md").read_text().startswith("# minisheep")
    # The run does not mind: it is read and continued as before.
    assert api.load_run(run).next_phase is None


def test_every_number_of_the_funnel_adds_up(read: Gathered) -> None:
    for r in read.rounds:
        stages = dict(r.stages)
        drops = r.dropped
        assert stages["kept"] == len(r.kept)
        assert stages["answers"] == stages["kept"] + sum(n for rule, n in drops.items() if rule.startswith("filter."))
        assert stages["tasks in them"] == stages["new instructions"] + sum(
            n for rule, n in drops.items() if rule.startswith("generate.")
        )


def test_every_row_of_the_short_table_is_explained_and_no_other_row_is_there_twice(told: Document) -> None:
    section = next(s for s in told.sections if s.anchor == "metrics")
    meanings, fold = (block for block in section.blocks if isinstance(block, Fold))
    short, *_ = (block for block in section.blocks if isinstance(block, Table))
    (told_of,) = (block for block in meanings.blocks if isinstance(block, Table))
    assert [row[0] for row in told_of.rows] == [row[0].removesuffix(" *") for row in short.rows]
    names = [
        row[0] for block in fold.blocks if isinstance(block, Table) and "base" in block.columns for row in block.rows
    ]
    assert len(names) > 10 and len(set(names)) == len(names)


def test_every_rule_that_dropped_something_is_explained(read: Gathered) -> None:
    found = {rule for r in read.rounds for rule in r.dropped}
    assert found and found <= set(record_browser.MEANINGS)


def test_settings_versions_and_hashes_are_told(told: Document, read: Gathered) -> None:
    html = html_page(told, {})
    assert read.settings is not None
    assert all(name in html for name in type(read.settings).model_fields)
    assert all(value in html for r in read.rounds for value in r.hashes.values()) and read.rounds[0].hashes
    assert all(value in html for value in read.inputs.values())


def test_a_picture_is_drawn_for_each_plot(told: Document, drawings: dict[str, str]) -> None:
    assert len(drawings) == len(told.plots) >= 6
    html = html_page(told, drawings)
    assert html.count("<svg") == len(drawings) and "Not drawn" not in html


def test_without_matplotlib_the_report_says_that_it_has_no_pictures(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    written = write(finished, tmp_path / "out")
    html = written.html.read_text()
    assert any("matplotlib" in note and install_extra("plots") in note for note in written.notes)
    assert "<svg" not in html and "matplotlib is not installed" in html and 'class="scroll strip"' in html


def test_a_page_names_nothing_outside_itself(told: Document, drawings: dict[str, str]) -> None:
    html = html_page(told, drawings)
    references = re.findall(r'(?:href|src|action|data|poster|srcset)="([^"]*)"', html)
    assert references and all(found.startswith(("#", "data:,")) for found in references)
    assert not re.search(r"@import|url\((?!#)|<script|javascript:", html)
    assert "default-src 'none'" in entities.unescape(html)


def test_no_two_elements_share_an_id(told: Document, drawings: dict[str, str]) -> None:
    found: list[str] = []

    class Ids(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend(value or "" for name, value in attrs if name == "id")

    Ids().feed(html_page(told, drawings))
    assert len(found) > 50 and len(set(found)) == len(found)


def test_pictures_have_no_colour_of_their_own(drawings: dict[str, str]) -> None:
    drawn = "".join(drawings.values())
    assert set(re.findall(r"#[0-9a-f]{6}\b", drawn)) == set() and "var(--series-1)" in drawn


def test_without_a_density_filter_the_map_is_named_a_stand_in(told: Document) -> None:
    said = markdown(told)
    assert "No vectors of the model are stored" in said and "A stand-in by words" in said and "seed tasks" in said


# Other kinds of run


def test_a_run_by_density_is_drawn_by_its_vectors(tmp_path: Path) -> None:
    tiny_run(tmp_path / "run", filter="density", keep="auto", per_round=24, rounds=1)
    said = markdown(document(gather(tmp_path / "run")))
    assert "Pairs by mean last-layer vector" in said and "No vectors of the model" not in said


@pytest.mark.parametrize(
    "settings",
    [
        {"strategy": "direct", "rounds": 1},
        {"strategy": "total-base"},
        {"assess": "none", "keep": "auto"},
        {"filter": "ppl", "keep": "auto", "max_perplexity": 1e9},
        {"judge": "logits", "keep": "top:0.5"},
        {"judge": "sample", "keep": "top:0.5", "answers": 2},
        {"rules": "off", "eval_answers": 0, "eval_verifiable": 0},
    ],
    ids=lambda settings: " ".join(f"{name}={value}" for name, value in settings.items()),
)
def test_every_kind_of_run_has_a_report(tmp_path: Path, settings: dict[str, Any]) -> None:
    tiny_run(tmp_path / "run", **settings)
    found = gather(tmp_path / "run")
    assert found.notes == () and html_page(document(found), {}).endswith("</html>\n")


@pytest.mark.parametrize("phase", ["generate", "respond", "judge", "filter", "train", "evaluate"])
def test_an_unfinished_run_has_a_report_that_says_what_comes_next(tmp_path: Path, phase: str) -> None:
    run, _ = tiny_run(tmp_path / "run", until=loop.Phase(1, phase))
    after = run.next_phase
    assert after is not None
    told = document(gather(run.path))
    assert f"{after.name} comes next" in told.lead
    assert "minisheep align --run" in markdown(told)


def test_a_run_that_only_has_settings_has_a_report(tmp_path: Path, finished: Path) -> None:
    (tmp_path / "run").mkdir()
    shutil.copy(finished / "run.toml", tmp_path / "run")
    told = document(gather(tmp_path / "run"))
    assert tuple(s.anchor for s in told.sections) == ANCHORS[1:] and "comes next" in told.lead


def test_a_run_of_a_version_that_decided_nothing_names_no_best(tmp_path: Path) -> None:
    run = measured_run(tmp_path / "run", [0.2, 0.4])
    for number in (0, 1):
        path = run.path / f"round-{number}" / "metrics.json"
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "decision"}))
    found = gather(run.path)
    assert found.best is None and "compared no rounds" in words_of(findings.findings_blocks(found))


# Damage


def test_a_damaged_line_is_left_out_and_said(finished: Path, tmp_path: Path) -> None:
    run = broken(finished, tmp_path / "run")
    path = run / "round-1" / "kept.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[1] = lines[1].replace(b'"output"', b'"outpost"')
    path.write_bytes(b"\n".join(lines))
    found = gather(run)
    assert len(found.rounds[0].kept) == len(lines) - 2
    left_out, changed = found.notes
    assert left_out == "round-1/kept.jsonl: 1 line left out: damaged, or of another version."
    assert changed.startswith("round-1/kept.jsonl has another content") and "minisheep filter --run" in changed
    assert found.notes[0] in html_page(document(found), {})


def test_a_torn_last_line_is_no_damage(finished: Path, tmp_path: Path) -> None:
    run = broken(finished, tmp_path / "run")
    whole = len(gather(run).rounds[1].responses)
    with open(run / "round-2" / "responses.jsonl", "ab") as file:
        file.write(b'{"id": "12')
    found = gather(run)
    assert len(found.rounds[1].responses) == whole and found.notes == ()


FILES = ("run.toml", "model.json", "manifest.json", "events.jsonl", "metrics.json", "exam.json", "judge.json",
         "diversity.json", "training.json", "verdicts.jsonl", "responses.jsonl", "instructions.jsonl",
         "rejected.jsonl", "kept.jsonl", "drafts.jsonl")  # fmt: skip
RUIN: dict[str, bytes | None] = {
    "missing": None, "empty": b"", "no UTF-8": b"\xff\xfe\n", "of another shape": b'{"round": [1], "model": 3}\n',
    "a list": b"[1, 2]\n", "deep": b"[" * 100_000 + b"\n", "binary": bytes(range(256)) * 8,
}  # fmt: skip


@pytest.mark.parametrize("ruin", RUIN)
def test_no_ruined_file_keeps_a_report_from_being_made(
    finished: Path, tmp_path: Path, ruin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file in turn, wherever it stands; a run needs one of run.toml and manifest.json to be one."""
    # The map reads records alone, as others do, and takes longer than all else.
    monkeypatch.setattr(distributions, "_by_words", lambda run: [])
    run = broken(finished, tmp_path / "run")
    for name in FILES:
        paths = list(run.rglob(name))
        assert paths
        kept = {path: path.read_bytes() for path in paths}
        for path in paths:
            data = RUIN[ruin]
            path.unlink() if data is None else path.write_bytes(data)
        found = document(gather(run))
        # Without metrics there is no verdict, and nothing to show beside each other.
        assert tuple(s.anchor for s in found.sections if s.anchor != "answers") == ANCHORS[1:], name
        assert markdown(found) and html_page(found, {}), name
        for path, data in kept.items():
            path.write_bytes(data)


def test_everything_ruined_at_once_has_a_report(finished: Path, tmp_path: Path) -> None:
    run = broken(finished, tmp_path / "run")
    for path in run.rglob("*"):
        if path.is_file():
            path.write_bytes(b"\x00{]\n")
    told = document(gather(run))
    assert "cannot say" in told.lead and html_page(told, {}) and markdown(told)


def test_seed_tasks_that_have_changed_are_not_drawn(finished: Path, tmp_path: Path) -> None:
    run = broken(finished, tmp_path / "run")
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["inputs"]["seeds"] = "another"
    write_json(run / "manifest.json", manifest)
    found = gather(run)
    assert found.seeds == () and "seed tasks have changed" in found.notes[0]
    assert "map" in {s.anchor for s in document(found).sections}


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        gather(tmp_path)


@pytest.mark.usefixtures("without_pictures")
def test_a_place_that_cannot_be_written_is_a_users_mistake(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError):
        write(finished, tmp_path / "file")


def test_a_report_begins_with_the_sentence_and_shows_answers_beside_each_other(
    read: Gathered, told: Document, drawings: dict[str, str]
) -> None:
    sentence = verdict.sentence(read.conclusion)
    assert told.lead.startswith(sentence) and api.load_run(read.path).verdict == sentence
    html, text = html_page(told, drawings), markdown(told)
    assert text.split("\n\n")[1].startswith(sentence) and len(read.examples) == 3
    assert entities.escape(read.examples[0].base) in html and read.examples[0].round in text
    short, *_ = (b for s in told.sections if s.anchor == "metrics" for b in s.blocks if isinstance(b, Table))
    assert len(short.rows) <= 6 and html.count("<details>") >= 1


def test_advice_is_short(read: Gathered) -> None:
    (block,) = findings.advice_blocks(read)
    assert isinstance(block, Items) and 1 <= len(block.items) <= findings.MOST


# Samples and distributions


def example(text: str) -> Example:
    return Example(text, "", "", [], None, None, None, "", ())


def test_samples_are_spread_over_rounds_and_always_the_same() -> None:
    items = [(n, example(f"{n} {i}")) for n in (1, 2, 3) for i in range(50)]
    found = sections.drawn(items)
    assert [n for n, _ in found] == [1] * 7 + [2] * 7 + [3] * 6
    assert [r.id for _, r in sections.drawn(list(items))] == [r.id for _, r in found]
    assert {r.id for _, r in sections.drawn(list(reversed(items)), 150)} == {r.id for _, r in items}


def test_few_records_are_all_shown() -> None:
    items = [(1, example("a")), (2, example("b")), (2, example("c"))]
    assert [n for n, _ in sections.drawn(items)] == [1, 2, 2]


def test_a_dropped_record_is_shown_with_its_rule_and_reason(read: Gathered) -> None:
    odd = Rejection("filter", "loops", "says it again", "p", 0, "Say it.", "", "it it it")
    one = dataclasses.replace(read, all_rounds=(dataclasses.replace(read.rounds[0], rejected=[odd]),))
    said = words_of(sections.dropped_blocks(one))
    assert "filter: loops" in said and "says it again" in said and "it it it" in said


def test_a_few_very_long_answers_do_not_squeeze_the_rest() -> None:
    edges = distributions.length_edges([float(n % 40) for n in range(1000)] + [5000.0])
    assert edges[0] == 0 and edges[-1] <= 60 and len(edges) == distributions.BINS + 1


def test_all_values_of_a_length_are_in_its_histogram(read: Gathered) -> None:
    (charts, table) = distributions.spread_blocks(read)
    assert isinstance(table, Table)
    words = next(plot for plot in charts.plots if plot.name == "instruction-words")  # type: ignore[union-attr]
    assert [sum(counts) for _, counts in words.series] == [len(r.instructions) for r in read.rounds]


def test_bars_of_all_rounds_share_one_scale(told: Document) -> None:
    section = next(s for s in told.sections if s.anchor == "funnel")
    bars = [bar.size for block in section.blocks if isinstance(block, Bars) for bar in block.bars]
    widths = re.findall(r"width:([0-9.]+)%", html_page(told, {}))
    assert [float(width) for width in widths] == pytest.approx([100 * n / max(bars) for n in bars], abs=0.06)


# The command


def said_by(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["minisheep", *args])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


@pytest.mark.usefixtures("without_pictures")
def test_the_command_writes_both_files_and_names_them(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = said_by(monkeypatch, capsys, "report", str(finished), "--out", str(tmp_path / "o"))
    assert (code, err) == (0, "") and str(tmp_path / "o" / "report.html") in out
    assert out.splitlines()[-1].endswith(f": minisheep report {finished} --out {tmp_path / 'o'} --open")
    assert sorted(os.listdir(tmp_path / "o")) == ["report.html", "report.md"]


@pytest.mark.usefixtures("without_pictures")
def test_json_is_one_object(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = said_by(monkeypatch, capsys, "report", str(finished), "--out", str(tmp_path / "o"), "--json")
    assert json.loads(out)["event"] == "Report" and json.loads(out)["notes"] == []


def test_a_folder_that_is_no_run_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = said_by(monkeypatch, capsys, "report", str(tmp_path))
    assert code == 2 and out == "" and err.count("\n") == 1 and err
