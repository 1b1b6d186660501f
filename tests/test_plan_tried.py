"""A try of the model on this machine corrects the plan's times, and nothing else."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import real_models
from gguf_builder import tiny_gguf
from worker_stand_ins import pretend as pretend_worker

from minisheep import config
from minisheep.cli.main import main
from minisheep.config import Settings
from minisheep.errors import UsageError, WorkerError
from minisheep.phase_times import PhaseTokens
from minisheep.plan import calibration, duration, plan_table
from minisheep.plan.calibration import calibrate
from minisheep.plan.duration import Calibration
from minisheep.plan.fit import Plan, PlannedMachine, make_plan, with_gpu
from minisheep.plan.gpu_models import GIB, find_gpu_model
from minisheep.plan.room import Model, known_model

PROCESSOR = PlannedMachine("a processor, 2 threads", 64 * GIB, None, True, 2)
TRIED = Calibration("RTX 3060 12GB", 16, "q8_0", 400.0, 5000.0, 900.0, "unsloth", 6 * GIB, 7 * GIB, "2026-11-23")


def settings(**given: Any) -> Settings:
    return config.make({"model": "qwen1.5-7b", **given})


def model(found: Calibration | None = None) -> Model:
    return dataclasses.replace(known_model(settings()), calibration=found)


def on_gpu(found: Calibration | None, name: str = "RTX 3060 12GB", **given: Any) -> Plan:
    return make_plan(settings(**given), model(found), with_gpu(find_gpu_model(name)))


def seconds(plan: Plan, phase: str) -> float:
    return dict(plan.phases or [])[phase]


def matching(**rates: float) -> Calibration:
    """A try on the GPU that the plans here are for."""
    return dataclasses.replace(TRIED, machine=with_gpu(find_gpu_model("RTX 3060 12GB")).title, **rates)


class EachSecond:
    """A speed of one token a second for everything."""

    def seconds(self, work: Any) -> float:
        return float(work.drawn + work.read + work.trained)

    def load_seconds(self) -> float:
        return 7.0


EACH = EachSecond()


def test_each_rate_corrects_its_own_part_alone() -> None:
    work = PhaseTokens("x", drawn=600, read=300, trained=90, sequences=10)
    for name, expected in (("drawn", 300 + 300 + 90), ("read", 600 + 150 + 90), ("trained", 600 + 300 + 45)):
        found = dataclasses.replace(TRIED, drawn=1.0, read=1.0, trained=1.0)
        speed = duration.calibrated(dataclasses.replace(found, **{name: 2.0}), lambda slots: EACH, 4)
        assert speed.seconds(work) == pytest.approx(expected)
        assert speed.load_seconds() == 7.0


def test_what_was_not_tried_stays_an_estimate() -> None:
    before, after = on_gpu(None), on_gpu(matching(trained=0.0))
    assert seconds(after, "train") == seconds(before, "train")
    assert seconds(after, "respond") != seconds(before, "respond")


def test_a_gpu_that_writes_twice_as_fast_takes_half_the_time() -> None:
    one, two = on_gpu(matching()), on_gpu(matching(drawn=2 * TRIED.drawn))
    # Prompts are read as fast as before, and are the small part.
    assert seconds(two, "respond") == pytest.approx(seconds(one, "respond") / 2, rel=0.1)
    assert two.inference == on_gpu(None).inference


def test_a_try_on_another_machine_says_nothing() -> None:
    assert on_gpu(TRIED, "RTX 4090 24GB").phases == on_gpu(None, "RTX 4090 24GB").phases
    assert on_gpu(TRIED, "RTX 4090 24GB").calibration is None


def test_other_settings_are_estimated_from_the_try() -> None:
    """Fewer sequences at once are slower, on a machine that was tried with more."""
    few, many = (on_gpu(matching(), slots=slots).round_seconds or 0 for slots in (4, 16))
    assert few > 1.5 * many > 0


def test_a_processor_that_was_tried_has_times() -> None:
    found = dataclasses.replace(TRIED, machine=PROCESSOR.title)
    plan = make_plan(settings(), model(found), PROCESSOR)
    answers = settings().per_round * 150
    assert seconds(plan, "respond") == pytest.approx(answers / 400 + settings().per_round * 40 / 5000, rel=0.01)


def test_it_is_told_what_the_times_follow_from() -> None:
    plan = on_gpu(dataclasses.replace(TRIED, machine=with_gpu(find_gpu_model("RTX 3060 12GB")).title))
    told = " ".join(plan_table.remarks(plan))
    for words in (
        "2026-11-23",
        "400 tokens/s",
        "16 sequences",
        "5,000 read",
        "900 trained by unsloth",
        "6.0 GiB while",
    ):
        assert words in told
    assert "not verified" not in told and plan_table.to_dict(plan)["tried"]["slots"] == 16


# The record


def test_a_record_is_read_again_and_another_file_in_its_place_has_none(tmp_path: Path) -> None:
    gguf = tmp_path / "a.gguf"
    gguf.write_bytes(b"GGUF one")
    path = duration.calibration_path(gguf)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(dataclasses.asdict(TRIED)))
    assert duration.read_calibration(gguf) == TRIED
    gguf.write_bytes(b"GGUF another")
    assert duration.read_calibration(gguf) is None
    assert duration.read_calibration(tmp_path / "missing.gguf") is None


@pytest.mark.parametrize(
    "broken",
    [b"", b"[]", b"{}", b'{"machine": 1}', b"\xff", json.dumps(dataclasses.asdict(TRIED) | {"drawn": 0}).encode()],
)
def test_a_record_that_cannot_be_read_is_none(tmp_path: Path, broken: bytes) -> None:
    gguf = tmp_path / "a.gguf"
    gguf.write_bytes(b"GGUF")
    path = duration.calibration_path(gguf)
    path.parent.mkdir(parents=True)
    path.write_bytes(broken)
    assert duration.read_calibration(gguf) is None


# The try


ASKED = "if job['phase'] == 'ask':\n    facts = {'drawn': 100.0, 'read': 900.0, 'slots': 8}\nelse:\n    "


def pretend(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setattr(calibration, "WORKER", pretend_worker(monkeypatch, source))


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(tiny_gguf())
    return path


def plan_of(gguf: Path) -> Plan:
    given = config.make({"model": str(gguf)})
    return make_plan(given, known_model(given), PROCESSOR)


def test_what_the_workers_found_is_kept_and_used(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, ASKED + "facts = {'trained': 50.0, 'trainer': 'peft'}")
    assert plan_of(gguf).phases is None
    found = calibrate(plan_of(gguf), gguf, lambda text: None)
    assert (found.drawn, found.slots, found.trained, found.trainer) == (100.0, 8, 50.0, "peft")
    after = plan_of(gguf)
    assert after.calibration == found and after.phases is not None


def test_without_training_weights_at_hand_the_rest_is_kept(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, ASKED + "raise DownloadError('they are not here.')")
    said: list[str] = []
    found = calibrate(plan_of(gguf), gguf, said.append)
    assert found.trained == 0.0 and "they are not here" in said[-1]


@pytest.mark.parametrize(("source", "told"), [("os._exit(9)", "code 9"), ("time.sleep(60)", "did not end")])
def test_a_try_that_dies_or_hangs_is_one_error_and_leaves_no_record(
    gguf: Path, monkeypatch: pytest.MonkeyPatch, source: str, told: str
) -> None:
    pretend(monkeypatch, source)
    monkeypatch.setattr(calibration, "PART_SECONDS", 1.0 if "sleep" in source else 60.0)
    with pytest.raises(WorkerError, match=told):
        calibrate(plan_of(gguf), gguf, lambda text: None)
    assert duration.read_calibration(gguf) is None


def test_a_model_that_is_not_here_is_not_tried() -> None:
    plan = make_plan(settings(), model(), PROCESSOR)
    with pytest.raises(UsageError) as refused:
        calibrate(plan, None, lambda text: None)
    assert "minisheep pull qwen1.5-7b" in refused.value.fix


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--calibrate", "--gpu", "RTX 3060 12GB"), "--calibrate"),
        (("--calibrate", "--model", "qwen1.5-7b"), "minisheep pull qwen1.5-7b"),
    ],
)
def test_what_cannot_be_tried_is_one_line(
    arguments: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("minisheep.machine.gpu.gpus_here", list)
    monkeypatch.setattr("minisheep.machine.system.free_ram", lambda: 64 * GIB)
    monkeypatch.setattr(sys, "argv", ["minisheep", "plan", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and told in capsys.readouterr().err


@pytest.mark.model
def test_a_real_model_is_tried_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf = real_models.smollm2()
    before = duration.calibration_path(gguf)
    before.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "minisheep", "plan", "--model", str(gguf), "--preset", "imitation", "--calibrate",
         "--json"],
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[0])["given"]
    assert found["tried"]["trainer"] == "peft" and found["tried"]["slots"] == found["slots"]
    rates = [found["tried"][name] for name in ("drawn", "read", "trained")]
    assert all(1 < rate < 100_000 for rate in rates) and rates[1] > rates[0]
    assert found["round_seconds"] > 1
