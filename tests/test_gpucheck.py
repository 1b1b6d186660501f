"""``make gpu-check``: without a GPU everything is skipped by name; with one, what a part measured is told."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from doctor_facts import GPU, machine, no_gpu

from benchmarks.gpucheck import __main__ as command
from benchmarks.gpucheck import build, curves, page, parts, session
from benchmarks.gpucheck.curves import Training
from benchmarks.gpucheck.parts import Refused
from benchmarks.plan import Job
from minisheep.doctor import diagnosis, packages
from minisheep.doctor.check_result import CheckResult, counted, fail, ok, warn
from minisheep.doctor.packages import RequiredPackage
from minisheep.errors import UsageError, WorkerError
from minisheep.machine.gpu import Peak

PEFT = Training("peft", (2.0, 1.5, 1.2), 1000.0, 10.0, "4bit", 4 * 2**30, 3 * 2**30)
UNSLOTH = dataclasses.replace(
    PEFT, trainer="unsloth", losses=(2.01, 1.5, 1.21), tokens_per_second=1800.0, peak_bytes=3 * 2**30
)


def job(folder: Path) -> Job:
    return Job("prepare", "smollm2-135m", {}, 1, folder=str(folder))


def quiet(text: str) -> None:
    pass


@pytest.fixture
def healthy_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "diagnose", lambda options, on_progress: iter([ok("python", "fine")]))


# Without a GPU


def test_without_a_gpu_it_runs_to_the_end_and_counts_what_it_skipped(
    healthy_doctor: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "look", no_gpu)
    said = CliRunner().invoke(command.main, ["--out", str(tmp_path / "docs")])
    assert said.exit_code == 0, said.output
    found = json.loads((tmp_path / "docs" / "gpu-check.json").read_bytes())
    assert found["counts"] == {"ok": 1, "warn": 0, "fail": 0, "skipped": len(found["results"]) - 1}
    assert found["measured_on_a_card"] is False
    for name in ("decode, 64 sequences", "train with unsloth", "unsloth beside peft", "align with unsloth"):
        (result,) = [result for result in found["results"] if result["name"] == name]
        assert (result["outcome"], "no NVIDIA GPU" in result["found"]) == ("skipped", True)
    told = (tmp_path / "docs" / "gpu-check.md").read_text()
    assert "nothing here was measured on one" in told and "| bench engine | skipped |" in told


def test_figures_of_a_gpu_are_not_overwritten_by_a_machine_without_one(
    healthy_doctor: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "gpu-check.json").write_text('{"measured_on_a_card": true}')
    monkeypatch.setattr(command, "look", no_gpu)
    said = CliRunner().invoke(command.main, ["--out", str(tmp_path)])
    assert said.exit_code == 0 and "Kept:" in said.output
    assert (tmp_path / "gpu-check.json").read_text() == '{"measured_on_a_card": true}'
    assert page.may_replace({"measured_on_a_card": True}, machine()) and page.may_replace(None, no_gpu())


KILLED_BETWEEN = """
import os, sys
sys.path[:0] = [{tests!r}, {root!r}]
from doctor_facts import machine
from benchmarks.gpucheck import __main__ as command, session
from minisheep.doctor.check_result import ok
os.environ["CUDA_VISIBLE_DEVICES"] = "0"
command.look = machine
def run(options, machine, on_progress):
    for name in ("install Unsloth", "train with peft", "decode, 1 sequence"):
        if name == "train with peft" and "install Unsloth" not in options.done:
            os.kill(os.getpid(), 9)
        if name not in options.done:
            yield ok(name, "measured", pid=os.getpid())
