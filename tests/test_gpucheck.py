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
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from doctor_facts import GPU, machine, no_gpu

from benchmarks.gpucheck import __main__ as command
from benchmarks.gpucheck import build, curves, page, parts, probe, probe_files, session
from benchmarks.gpucheck.curves import Training
from benchmarks.gpucheck.parts import Refused
from benchmarks.plan import Job
from minisheep import config
from minisheep.doctor import diagnosis, packages
from minisheep.doctor.check_result import CheckResult, counted, fail, ok, warn
from minisheep.doctor.packages import RequiredPackage
from minisheep.errors import UsageError, WorkerError
from minisheep.formats.gguf_header import read_header
from minisheep.formats.model_facts import shape_of
from minisheep.machine.gpu import Gpu, Peak
from minisheep.models.shape import Shape
from minisheep.plan import fit
from minisheep.plan.gpu_models import find_gpu_model
from minisheep.plan.memory_parts import weights_as, weights_in
from minisheep.plan.room import Model

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
    monkeypatch.setattr(diagnosis, "diagnose", lambda wanted, seconds, on_progress: iter([ok("python", "fine")]))


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
    for name in ("decode, 64 sequences", "unsloth beside peft", "align with unsloth", "7B trains in 12 GB"):
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
    monkeypatch.setattr(probe, "run", lambda place, *_: (ok(name, f"in {place}") for name in probe.names()))
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


# The 7B probe, whose functions take a shape: here a tiny one

TINY = Shape(
    layers=1, width=64, feed_forward=64, heads=2, kv_heads=2, head_size=32, vocabulary=288, context=1024, tied=False
)
LARGE = Gpu("NVIDIA H200", (9, 0), 140 * 2**30, 139 * 2**30)


@pytest.mark.model
def test_a_tiny_model_of_random_weights_really_trains_and_writes_on_this_processor(tmp_path: Path) -> None:
    small = {"max_length": 24, "batch_size": 2, "micro_batch_size": 1, "slots": 2, "context": 1024}
    settings = config.make({"model": probe.MODEL, "generate_max_tokens": 200, "answer_max_tokens": 200, **small})
    job = {"folder": str(tmp_path), "settings": settings.model_dump(), "trainer": "peft", "gpu": False}

    def measure(phase: str, **more: Any) -> dict[str, Any]:
        return probe.measure({"phase": phase, **job, **more}, lambda event: None, lambda: False)

    measure(probe.MAKE, shape=dataclasses.asdict(TINY), weights=True)
    header = read_header(tmp_path / "model.gguf")
    assert shape_of(header) == TINY
    assert weights_in(header, "Q4_0").on_gpu < probe_files.gguf_bytes(TINY) < header.file_bytes
    before = os.getcwd()
    try:
        trained, written = measure(probe.TRAIN), measure(probe.WRITE)
    finally:
        os.chdir(before)
    assert trained["trained"] > 0 and trained["micro_batch_size"] == 1 and trained["loss"] > 0
    assert written["written"] > 0 and (written["slots"], written["context"]) == (2, 1024)
    assert measure(probe.HOLD, leave=2**30) == {"free": None}


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A large GPU on which everything fits, the files' headers made and the rest pretended; what was asked is told."""
    held: list[int] = []

    class Holder:
        def __init__(self, handler: str) -> None: ...

        def __enter__(self) -> Holder:
            return self

        def __exit__(self, *_: object) -> None: ...

        def do(self, job: dict[str, Any], doing: str, seconds: float) -> dict[str, Any]:
            held.append(job["leave"])
            return {"free": job["leave"]}

    def pretend(worker: str, job: dict[str, Any]) -> tuple[dict[str, Any], int | None]:
        if job["phase"] == probe.MAKE:
            return {}, None
        settings, leave = config.make(job["settings"]), held[-1]
        plan = probe.planned(Path(job["folder"]), {int(p.memory or 0): p.title for p in CARDS}[leave])
        assert plan is not None and plan.settings == settings and job["gpu"]
        if job["phase"] == probe.TRAIN:
            return {"trainer": job["trainer"], "trained": 900.0, "micro_batch_size": settings.micro_batch_size}, 2**30
        return {"slots": plan.slots, "context": settings.context, "written": 300.0}, 2**30

    def size_of_7b(folder: Path, card: str) -> Any:
        shape = probe.shape_7b()
        weights = weights_as(shape, "qwen2", "Q4_0")
        model = Model("7B", "qwen2", shape, weights, True, True, True, {})
        return fit.recommend(config.make({"model": probe.MODEL}), model, fit.with_gpu(find_gpu_model(card)))

    monkeypatch.setattr(probe, "find_gpu", lambda: LARGE)
    monkeypatch.setattr(probe, "WorkerProcess", Holder)
    monkeypatch.setattr(probe, "measured", pretend)
    monkeypatch.setattr(probe, "planned", size_of_7b)
    monkeypatch.setattr(probe.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**12))
    return tmp_path


