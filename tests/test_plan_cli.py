"""`minisheep plan` and `align --dry-run` as a user meets them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nvml_stand_in
import pytest
from tiny_runs import flags, tiny_run

from minisheep.cli.main import main
from minisheep.machine import gpu as machine_gpu

GPU = ("--gpu", "RTX 3060 12GB")
ASK_THE_DRIVER = machine_gpu.gpus_here


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minisheep.machine.gpu.gpus_here", list)


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["minisheep", *args])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


@pytest.mark.parametrize("gpu", ["RTX 3060 12GB", "RTX 4090 24GB"])
def test_a_plan_for_a_gpu_fits_and_names_every_part(
    gpu: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(monkeypatch, capsys, "plan", "--model", "qwen1.5-7b", "--gpu", gpu, "--full")
    assert (code, err) == (0, "")
    assert out.startswith("It fits") and "512 KiB a token" in out and "\x1b" not in out
    for word in ("KV cache", "weights", "compute buffers", "AdamW", "RAM", "disk", "time of the first round", "train"):
        assert word in out
    assert all(len(line) <= 160 for line in out.splitlines())


def test_the_answer_comes_first_and_the_parts_where_they_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether it fits, how long it takes and what decides; of each figure the sum alone."""
    args = ("plan", "--model", "qwen2.5-7b", "--gpu", "RTX 4090 24GB", "--rounds", "2", "--per-round", "300")
    (_, short, _), (_, full, _) = call(monkeypatch, capsys, *args), call(monkeypatch, capsys, *args, "--full")
    answer = short.partition("\n\n")[0].splitlines()
    assert answer == full.partition("\n\n")[0].splitlines()
    assert answer[0].startswith("It fits with the settings as given.")
    assert answer[1].startswith("2 rounds of 300 instructions take about ")
    assert answer[2].startswith("Most time: ") and answer[3].startswith("Most memory: ")
    assert all(len(line) <= 80 for line in answer)
    assert len(short.splitlines()) <= 20 < len(full.splitlines()) and short.endswith(" and --full.\n")
    for word in ("writing and judging, VRAM", "training, VRAM", "disk", "time of the first round", "time of 2 rounds"):
        assert word in short and word in full
    for word in ("compute buffers", "AdamW", "  respond"):
        assert word not in short.partition("\n\n")[2] and word in full


def test_a_plan_of_one_round_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    args = ("plan", "--model", "qwen2.5-7b", "--gpu", "RTX 4090 24GB", "--rounds", "1")
    _, out, _ = call(monkeypatch, capsys, *args)
    assert "1 round of 4,000 instructions takes about " in out and ", a round " in out
    assert "\ntime of a round " in out and "\ntime of 1 round " in out


def test_what_fits_with_other_settings_is_told_of_those(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = call(monkeypatch, capsys, "plan", "--model", "qwen1.5-7b", "--gpu", "RTX 4060 8GB")
    assert out.startswith("It does not fit with the settings as given")
    assert out.splitlines()[1] == "With the recommended settings:" and out.splitlines()[2].startswith("3 rounds of ")
    _, out, _ = call(monkeypatch, capsys, "plan", "--model", "qwen1.5-7b", "--gpu", "RTX 2060 6GB")
    assert out.startswith("It does not fit: ") and "instructions take" not in out and "Most memory: " in out


def test_the_gpu_that_the_driver_tells_is_planned_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nvml_stand_in.pretend(monkeypatch)
    monkeypatch.setattr(machine_gpu, "gpus_here", ASK_THE_DRIVER)
    code, out, err = call(monkeypatch, capsys, "plan", "--no-calibrate", "--model", "qwen1.5-7b")
    assert (code, err) == (0, "")
    assert "RTX 3090 24GB: 23.7 GiB of VRAM" in out and "RTX 3090 is here" in out


def test_without_a_gpu_there_is_this_machine_and_the_common_gpus_where_they_are_wanted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "RTX" not in call(monkeypatch, capsys, "plan", "--model", "smollm2-135m")[1]
    code, out, _ = call(monkeypatch, capsys, "plan", "--model", "qwen1.5-7b", "--full")
    assert code == 0 and "RTX" in out
    assert "RTX 4060 8GB" in out and "--kv-type q8_0" in out and "does not fit" in out


def test_json_is_only_json_and_adds_up(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, err = call(monkeypatch, capsys, "plan", "--model", "qwen1.5-7b", "--json", *GPU)
    (found,) = (json.loads(line) for line in out.splitlines())
    assert err == "" and found["event"] == "Plan" and found["given"]["fits"]
    for phase in ("inference", "training"):
        parts = found["given"][phase]
        assert parts.pop("total") == sum(parts.values())
    assert found["changes"].keys() <= {"kv_type", "context", "micro_batch_size"}


def test_a_dry_run_says_what_its_very_settings_take_and_makes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    args = ("align", "--dry-run", "--preset", "imitation", "--slots", "5", "--run", str(tmp_path / "run"))
    code, out, err = call(monkeypatch, capsys, *args)
    assert (code, err) == (0, "")
    assert "sequences at once" in out and "5" in out.split("sequences at once")[1].splitlines()[0]
    assert "1024 tokens each" in out and "recommended" not in out
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_of_a_run_has_that_runs_settings_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.toml").write_text('model = "smollm2-135m"\ncontext = 768\nanswer_max_tokens = 64\n' +
                                  "generate_max_tokens = 64\n")  # fmt: skip
    (run / "manifest.json").write_text('{"phases": {}, "inputs": {}}')
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    code, out, _ = call(monkeypatch, capsys, "align", "--dry-run", "--run", str(run))
    assert code == 0 and "768 tokens each" in out
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("plan", "--gpu", "RTX 3059"), "RTX 3059"),
        (("plan", "--model", "smolm2-135m"), "smollm2-135m"),
        (("plan", "--model", "Org/Unknown"), "minisheep pull Org/Unknown"),
        (("plan", "--rounds", "0"), "--rounds 0"),
        (("plan", "--model", "/nonexistent/x.gguf"), "/nonexistent/x.gguf"),
        (("plan", "--constraints", "0.5", "--constraint-file", "/nonexistent/kinds.toml"), "/nonexistent/kinds.toml"),
        (("plan", "--seeds", "/nonexistent/seeds.jsonl"), "/nonexistent/seeds.jsonl"),
        (("align", "--dry-run", "--prompts", "/nonexistent/words"), "/nonexistent/words"),
    ],
)
def test_a_mistake_is_one_line(
    args: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(monkeypatch, capsys, *args)
    assert code in (1, 2) and out == ""
    assert len(err.splitlines()) == 1 and told in err


def test_the_fake_engine_has_no_plan(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, err = call(monkeypatch, capsys, "plan", *flags())
    assert code == 2 and "--engine" in err
    tiny_run(tmp_path / "run", per_round=4, rounds=1)
    assert call(monkeypatch, capsys, "align", "--dry-run", "--run", str(tmp_path / "run"))[0] == 2


def test_planning_loads_no_model_library() -> None:
    code = (
        "import sys; sys.argv = ['minisheep', 'plan', '--gpu', 'RTX 3060']\n"
        "from minisheep.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: print([m for m in ('torch', 'llama_cpp', 'numpy') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == "[]"
