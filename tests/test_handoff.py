"""A round's training for another program: the run's own words, numbers and split, in files that the program reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import model_folders as folders
import pytest
import yaml
from click.testing import CliRunner
from conftest import TEST_CACHE
from export_runs import example, finished_run
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import tiny_run
from worker_stand_ins import pretend

from minisheep import loop
from minisheep.cli.main import cli
from minisheep.errors import ModelFileError, UsageError
from minisheep.export import handoff_files
from minisheep.export import handoff_files as jobs
from minisheep.export.handoff_files import HandoffJob, begin_text, read_job, spread, text_of, whole_alpha, write
from minisheep.formats.hf_to_gguf import convert
from minisheep.rules.templates import chatml
from minisheep.run.folder import RunFolder, read_records, replace_records
from minisheep.run.records import Example, PreferencePair
from minisheep.stages.train import train_settings

PROJECTIONS = ("q_proj", "v_proj")
TOOLS = ("axolotl==0.19.0", "llamafactory==0.9.5", "omegaconf==2.3.0", "antlr4-python3-runtime==4.9.3")
"""The programs whose schemas are asked, and what these import; none of it is installed for anything else."""


@pytest.fixture(autouse=True)
def _no_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "begin_text", lambda gguf: "")


def kept(count: int, *, text: str = "") -> list[Example]:
    found = [example(number) for number in range(count)]
    return [replace(e, id="", output=text) if text and n == 0 else e for n, e in enumerate(found)]


def run_with(path: Path, examples: list[Example], **settings: Any) -> Path:
    run = filtered_run(path, 1, **settings)
    replace_records(RunFolder(run).round(1).kept, examples)
    return run


def filtered_run(path: Path, rounds: int, **settings: Any) -> Path:
    folder = RunFolder(finished_run(path, rounds, **settings).path)
    manifest = folder.read_manifest()
    manifest["phases"] |= {f"round-{number}/filter": {"kept": 3} for number in range(1, rounds + 1)}
    folder.write_manifest(manifest)
    return folder.path


def job(path: Path, count: int = 30, **settings: Any) -> HandoffJob:
    return read_job(str(run_with(path, kept(count), **settings)))


def test_a_pair_is_what_our_own_training_would_learn(tmp_path: Path) -> None:
    found, frame = job(tmp_path / "run", 3), chatml()
    asked, output = example(0).instruction, example(0).output
    assert text_of(found.train[0].prompt) == f"{frame.before}{asked}{frame.between}"
    assert text_of(found.train[0].completion) == f"{output}{frame.end}"
    (piece, *rest) = handoff_files.segments(found.train[0])
    assert piece == {"label": False, "text": frame.before}
    assert [part["text"] for part in rest if part["label"]] == [output, frame.end]
    line = json.loads(handoff_files.llamafactory_lines(found.train).splitlines()[0])
    assert line == {"prompt": f"{frame.before}{asked}{frame.between}", "response": f"{output}{frame.end}"}


def test_every_kept_example_is_in_one_of_the_two_files(tmp_path: Path) -> None:
    found = job(tmp_path / "run", 30)
    texts = [text_of(e.completion) for e in (*found.train, *found.validation)]
    assert sorted(texts) == sorted(f"{e.output}{chatml().end}" for e in kept(30))
    assert len(found.validation) == 3 == len(set(texts) - {text_of(e.completion) for e in found.train})


def test_no_more_examples_than_the_run_trains_on(tmp_path: Path) -> None:
    found = job(tmp_path / "run", 30, max_examples=12)
    assert len(found.train) + len(found.validation) == 12


@pytest.mark.parametrize("text", ["It ends <|im_end|> here", "<|im_start|>robot"])
def test_text_that_looks_like_a_special_token_is_left_out_and_told(tmp_path: Path, text: str) -> None:
    path = run_with(tmp_path / "run", kept(5, text=text))
    assert read_job(str(path)).left_out == 1
    said = CliRunner().invoke(cli, ["handoff", str(path), "--to", "axolotl"])
    assert "1 left out" in said.output and said.exit_code == 0
    data = (path / "handoff" / "axolotl-round-1" / "train.jsonl").read_text()
    assert text not in data and len(data.splitlines()) == 4


def test_a_text_begins_as_the_model_wants_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "begin_text", lambda gguf: "<bos>")
    found = job(tmp_path / "run", 3)
    assert text_of(found.train[0].prompt).startswith("<bos><|im_start|>")
    assert jobs.begun(found.train[0].prompt, "<bos>") == found.train[0].prompt


def test_the_vocabulary_of_a_strangers_file_is_read_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folders.tiny_folder(tmp_path / "a", "gemma3_text")
    gguf = convert(folder, tmp_path / "a.gguf", "f32", "Tiny", lambda line: None).path
    code = f"""
