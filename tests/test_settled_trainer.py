"""What trains a run is settled when it begins or goes on, and kept with its model."""

from __future__ import annotations

import json
from pathlib import Path

from tiny_runs import tiny_run

from minisheep import config
from minisheep.models.prepared import PreparedModel
from minisheep.prepare import prepare
from minisheep.run.events import Event


def test_the_trainer_is_kept_with_the_model(tmp_path: Path) -> None:
    run, _ = tiny_run(tmp_path / "run", rounds=1)
    assert PreparedModel.read(run.path / "model.json").trainer == "fake"


def test_a_run_from_before_there_was_a_choice_goes_on_and_learns_it(tmp_path: Path) -> None:
    run, _ = tiny_run(tmp_path / "run", rounds=1)
    path = run.path / "model.json"
    data = json.loads(path.read_text())
    del data["trainer"]
    path.write_text(json.dumps(data))
    assert PreparedModel.read(path).trainer == ""
    said: list[Event] = []
    prepare(run.settings, path, said.append)
    assert PreparedModel.read(path).trainer == "fake"


def test_the_trainer_of_a_run_may_change() -> None:
    stored = config.make({"trainer": "unsloth"})
    assert config.continued(stored, {"trainer": "peft"}).trainer == "peft"
