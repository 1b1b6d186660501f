"""Which trainer a machine gets, and the one line that says why."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from minisheep.errors import UsageError
from minisheep.machine import cuda_setup
from minisheep.machine.gpu import Gpu, in_words, visible
from minisheep.machine.installing import install_extra
from minisheep.trainers import choose_trainer
from minisheep.trainers.choose_trainer import Cuda

GB = 10**9
RTX_4090 = Gpu("NVIDIA GeForce RTX 4090", (8, 9), 24 * GB, 23 * GB)
GOOD = Cuda(RTX_4090, (13, 1), (13, 0))
SET = {
    "unsloth": "2026.10.7",
    "unsloth_zoo": "2026.10.7",
    "transformers": "5.17.0",
    "trl": "1.15.0",
    "torch": "2.14.1",
    "bitsandbytes": "0.50.2",
    "peft": "0.21.2",
}


def reason(cuda: Cuda = GOOD, load_in: str = "auto", architecture: str | None = None, **packages: str) -> str:
    found = choose_trainer.obstacle(cuda, SET | packages, load_in=load_in, architecture=architecture)
    return found.reason if found else ""


def test_nothing_speaks_against_a_supported_gpu_and_set() -> None:
    assert reason() == ""
    assert reason(load_in="4bit", architecture="qwen2") == ""
    assert reason(torch="2.14.1+cu130", transformers="5.17") == ""
    assert reason(dataclasses.replace(GOOD, gpu=Gpu("NVIDIA Tesla T4", (7, 5), 16 * GB, 16 * GB))) == ""


@pytest.mark.parametrize(
    ("cuda", "words"),
    [
        (Cuda(None, (13, 1), (13, 0)), "no NVIDIA GPU"),
        (dataclasses.replace(GOOD, build=None), "built without CUDA"),
        (dataclasses.replace(GOOD, driver=(12, 8)), "CUDA up to 12.8, and torch was built for 13.0"),
        (
            Cuda(Gpu("NVIDIA GTX 1080", (6, 1), 8 * GB, 8 * GB), (12, 8), (12, 6)),
            "GTX 1080 has compute capability 6.1, and Unsloth needs 7.0",
        ),
    ],
)
def test_what_the_hardware_lacks_is_said_with_its_numbers(cuda: Cuda, words: str) -> None:
    assert words in reason(cuda)


@pytest.mark.parametrize(
    ("header", "path", "lacks"), [(True, True, ""), (False, True, "Python.h"), (True, False, "a C compiler")]
)
def test_unsloth_is_not_chosen_where_its_first_kernel_could_not_be_compiled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, header: bool, path: bool, lacks: str
) -> None:
    for name in ("clang", "gcc") if path else ():
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    if header:
        (tmp_path / "Python.h").touch()
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(choose_trainer.sysconfig, "get_path", lambda name: str(tmp_path))
    assert choose_trainer.triton_lacks() == lacks
    told = choose_trainer.obstacle(dataclasses.replace(GOOD, triton_lacks=lacks), SET)
    assert (told is None) if not lacks else (told is not None and lacks in told.reason and "python3-dev" in told.fix)


def test_a_driver_of_the_same_major_cuda_is_new_enough() -> None:
    assert reason(dataclasses.replace(GOOD, driver=(13, 0), build=(13, 2))) == ""


@pytest.mark.parametrize(
    ("package", "version"),
    [("transformers", "5.23.0"), ("trl", "1.16.0"), ("torch", "2.15.0"), ("unsloth", "2026.9.1"), ("peft", "0.22.0")],
)
def test_a_version_outside_the_supported_set_is_named_with_the_range(package: str, version: str) -> None:
    first, beyond = choose_trainer.SUPPORTED[package]
    text = reason(**{package: version})
    assert all(part in text for part in (package, version, first, beyond))


def test_what_is_not_installed_is_named() -> None:
    for package in choose_trainer.SUPPORTED:
        found = choose_trainer.obstacle(GOOD, {name: v for name, v in SET.items() if name != package})
        assert found is not None and found.reason and install_extra("gpu") in found.fix


def test_settings_and_models_that_its_kernels_are_not_for() -> None:
    assert "fp32" in reason(load_in="fp32")
    assert "gemma3" in reason(architecture="gemma3")


def test_auto_takes_unsloth_where_it_can_and_says_so() -> None:
    assert choose_trainer.settle("auto", None, GOOD).trainer == "unsloth"
    assert "RTX 4090" in choose_trainer.settle("auto", None, GOOD).message


def test_auto_falls_back_to_peft_with_the_reason_and_how() -> None:
    on_gpu = choose_trainer.settle("auto", choose_trainer.Obstacle("it is not installed", ""), GOOD)
    assert on_gpu.trainer == "peft"
    assert "NF4" in on_gpu.message
    without = choose_trainer.settle("auto", choose_trainer.obstacle(Cuda(), {}), Cuda())
    assert without.trainer == "peft" and "no NVIDIA GPU" in without.message and "NF4" not in without.message


def test_unsloth_that_was_asked_for_and_cannot_be_had_is_refused_with_the_reason() -> None:
    with pytest.raises(UsageError) as refused:
        choose_trainer.settle("unsloth", choose_trainer.obstacle(Cuda(), {}), Cuda())
    assert "--trainer auto" in refused.value.fix
    assert choose_trainer.settle("unsloth", None, GOOD).trainer == "unsloth"


def test_a_trainer_that_was_named_is_taken_without_a_look_at_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def looked() -> Cuda:
        raise AssertionError

    monkeypatch.setattr(choose_trainer, "find_cuda", looked)
    assert choose_trainer.choose_trainer("peft", "auto") == choose_trainer.TrainerChoice("peft", "")


PASCAL = dataclasses.replace(RTX_4090, name="NVIDIA GeForce GTX 1080", capability=(6, 1))
RTX_5090 = dataclasses.replace(RTX_4090, name="NVIDIA GeForce RTX 5090", capability=(12, 0))


@pytest.mark.parametrize(
    ("cuda", "words", "fix"),
    [
        (dataclasses.replace(GOOD, build=None), "built without CUDA", "pip install"),
        (dataclasses.replace(GOOD, driver=(12, 4)), "CUDA up to 12.4", "580"),
        (dataclasses.replace(GOOD, driver=(12, 4)), "CUDA up to 12.4", "<2.11"),
        (dataclasses.replace(GOOD, gpu=PASCAL), "begins at 7.5", "<2.8"),
        (Cuda(RTX_5090, (12, 9), (12, 6)), "needs CUDA 12.8", "pip install"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_refused_and_never_given_up_in_silence(cuda: Cuda, words: str, fix: str) -> None:
    for wanted in ("auto", "unsloth"):
        with pytest.raises(UsageError, match=words) as refused:
            choose_trainer.check_training_on_gpu(wanted, cuda)
        assert fix in refused.value.fix and "--trainer peft" in refused.value.fix
    assert words in choose_trainer.check_training_on_gpu("peft", cuda)
    assert "NF4" not in choose_trainer.settle("auto", choose_trainer.Obstacle("x", ""), cuda).message


@pytest.mark.parametrize(("wanted", "gpu", "needed"), [("auto", RTX_4090, True), ("peft", RTX_4090, False),
                                                       ("unsloth", RTX_4090, True), ("auto", None, False)])  # fmt: skip
def test_a_training_may_leave_the_gpu_only_where_somebody_chose_that(
    monkeypatch: pytest.MonkeyPatch, wanted: str, gpu: Gpu | None, needed: bool
) -> None:
    monkeypatch.setattr(choose_trainer, "find_gpu", lambda: gpu)
    assert choose_trainer.needs_gpu(wanted) is needed


@pytest.mark.parametrize(
    ("capability", "driver", "build", "torch"),
    [
        ((6, 1), (13, 0), (12, 8), cuda_setup.PASCAL_TORCH),
        ((6, 1), (12, 4), (13, 0), cuda_setup.PASCAL_TORCH),
        ((6, 1), (13, 0), (12, 6), ""),
        ((7, 0), (13, 0), (13, 0), cuda_setup.OLD_TORCH),
        ((7, 0), (13, 0), (12, 8), ""),
        ((10, 0), (13, 0), (12, 6), install_extra("gpu")),
    ],
)
def test_a_torch_without_kernels_for_the_gpu_is_named_with_one_that_has_them(
    capability: tuple[int, int], driver: tuple[int, int], build: tuple[int, int], torch: str
) -> None:
    found = choose_trainer.torch_obstacle(Cuda(Gpu("NVIDIA GPU", capability, 8 * GB, 8 * GB), driver, build))
    assert (torch in found.fix) if found is not None else torch == ""


@pytest.mark.parametrize("cuda", [GOOD, Cuda(), Cuda(RTX_5090, (13, 0), (12, 8))])
def test_a_gpu_that_torch_can_use_and_none_at_all_are_no_matter(cuda: Cuda) -> None:
    assert choose_trainer.check_training_on_gpu("auto", cuda) == ""


def test_visible_devices_leave_what_cuda_would_see() -> None:
    one, two = RTX_4090, dataclasses.replace(RTX_4090, name="other")
    assert visible([one, two], None) == [one, two]
    assert visible([one, two], "1,0") == [two, one]
    assert visible([one, two], "") == visible([one, two], "-1") == []
    assert visible([one, two], "0,7,1") == [one]
    assert visible([one, two], "GPU-1234") == [one, two]


def test_who_holds_a_gpu_is_named_the_largest_first_and_without_this_run() -> None:
    held = dataclasses.replace(RTX_4090, holders={2**22 + 1: GB, 2**22 + 2: 3 * GB, 2**22 + 3: 5 * GB})
    told = in_words(held.holders, own=frozenset({2**22 + 3}))
    assert told == f"PID {2**22 + 2} 3.0 GB, PID {2**22 + 1} 1.0 GB"
    assert in_words(RTX_4090.holders) == ""


@pytest.mark.parametrize("padding", [None, 0, 2, 3, 4])
def test_unsloth_s_stand_in_tokenizer_never_pads_with_the_model_s_own_token(
    tmp_path: Path, padding: int | None
) -> None:
    """Where the two are one, Unsloth zeroes that row of an untied embedding."""
    from tokenizers import Tokenizer

    from minisheep.trainers.unsloth import stand_in_tokenizer

    folder = stand_in_tokenizer(tmp_path / "tokenizer", padding)
    own = Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id("<pad>")
    assert own is not None and own != padding


def test_choosing_and_the_trainer_itself_import_nothing_that_unsloth_must_come_before() -> None:
    code = "import sys, minisheep.phases, minisheep.trainers.choose_trainer, minisheep.trainers.unsloth as u;"
    code += "print(sorted({'torch', 'transformers', 'peft', 'trl', 'unsloth'} & set(sys.modules)))"
    root = str(Path(choose_trainer.__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=root)
    assert done.stdout.strip() == "[]", done.stderr
