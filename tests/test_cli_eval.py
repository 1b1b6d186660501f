"""``minisheep eval``: every mistake is one line, every way of showing a result, and a small model end to end."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from tiny_runs import TINY, minisheep

from minisheep import config, opening
from minisheep.cli.main import main
from minisheep.errors import RunMismatchError, Stopped, UsageError
from minisheep.evals import eval_run
from minisheep.evals.tasks import EvalSpec
from minisheep.evals.worker import ModelUnderTest
from minisheep.machine.worker import stoppable
from minisheep.prepare import fake_model
from minisheep.run.folder import RunFolder

ROWS = [
    {"key": 1, "prompt": "Name a colour without any comma.", "instruction_id_list": ["punctuation:no_comma"],
     "kwargs": [{}]},
    {"key": 2, "prompt": "Say hello in lower case. Use at least 5 words.",
     "instruction_id_list": ["change_case:english_lowercase", "length_constraints:number_words"],
     "kwargs": [{}, {"num_words": 5, "relation": "at least"}]},
    {"key": 3, "prompt": "Write two sentences about rain.",
     "instruction_id_list": ["length_constraints:number_sentences"],
     "kwargs": [{"num_sentences": 2, "relation": "at least"}]},
    {"key": 4, "prompt": "End with the words: that is all.", "instruction_id_list": ["startend:end_checker"],
     "kwargs": [{"end_phrase": "that is all."}]},
]  # fmt: skip
"""In IFEval's format."""
LEVELS = [f"{level}_{reading}_acc" for level in ("prompt_level", "inst_level") for reading in ("strict", "loose")]
HALVED = [f"inst_level_{reading}_acc_{half}" for reading in ("strict", "loose") for half in ("trained", "unseen")]
"""Of `ROWS`, all constraints but that on sentences are of kinds that minisheep trains on."""

Call = Callable[..., tuple[int, str, str]]


def run_of(folder: Path) -> None:
    """What `minisheep eval` reads of a run on the fake engine: settings, model, and the adapters of two rounds."""
    run = RunFolder(folder)
    run.create()
    opening.write_settings(run, config.make(TINY, "imitation"))
    fake_model().write(run.model)
    run.write_manifest({"phases": {}})
    for number in (1, 2):
        run.make_round(number).adapter_gguf.write_bytes(bytes([number]))


