"""`minisheep models --cache`, `--remove` and `--unused`: what lies in the cache, what uses it, what may go."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from minisheep.cli.main import main
from minisheep.models import cache, cleaning
from minisheep.models.registry import load_registry
from minisheep.prepare import fake_model

SHA = load_registry()["smollm2-135m"].gguf_sha256 or ""
OTHER = "ab" * 32


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with a model in three forms, a copy of another file, an unfinished download, and small notes; beside it
    runs/mine, which goes on with the first model."""
    monkeypatch.chdir(tmp_path)
    root = cache.cache_root()
    for name, size in {
        f"gguf/smollm2-135m/smollm2-135m-{SHA[:12]}.gguf": 100,
        f"inference/{SHA[:32]}-q8_0.gguf": 200,
        f"inference/{SHA[:32]}-speed.json": 10,
        f"dequantised/{SHA[:32]}/model.safetensors": 400,
        f"inference/{OTHER[:32]}-q8_0.gguf": 50,
        "partial/gemma-3-270m-a5fd3b62230a.x1.tmp/joined": 30,
        "hashes/a.json": 5,
        "given-0/permitted": 1,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * size)
    run(tmp_path / "runs" / "mine", root)
    return root


def run(folder: Path, root: Path) -> None:
    folder.mkdir(parents=True)
    model = dataclasses.replace(
        fake_model(), name="smollm2-135m", gguf_sha256=SHA,
        gguf=root / f"gguf/smollm2-135m/smollm2-135m-{SHA[:12]}.gguf",
        inference_gguf=root / f"inference/{SHA[:32]}-q8_0.gguf",
        weights=root / f"dequantised/{SHA[:32]}",
    )  # fmt: skip
    model.write(folder / "model.json")


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["minisheep", "models", *args])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


@contextmanager
def holding(path: Path, how: str) -> Iterator[int]:
    """A process that has a file open, or only mapped."""
    code = (
        "import mmap, sys\nfile = open(sys.argv[1], 'rb')\n"
        "if sys.argv[2] == 'mapped':\n    held = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ); file.close()\n"
        "print('ready', flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.stdin.close()


def names(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_the_cache_is_told_with_sizes_and_what_uses_it(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(monkeypatch, capsys, "--cache", "--json")
    assert (code, err) == (0, "")
    rows = [(row["name"], row["what"], row["bytes"], row["runs"]) for row in map(json.loads, out.splitlines())]
    mine = ["runs/mine"]
    assert rows == [
        ("smollm2-135m", "training weights", 400, mine),
        ("smollm2-135m", "copy for inference", 200, mine),
        ("smollm2-135m", "GGUF", 100, mine),
        (OTHER[:12], "copy for inference", 50, []),
        ("gemma-3-270m", "unfinished download", 30, []),
    ]
    said = call(monkeypatch, capsys, "--cache")[1]
    assert "runs/mine" in said and str(root) in said and "--unused" in said


def test_unused_leaves_what_a_run_goes_on_with_and_every_note(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = names(root)
    code, out, _ = call(monkeypatch, capsys, "--unused", "--yes")
    gone = {f"inference/{OTHER[:32]}-q8_0.gguf", "partial/gemma-3-270m-a5fd3b62230a.x1.tmp/joined"}
    assert code == 0 and "Removed" in out
    assert before - names(root) == gone
    _, out, err = call(monkeypatch, capsys, "--unused", "--yes")
    assert "Nothing was removed" in out and err == ""


def test_where_no_run_is_that_is_said_before_all_counts_as_unused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path / "runs")
    before = names(root)
    code, _, err = call(monkeypatch, capsys, "--unused")
    assert code == 2 and err.startswith("There is no run in runs/ here") and names(root) == before


def test_a_model_is_removed_in_all_its_forms(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = call(monkeypatch, capsys, "--remove", "SmolLM2-135M", "--yes", "--json")
    assert code == 0 and json.loads(out)["bytes"] == 700
    assert not [name for name in names(root) if SHA[:12] in name and not name.endswith("speed.json")]
    assert not (root / "gguf" / "smollm2-135m").exists() and (root / f"inference/{OTHER[:32]}-q8_0.gguf").exists()


def test_nothing_is_removed_without_a_yes(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = names(root)
    code, _, err = call(monkeypatch, capsys, "--remove", "smollm2-135m")
    assert code == 2 and "--yes" in err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    for answer, left in (("n", before), ("y", {name for name in before if SHA[:12] not in name or "speed" in name})):
        monkeypatch.setattr("click.termui.visible_prompt_func", lambda _, answer=answer: answer)
        code, out, _ = call(monkeypatch, capsys, "--remove", "smollm2-135m")
        assert code == 0 and "700" not in out and "runs/mine" in out
        assert names(root) == left


def test_a_name_that_is_not_there_is_told_with_the_nearest(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(monkeypatch, capsys, "--remove", "smollm2-135", "--yes")
    assert code == 2 and "nearest: smollm2-135m" in err


@pytest.mark.parametrize("how", ["open", "mapped"])
def test_what_a_program_works_with_stays(
    how: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = root / f"inference/{OTHER[:32]}-q8_0.gguf"
    with holding(path, how) as pid:
        code, _, err = call(monkeypatch, capsys, "--remove", OTHER[:12], "--yes")
        assert code == 2 and f"process {pid}" in err
        assert call(monkeypatch, capsys, "--unused", "--yes")[0] == 0
        assert path.exists()


def test_all_files_of_a_run_that_is_being_done_stay_wherever_it_is(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs" / "mine" / "model.json").unlink()
    elsewhere = tmp_path / "elsewhere" / "deep"
    run(elsewhere, root)
    (elsewhere / ".lock").touch()
    with holding(elsewhere / ".lock", "open") as pid:
        held = {item.what: item.held for item in cleaning.list_items([]) if item.name == "smollm2-135m"}
        assert held == dict.fromkeys(("GGUF", "copy for inference", "training weights"), (pid,))
        assert call(monkeypatch, capsys, "--unused", "--yes")[0] == 0
        assert sum(SHA[:12] in name for name in names(root)) == 4
    assert call(monkeypatch, capsys, "--unused", "--yes")[0] == 0
    assert sum(SHA[:12] in name for name in names(root)) == 1


def test_nothing_is_removed_while_something_is_fetched(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = names(root)
    with cache.lock("gemma-3-270m", print):
        code, _, err = call(monkeypatch, capsys, "--unused", "--yes")
    assert code == 2 and "gemma-3-270m" in err and names(root) - {"locks/gemma-3-270m.lock"} == before
