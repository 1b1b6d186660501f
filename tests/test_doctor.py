"""The doctor's decisions: each fault is found by the check that is for it, and a healthy machine is left in peace."""

from __future__ import annotations

import dataclasses
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from doctor_facts import GIB, GPU, NVCC, PLACE, facts, machine, no_gpu, on_a_processor
from packaging.requirements import Requirement

from minisheep import config, prepare
from minisheep.doctor import checks, diagnosis, packages, probes
from minisheep.doctor.check_result import CheckResult, Facts, counted, failed, ok, skipped, verdict
from minisheep.doctor.diagnosis import groups, judge
from minisheep.doctor.machine_facts import MachineFacts, free_disks, pci_gpus
from minisheep.doctor.packages import Place, build_llama, mend_llama
from minisheep.engines import native
from minisheep.errors import DownloadError, MinisheepError, ModelFileError, UsageError
from minisheep.machine import cuda_setup, installing, llama_library
from minisheep.machine.cuda_setup import Compiler
from minisheep.machine.installing import RequiredPackage
from minisheep.trainers.choose_trainer import Cuda

BUILD = 'CMAKE_ARGS="-DGGML_CUDA=on -DGGML_NATIVE=on -DLLAVA_BUILD=OFF'


def of(name: str, results: list[CheckResult]) -> CheckResult:
    (found,) = [result for result in results if result.name == name]
    return found


def judged(here: MachineFacts, found: dict[str, Facts], missing: MinisheepError | None = None) -> list[CheckResult]:
    return [*checks.check_machine(here, PLACE), *judge(here, PLACE, found, missing, "smollm2-135m")]


@pytest.mark.parametrize(("here", "found"), [(machine(), facts()), (no_gpu(), on_a_processor())])
def test_a_healthy_machine_has_nothing_to_mend(here: MachineFacts, found: dict[str, Facts]) -> None:
    results = judged(here, found)
    assert {result.outcome for result in results} <= {"ok", "skipped"}
    assert not any(result.fix for result in results)


def test_without_a_gpu_only_what_needs_one_is_skipped() -> None:
    results = judged(no_gpu(), on_a_processor())
    names = [result.name for result in results if result.outcome == "skipped"]
    assert names == ["compute capability", "free VRAM", "llama.cpp on the GPU", "Unsloth"]


