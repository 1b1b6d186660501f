"""How a run is opened: what is resolved (pure), what is checked before anything is written, and what is written."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_runs import TINY, tiny_run

from minisheep import api, config, loop, opening
from minisheep.errors import ConfigError, DiskError, ModelFileError, RunLockedError, RunMismatchError, UsageError
from minisheep.run.folder import Lock, RunFolder

DONE: dict[str, Any] = {
    "phases": {name: {"seconds": 1.0} for name in ("round-1/filter", "round-1/train", "round-2/filter")},
    "inputs": {"seeds": "a", "prompts": "b"},
}


def test_a_run_begins_with_what_is_wanted_over_what_a_failed_attempt_left() -> None:
    stored = config.make({"shots": 3, "seed": 7})
    assert opening.resolve({"seed": 8}) == opening.Opening(config.make({"seed": 8}))
    # No manifest: nothing was made, so a setting that may never change can be given anew.
    assert opening.resolve({"seed": 8}, stored) == opening.Opening(config.make({"shots": 3, "seed": 8}))
    with pytest.raises(ConfigError, match="nearest: rounds"):
        opening.resolve({"roundz": 3})


def test_a_run_tells_of_itself_in_a_notebook_and_nothing_in_a_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {**TINY, "rounds": 1, "until": loop.Phase(0, "evaluate"), "inline": True}
    api.align(tmp_path / "script", preset="imitation", **given)
    assert capsys.readouterr().out == ""
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=object))
    done = api.align(tmp_path / "notebook", preset="imitation", **given)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("Starting ") and any("base model, evaluate done" in line for line in said)
    assert done.verdict.startswith("No round has been measured yet")
    api.align(tmp_path / "notebook", emit=lambda event: None, inline=True)
    assert capsys.readouterr().out == ""


def test_what_was_made_stays_and_what_would_make_it_invalid_is_named() -> None:
    stored = config.make({"keep": "top:0.3"})
    assert opening.resolve({}, stored, DONE) == opening.Opening(stored, DONE)
    with pytest.raises(RunMismatchError, match="--seed is 1 there and 2 here"):
        opening.resolve({"seed": 2}, stored, DONE)
    more = opening.resolve({"threads": 3}, stored, DONE)
    assert more.settings.threads == 3 and more.manifest == DONE
    assert more.note == "Continuing with changed settings: --threads 0 -> 3."


def test_another_keep_does_the_filters_again_that_no_training_has_used() -> None:
    stored = config.make({"keep": "top:0.3"})
    found = opening.resolve({"keep": "top:0.5"}, stored, DONE)
    assert found.manifest is not None and list(found.manifest["phases"]) == ["round-1/filter", "round-1/train"]
    assert found.manifest["inputs"] == DONE["inputs"] and len(DONE["phases"]) == 3
    assert found.note == "Continuing with changed settings: --keep top:0.3 -> top:0.5."


def test_what_is_checked_is_told_in_order_and_nothing_is_written(tmp_path: Path) -> None:
    none = str(tmp_path / "none")
    faults = {"shots": 20, "prompts": none, "model": none, "engine": "llamacpp", "trainer": "peft"}
    few = tmp_path / "few.jsonl"
    few.write_text("\n".join(f'{{"instruction": "Say {n}.", "output": "{n}"}}' for n in range(12)))
    before = sorted(tmp_path.rglob("*"))
    order = [({"seeds": none}, "cannot be read"), ({"seeds": str(few)}, "--shots 20")]
    order += [({"shots": 5}, "does not exist"), ({"shots": 5, "prompts": ""}, "No model is called")]
    for given, told in order:
        with pytest.raises(UsageError, match=told):
            opening.check(opening.resolve({**faults, **given}))
    assert sorted(tmp_path.rglob("*")) == before


def test_other_seeds_than_a_run_began_with_are_refused() -> None:
    settings = config.make(TINY, "imitation")
    inputs = opening.check(opening.Opening(settings))
    assert set(inputs) == {"seeds", "prompts"}
    assert opening.check(opening.Opening(settings, {"phases": {}, "inputs": inputs})) == inputs
    for other in ({"inputs": {**inputs, "seeds": "others"}}, {}):
        with pytest.raises(RunMismatchError, match="not those that the run began with"):
            opening.check(opening.Opening(settings, {"phases": {}, **other}))


def test_a_run_that_begins_is_written_whole_and_wants_to_go_on(tmp_path: Path) -> None:
    folder, settings = RunFolder(tmp_path), config.make(TINY, "imitation")
    folder.model.write_text("of an attempt that failed")
    folder.pause.touch()
    opening.write(folder, opening.Opening(settings), {"seeds": "a"})
    assert opening.stored_settings(folder) == settings
    manifest = folder.read_manifest()
    assert manifest.pop("settings")["seed"] == settings.seed and manifest == {"phases": {}, "inputs": {"seeds": "a"}}
    assert not folder.model.exists() and not folder.pause.exists()


def test_filters_are_done_again_even_if_the_disk_fails_before_the_new_keep_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, stored = RunFolder(tmp_path), config.make({"keep": "top:0.3"})
    opening.write_settings(folder, stored)
    folder.write_manifest(DONE)

    def fail(*_: object) -> None:
        raise DiskError("full")

    monkeypatch.setattr(opening, "write_settings", fail)
    with pytest.raises(DiskError):
        opening.write(folder, opening.resolve({"keep": "top:0.5"}, stored, DONE), DONE["inputs"])
    assert "round-2/filter" not in folder.read_manifest()["phases"] and opening.stored_settings(folder) == stored


def test_refusals_come_in_order_and_leave_no_folder_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, missing = tmp_path / "run", str(tmp_path / "none.jsonl")
    path.mkdir()
    (path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="no preset 'fast'"):
        api.align(path, preset="fast", roundz=1)
    with pytest.raises(ConfigError, match="nearest: rounds"):
        api.align(path, roundz=1, seeds=missing)
    with pytest.raises(UsageError, match="cannot be read"):
        tiny_run(path, seeds=missing)
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        tiny_run(path)
    with pytest.raises(UsageError, match="cannot be read"):
        tiny_run(tmp_path / "new", seeds=missing)
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(opening, "Lock", lambda folder: Lock(folder, wait_seconds=0.0))
    old = RunFolder(tmp_path / "old")
    old.make_round(0).metrics.touch()
    opening.write(old, opening.Opening(config.make(TINY, "imitation")), {})
    held = Lock(old.path)
    with pytest.raises(RunLockedError):
        tiny_run(old.path, seed=5, seeds=missing)
    held.release()
    with pytest.raises(RunMismatchError, match="--seed "):
        tiny_run(old.path, seed=5, seeds=missing)


def test_after_an_attempt_that_made_nothing_every_setting_may_be_given_anew(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    opening.write(folder, opening.Opening(config.make({**TINY, "seed": 4, "rounds": 1}, "imitation")), {})
    folder.settings.write_text("of = 'another version'")
    with pytest.raises(ConfigError):
        opening.read_standing(folder, None)
    # A preset says everything anew, so what was left is not even read.
    assert opening.read_standing(folder, "imitation") == (None, None)
    opening.write(folder, opening.Opening(config.make({**TINY, "seed": 4}, "imitation")), {})
    stored, manifest = opening.read_standing(folder, None)
    assert stored is not None and stored.seed == 4 and manifest is None
    folder.make_round(0)
    assert opening.read_standing(folder, "imitation") == (stored, folder.read_manifest())


@pytest.mark.parametrize("there", [False, True])
def test_a_first_phase_that_fails_at_once_leaves_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """Such as a model file whose numbers are none: with its settings, the folder could never go on."""

    def fails(*given: Any, **more: Any) -> None:
        raise ModelFileError("It computes no numbers.", "Give another.")

    path = tmp_path / "run"
    if there:
        path.mkdir()
    monkeypatch.setattr("minisheep.measuring.measure_model", fails)
    with pytest.raises(ModelFileError, match="no numbers"):
        tiny_run(path)
    assert path.exists() is there and not (path / "round-0").exists()
    monkeypatch.undo()
    tiny_run(path, seed=5)


def test_a_watched_run_still_calls_the_tick_that_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "is_watched", lambda: True)
    ticks: list[float] = []
    api.align(
        tmp_path / "run", preset="imitation", tick=lambda: ticks.append(1.0), until=loop.Phase(0, "evaluate"), **TINY
    )
    assert ticks
