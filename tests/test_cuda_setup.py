"""Which CUDA builds and runs llama.cpp: compilers, prebuilt wheels, and libraries that torch's packages bring."""

from __future__ import annotations

import ast
import ctypes
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from minisheep.machine import cuda_setup, llama_library
from minisheep.machine.cuda_setup import (
    Compiler,
    InstalledTorch,
    compiler_fault,
    driver_in,
    newest,
    packages_for,
    preload,
    wheel_index,
)

ROOT = Path(__file__).parents[1]
OLD, NEW, NEXT = (
    Compiler("/usr/bin/nvcc", (11, 5), True),
    Compiler("/usr/local/cuda-12.8/bin/nvcc", (12, 8), False),
    Compiler("/usr/local/cuda-13.0/bin/nvcc", (13, 0), False),
)


def test_the_newest_compiler_is_taken_whose_programs_the_driver_runs() -> None:
    assert newest([OLD, NEW, NEXT], (13, 0)) == NEXT
    assert newest([OLD, NEW, NEXT], (12, 8)) == NEW
    assert newest([OLD], (13, 0)) == OLD and newest([], None) is None


def test_compilers_are_found_on_the_path_and_in_the_installers_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nvcc(folder: Path, release: str) -> None:
        folder.mkdir(parents=True)
        (folder / "nvcc").write_text(f"#!/bin/sh\necho Cuda compilation tools, release {release}, V{release}.1\n")
        (folder / "nvcc").chmod(0o755)

    nvcc(tmp_path / "bin", "11.5")
    nvcc(tmp_path / "local" / "cuda-12.8" / "bin", "12.8")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    found = cuda_setup.find_compiler((13, 0), tmp_path / "local")
    assert found == Compiler(str(tmp_path / "local" / "cuda-12.8" / "bin" / "nvcc"), (12, 8), False)
    assert cuda_setup.find_compiler((13, 0), tmp_path / "nowhere") == Compiler(
        str(tmp_path / "bin" / "nvcc"), (11, 5), True
    )


@pytest.mark.parametrize(
    ("version", "capability", "driver", "fault"),
    [
        ((11, 5), (7, 5), (13, 0), "11.7 or newer"),
        ((11, 7), (8, 6), (13, 0), ""),
        ((11, 7), (9, 0), (13, 0), "11.8 or newer"),
        ((12, 6), (12, 0), (13, 0), "12.8 or newer"),
        ((12, 8), (12, 0), (12, 8), ""),
        ((13, 0), (8, 6), (12, 8), "the driver runs CUDA up to 12.8"),
        ((13, 0), (6, 1), (13, 0), "7.5 or newer"),
        (None, (8, 6), (13, 0), ""),
    ],
)
def test_a_compiler_fits_the_gpu_and_the_driver_or_its_fault_is_told(
    version: tuple[int, int] | None, capability: tuple[int, int], driver: tuple[int, int], fault: str
) -> None:
    told = compiler_fault(version, capability, driver)
    assert (fault in told) if fault else told == ""


@pytest.mark.parametrize(
    ("driver", "capability", "wheel", "torch"),
    [
        ((13, 1), (8, 6), "cu130", cuda_setup.TORCH),
        ((13, 2), (12, 0), "cu132", cuda_setup.TORCH),
        ((13, 0), (7, 0), "cu125", cuda_setup.OLD_TORCH),
        ((13, 0), (6, 1), "cu125", cuda_setup.PASCAL_TORCH),
        ((12, 0), (8, 6), "", ""),
        ((12, 4), (7, 5), "cu124", cuda_setup.OLD_TORCH),
        ((12, 9), None, "cu125", cuda_setup.OLD_TORCH),
        ((11, 4), (8, 6), "", ""),
        (None, (8, 6), "", ""),
    ],
)
def test_the_prebuilt_llama_cpp_and_the_torch_with_its_libraries_are_of_one_cuda(
    driver: tuple[int, int] | None, capability: tuple[int, int] | None, wheel: str, torch: str
) -> None:
    assert wheel_index(driver, capability).rpartition("/")[2] == wheel
    asked = packages_for(driver, capability)
    assert asked[-2:] == ([cuda_setup.LLAMA, torch] if wheel else [])


