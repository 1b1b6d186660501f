"""A run folder that version 0.1 left behind: every verb that reads runs still reads it, and `align` goes on with it.

``tests/data/run-0.1`` was made with the fake engine by the settings in its run.toml, then measured with `eval` and
judged with `versus`; what names a machine was taken out, and RUN_FOLDER stands for its own path. Never make it anew:
a later version's folder stands beside it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import minisheep, outcome

STORED = Path(__file__).parent / "data" / "run-0.1"
PLACES = ("/tmp/", "/home/", "/root/", f"{Path(__file__).parents[2]}/")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = Path(shutil.copytree(STORED, tmp_path / "work" / "run"))
    for file in path.rglob("*.json"):
        file.write_text(file.read_text().replace("RUN_FOLDER", str(path)))
    return path


def told(*args: str) -> list[dict[str, Any]]:
    done = minisheep(*args, "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_stored_run_names_no_machine_and_is_small() -> None:
    files = [path for path in STORED.rglob("*") if path.is_file()]
    assert len(files) > 40 and sum(path.stat().st_size for path in files) < 200_000
    assert not any(place in path.read_text() for path in files for place in PLACES)


def test_status_knows_its_rounds(run: Path) -> None:
    (found,) = told("status", str(run))
    assert (found["rounds"], found["next"], found["best"]) == (2, None, 1)
    assert found["phases"]["round-2/filter"]["kept"] == 7


def test_browse_lists_every_record_and_its_history(run: Path) -> None:
    records = told("browse", str(run))
    assert [record["fate"] for record in records].count("kept") == 14
    assert {"kept", "rejected"} == {record["fate"] for record in records}
    kept = next(record for record in records if record["fate"] == "kept")
    history = minisheep("browse", str(run), kept["id"], "--plain", check=True).stdout
    assert all(kept[name] in history for name in ("draft", "instruction_id", "response_id", "verdict_id"))


def test_report_holds_what_was_measured_elsewhere(run: Path) -> None:
    (found,) = told("report", str(run))
    assert found["notes"] == []
    page = (run / "report" / "report.md").read_text()
    assert "ifeval" in page and "stand-in" in page


def test_chat_answers(run: Path) -> None:
    (answer,) = told("chat", str(run), "--round", "best", "--once", "Why is the sky blue?")
    assert answer["round"] == 1 and answer["answer"]


def test_export_and_handoff_know_that_there_is_no_model(run: Path) -> None:
    for verb, target in (("export", "gguf"), ("handoff", "axolotl")):
        refused = minisheep(verb, str(run), "--to", target)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert not (run / verb).exists()


def test_align_goes_on_with_a_third_round(run: Path) -> None:
    before = {path: path.read_bytes() for path in run.glob("round-[012]/**/*") if path.is_file()}
    # Copies often leave scratch/ out: nothing in it is needed to go on.
    shutil.rmtree(run / "scratch")
    events = told("align", "--run", str(run), "--rounds", "3")
    assert {event["round"] for event in events if event["event"] == "PhaseFinished"} == {3}
    assert {path: path.read_bytes() for path in before} == before
    assert len((run / "round-3" / "instructions.jsonl").read_text().splitlines()) == 12
    (found,) = told("status", str(run))
    assert (found["rounds"], found["next"]) == (3, None)


def test_the_same_settings_still_make_the_same_run(tmp_path: Path) -> None:
    """Whatever fails here decides otherwise than version 0.1 did."""
    path = tmp_path / "again"
    # Over a preset without the settings that were not there at the time.
    minisheep(
        "align",
        "--preset",
        "imitation",
        "--run",
        str(path),
        "--config",
        str(STORED / "run.toml"),
        "--plain",
        check=True,
    )
    found, expected = outcome(path), outcome(STORED)
    assert sorted(found) == sorted(expected)
    for made in (found, expected):
        for name in (name for name in made if name.endswith("metrics.json")):
            # The decision must be the same one; the sentence that tells it may get better words.
            made[name].get("decision", {}).pop("text", None)
    assert [name for name in expected if found[name] != expected[name]] == []
