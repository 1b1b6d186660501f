"""What cannot work is refused in a worker before the first token, in one line, and leaves a run that can be mended."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf_builder import Tiny
from tiny_runs import minisheep

from minisheep.errors import ModelFileError, UnsupportedModelError
from minisheep.prepare import prepare
from minisheep.run.events import Event


def _settings(**given: object):  # type: ignore[no-untyped-def]
    from minisheep import config

    return config.make(given, "imitation")


def test_an_architecture_without_a_converter_is_refused_before_anything_is_generated(tmp_path: Path) -> None:
    model = tmp_path / "falcon.gguf"
    model.write_bytes(Tiny(architecture="falcon").build())
    said: list[Event] = []
    with pytest.raises(UnsupportedModelError) as refused:
        prepare(_settings(model=str(model)), tmp_path / "model.json", said.append)
    assert "falcon" in refused.value.message
    assert "Nothing was generated" in refused.value.message
    assert not (tmp_path / "model.json").exists()


def test_every_truncation_of_a_model_file_is_refused(tmp_path: Path) -> None:
    whole = Tiny().build()
    model = tmp_path / "cut.gguf"
    for size in range(0, len(whole), 97):
        model.write_bytes(whole[:size])
        with pytest.raises(ModelFileError):
            prepare(_settings(model=str(model)), tmp_path / "model.json", lambda event: None)


def test_a_refused_model_is_one_line_and_the_folder_can_be_used_again(tmp_path: Path) -> None:
    model = tmp_path / "text.gguf"
    model.write_text("not a model")
    refused = minisheep("align", "--preset", "imitation", "--plain", "--run", "run", "--model", str(model))
    assert refused.returncode == 1
    assert refused.stderr.startswith("minisheep: ") and len(refused.stderr.strip().splitlines()) == 1
    assert "not a GGUF" in refused.stderr
    again = minisheep(
        "align", "--preset", "imitation", "--plain", "--run", "run", "--engine", "fake", "--trainer", "fake",
        "--per-round", "8", "--rounds", "1",
    )  # fmt: skip
    assert again.returncode == 0, again.stderr


def test_a_trainer_that_is_not_there_is_refused_before_anything_is_made() -> None:
    refused = minisheep("align", "--run", "run", "--trainer", "unsloth")
    assert refused.returncode == 2
    assert "Unsloth" in refused.stderr
    assert not Path("run").exists()