session.run = run
command.main(["--out", {out!r}, *sys.argv[1:]])
"""


def test_what_was_measured_before_a_machine_was_taken_away_is_kept_and_the_rest_is_done(tmp_path: Path) -> None:
    here = Path(__file__).parent
    code = KILLED_BETWEEN.format(tests=str(here), root=str(here.parent), out=str(tmp_path))

    def call(*args: str) -> int:
        return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, timeout=60).returncode

    assert call() == -9
    first = (tmp_path / "gpu-check.jsonl").read_bytes()
    assert b'"install Unsloth"' in first and not (tmp_path / "gpu-check.json").exists()
    (tmp_path / "gpu-check.jsonl").write_bytes(first + b'{"name": "torn')
    assert call("--resume") == 0
    found = json.loads((tmp_path / "gpu-check.json").read_bytes())["results"]
    assert [one["name"] for one in found] == ["install Unsloth", "train with peft", "decode, 1 sequence"]
    assert len({one["figures"]["pid"] for one in found}) == 2
    assert not (tmp_path / "gpu-check.jsonl").exists()
    assert call() == -9  # without --resume, from the beginning


def test_parts_that_are_asked_for_one_by_one_add_up(
    healthy_doctor: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "look", no_gpu)

    def names(*args: str) -> list[str]:
        assert CliRunner().invoke(command.main, ["--out", str(tmp_path), *args]).exit_code == 0
        return [one["name"] for one in json.loads((tmp_path / "gpu-check.json").read_bytes())["results"]]

    first = names("--only", "train")
    assert first == session.names_of("train")
    assert names("--resume", "--only", "decode") == first + session.names_of("decode")
    assert sorted(names("--resume")) == sorted(name for part in session.PARTS for name in session.names_of(part))
    assert not (tmp_path / "gpu-check.jsonl").exists()


def test_only_what_is_asked_for_and_missing_is_done(healthy_doctor: None) -> None:
    def names(*only: str, done: tuple[str, ...] = ()) -> list[str]:
        options = session.Options(only=only, done=frozenset(done))
        return [result.name for result in session.run(options, no_gpu(), quiet)]

    assert names("decode") == session.names_of("decode")
    assert names("doctor", "align", done=("doctor",)) == session.names_of("align")
    assert names("align", done=("align with peft",)) == ["align with unsloth"]
    assert names() == [name for part in session.PARTS for name in session.names_of(part)]


def test_a_prebuilt_llama_cpp_is_tried_before_a_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tried: list[str] = []
    works = ""

    def install(step: build.Step, log: Path, on_progress: Any) -> CheckResult:
        tried.append(step.name)
        return ok(f"install {step.name}", "done") if works in step.name else fail(f"install {step.name}", "no", "do")

    monkeypatch.setattr(parts, "install", install)
    for one, steps in (("prebuilt", 1), ("llama.cpp", 1), ("neither", 2)):
        works = one
        tried.clear()
        result = session.install_llama(machine(), tmp_path / "log", quiet)
        assert result.name == "install llama.cpp with CUDA" and len(tried) == steps
    assert build.prebuilt(machine(driver_cuda=(11, 2)), "python") is None


def test_a_failure_ends_with_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(command, "look", no_gpu)
    monkeypatch.setattr(diagnosis, "diagnose", lambda options, on_progress: iter([fail("free disk", "full", "rm")]))
    assert CliRunner().invoke(command.main, ["--out", str(tmp_path)]).exit_code == 1


def test_a_folder_of_wheels_reaches_every_pip(
    healthy_doctor: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "look", no_gpu)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    assert CliRunner().invoke(command.main, ["--out", str(tmp_path), "--wheels", str(tmp_path)]).exit_code == 0
    assert os.environ["PIP_NO_INDEX"] == "1" and os.environ["PIP_FIND_LINKS"] == str(tmp_path)
    assert build.pip_settings("") == {}


# With one, pretended


def test_with_a_gpu_every_part_is_done_and_named_as_without(
    healthy_doctor: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis, "ask", lambda groups, place, ends: {"llama": {"offload": True, "version": "0"}})
    monkeypatch.setattr(packages, "installed_version", lambda name: "1")
    monkeypatch.setattr(parts, "prepare", lambda job, on_progress: None)
    monkeypatch.setattr(parts, "bench", lambda model, on_progress: iter(()))
    monkeypatch.setattr(parts, "without_unsloth", lambda: None)
    monkeypatch.setattr(parts, "measured", measured)
    monkeypatch.setattr(parts, "align", lambda model, trainer, folder: ok(f"align with {trainer}", "done"))
    results = list(session.run(session.Options(), machine(), quiet))
    assert counted(results)["skipped"] == 0
    here = [result.name for result in results if not result.name.startswith("bench")]
    there = [result.name for result in session.run(session.Options(), no_gpu(), quiet)]
    assert here == [name for name in there if not name.startswith("bench")]


def measured(worker: str, given: dict[str, Any]) -> tuple[dict[str, Any], int | None]:
    job = Job.from_job(given)
    if job.part == "decode":
        return {"tokens_per_second": 50.0 * job.slots, "slots": job.slots}, 2**30
    trained = PEFT if job.part.endswith("peft") else UNSLOTH
    keys = ("losses", "tokens_per_second", "seconds", "load_in", "allocated_bytes")
    return {key: getattr(trained, key) for key in keys}, trained.peak_bytes


def test_a_trainer_that_is_refused_is_skipped_with_its_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(parts, "measured", measured)
    results = list(session.train(job(tmp_path), Refused("not in this version.", "--trainer peft"), quiet))
    assert [result.outcome for result in results] == ["ok", "skipped", "skipped"]
    assert results[1].found == "not in this version." and results[1].fix == "--trainer peft"


def test_a_refusal_from_the_child_is_a_skip_and_a_crash_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for error, outcome in ((UsageError("too old.", "update"), "skipped"), (WorkerError("SIGSEGV"), "fail")):

        def broken(worker: str, job: dict[str, Any], error: Exception = error) -> Any:
            raise error

        monkeypatch.setattr(parts, "measured", broken)
        results = list(session.train(job(tmp_path), None, quiet))
        assert [result.outcome for result in results] == [outcome, outcome, "skipped"]


def test_what_may_not_be_installed_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(diagnosis, "ask", lambda groups, place, ends: {"llama": {"offload": False, "built": False}})
    monkeypatch.setattr(packages, "installed_version", lambda name: None)
    options = session.Options(install=False)
    results = list(session.set_up(options, machine(), tmp_path, job(tmp_path), quiet))
    assert [result.outcome for result in results] == ["skipped", "skipped"]
    assert "-DGGML_CUDA=on" in results[0].fix and "unsloth" in results[1].fix


def test_the_doctor_is_as_bad_as_the_worst_of_its_checks() -> None:
    fine, odd, bad = ok("a", "fine"), warn("b", "odd", "look"), fail("c", "bad", "mend")
    for checks, outcome, fix in (([fine], "ok", ""), ([odd, fine], "warn", "look"), ([odd, bad], "fail", "mend")):
        found = session.summed_up(checks)
        assert (found.outcome, found.fix, len(found.figures["checks"])) == (outcome, fix, len(checks))


# Building


def test_llama_cpp_is_built_for_the_gpu_with_the_flags_that_were_set() -> None:
    step = build.llama(machine(), "python", {"CMAKE_ARGS": "-DLLAVA_BUILD=OFF"})
    assert step.environment["CMAKE_ARGS"].startswith("-DLLAVA_BUILD=OFF -DGGML_CUDA=on")
    assert step.environment["CMAKE_ARGS"].endswith("-DCMAKE_CUDA_ARCHITECTURES=86")
    assert "--force-reinstall" in step.command and "--no-deps" in step.command


def test_unsloth_comes_in_the_versions_of_the_extra() -> None:
    asked = [RequiredPackage("unsloth<2026.11", "unsloth", "gpu"), RequiredPackage("torch", "torch")]
    assert build.unsloth(asked, "python").command == ["python", "-m", "pip", "install", "unsloth<2026.11"]


@pytest.mark.parametrize(
    ("code", "seconds", "outcome", "told"),
    [
        ("print('fine')", 30.0, "ok", "in 0 s"),
        ("print('ERROR: no nvcc'); raise SystemExit(1)", 30.0, "fail", "ERROR: no nvcc"),
        ("import time; time.sleep(60)", 0.2, "fail", "not finished"),
    ],
)
def test_an_installation_is_a_result(tmp_path: Path, code: str, seconds: float, outcome: str, told: str) -> None:
    step = build.Step("x", [sys.executable, "-c", code], {}, seconds)
    found = parts.install(step, tmp_path / "log", quiet)
    assert found.outcome == outcome and told in found.found
    assert outcome == "ok" or found.fix


# Measuring


@pytest.mark.parametrize("losses", [[], [1.0, float("nan")]])
def test_losses_that_are_no_numbers_are_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, losses: list[float]
) -> None:
    monkeypatch.setattr(parts, "measured", lambda worker, job: ({"losses": losses}, None))
    with pytest.raises(WorkerError):
        parts.train(job(tmp_path), "peft")


def test_decoding_with_fewer_sequences_than_asked_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(parts, "measured", lambda worker, job: ({"tokens_per_second": 9.0, "slots": 8}, None))
    outcomes = [result.outcome for result in parts.decode(job(tmp_path))]
    assert outcomes == ["warn", "ok", "warn", "warn"]


def test_the_peak_is_the_growth_of_one_gpu() -> None:
    readings = iter([[100, 50], [130, 500], [600, 60]])
    last = [200, 60]

    def read() -> list[int]:
        return next(readings, last)

    with Peak(read) as peak:
        deadline = time.monotonic() + 5
        while peak.bytes != 500 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert peak.bytes == 500


def test_without_a_driver_there_is_no_peak() -> None:
    with Peak(list) as peak:
        pass
    assert peak.bytes is None


# Comparing


def test_trainers_that_learn_alike_are_compared_in_speed_and_memory() -> None:
    found = curves.compare(PEFT, UNSLOTH)
    assert found.outcome == "ok" and (found.figures["speed"], found.figures["vram"]) == (1.8, 0.75)


@pytest.mark.parametrize(("factor", "outcome"), [(1.0, "ok"), (1.01, "ok"), (1.05, "warn"), (1.5, "fail")])
def test_curves_that_part_are_told(factor: float, outcome: str) -> None:
    other = dataclasses.replace(UNSLOTH, losses=tuple(loss * factor for loss in PEFT.losses))
    assert curves.compare(PEFT, other).outcome == outcome


def test_another_number_of_steps_is_another_training() -> None:
    assert curves.compare(PEFT, dataclasses.replace(UNSLOTH, losses=(2.0,))).outcome == "fail"


def test_a_loss_that_is_no_number_does_not_pass() -> None:
    other = dataclasses.replace(UNSLOTH, losses=(2.0, float("nan"), 1.2))
    assert curves.compare(PEFT, other).outcome == "fail"


# The page


def test_the_page_has_every_result_both_curves_and_the_checks() -> None:
    checks = [CheckResult("python", "ok", "fine | <b>").to_dict()]
    results = [
        ok("doctor", "fine", checks=checks), curves.result_of(PEFT), curves.result_of(UNSLOTH),
        curves.compare(PEFT, UNSLOTH),
    ]  # fmt: skip
    found = page.document(results, machine(), {"torch": "2"}, "make gpu-check", date(2026, 1, 2))
    assert json.loads(json.dumps(found))["results"][1]["figures"]["losses"] == [2.0, 1.5, 1.2]
    told = page.markdown(found, results)
    assert "- peft: 2.000 █▄▁ 1.200" in told and "fine \\| &lt;b>" in told
    assert GPU.name in told and "580.95, CUDA up to 13.0" in told and "nothing here was measured" not in told


def test_a_flat_curve_can_be_drawn() -> None:
    assert page.curve([1.0, 1.0]) == "1.000 ▁▁ 1.000"