CARDS = [fit.with_gpu(find_gpu_model(card)) for card in probe.CARDS.values()]


def test_the_probe_takes_the_plans_own_sizes_in_the_memory_of_each_card(probed: Path) -> None:
    results = {result.name: result for result in probe.run(probed, None, frozenset(), quiet)}
    assert list(results) == probe.names() == session.names_of("7b")
    assert {result.outcome for result in results.values()} == {"ok"}
    assert results["7B trains in 12 GB"].figures["trainer"] == "unsloth"
    assert results["7B trains in 12 GB through peft"].figures["trainer"] == "peft"
    assert (
        "KV in q8_0" in results["7B writes in 8 GB"].found
        and "tokens/s of this GPU" in results["7B writes in 8 GB"].found
    )
    slots = [results[f"7B writes in {memory}"].figures["slots"] for memory in ("8 GB", "12 GB", "24 GB")]
    assert slots == sorted(set(slots))


def test_the_probe_goes_on_where_it_was_and_trains_through_peft_where_unsloth_is_refused(probed: Path) -> None:
    done = frozenset(probe.names()[:4])
    results = list(probe.run(probed, Refused("too old", "update"), done, quiet))
    assert [result.name for result in results] == probe.names()[4:]
    assert results[0].figures["trainer"] == "peft"


@pytest.mark.parametrize(
    ("changed", "names", "words"),
    [
        ({"gpu": None}, probe.names(), "no NVIDIA GPU"),
        ({"gpu": dataclasses.replace(LARGE, name="A10", total=12 * 2**30)}, ["7B trains in 24 GB"], "A10 has 12.0"),
        ({"disk": 10**9}, probe.names(), "22 GB of disk"),
    ],
)  # fmt: skip
def test_what_the_probe_cannot_do_is_skipped_by_name_with_the_reason(
    probed: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], names: list[str], words: str
) -> None:
    if "gpu" in changed:
        monkeypatch.setattr(probe, "find_gpu", lambda: changed["gpu"])
    if "disk" in changed:
        monkeypatch.setattr(probe.shutil, "disk_usage", lambda folder: SimpleNamespace(free=changed["disk"]))
    results = {result.name: result for result in probe.run(probed, None, frozenset(), quiet)}
    for name in names:
        assert results[name].outcome == "skipped" and words in results[name].found, results[name]


def test_a_plan_that_promises_too_much_is_said_and_an_error_is_a_failure(
    probed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretended = probe.measured

    def small(worker: str, job: dict[str, Any]) -> tuple[dict[str, Any], int | None]:
        facts, _ = pretended(worker, job)
        return {**facts, **({"micro_batch_size": 1, "slots": 3} if facts else {})}, 2**37

    monkeypatch.setattr(probe, "measured", small)
    result = next(iter(probe.run(probed, None, frozenset(), quiet)))
    assert result.outcome == "warn" and not result.figures["fits"]
    assert "does not fit as planned: unsloth, 1 x 1024 tokens a pass (4 planned), 128.00 GiB" in result.found

    def broken(worker: str, job: dict[str, Any]) -> Any:
        raise WorkerError("SIGABRT")

    monkeypatch.setattr(probe, "measured", broken)
    results = list(probe.run(probed, None, frozenset(), quiet))
    assert {result.outcome for result in results} == {"fail"} and "SIGABRT" in results[0].found


@pytest.mark.model
def test_heads_that_a_quantised_cache_does_not_suit_are_told_and_no_fewer_slots_are_tried(tmp_path: Path) -> None:
    """Here of a size that its blocks do not divide; without flash attention llama.cpp refuses in the same place."""
    from minisheep.engines.llamacpp import LlamaCppEngine

    probe_files.write_gguf(tmp_path / "model.gguf", dataclasses.replace(TINY, heads=4, kv_heads=4, head_size=16))
    with pytest.raises(UsageError, match=r"KV cache in q8_0: ") as error:
        LlamaCppEngine(tmp_path / "model.gguf", slots=4, context=256, kv_type="q8_0")
    assert error.value.fix == "Set --kv-type f16."
    LlamaCppEngine(tmp_path / "model.gguf", slots=1, context=256, kv_type="f16").close()