LENT = InstalledTorch((2, 11), (12, 8))
"""What Colab brings."""


@pytest.mark.parametrize(
    ("torch", "driver", "asked"),
    [
        (LENT, (13, 0), ["cu125"]),
        (InstalledTorch((2, 11), (13, 0)), (13, 2), ["cu130"]),
        (InstalledTorch((2, 6), (12, 4)), (12, 8), ["cu124"]),
        (InstalledTorch((2, 11), (13, 0)), (12, 8), ["cu125", cuda_setup.OLD_TORCH]),
        (InstalledTorch((2, 5), (12, 1)), (13, 0), ["cu130", cuda_setup.TORCH]),
        (InstalledTorch((2, 13), None), (13, 0), ["cu130", cuda_setup.TORCH]),
    ],
)
def test_a_torch_that_suits_stays_and_the_wheel_is_of_its_cuda(
    torch: InstalledTorch, driver: tuple[int, int], asked: list[str]
) -> None:
    """Else pip would keep a torch for CUDA 12 beside a llama.cpp that misses the libraries of CUDA 13."""
    found = packages_for(driver, (7, 5), torch)
    assert [found[3].rpartition("/")[2], *found[5:]] == asked
    assert found[4] == cuda_setup.LLAMA


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("__version__ = '2.14.1'\ncuda: Optional[str] = '13.0'\nhip = None\n", InstalledTorch((2, 14), (13, 0))),
        ("__version__ = '2.11.0+cu128'\ncuda: str | None = '12.8'", LENT),
        ("cuda: Optional[str] = None\nhip: Optional[str] = '6.4'", InstalledTorch((0, 0), None)),
        ("", InstalledTorch((0, 0), None)),
    ],
)
def test_a_torch_is_known_by_its_version_file(text: str, found: InstalledTorch) -> None:
    assert cuda_setup.torch_in(text) == found


@pytest.mark.parametrize(
    ("text", "driver"),
    [
        ("| NVIDIA-SMI 580.95.05   Driver Version: 580.95.05   CUDA Version: 13.0     |", (13, 0)),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", None),
    ],
)
def test_the_driver_s_cuda_is_read_from_nvidia_smi(text: str, driver: tuple[int, int] | None) -> None:
    assert driver_in(text) == driver


def test_of_several_cards_the_one_that_a_run_takes_decides() -> None:
    assert cuda_setup.capability_in("8192, 12.0\n24576, 8.6\n") == (8, 6)
    assert cuda_setup.capability_in("8192, [N/A]\n") is None


def test_set_up_asks_before_anything_is_installed() -> None:
    """With `-S` there is no site-packages, as in a new environment; without an nvidia-smi, nothing is said."""
    command = [sys.executable, "-S", "-m", "minisheep.machine.cuda_setup"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={"PATH": ""}, timeout=60)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
