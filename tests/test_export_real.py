"""Exports of a SmolLM2 run: they load in llama.cpp and pass their own checks, and what is wrong fails them."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import real_models
from click.testing import CliRunner
from real_models import make_run, own_template, random_adapter

from minisheep.cli.main import cli
from minisheep.errors import DiskError, ExportError
from minisheep.export import export_choice, exporting
from minisheep.formats.gguf_header import read_header
from minisheep.formats.model_facts import chat_template, model_facts
from minisheep.models.prepared import PreparedModel
from minisheep.rules.templates import chatml
from minisheep.run.events import Event, Note
from minisheep.run.files import read_json

pytestmark = [pytest.mark.model, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    gguf = real_models.smollm2()
    return make_run(tmp_path_factory.mktemp("real") / "run", gguf, own_template(gguf))


def export(run: Path, out: Path, target: str, format: str = "Q8_0", said: list[Event] | None = None) -> Any:
    heard = [] if said is None else said
    return exporting.export(export_choice.choose_export(str(run), "last"), target, format, out, heard.append)


def copied(run: Path, to: Path) -> Path:
    return Path(shutil.copytree(run, to))


def said_by_card(folder: Path, base: Path) -> str:
    """What the code of an export's card prints, with the base's weights from here instead of from the hub."""
    (code,) = re.findall(r"```python\n(.*?)\n```", (folder / "README.md").read_text(), re.DOTALL)
    code = code.replace("HuggingFaceTB/SmolLM2-135M-Instruct", str(base))
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True, timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    ).stdout  # fmt: skip


def passed(found: Any) -> list[str]:
    assert all(check["passed"] for check in found["checks"])
    return [check["name"] for check in found["checks"]]


def test_ollama_gets_a_gguf_that_loads_and_passes_its_checks(run: Path, tmp_path: Path) -> None:
    """As the end of a run advises it, without a format."""
    told = CliRunner().invoke(cli, ["export", str(run), "--to", "ollama", "--round", "1", "--out", f"{tmp_path}/out"])
    assert "Exported round 1 in F16, by the model's size" in told.output, told.output
    found = read_json(tmp_path / "out" / "export.json")
    assert found["format"] == "F16" and passed(found) == [
        "GGUF: merge", "GGUF: prompts", "GGUF: end token", "Modelfile: prompts", "GGUF: agreement", "GGUF: ends",
    ]  # fmt: skip
    (gguf,) = (tmp_path / "out").glob("*.gguf")
    facts = model_facts(read_header(gguf))
    assert (facts.quantisation, facts.parameters, facts.eos_text) == ("F16", 134_515_008, "<|im_end|>")
    assert f"FROM ./{gguf.name}\n" in (tmp_path / "out" / "Modelfile").read_text()
    assert sorted(p.name for p in tmp_path.iterdir() if "out" in p.name) == ["out"]


@pytest.mark.slow
def test_four_bits_are_for_who_asks(run: Path, tmp_path: Path) -> None:
    assert "GGUF: agreement" in passed(export(run, tmp_path / "out", "gguf", "Q4_K_M"))


@pytest.mark.slow
def test_at_full_width_the_merge_answers_as_the_run_does(run: Path, tmp_path: Path) -> None:
    found = export(run, tmp_path / "out", "gguf", "F16")
    assert "GGUF: agreement" in passed(found)
    (gguf,) = (tmp_path / "out").glob("*.gguf")
    header = read_header(gguf)
    assert chat_template(header) == chat_template(read_header(real_models.smollm2()))
    assert header.metadata["general.license"] == "apache-2.0"


@pytest.mark.slow
def test_the_plain_adapter_answers_as_the_run_does(run: Path, tmp_path: Path) -> None:
    said: list[Event] = []
    found = export(run, tmp_path / "out", "adapter", said=said)
    told = [event.text for event in said if isinstance(event, Note)]
    assert any("adapter, agreement: ok: the run's 20 greedy answers" in text for text in told)
    assert passed(found) == ["adapter: prompts", "adapter: end token", "adapter: agreement", "adapter: ends"]
    told = read_json(tmp_path / "out" / "adapter_config.json")
    assert told["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    copy, trained = (p / "adapter_model.safetensors" for p in (tmp_path / "out", run / "round-1" / "adapter"))
    assert copy.read_bytes() == trained.read_bytes()


@pytest.mark.slow
def test_a_run_on_a_frame_of_our_own_carries_it_along(run: Path, tmp_path: Path) -> None:
    gguf = real_models.smollm2()
    other = copied(run, tmp_path / "run")
    model = dataclasses.replace(PreparedModel.read(other / "model.json"), template=chatml())
    model.write(other / "model.json")
    export(other, tmp_path / "out", "gguf", "Q8_0")
    (made,) = (tmp_path / "out").glob("*.gguf")
    assert "You are a helpful assistant." in chat_template(read_header(made))
    assert chat_template(read_header(made)) != chat_template(read_header(gguf))


@pytest.mark.slow
@pytest.mark.parametrize("where", ["gguf", "ollama"])
def test_a_wrong_template_fails_the_export(run: Path, tmp_path: Path, where: str) -> None:
    other = copied(run, tmp_path / "run")
    model = PreparedModel.read(other / "model.json")
    # The run was trained without a system turn, and the file's own template puts one.
    before = "<|im_start|>user\n"
    dataclasses.replace(model, template=dataclasses.replace(model.template, before=before)).write(other / "model.json")
    with pytest.raises(ExportError, match="token ids"):
        export(other, tmp_path / "there" / "out", where)
    assert list((tmp_path / "there").iterdir()) == []


@pytest.mark.slow
def test_an_end_that_nothing_ends_at_fails_the_export(run: Path, tmp_path: Path) -> None:
    other = copied(run, tmp_path / "run")
    model = PreparedModel.read(other / "model.json")
    template = dataclasses.replace(model.template, end="###")
    dataclasses.replace(model, template=template).write(other / "model.json")
    with pytest.raises(ExportError, match="end token"):
        export(other, tmp_path / "out", "adapter")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_adapter_gguf_that_is_not_the_adapter_fails_the_export(run: Path, tmp_path: Path) -> None:
    other = copied(run, tmp_path / "run")
    random_adapter(tmp_path / "other", real_models.smollm2(), 0.3)
    shutil.copy(tmp_path / "other" / "adapter.gguf", other / "round-1" / "adapter.gguf")
    with pytest.raises(ExportError):
        export(other, tmp_path / "out", "adapter")


@pytest.mark.slow
def test_a_full_disk_is_said_before_the_work(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINISHEEP_FAULT", "full:export:1")
    with pytest.raises(DiskError):
        export(run, tmp_path / "there" / "out", "gguf")
    assert list((tmp_path / "there").iterdir()) == []


@pytest.mark.slow
def test_lm_studio_gets_a_folder_of_its_own_form(run: Path, tmp_path: Path) -> None:
    assert "GGUF: agreement" in passed(export(run, tmp_path / "out", "lmstudio", "Q8_0"))
    (gguf,) = (tmp_path / "out").rglob("*.gguf")
    assert len(gguf.relative_to(tmp_path / "out").parts) == 3


@pytest.mark.slow
def test_a_folder_for_the_hub_is_what_transformers_computes(run: Path, tmp_path: Path) -> None:
    from minisheep.formats.gguf_to_hf import dequantise

    other = copied(run, tmp_path / "run")
    dequantise(real_models.smollm2(), tmp_path / "weights", lambda event: None)
    model = PreparedModel.read(other / "model.json")
    dataclasses.replace(model, weights=tmp_path / "weights").write(other / "model.json")
    found = export(other, tmp_path / "out", "hub-folder", "Q8_0")
    assert [name for name in passed(found) if name.startswith("merged model")] == [
        "merged model: prompts", "merged model: end token", "merged model: agreement",
    ]  # fmt: skip
    names = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert names >= {
        "model/README.md", "model/config.json", "model/generation_config.json", "model/model.safetensors",
        "model/tokenizer.json", "model/chat_template.jinja", "model/adapter/adapter_model.safetensors",
        "dataset/README.md", "export.json",
    }  # fmt: skip
    # transformers 4 reads the one name, 5 the other.
    config = read_json(tmp_path / "out" / "model" / "config.json")
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 100_000.0
    tokenizer = read_json(tmp_path / "out" / "model" / "tokenizer_config.json")
    assert (tokenizer["tokenizer_class"], tokenizer["model_max_length"]) == ("PreTrainedTokenizerFast", 8192)
    assert not tokenizer.keys() & {"is_local", "local_files_only", "backend"}
    # As a user of the card loads it, and the plain adapter on its base.
    export(other, tmp_path / "adapter", "adapter")
    weights = tmp_path / "weights"
    for name in ("tokenizer.json", "tokenizer_config.json"):  # which the base on the hub has, and a GGUF's weights lack
        shutil.copy(tmp_path / "out" / "model" / name, weights)
    merged, adapter = (said_by_card(place, weights) for place in (tmp_path / "out" / "model", tmp_path / "adapter"))
    assert merged.strip() and adapter[:20] == merged[:20]
    shutil.rmtree(tmp_path / "out")
