"""AMX is used only where the library says that it was built for it, and there it computes the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.without_amx import built_for_amx
from minisheep.machine import cpu

HEADER = Path(__file__).parent.parent / "native" / "amx_tile_config.h"

ASK = """
import json, sys
from pathlib import Path
from minisheep.machine import cpu as amx
if sys.argv[2] == "without":
    amx.usable = lambda: False
from minisheep.engines.base import LoglikRequest
from minisheep.rules.templates import Segment
from minisheep.engines.llamacpp import LlamaCppEngine
engine = LlamaCppEngine(Path(sys.argv[1]), slots=8, context=256)
text = "Otters swim in rivers and sleep in dens. They eat fish, frogs and crayfish, and play on muddy banks."
requests = [LoglikRequest(str(n), (Segment("Tell me about otters. " * n),), (Segment(text),)) for n in range(1, 9)]
found = {f.id: f.logprobs for f in engine.loglik(requests)}
print(json.dumps([engine.info.description, [sum(found[str(n)]) / len(found[str(n)]) for n in range(1, 9)]]))
"""


BESIDE_TORCH = """
import json, sys
from pathlib import Path
from minisheep.engines.base import LoglikRequest
from minisheep.rules.templates import Segment
from minisheep.engines.llamacpp import LlamaCppEngine
import torch
engine = LlamaCppEngine(Path(sys.argv[1]), slots=2, context=256)
request = LoglikRequest("a", (Segment("Tell me about otters."),), (Segment("Otters swim in rivers."),))
def ask():
    return list(next(iter(engine.loglik([request]))).logprobs)
before = ask()
matrix = torch.randn(512, 512).to(torch.bfloat16)
for _ in range(3):
    matrix @ matrix
print(json.dumps([before, ask()]))
"""


def test_the_header_leaves_the_mark_that_is_looked_for() -> None:
    assert f"void {cpu.MARK.decode()}(void)" in HEADER.read_text()


def test_a_library_is_told_by_its_mark(tmp_path: Path) -> None:
    right, wrong = tmp_path / "libggml-cpu.so.0", tmp_path / "libggml-cpu.so"
    right.write_bytes(b"\x7fELF\0" + cpu.MARK + b"\0")
    wrong.write_bytes(b"\x7fELF\0_tile_loadconfig\0")
    assert cpu.marked(right)
    assert not cpu.marked(wrong)
    assert not cpu.marked(tmp_path / "none")


def test_the_loaded_library_is_found_by_its_name(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.write_text(
        "7f00-7f01 r--p 00000000 08:01 12 /opt/a folder/libggml-base.so.0\n"
        "7f01-7f02 r-xp 00000000 08:01 13                    /opt/a folder/libggml-cpu.so.0\n"
        "7f02-7f03 rw-p 00000000 00:00 0\n"
    )
    assert cpu._loaded("libggml-cpu", maps) == Path("/opt/a folder/libggml-cpu.so.0")
    assert cpu._loaded("libcuda", maps) is None
    assert cpu._loaded("libggml-cpu", tmp_path / "none") is None


def test_a_program_may_use_amx_where_a_library_beside_it_is_marked(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "llama-server"
    library = tmp_path / "lib" / "libggml-cpu.so"
    for path in (program, library):
        path.parent.mkdir()
        path.write_bytes(b"\x7fELF")
    assert not built_for_amx(program)
    library.write_bytes(cpu.MARK)
    assert built_for_amx(program)


def test_the_library_is_asked_before_llama_cpp_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "present", lambda: True)
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path))
    assert not cpu.will_be_usable()
    (tmp_path / "libggml-cpu.so").write_bytes(cpu.MARK)
    assert cpu.will_be_usable()
    monkeypatch.setattr(cpu, "present", lambda: False)
    assert not cpu.will_be_usable()


@pytest.mark.model
def test_amx_computes_what_avx_does() -> None:
    """Both multiply in 8 bits, with other orders of summing."""
    from real_models import smollm2

    told = []
    for how in ("with", "without"):
        done = subprocess.run(
            [sys.executable, "-c", ASK, str(smollm2()), how], capture_output=True, text=True, timeout=120, check=True
        )
        told.append(json.loads(done.stdout))
    (used, ours), (unused, theirs) = told
    assert "AMX" not in unused
    if "AMX" not in used:
        pytest.skip("no AMX here, or a llama.cpp that was not built for it")
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    assert max(map(abs, differences)) < 0.15
    assert abs(sum(differences) / len(differences)) < 0.02


@pytest.mark.model
def test_what_torch_does_with_the_tiles_of_this_thread_changes_nothing() -> None:
    from real_models import smollm2

    done = subprocess.run(
        [sys.executable, "-c", BESIDE_TORCH, str(smollm2())], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-500:]
    before, after = json.loads(done.stdout)
    assert after == before