@pytest.mark.parametrize(
    ("card", "wheel", "nvcc", "asked"),
    [
        (False, True, False, ["install --quiet torch==", "install --quiet --editable .[plots]"]),
        (True, True, False, ["install --quiet --only-binary llama-cpp-python", "--editable .[gpu,plots]"]),
        (
            True,
            False,
            True,
            ["install --quiet --only-binary llama-cpp-python", "--editable .[gpu,plots] -DGGML_CUDA=on"],
        ),
        (True, False, False, ["install --quiet --only-binary llama-cpp-python", "--editable .[gpu,plots]"]),
    ],
)
def test_set_up_takes_the_prebuilt_llama_cpp_first_and_builds_with_cuda_where_there_is_none(
    tmp_path: Path, card: bool, wheel: bool, nvcc: bool, asked: list[str]
) -> None:
    tools, log = tmp_path / "tools", tmp_path / "log"
    tools.mkdir()

    def tool(name: str, text: str) -> None:
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)

    for name in ("bash", "sh", "touch", "make"):
        (tools / name).symlink_to(shutil.which(name) or name)
    if card:
        tool("nvidia-smi", "echo 'CUDA Version: 13.0'")
    if nvcc:
        tool("nvcc", "true")
    # pip says what it was asked; of a prebuilt llama.cpp, perhaps, that there is none.
    tool(
        "python",
        f"""case "$*" in
        *cuda_setup*) exec {sys.executable} "$@";;
        *) cuda=; case "$CMAKE_ARGS" in *GGML_CUDA*) cuda=-DGGML_CUDA=on;; esac; echo "$*" $cuda >> {log};;
        esac; case "$*" in *only-binary*) exit {0 if wheel else 1};; esac""",
    )
    ready = tmp_path / "ready"
    command = ["make", "-s", f"BIN={tools}", f"DEMO_READY={ready}", f"SHELL={tools}/bash", str(ready)]
    done = subprocess.run(command, cwd=ROOT, env={"PATH": str(tools)}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = log.read_text().splitlines()
    assert len(lines) == len(asked) and all(want in line for want, line in zip(asked, lines, strict=True))
    assert ("WARNING" in done.stdout) == (card and not wheel and not nvcc)


# The runtime's libraries


def test_missing_libraries_are_loaded_from_torch_s_packages_in_their_own_order(tmp_path: Path) -> None:
    folder = tmp_path / "cu13" / "lib"
    folder.mkdir(parents=True)
    needs = {"libggml-cuda.so": ["libcudart.so.13", "libcublas.so.13"], "libcublas.so.13": ["libcublasLt.so.13"]}
    for name in ("libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13"):
        (folder / name).touch()
    loaded: list[str] = []

    def load(path: str) -> None:
        name = Path(path).name
        for needed in needs.get(name, []):
            if needed not in loaded:
                raise OSError(f"{needed}: cannot open shared object file: No such file or directory")
        loaded.append(name)

    assert preload(tmp_path / "libggml-cuda.so", lambda: iter([folder]), load) == ""
    assert loaded == ["libcudart.so.13", "libcublasLt.so.13", "libcublas.so.13", "libggml-cuda.so"]


def test_what_torch_does_not_bring_is_named(tmp_path: Path) -> None:
    def load(path: str) -> None:
        raise OSError("libcuda.so.1: cannot open shared object file: No such file or directory")

    assert "libcuda.so.1" in preload(tmp_path / "libggml-cuda.so", lambda: iter([]), load)
    assert preload(None, lambda: iter([]), load) == ""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_real_library_is_found_for_a_real_loader(tmp_path: Path) -> None:
    needed, user = tmp_path / "lib" / "libneeded-for-test.so.9", tmp_path / "libuser.so"
    needed.parent.mkdir()
    (tmp_path / "needed.c").write_text("int answer(void) { return 42; }")
    (tmp_path / "user.c").write_text("int answer(void); int ask(void) { return answer(); }")
    share = ["cc", "-shared", "-fPIC", "-o"]
    subprocess.run([*share, needed, tmp_path / "needed.c", f"-Wl,-soname,{needed.name}"], check=True)
    subprocess.run([*share, user, tmp_path / "user.c", needed], check=True)
    with pytest.raises(OSError, match="needed-for-test"):
        ctypes.CDLL(str(user))
    assert preload(user, lambda: iter([needed.parent])) == ""
    assert ctypes.CDLL(str(user)).ask() == 42


def direct_imports() -> Iterator[str]:
    for path in sorted([*(ROOT / "minisheep").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "llama_cpp" for alias in node.names):
                yield f"{path.relative_to(ROOT)}:{node.lineno}"


def test_llama_cpp_is_imported_by_its_loader_alone() -> None:
    assert list(direct_imports()) == []


def test_a_llama_cpp_that_cannot_be_loaded_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(llama_library.MinisheepError, match="cannot be loaded") as error:
        llama_library.load()
    assert "minisheep doctor" in error.value.fix
