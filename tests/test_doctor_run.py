"""The doctor as a command: workers that stand in for the real ones crash, hang and answer; nothing heavy is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from doctor_facts import HEALTHY, facts, machine, no_gpu, on_a_processor
from worker_stand_ins import pretend as pretend_worker

from minisheep.cli.doctor import lines
from minisheep.cli.main import cli
from minisheep.doctor import diagnosis
from minisheep.doctor import probes as doctor_probes
from minisheep.doctor.check_result import Facts, fail
from minisheep.doctor.machine_facts import MachineFacts
from minisheep.errors import DownloadError, UnknownModelError


def probing(folder: Path) -> diagnosis.Probing:
    return diagnosis.Probing("smollm2-135m", str(folder))


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts source code in the place of the probes' worker."""
    return lambda source: monkeypatch.setattr(diagnosis, "WORKER", pretend_worker(monkeypatch, source))


def test_a_crash_in_native_code_is_an_answer(tmp_path: Path, worker: Callable[[str], None]) -> None:
    worker("emit(Found('torch', {'version': '2'}))\nos.kill(os.getpid(), signal.SIGSEGV)")
    names = ["torch", "bitsandbytes", "train"]
    found = diagnosis.one_group("training", names, probing(tmp_path), time.monotonic() + 30)
    assert found["torch"] == {"version": "2"}
    assert "SIGSEGV" in found["bitsandbytes"]["error"] and "bitsandbytes" in found["train"]["unasked"]


def test_a_hang_ends_with_the_time_and_says_how_to_give_more(tmp_path: Path, worker: Callable[[str], None]) -> None:
    worker("time.sleep(60)")
    found = diagnosis.one_group("training", ["torch"], probing(tmp_path), time.monotonic() + 0.3)["torch"]
    assert found["error"] and "--seconds" in found["fix"] and 0 < found["after"] < 30


def test_a_group_for_which_no_time_is_left_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(diagnosis, "WorkerProcess")
    found = diagnosis.one_group("training", ["torch"], probing(tmp_path), time.monotonic())
    assert found["torch"]["unasked"]


def test_a_process_that_the_system_refuses_is_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handler: str) -> None:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(diagnosis, "WorkerProcess", refuse)
    found = diagnosis.one_group("training", ["torch"], probing(tmp_path), time.monotonic() + 30)
    assert "no more processes" in found["torch"]["error"]


def test_groups_that_compute_take_turns_and_the_others_do_not_wait(
    tmp_path: Path, worker: Callable[[str], None]
) -> None:
    worker(
        "began = time.time(); time.sleep(0.2 if job['phase'] != 'hub' else 0)\n"
        "emit(Found(job['phase'], {'began': began, 'ended': time.time()}))"
    )
    asked = {"hub": ["hub"], "llama.cpp": ["llama.cpp"], "training": ["training"]}
    found = diagnosis.ask(asked, probing(tmp_path), time.monotonic() + 30)
    assert found["training"]["began"] >= found["llama.cpp"]["ended"]
    assert found["hub"]["ended"] < found["training"]["ended"]


def test_why_a_model_cannot_be_had_crosses_over(tmp_path: Path, worker: Callable[[str], None]) -> None:
    worker("emit(Note('downloading'))\nraise DownloadError('no network.', 'mend it.')")
    told: list[str] = []
    error = diagnosis.prepare(probing(tmp_path), told.append)
    assert isinstance(error, DownloadError) and error.message == "no network." and told == ["downloading"]


def pretend(monkeypatch: pytest.MonkeyPatch, here: MachineFacts, found: dict[str, Facts]) -> None:
    """The command with a machine and facts of the test's own; folders and packages are the real ones."""
    monkeypatch.setattr(diagnosis, "look", lambda: here)
    monkeypatch.setattr(diagnosis, "prepare", lambda place, on_progress: None)
    monkeypatch.setattr(diagnosis, "ask", lambda groups, place, ends: found)


def test_a_healthy_machine_ends_with_0_and_lines_without_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, no_gpu(), on_a_processor())
    said = CliRunner().invoke(cli, ["doctor"])
    assert said.exit_code == 0 and "\x1b" not in said.stdout, said.output
    assert said.stdout.splitlines()[-1].startswith("20 checks: ") and "0 fail" in said.stdout


def test_a_failure_ends_with_1_and_the_command_that_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, machine(), facts(llama={"offload": False}))
    said = CliRunner().invoke(cli, ["doctor"])
    assert said.exit_code == 1 and "|| CMAKE_ARGS=" in said.stdout


def test_json_is_all_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, machine(), facts())
    said = CliRunner().invoke(cli, ["doctor", "--json"])
    rows = [json.loads(line) for line in said.stdout.splitlines()]
    assert len(rows) >= 12 and {row["event"] for row in rows} == {"Check"} and said.stderr == ""
    assert all(set(row) == {"event", "name", "outcome", "found", "fix", "figures"} for row in rows)


def test_what_a_library_says_cannot_act_on_the_terminal() -> None:
    told = lines(fail("torch", "a\x1b]0;owned\x07\nb", "mend\x1b[2J it"))
    assert len(told) == 2 and not any("\x1b" in line or "\n" in line for line in told)


def test_a_name_that_nothing_answers_to_is_a_mistake() -> None:
    said = CliRunner().invoke(cli, ["doctor", "--model", "no-such-model"])
    assert isinstance(said.exception, UnknownModelError) and said.stdout == ""


def test_the_command_itself_loads_nothing_heavy() -> None:
    code = "import sys, minisheep.doctor.diagnosis, benchmarks.gpucheck.session;"
    code += "print(sorted({'torch', 'transformers', 'llama_cpp', 'peft', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.model
def test_the_real_thing_finds_nothing_wrong_with_a_healthy_model() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "minisheep", "doctor", "--json", "--seconds", "240"],
        capture_output=True, text=True, timeout=290,
    )  # fmt: skip
    rows = {row["name"]: row for row in map(json.loads, done.stdout.splitlines()) if row["event"] == "Check"}
    for name in ("llama.cpp", "generate", "PyTorch", "bitsandbytes", "train", "model file", "chat template"):
        assert rows[name]["outcome"] == "ok", rows[name]
    assert rows["GGUF and weights"]["outcome"] == "ok" and rows["GGUF and weights"]["figures"]["nats"] < 0.2


def test_every_probe_has_facts_to_judge() -> None:
    asked = {name for probes in doctor_probes.GROUPS.values() for name in probes}
    assert asked == set(HEALTHY)