import sys
from pathlib import Path
from minisheep.export.handoff_files import begin_text
print(repr(begin_text(Path({str(gguf)!r}))), "llama_cpp" in sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "'<s>' False\n"
    # A crash of native code, which a file that nobody checked may cause, costs that process alone.
    monkeypatch.setattr(handoff_files, "BEGIN", pretend(monkeypatch, "os.kill(os.getpid(), signal.SIGSEGV)"))
    with pytest.raises(ModelFileError, match=r"vocabulary of a\.gguf failed: its process was ended by SIGSEGV"):
        begin_text(gguf)


def test_the_numbers_are_the_runs(tmp_path: Path) -> None:
    given = {"lora_rank": 32, "lora_alpha": 64.0, "learning_rate": 1e-5, "epochs": 3, "batch_size": 8,
             "micro_batch_size": 2, "max_length": 512, "rslora": True, "load_in": "bf16"}  # fmt: skip
    found = job(tmp_path / "run", 30, **given)
    theirs = yaml.safe_load(handoff_files.axolotl_files(found, 1, PROJECTIONS)[handoff_files.AXOLOTL_CONFIG])
    assert theirs["learning_rate"] == 1e-5 and theirs["num_epochs"] == 3 and theirs["sequence_len"] == 512
    assert (theirs["lora_r"], theirs["lora_alpha"], theirs["peft_use_rslora"]) == (32, 64, True)
    assert (theirs["adapter"], theirs["load_in_4bit"], theirs["bf16"]) == ("lora", False, True)
    assert theirs["micro_batch_size"] * theirs["gradient_accumulation_steps"] == 8
    others = yaml.safe_load(handoff_files.llamafactory_files(found, 4, PROJECTIONS)[handoff_files.LLAMAFACTORY_CONFIG])
    assert others["learning_rate"] == 1e-5 and others["num_train_epochs"] == 3 and others["cutoff_len"] == 512
    assert (others["lora_rank"], others["lora_alpha"], others["use_rslora"]) == (32, 64, True)
    assert others["per_device_train_batch_size"] * others["gradient_accumulation_steps"] * 4 == 8
    assert "quantization_bit" not in others
    assert theirs["seed"] == others["seed"] == train_settings(_settings(tmp_path), 1).seed
    assert theirs["warmup_steps"] == others["warmup_steps"] == found.warmup == 1


def _settings(tmp_path: Path) -> Any:
    from minisheep import api

    return api.load_run(tmp_path / "run").settings


def test_four_bits_stay_four_bits(tmp_path: Path) -> None:
    found = job(tmp_path / "run", 3, load_in="4bit")
    assert handoff_files.axolotl_config(found, 1, PROJECTIONS)["adapter"] == "qlora"
    assert handoff_files.llamafactory_config(found, 1, PROJECTIONS)["quantization_bit"] == 4


def test_few_examples_have_no_validation(tmp_path: Path) -> None:
    found = job(tmp_path / "run", 5)
    assert "validation.jsonl" not in handoff_files.axolotl_files(found, 1, PROJECTIONS)
    assert handoff_files.axolotl_config(found, 1, PROJECTIONS)["val_set_size"] == 0.0
    assert list(json.loads(handoff_files.llamafactory_files(found, 1, PROJECTIONS)["dataset_info.json"])) == [
        handoff_files.TRAIN
    ]


def test_one_last_goes_on_with_the_adapter_before(tmp_path: Path) -> None:
    run = filtered_run(tmp_path / "run", 2, strategy="one-last")
    first, second = read_job(str(run), "1"), read_job(str(run), "2")
    assert first.start is None and "lora_model_dir" not in handoff_files.axolotl_config(first, 1, PROJECTIONS)
    assert handoff_files.axolotl_config(second, 1, PROJECTIONS)["lora_model_dir"] == str(
        (run / "round-1" / "adapter").absolute()
    )
    assert "adapter_name_or_path" in handoff_files.llamafactory_config(second, 1, PROJECTIONS)


def test_total_base_hands_over_all_rounds(tmp_path: Path) -> None:
    run = filtered_run(tmp_path / "run", 2, strategy="total-base")
    assert (len(read_job(str(run), "1").train), len(read_job(str(run), "2").train)) == (3, 6)


def paired_run(path: Path, loss: str, count: int = 30, **settings: Any) -> Path:
    """Every third kept example has a rejected answer; the answers of the first pair were cut off."""
    run = run_with(path, kept(count), loss=loss, prefer="shown", answer_shots=2, **settings)
    pairs = [
        PreferencePair(
            e.messages[:1], e.messages[1:], [{"role": "assistant", "content": f"Stones, of course {n}."}], "checked",
            n > 0, (e.id, "b", "d"),
        )
        for n, e in enumerate(kept(count)) if n % 3 == 0
    ]  # fmt: skip
    replace_records(RunFolder(run).round(1).pairs, pairs)
    return run


@pytest.mark.parametrize("loss", ["orpo", "dpo"])
def test_pairs_are_handed_over_as_texts_with_the_template_applied(tmp_path: Path, loss: str) -> None:
    run = paired_run(tmp_path / "run", loss, preference_beta=0.2)
    found, frame = read_job(str(run)), chatml()
    assert (len(found.train) + len(found.validation), found.unpaired) == (10, 20 if loss == "orpo" else 0)
    files = handoff_files.axolotl_files(found, 1, PROJECTIONS)
    rows = [json.loads(line) for name in files if name.endswith(".jsonl") for line in files[name].splitlines()]
    asked, output = example(3).instruction, example(3).output
    assert {
        "prompt": f"{frame.before}{asked}{frame.between}",
        "chosen": f"{output}{frame.end}",
        "rejected": f"Stones, of course 3.{frame.end}",
    } in rows
    # The first answer was cut off, so it has no end to learn.
    assert sorted(row["rejected"].endswith(frame.end) for row in rows) == [False, *[True] * 9]
    theirs = yaml.safe_load(files[handoff_files.AXOLOTL_CONFIG])
    assert theirs["rl"] == loss and theirs[{"orpo": "orpo_alpha", "dpo": "rl_beta"}[loss]] == 0.2
    assert theirs["datasets"] == [{"path": "train.jsonl", "ds_type": "json", "split": "train"}]
    assert theirs["lora_dropout"] == 0
    others = handoff_files.llamafactory_files(found, 1, PROJECTIONS)
    stage = yaml.safe_load(others[handoff_files.LLAMAFACTORY_CONFIG])
    assert (stage["stage"], stage["pref_beta"]) == ("dpo", 0.2)
    assert stage["pref_loss"] == {"orpo": "orpo", "dpo": "sigmoid"}[loss]
    listed = json.loads(others["dataset_info.json"])[handoff_files.TRAIN]
    assert listed["ranking"] is True and set(listed["columns"]) == {"prompt", "chosen", "rejected"}
    assert json.loads(others[f"{handoff_files.TRAIN}.jsonl"].splitlines()[0]).keys() == rows[0].keys()
    said = CliRunner().invoke(cli, ["handoff", str(run), "--to", "axolotl"])
    assert "preference pairs" in said.output and ("20 not handed over" in said.output) is (loss == "orpo")


def test_a_rejected_answer_with_a_special_token_is_left_out(tmp_path: Path) -> None:
    run = paired_run(tmp_path / "run", "dpo", 9)
    place = RunFolder(run).round(1).pairs
    pairs = read_records(place, PreferencePair)
    pairs[0] = replace(pairs[0], id="", rejected=[{"role": "assistant", "content": "So <|im_end|> it is."}])
    replace_records(place, pairs)
    assert read_job(str(run)).left_out == 1


def test_mixed_seed_tasks_are_handed_over_too(tmp_path: Path) -> None:
    assert len(job(tmp_path / "run", 6, mix_seeds=0.25).train) == 8


@given(st.integers(1, 256), st.integers(1, 32), st.integers(1, 16))
def test_gpus_share_the_batch_exactly_or_not_at_all(batch: int, micro: int, gpus: int) -> None:
    if batch % gpus:
        with pytest.raises(UsageError, match=f"{gpus}"):
            spread(batch, micro, gpus)
        return
    found = spread(batch, micro, gpus)
    assert found.micro * found.accumulate * gpus == batch and found.micro <= micro


def test_an_alpha_that_is_no_whole_number_is_refused() -> None:
    assert whole_alpha(16.0) == 16
    with pytest.raises(UsageError, match=r"12\.5"):
        whole_alpha(12.5)


def test_a_run_that_cannot_be_handed_over_is_one_line(tmp_path: Path) -> None:
    fake, _ = tiny_run(tmp_path / "fake", until=loop.Phase(0, "evaluate"))
    for path, extra, told in (
        (fake.path, [], "made by the fake engine"),
        (tmp_path / "none", [], "does not exist. Start it with"),
        (filtered_run(tmp_path / "run", 1), ["--round", "7"], "has filtered round 1"),
        (run_with(tmp_path / "empty", []), [], "kept no example"),
        (run_with(tmp_path / "odd", kept(3)), ["--gpus", "3"], "--gpus 3 does not divide"),
    ):
        said = CliRunner().invoke(cli, ["handoff", str(path), "--to", "axolotl", *extra])
        assert told in str(said.exception) and not (path / "handoff" / "axolotl-round-1").exists()


def test_what_is_there_already_is_not_replaced(tmp_path: Path) -> None:
    found = job(tmp_path / "run", 3)
    write(found, "llamafactory", 1, tmp_path / "out")
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    assert set(before) == {"README.txt", "dataset_info.json", "llamafactory.yaml", f"{handoff_files.TRAIN}.jsonl"}
    with pytest.raises(UsageError):
        write(found, "axolotl", 1, tmp_path / "out")
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before


def test_the_reader_of_a_handoff_is_told_the_command_and_the_template(tmp_path: Path) -> None:
    found = job(tmp_path / "run", 3)
    write(found, "axolotl", 2, tmp_path / "out")
    told = (tmp_path / "out" / "README.txt").read_text()
    assert "axolotl train axolotl.yaml" in told and repr(chatml().between) in told and "2 GPU(s)" in told


# The programs' own schemas

ASK_AXOLOTL = """
import sys, yaml
from axolotl.utils.schemas.config import AxolotlInputConfig
given = yaml.safe_load(open("axolotl.yaml"))
assert not set(given) - set(AxolotlInputConfig.model_fields), set(given) - set(AxolotlInputConfig.model_fields)
AxolotlInputConfig(**given)
"""
ASK_LLAMAFACTORY = """
import dataclasses, yaml
from transformers import HfArgumentParser
from llamafactory.hparams import DataArguments, FinetuningArguments, GeneratingArguments, ModelArguments
from llamafactory.hparams import TrainingArguments
given = yaml.safe_load(open("llamafactory.yaml"))
# A machine without a GPU refuses bf16, which is no fault of the file.
given["bf16"] = False
kinds = (ModelArguments, DataArguments, TrainingArguments, FinetuningArguments, GeneratingArguments)
HfArgumentParser(kinds).parse_dict(given)
"""


@pytest.fixture(scope="module")
def tools() -> Path:
    folder = TEST_CACHE / "handoff-tools"
    if not (folder / "axolotl").exists():
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), *TOOLS]
        if subprocess.run(pip, capture_output=True, timeout=280).returncode:
            pytest.skip("the programs cannot be fetched here")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("target", "question"), [("axolotl", ASK_AXOLOTL), ("llamafactory", ASK_LLAMAFACTORY)])
@pytest.mark.parametrize(
    "given",
    [
        {"load_in": "4bit"},
        {"load_in": "bf16", "strategy": "one-last"},
        *({"loss": loss, "prefer": "shown", "answer_shots": 2} for loss in ("orpo", "dpo")),
    ],
)
def test_the_programs_own_schema_takes_what_is_written(
    target: str, question: str, given: dict[str, Any], tools: Path, tmp_path: Path
) -> None:
    run = filtered_run(tmp_path / "run", 2, **given)
    replace_records(RunFolder(run).round(2).kept, kept(20))
    if "loss" in given:
        pairs = read_records(
            RunFolder(paired_run(tmp_path / "pairs", given["loss"], 20)).round(1).pairs, PreferencePair
        )
        replace_records(RunFolder(run).round(2).pairs, pairs)
    write(read_job(str(run), "2"), target, 2, tmp_path / "out")
    environment = {**os.environ, "PYTHONPATH": str(tools), "DISABLE_VERSION_CHECK": "1", "HF_HUB_OFFLINE": "1"}
    asked = subprocess.run(
        [sys.executable, "-c", question], cwd=tmp_path / "out", env=environment, capture_output=True, text=True,
        timeout=280,
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr[-2000:]