def data(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """The command line in this process; no worker starts."""
    monkeypatch.setattr(eval_run, "WorkerProcess", None)
    monkeypatch.setattr(eval_run, "check_installed", lambda: None)

    def run(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["minisheep", "eval", *args])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def refused(call: Call, *args: str) -> str:
    code, out, err = call(*args)
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1
    return err


# Mistakes


def test_without_the_harness_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    with pytest.raises(UsageError, match=r"pip install .*lm-eval\[ifeval\]"):
        eval_run.check_installed()


def test_what_is_neither_run_nor_model_is_named(call: Call) -> None:
    told = refused(call, "smolm2", "--tasks", "ifeval")
    assert "smollm2-135m" in told


def test_a_folder_that_is_no_run_is_refused(call: Call, tmp_path: Path) -> None:
    assert "not a run" in refused(call, str(tmp_path), "--tasks", "ifeval")


def test_tasks_must_be_named(call: Call) -> None:
    assert "--tasks" in refused(call, "smollm2-135m")
    assert "no task" in refused(call, "smollm2-135m", "--tasks", ",")


def test_a_file_of_other_rows_is_refused(call: Call, tmp_path: Path) -> None:
    file = data(tmp_path / "rows.jsonl", [{"question": "q"}])
    assert "not a row of ifeval" in refused(call, "smollm2-135m", "--tasks", "ifeval", "--data", file)


def test_a_round_of_a_model_is_refused(call: Call) -> None:
    assert "--round" in refused(call, "smollm2-135m", "--tasks", "ifeval", "--round", "1")


def test_a_round_that_a_run_does_not_have_is_refused(call: Call, tmp_path: Path) -> None:
    run_of(tmp_path / "run")
    assert "1, 2" in refused(call, str(tmp_path / "run"), "--tasks", "ifeval", "--round", "9")


def test_json_tells_a_mistake_as_an_event(call: Call) -> None:
    code, out, err = call("smolm2", "--tasks", "ifeval", "--json")
    assert (code, err) == (2, "")
    assert json.loads(out)["event"] == "Failed"


def test_a_run_whose_file_left_the_cache_gets_it_again_or_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_of(tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    opening.write_settings(run, config.make({"model": "smollm2-135m"}))
    gone = dataclasses.replace(fake_model(), inference_gguf=tmp_path / "gone.gguf")
    gone.write(run.model)
    here = dataclasses.replace(gone, inference_gguf=tmp_path / "here.gguf")
    monkeypatch.setattr("minisheep.prepare.for_inference", lambda settings, emit: here)
    # No file is there to be checked.
    monkeypatch.setattr("minisheep.prepare._checked_again", lambda model, emit: model)
    spec = EvalSpec("out", ("ifeval",), run=str(run.path))
    assert ModelUnderTest(spec, lambda event: None).model.inference_gguf == here.inference_gguf
    here = dataclasses.replace(here, gguf_sha256="another")
    with pytest.raises(RunMismatchError):
        ModelUnderTest(spec, lambda event: None)


# Results


def result(round: int, right: list[int], **given: Any) -> dict[str, Any]:
    """A stored result whose items are right or wrong."""
    entries = [{"id": str(n), "responses": [["x"]], "scores": {"acc": [float(v), 1.0]}} for n, v in enumerate(right)]
    settings = {"adapter": f"a{round}" if round else "", "frame": "template chatml", "limit": 0}
    share = sum(right) / len(right)
    return {
        "task": "mytask", "round": round, "settings": settings, "decided_by": "the harness", "shots": 0,
        "items": len(right), "metrics": {"acc": {"value": share, "low": share - 0.1, "high": share + 0.1}},
        "answers": {}, "by_item": entries, "file": f"eval/mytask-round-{round}.json", "stored_before": False,
        "change": {}, **given,
    }  # fmt: skip


def test_changes_are_paired_by_item() -> None:
    base, better = result(0, [0, 1] * 20), result(1, [1, 1] * 20)
    found = eval_run.changes(better, base)["acc"]
    assert found["value"] == 0.5
    assert 0.3 < found["low"] < 0.5 < found["high"] < 0.7


def test_results_measured_in_other_ways_are_not_paired() -> None:
    base, ours = result(0, [0, 1]), result(1, [1, 1])
    base["settings"]["limit"] = 5
    assert eval_run.changes(ours, base) == {}


def test_a_change_is_shown_below_its_metric() -> None:
    base, ours = result(0, [0, 1] * 20), result(1, [1, 1] * 20)
    ours["change"] = eval_run.changes(ours, base)
    ((title, columns, rows),) = eval_run.tables([base, ours])
    assert "40 items" in title and "template chatml" in title
    assert columns == ["", "base", "round 1"]
    assert rows[0] == ["acc", "0.500 [0.400, 0.600]", "1.000 [0.900, 1.100]"]
    assert rows[1][0].strip() == "change to base" and rows[1][1] == "" and rows[1][2].startswith("+0.500 [")


def test_plain_output_has_a_line_for_each_metric(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eval_run, "measure", lambda spec, emit, tick: [result(0, [1, 0])])
    code, out, err = call("smollm2-135m", "--tasks", "mytask")
    assert (code, err) == (0, "")
    assert "mytask base acc 0.500 [0.400, 0.600]" in out
    assert "\x1b" not in out


def test_json_output_is_an_object_a_line(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eval_run, "measure", lambda spec, emit, tick: [result(0, [1, 0]), result(1, [1, 1])])
    _, out, _ = call("smollm2-135m", "--tasks", "mytask", "--json")
    found = [json.loads(line) for line in out.splitlines()]
    assert [(one["event"], one["round"], one["metrics"]["acc"]["value"]) for one in found] == [
        ("Measured", 0, 0.5),
        ("Measured", 1, 1.0),
    ]


def test_a_signal_ends_the_work_with_its_code() -> None:
    with pytest.raises(Stopped) as stopped, stoppable("Stopped."):
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.exit_code == 143


# With the harness: a worker, its tasks, and a model or the fake engine


needs_harness = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval is not installed")


@pytest.fixture(scope="module")
def fake_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fake") / "run"
    run_of(folder)
    return folder


def objects(*args: str, **options: Any) -> Iterator[dict[str, Any]]:
    done = minisheep("eval", *args, "--json", **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return (json.loads(line) for line in done.stdout.splitlines())


def measured(*args: str) -> list[dict[str, Any]]:
    return [one for one in objects(*args) if one["event"] == "Measured"]


@needs_harness
@pytest.mark.model
def test_ifeval_of_a_run_is_measured_stored_and_used_again(fake_run: Path, tmp_path: Path) -> None:
    file = data(tmp_path / "rows.jsonl", ROWS)
    first = measured(str(fake_run), "--tasks", "ifeval", "--data", file)
    assert [one["round"] for one in first] == [0, 1, 2]
    assert all(sorted(one["metrics"]) == sorted(LEVELS + HALVED) and one["items"] == 4 for one in first)
    assert sorted(first[1]["change"]) == sorted(LEVELS + HALVED) and first[0]["change"] == {}
    assert all(value is not None for one in first for value in one["metrics"][HALVED[0]].values())
    kept = json.loads(Path(first[0]["file"]).read_text())
    assert Path(first[0]["file"]).parent == fake_run / "eval"
    assert [entry["id"] for entry in kept["by_item"]] == ["1", "2", "3", "4"]
    halves = [[name in entry["scores"] for name in HALVED[:2]] for entry in kept["by_item"]]
    assert halves == [[True, False], [True, False], [False, True], [True, False]]
    second = measured(str(fake_run), "--tasks", "ifeval", "--data", file)
    assert all(one["stored_before"] for one in second)
    assert [one["metrics"] for one in second] == [one["metrics"] for one in first]


@needs_harness
@pytest.mark.model
def test_the_harness_brings_no_torch_into_the_process_of_llama_cpp(fake_run: Path, tmp_path: Path) -> None:
    file = data(tmp_path / "rows.jsonl", ROWS)
    spec = EvalSpec(str(tmp_path), ("ifeval",), run=str(fake_run), data={"ifeval": file})
    code = (
        "import json, sys\n"
        "from minisheep.evals.worker import do\n"
        "do(json.loads(sys.argv[1]), lambda event: None, lambda: False)\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, json.dumps(spec.to_job())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@needs_harness
@pytest.mark.model
def test_verdicts_equal_those_of_our_own_checkers(fake_run: Path, tmp_path: Path) -> None:
    from minisheep.data.seed_tasks import load_items
    from minisheep.rules.ifeval import strict

    file = data(tmp_path / "rows.jsonl", ROWS)
    (found,) = measured(str(fake_run), "--tasks", "ifeval", "--data", file, "--round", "1", "--again")
    kept = json.loads(Path(found["file"]).read_text())
    for item, entry in zip(load_items(file), kept["by_item"], strict=True):
        verdicts = strict(item, entry["responses"][0][0])
        assert entry["scores"]["inst_level_strict_acc"] == [sum(verdicts), len(verdicts)]


@needs_harness
@pytest.mark.model
def test_triviaqa_takes_rows_of_a_file(fake_run: Path, tmp_path: Path) -> None:
    rows = [
        {"question": f"Which number follows {n}", "question_id": f"q{n}", "answer": {"aliases": [str(n + 1)]}}
        for n in range(5)
    ]
    file = data(tmp_path / "rows.jsonl", rows)
    (found,) = measured(str(fake_run), "--tasks", "triviaqa", "--data", file, "--base")
    assert found["items"] == 5 and list(found["metrics"]) == ["exact_match"]
    kept = json.loads(Path(found["file"]).read_text())
    assert [entry["id"] for entry in kept["by_item"]] == [f"q{n}" for n in range(5)]


@needs_harness
@pytest.mark.model
def test_squadv2_takes_rows_of_a_file_and_needs_no_metric_from_the_hub(fake_run: Path, tmp_path: Path) -> None:
    rows = [
        {"id": str(n), "title": "Rain", "context": "Rain is water.", "question": "What is rain?",
         "answers": {"text": ["water"] if n % 2 else [], "answer_start": [8] if n % 2 else []}}
        for n in range(4)
    ]  # fmt: skip
    (found,) = measured(str(fake_run), "--tasks", "squadv2", "--data", data(tmp_path / "r.jsonl", rows), "--base")
    metrics = found["metrics"]
    assert {"exact", "f1", "HasAns_f1", "NoAns_f1", "best_f1"} <= set(metrics)
    assert metrics["f1"]["low"] is not None and metrics["best_f1"]["low"] is None


@needs_harness
@pytest.mark.model
def test_code_tasks_need_leave_and_then_run(fake_run: Path, tmp_path: Path) -> None:
    row = {
        "task_id": "x/0",
        "prompt": "def one():\n",
        "test": "def check(f):\n    assert f() == 1\n",
        "entry_point": "one",
    }
    args = (str(fake_run), "--tasks", "humaneval", "--data", data(tmp_path / "rows.jsonl", [row]), "--base")
    without = minisheep("eval", *args)
    assert without.returncode == 2
    assert "--allow-code-execution" in without.stderr and len(without.stderr.strip().splitlines()) == 1
    (found,) = measured(*args, "--allow-code-execution")
    assert found["metrics"]["pass@1"]["value"] == 0


@needs_harness
@pytest.mark.model
def test_a_task_without_data_and_network_is_one_line(fake_run: Path) -> None:
    done = minisheep("eval", str(fake_run), "--tasks", "triviaqa", "--offline", "--plain")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "--data" in done.stderr


@needs_harness
@pytest.mark.model
def test_an_unknown_task_is_answered_with_near_names(fake_run: Path) -> None:
    done = minisheep("eval", str(fake_run), "--tasks", "ifevall", "--plain")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "ifeval" in done.stderr.replace("ifevall", "")


@needs_harness
@pytest.mark.model
def test_a_worker_that_dies_is_one_line(fake_run: Path, tmp_path: Path) -> None:
    file = data(tmp_path / "rows.jsonl", ROWS)
    args = ("eval", str(fake_run), "--tasks", "ifeval", "--data", file, "--again", "--plain")
    done = minisheep(*args, fault="abort:eval:3")
    assert done.returncode == 3
    assert "SIGABRT" in done.stderr and len(done.stderr.strip().splitlines()) == 1


@needs_harness
@pytest.mark.model
def test_ctrl_c_ends_it_and_the_folder_is_free_again(fake_run: Path, tmp_path: Path) -> None:
    file = data(tmp_path / "rows.jsonl", ROWS)
    command = [sys.executable, "-m", "minisheep", "eval", str(fake_run), "--tasks", "ifeval", "--data", file]
    out_folder = tmp_path / "results"
    command += ["--json", "--out", str(out_folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (out_folder / "worker.log").exists():
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert json.loads(out.splitlines()[-1])["kind"] == "Stopped"
    assert measured(str(fake_run), "--tasks", "ifeval", "--data", file, "--out", str(out_folder))


@needs_harness
@pytest.mark.model
@pytest.mark.timeout(300)
def test_a_small_model_answers_ifeval_end_to_end(tmp_path: Path) -> None:
    from real_models import smollm2

    out = tmp_path / "results"
    file = data(tmp_path / "rows.jsonl", ROWS)
    done = minisheep(
        "eval", str(smollm2()), "--tasks", "ifeval", "--data", file, "--max-tokens", "48", "--out", str(out), "--plain"
    )
    assert done.returncode == 0, done.stderr
    (stored,) = out.glob("ifeval-round-0-*.json")
    found = json.loads(stored.read_text())
    assert found["items"] == 4 and found["answers"]["count"] == 4
    assert all(entry["responses"][0][0].strip() for entry in found["by_item"])
    assert "ifeval base prompt_level_strict_acc" in done.stdout


def test_measuring_leaves_no_trace_of_a_spec_without_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eval_run, "WorkerProcess", MagicMock())
    assert eval_run.measure(EvalSpec(str(tmp_path / "out"), ("ifeval",), model="m"), lambda event: None) == []