DIED = {"error": "The process was ended by SIGSEGV.", "fix": ""}
FAULTS: dict[str, tuple[MachineFacts, dict[str, Facts], str, str]] = {
    "python": (machine(python=(3, 10)), facts(), "fail", "3.11"),
    "driver": (machine(gpus=(), driver=""), on_a_processor(), "warn", "--gpus all"),
    "compute capability": (machine(hidden=""), facts(), "fail", "unset CUDA_VISIBLE_DEVICES"),
    "free VRAM": (machine(gpus=(dataclasses.replace(GPU, free=GIB // 2),)), facts(), "fail", "nvidia-smi"),
    "free RAM": (machine(ram_free=GIB), facts(), "fail", "minisheep plan"),
    "free disk": (machine(disks={"/cache": GIB // 2}), facts(), "fail", "MINISHEEP_CACHE"),
    "llama.cpp": (machine(), facts(llama=DIED, generate=DIED), "fail", f'{BUILD} -DCMAKE_CUDA_ARCHITECTURES=86"'),
    "llama.cpp on the GPU": (machine(), facts(llama={"offload": False}), "fail", BUILD),
    "PyTorch": (machine(), facts(torch={"cuda": False, "cuda_build": ""}), "fail", "pip uninstall --yes torch"),
    "bitsandbytes": (machine(), facts(bitsandbytes={"with_cuda": False}), "fail", '"bitsandbytes>=0.50,<0.51"'),
    "Unsloth": (machine(), facts(unsloth={"error": "ImportError: no"}), "warn", "--trainer peft"),
    "generate": (machine(), facts(generate=DIED), "fail", "llama.cpp"),
    "train": (machine(), facts(train={"loss": math.nan}), "fail", "--load-in fp32"),
    "hub": (machine(), facts(hub={"status": 0, "reason": "ConnectError"}), "warn", "minisheep pull"),
    "model file": (machine(), facts(file={"again": "c2" * 32}), "fail", "rm /cache/smollm2.gguf"),
    "chat template": (machine(), facts(weights={"ids": [1, 2, 9, 4]}), "fail", "--json"),
    "GGUF and weights, no numbers": (machine(), facts(weights={"logprobs": [math.nan, 0.0]}), "fail", "--weights"),
    "GGUF and weights": (machine(), facts(weights={"logprobs": [-6.0, -5.0]}), "fail", "--weights"),
}


@pytest.mark.parametrize("name", list(FAULTS))
def test_each_fault_is_found_and_told_how_to_mend(name: str) -> None:
    here, found, outcome, fix = FAULTS[name]
    result = of(name.partition(",")[0], judged(here, found))
    assert result.outcome == outcome and fix in result.fix, result


@pytest.mark.parametrize(
    ("format", "load_in", "note", "nats", "outcome"),
    [
        ("BF16", "bf16", "", 0.034, "ok"),
        ("BF16", "bf16", "", 0.22, "fail"),  # Gemma with a wrong rotary embedding
        ("Q8_0", "bf16", "", 0.07, "ok"),
        ("Q8_0", "bf16", "", 0.34, "fail"),  # SmolLM2 with a wrong rotary embedding
        ("Q4_K_M", "bf16", "", 0.27, "ok"),
        ("Q4_K_M", "bf16", "", 0.47, "warn"),
        ("Q4_K_M", "bf16", "", 2.1, "fail"),  # with heads in another order
        ("Q4_0", "bf16", "", 0.7, "ok"),
        ("Q8_0", "4bit", "", 0.34, "ok"),
        ("Q4_0", "bf16", "made from the GGUF", 0.071, "ok"),
        ("Q4_0", "bf16", "made from the GGUF", 0.5, "fail"),
    ],
)
def test_how_far_gguf_and_weights_may_be_apart_is_what_their_formats_round(
    format: str, load_in: str, note: str, nats: float, outcome: str
) -> None:
    """The distances are those that were measured."""
    changes = {"logprobs": [-1.0 - nats, -0.5 - nats], "load_in": load_in, "note": note}
    assert of("GGUF and weights", judged(machine(), facts(weights=changes, file={"format": format}))).outcome == outcome


def test_a_build_for_processors_beside_a_gpu_names_the_gpu() -> None:
    assert "RTX 3060" in of("llama.cpp on the GPU", judged(machine(), facts(llama={"offload": False}))).found


@pytest.mark.parametrize(
    ("layers", "taken", "outcome"),
    [
        ([31, 31], 0, "ok"),
        ([0, 31], 0, "fail"),
        ([10, 31], 40 * 2**20, "fail"),
        (None, 90 * 2**20, "ok"),
        (None, 0, "fail"),
    ],
)
def test_offload_is_what_llama_cpp_says_or_what_the_gpu_lost(layers: Any, taken: int, outcome: str) -> None:
    found = facts(generate={"layers": layers, "taken": taken})
    assert of("llama.cpp on the GPU", judged(machine(), found)).outcome == outcome


def test_a_torch_newer_than_the_driver_is_told_with_both_versions() -> None:
    result = of("PyTorch", judged(machine(driver_cuda=(12, 2)), facts(torch={"cuda": False, "cards": []})))
    assert result.outcome == "fail" and "13.0" in result.found and "12.2" in result.found


def test_training_beside_the_gpu_is_worth_a_warning() -> None:
    assert of("train", judged(machine(), facts(train={"device": "cpu"}))).outcome == "warn"


def test_a_model_that_cannot_be_fetched_is_skipped_with_the_command_that_fetches_it() -> None:
    bare = facts(file=None, generate=None, train=None, weights=None)
    results = judged(machine(), bare, DownloadError("no network."))
    assert not failed(results)
    for name in ("model file", "generate", "train", "chat template", "GGUF and weights"):
        assert of(name, results).outcome == "skipped"
    assert of("model file", results).fix == "minisheep pull smollm2-135m"


def test_a_damaged_model_file_fails() -> None:
    bare = facts(file=None, generate=None, train=None, weights=None)
    result = of("model file", judged(machine(), bare, ModelFileError("damaged.", "rm it")))
    assert (result.outcome, result.fix) == ("fail", "rm it")


def test_another_template_of_the_weights_is_told() -> None:
    found = facts(file={"templates": {"gguf": ["a", "b", "c"], "weights": ["a", "b", "d"]}})
    assert of("chat template", judged(machine(), found)).outcome == "warn"


@pytest.mark.parametrize(
    ("capability", "outcome"), [((6, 1), "warn"), ((7, 5), "warn"), ((8, 0), "ok"), ((12, 0), "ok"), (None, "ok")]
)
def test_capability_decides_what_a_gpu_can_do(capability: tuple[int, int] | None, outcome: str) -> None:
    here = machine(gpus=(dataclasses.replace(GPU, capability=capability),))
    found = checks.capability(here, PLACE)
    assert found.outcome == outcome
    assert (cuda_setup.PASCAL_TORCH in found.fix) == (capability == (6, 1))


def test_the_capability_is_that_of_the_card_that_a_run_uses() -> None:
    small = dataclasses.replace(GPU, capability=(12, 0), total=GPU.total // 2)
    assert machine(gpus=(small, GPU)).capability == GPU.capability
    assert machine(gpus=(small, GPU), hidden="0").capability == (12, 0)


@pytest.mark.parametrize(("after", "outcome"), [(20.0, "warn"), (90.0, "fail")])
def test_what_is_cut_off_soon_may_be_slow_and_what_is_not_hangs(after: float, outcome: str) -> None:
    late = {"error": "not finished", "fix": "give it longer", "after": after}
    results = judged(machine(), facts(llama=late, generate=late, torch=late, bitsandbytes=late, train=late))
    for name in ("llama.cpp", "generate", "PyTorch", "bitsandbytes", "train"):
        assert (of(name, results).outcome, of(name, results).fix) == (outcome, "give it longer")


# What to type


def test_the_build_is_for_the_gpu_that_is_here() -> None:
    assert build_llama(PLACE, "8.6").startswith(
        f'{BUILD} -DCMAKE_CUDA_ARCHITECTURES=86" /venv/bin/python -m pip install'
    )
    assert build_llama(PLACE).startswith(f'{BUILD}" ')
    assert build_llama(PLACE).endswith("--no-cache-dir --force-reinstall --no-deps llama-cpp-python==0.3.36")


def test_the_build_names_the_pinned_llama_cpp_and_torch_is_that_of_the_extra() -> None:
    pinned = next(want for want in installing.requirements() if want.name == "llama-cpp-python")
    assert not packages.misfits([pinned], lambda name: packages.LLAMA.partition("==")[2])
    torch = next(want for want in installing.requirements() if want.name == "torch" and want.extra == "gpu")
    assert Requirement(torch.text).specifier == Requirement(cuda_setup.TORCH).specifier


def test_a_mac_builds_for_metal() -> None:
    assert 'CMAKE_ARGS="-DGGML_METAL=on"' in mend_llama(Place("Darwin", "arm64"))


def test_a_prebuilt_llama_cpp_is_offered_first_and_a_build_where_there_is_none() -> None:
    fix = mend_llama(PLACE, NVCC, (8, 6), (13, 1))
    first, _, second = fix.partition(" || ")
    assert first.endswith(f"--extra-index-url {cuda_setup.INDEX}/cu130 {packages.LLAMA}") and "--only-binary" in first
    assert second == build_llama(PLACE, "8.6", NVCC)
    assert mend_llama(PLACE, NVCC, (8, 6), None) == build_llama(PLACE, "8.6", NVCC)
    assert mend_llama(Place(machine="aarch64"), NVCC, (8, 7), (13, 0)) == build_llama(PLACE, "8.7", NVCC).replace(
        PLACE.python, "python3"
    )


@pytest.mark.parametrize(
    ("compiler", "capability", "driver", "told"),
    [
        (None, (8, 6), None, "toolkit, 11.7 or newer"),
        (Compiler("/usr/bin/nvcc", (11, 5), True), (8, 6), None, "nvcc is 11.5, and this GPU needs 11.7"),
        (Compiler("/usr/bin/nvcc", (11, 7), True), (8, 9), None, "nvcc is 11.7, and this GPU needs 11.8"),
        (Compiler("/usr/bin/nvcc", (12, 6), True), (12, 0), None, "nvcc is 12.6, and this GPU needs 12.8"),
    ],
)
def test_without_a_compiler_that_can_build_it_the_toolkit_comes_first_with_its_version(
    compiler: Compiler | None, capability: tuple[int, int], driver: tuple[int, int] | None, told: str
) -> None:
    fix = mend_llama(PLACE, compiler, capability, driver)
    assert told in fix and "then: CMAKE_ARGS" in fix
    assert "apt install" not in fix
    assert "Windows'" in mend_llama(Place(wsl=True), compiler, capability, driver)


def test_a_compiler_outside_the_path_is_named() -> None:
    outside = Compiler("/usr/local/cuda-12.8/bin/nvcc", (12, 8), False)
    assert mend_llama(PLACE, outside).startswith(f"CUDACXX={outside.path} {BUILD}")


@pytest.mark.parametrize(("driver", "torch"), [((13, 0), cuda_setup.TORCH), ((12, 4), cuda_setup.OLD_TORCH)])
def test_the_torch_that_is_installed_stays_in_the_set_and_suits_the_driver(driver: tuple[int, int], torch: str) -> None:
    here = machine(driver_cuda=driver)
    cpu_build = {"cuda": False, "cuda_build": "", "version": "2.13.0+cpu"}
    assert of("PyTorch", judged(here, facts(torch=cpu_build))).fix.endswith(f"pip install '{torch}'")


@pytest.mark.parametrize(
    ("step", "outcome", "told"),
    [
        ({"error": "Unsloth failed before its first finished step: Python.h"}, "warn", "trains no step"),
        ({"loss": math.nan}, "warn", "not a finite number"),
        ({"unasked": "no model"}, "ok", "no step was trained"),
        ({}, "ok", "trains a step"),
    ],
)
def test_an_unsloth_that_only_imports_is_not_called_healthy(step: Facts, outcome: str, told: str) -> None:
    found = of("Unsloth", judged(machine(), facts(**{"unsloth step": step})))
    assert found.outcome == outcome and told in found.found
    assert found.fix or outcome == "ok"


def test_a_cuda_build_that_finds_no_driver_is_not_called_one_for_processors() -> None:
    said = "this llama.cpp, built for CUDA, finds no GPU (ggml_cuda_init: failed to initialize CUDA: unknown error)"
    found = of("llama.cpp on the GPU", judged(machine(), facts(llama={"offload": False, "built": True, "fault": said})))
    assert found.outcome == "fail" and "unknown error" in found.found and "processors" not in found.found
    assert found.fix.startswith("Install NVIDIA's driver")


def test_a_cuda_build_without_a_usable_driver_is_quoted_before_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ggml tells it while llama.cpp looks for a GPU, which it does once."""
    told = b"ggml_cuda_init: failed to initialize CUDA: CUDA driver version is insufficient for CUDA runtime version\n"
    heard = {"llama_log_set": lambda *_: None, "llama_backend_init": lambda: native._collect(4, told, None)}
    for name, function in {**heard, "llama_supports_gpu_offload": lambda: False}.items():
        monkeypatch.setattr(native.llama_cpp, name, function)
    monkeypatch.setattr(native, "_started", False)
    monkeypatch.setattr(native, "_cuda_said", "")
    monkeypatch.setattr(native, "find_gpu", lambda: GPU)
    monkeypatch.setattr(llama_library.cuda_setup, "cuda_library", lambda: Path("libggml-cuda.so"))
    line = native.gpu_without_offload(-1)
    assert "driver version is insufficient" in line and "processors only" not in line and "\n" not in line


def test_a_python_in_a_folder_with_a_space_can_be_typed() -> None:
    assert packages.pip(Place(python="/my venv/python"), "x") == "'/my venv/python' -m pip install x"


# Before a run


def test_a_run_that_would_leave_the_gpu_idle_is_told_in_one_line() -> None:
    told = llama_library.offload_fault(GPU, llama_library.Offload(False))
    assert "RTX 3060" in told and "for processors only" in told and "\n" not in told
    assert "--gpu-layers 0" in llama_library.OFFLOAD_FIX


def test_a_run_that_uses_its_gpu_or_has_none_is_told_nothing() -> None:
    assert llama_library.offload_fault(GPU, llama_library.Offload(True)) == ""
    assert llama_library.offload_fault(None, llama_library.Offload(False)) == ""


@pytest.mark.parametrize(("layers", "offload", "told"), [(-1, False, True), (-1, True, False), (0, False, False)])
def test_a_gpu_is_idle_where_llama_cpp_cannot_use_it_and_nobody_asked_for_that(
    monkeypatch: pytest.MonkeyPatch, layers: int, offload: bool, told: bool
) -> None:
    monkeypatch.setattr(native, "offload", lambda: llama_library.Offload(offload))
    monkeypatch.setattr(native, "find_gpu", lambda: GPU)
    assert bool(native.gpu_without_offload(layers)) is told


def test_a_run_that_would_leave_its_gpu_idle_is_refused_before_anything_is_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fetched(*args: object, **options: object) -> None:
        raise AssertionError

    monkeypatch.setattr(native, "gpu_without_offload", lambda layers: "idle.")
    monkeypatch.setattr(prepare, "for_inference", fetched)
    with pytest.raises(UsageError, match="idle") as refused:
        prepare.prepare(config.make({}), tmp_path / "model.json", lambda event: None)
    assert "minisheep doctor" in refused.value.fix


@pytest.mark.parametrize(
    ("model", "cuda", "words"),
    [
        ("qwen1.5-7b", Cuda(GPU, (12, 4), (13, 0)), "the driver runs CUDA up to 12.4"),
        ("qwen1.5-7b", Cuda(GPU, (12, 4), None), "built without CUDA"),
        ("qwen1.5-14b", Cuda(dataclasses.replace(GPU, total=8 * GIB, free=8 * GIB), (13, 0), (13, 0)), "has 8.6 GB"),
        ("qwen1.5-7b", Cuda(dataclasses.replace(GPU, free=GIB), (13, 0), (13, 0)), "1.1 GB are free"),
    ],
)
def test_what_training_cannot_use_is_refused_before_gigabytes_are_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str, cuda: Cuda, words: str
) -> None:
    def fetched(*args: object, **options: object) -> None:
        raise AssertionError

    monkeypatch.setattr(native, "gpu_without_offload", lambda layers: "")
    monkeypatch.setattr(prepare, "find_cuda", lambda: cuda)
    monkeypatch.setattr(prepare, "for_inference", fetched)
    with pytest.raises(UsageError, match=re.escape(words)) as refused:
        prepare.prepare(config.make({"model": model}), tmp_path / "model.json", lambda event: None)
    assert refused.value.fix


# Packages


def test_a_missing_and_an_old_package_are_named_with_their_commands() -> None:
    asked = [
        RequiredPackage("torch>=2.6", "torch"),
        RequiredPackage("peft<0.22,>=0.21", "peft"),
        RequiredPackage("trl<1.16", "trl", "gpu"),
    ]
    result = packages.check_packages(asked, {"torch": "2.5"}.get, PLACE)
    assert result.outcome == "fail" and "torch 2.5 is not >=2.6; peft is missing" in result.found
    assert result.fix.endswith('pip install "torch>=2.6" "peft<0.22,>=0.21"')


def test_a_local_version_counts_as_its_release() -> None:
    assert (
        packages.check_packages([RequiredPackage("torch>=2.6", "torch")], {"torch": "2.13.0+cpu"}.get, PLACE).outcome
        == "ok"
    )


def test_a_requirement_is_read_with_its_extra() -> None:
    trl = RequiredPackage("trl<1.16,>=1.10", "trl", "gpu")
    assert installing.parse_requirement("trl<1.16,>=1.10; extra == 'gpu'") == trl
    assert installing.parse_requirement("lm-eval[ifeval]>=0.4.13").text == "lm-eval[ifeval]>=0.4.13"


@pytest.mark.parametrize(
    ("extra", "installed", "told"),
    [
        ("plots", ["matplotlib>=3.9; extra == 'plots'", "numpy>=2"], 'pip install "matplotlib>=3.9"'),
        ("plots", [], f'pip install -e "{installing.PROJECT}[plots]"'),
        ("gpu", ["torch>=2.6; extra == 'gpu'", "trl; extra == 'gpu'"], 'pip install "torch<2.11" "trl"'),
    ],
)
def test_an_extra_is_installed_by_its_packages_into_the_python_that_runs(
    monkeypatch: pytest.MonkeyPatch, extra: str, installed: list[str], told: str
) -> None:
    """Right in a clone, in a wheel and without activation: no index is asked for minisheep."""
    monkeypatch.setattr(installing, "requires", lambda name: installed)
    monkeypatch.setattr(sys, "executable", "/somewhere/my venv/bin/python")
    command = installing.install_extra(extra, *(["torch<2.11"] if extra == "gpu" else []))
    assert command == f"'/somewhere/my venv/bin/python' -m {told}"


def test_the_python_of_this_folder_has_its_short_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
    assert installing.pip_install("x") == ".venv/bin/python -m pip install x"


def test_no_message_sends_to_an_index_for_minisheep_itself() -> None:
    """`install_extra` words all of them."""
    for path in sorted((installing.PROJECT / "minisheep").rglob("*.py")):
        if path.name != "installing.py":
            assert not re.search(r"""pip install [^\n]{0,4}minisheep""", path.read_text(encoding="utf-8")), path


def test_unsloth_is_missed_only_where_there_is_a_gpu() -> None:
    asked = [RequiredPackage("unsloth<2026.11", "unsloth", "gpu")]
    assert packages.check_unsloth_set(asked, {}.get, PLACE, has_gpu=False).fix == ""
    assert '"unsloth<2026.11"' in packages.check_unsloth_set(asked, {}.get, PLACE, has_gpu=True).fix


def test_a_set_of_versions_that_unsloth_does_not_want_is_a_warning() -> None:
    asked = [RequiredPackage("unsloth<2026.11", "unsloth", "gpu"), RequiredPackage("trl<1.16", "trl", "gpu")]
    result = packages.check_unsloth_set(asked, {"unsloth": "2026.10.7", "trl": "1.16"}.get, PLACE, has_gpu=True)
    assert result.outcome == "warn" and "trl 1.16 is not <1.16" in result.found


# The system


def test_folders_are_tried_and_left_as_they_were(tmp_path: Path) -> None:
    result = probes.check_folders(tmp_path / "cache", tmp_path / "runs")
    assert result.outcome == "ok" and list(tmp_path.rglob("*doctor*")) == []


def test_a_folder_that_cannot_be_written_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    result = probes.check_folders(tmp_path, tmp_path)
    assert result.outcome == "fail" and "Permission denied" in result.found


def test_a_disk_that_grants_a_lock_twice_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.flock", lambda handle, how: None)
    result = probes.check_folders(tmp_path, tmp_path)
    assert result.outcome == "fail" and result.found


def test_gpus_on_the_bus_are_counted_and_their_sound_devices_are_not(tmp_path: Path) -> None:
    for name, vendor, kind in (("a", "0x10de", "0x030000"), ("b", "0x10de", "0x040300"), ("c", "0x8086", "0x030000")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "class").write_text(f"{kind}\n")
    assert pci_gpus(tmp_path) == 1 and pci_gpus(tmp_path / "none") == 0


def test_one_disk_is_told_once_though_its_folders_do_not_exist_yet(tmp_path: Path) -> None:
    found = free_disks([tmp_path / "one" / "two", tmp_path / "three"])
    assert list(found) == [str(tmp_path / "one" / "two")] and min(found.values()) > 0


def test_the_layers_are_read_from_the_newest_line() -> None:
    lines = ["load_tensors: offloaded 0/31 layers to GPU", "other", "load_tensors: offloaded 31/31 layers to GPU"]
    assert native.offloaded(lines) == [31, 31] and native.offloaded(["other"]) is None


def test_a_template_is_taken_from_either_file_of_the_weights(tmp_path: Path) -> None:
    assert probes.of_weights(tmp_path) == ""
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "old"}')
    assert probes.of_weights(tmp_path) == "old"
    (tmp_path / "chat_template.jinja").write_text("new")
    assert probes.of_weights(tmp_path) == "new"


def test_a_template_that_cannot_be_rendered_is_none() -> None:
    assert probes.frame("{% endless", {}) == []
    assert probes.frame("{% for m in messages %}<{{ m.content }}>{% endfor %}", {"eos_token": "</s>"})[0] == "<"


# Children


def test_the_probe_at_which_a_process_ended_fails_and_the_rest_is_skipped() -> None:
    found = diagnosis.settle(["a", "b", "c"], {"a": {"x": 1}}, DIED)
    assert found["a"] == {"x": 1} and found["b"] == DIED and "'b'" in found["c"]["unasked"]


def test_a_model_that_is_missing_is_asked_nothing() -> None:
    chosen = groups(no_gpu(), DownloadError("no"))
    assert chosen == {"hub": ["hub"], "llama.cpp": ["llama"], "training": ["torch", "bitsandbytes"]}


def test_outcomes_are_counted_with_those_that_did_not_occur() -> None:
    results = [ok("a", "fine"), skipped("b", "not here")]
    assert counted(results) == {"ok": 1, "warn": 0, "fail": 0, "skipped": 1}
    assert verdict(results) == "2 checks: 1 ok, 0 warn, 0 fail, 1 skipped." and not failed(results)
