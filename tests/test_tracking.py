"""A run shown in other programs: TensorBoard's files are real and read back by its own reader; W&B and trackio are
stand-ins."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from service_stand_ins import StandIns
from tiny_runs import flags, minisheep, outcome, tiny_run

from minisheep import api, config, loop
from minisheep.errors import ConfigError, UsageError
from minisheep.machine.installing import install_extra
from minisheep.rules.log_targets import log_targets, secrets, tellable, tellable_settings
from minisheep.run.events import Event, Note, PhaseFinished, RoundMeasured, TrainStep
from minisheep.tracking import following
from minisheep.tracking.shown_values import ValueFold

SMALL: dict[str, Any] = {"per_round": 4, "eval_tasks": 3, "eval_answers": 2, "rounds": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that was shown nowhere."""
    return tiny_run(tmp_path_factory.mktemp("tracking") / "run", **SMALL)[0].path


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIns:
    return StandIns(tmp_path, monkeypatch)


def steps_of(run: Path) -> list[TrainStep]:
    return [step for number in (1, 2) for step in api.load_run(run).round(number).steps]


def read_back(run: Path) -> Any:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run / "tracking" / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    return found.Reload()


def wait_for_trackers(run: Path, seconds: float = 60.0) -> None:
    """Until no process tells a service of `run`."""
    ends = time.monotonic() + seconds
    while any(str(run).encode() in line and b"following" in line for line in command_lines()):
        assert time.monotonic() < ends
        time.sleep(0.1)


def command_lines() -> Iterator[bytes]:
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield file.read_bytes()


# TensorBoard, by its own reader


def test_tensorboard_reads_what_the_run_made(run: Path) -> None:
    found = following.send(run, "tensorboard")
    assert "tensorboard --logdir" in found.where and found.lines > found.before == 0
    read, steps = read_back(run), steps_of(run)
    shown = read.Scalars("train/loss")
    assert [point.step for point in shown] == list(range(1, len(steps) + 1))
    assert [point.value for point in shown] == pytest.approx([step.loss for step in steps])
    metrics = api.load_run(run).metrics
    nll = [point.value for point in read.Scalars("measures/nll")]
    assert nll == pytest.approx([m["model"]["held_out_nll"] for m in metrics])
    dropped = metrics[1]["data"]["dropped_by_rule"]
    assert dropped and all(read.Scalars(f"drops/{rule}")[0].value == count for rule, count in dropped.items())
    assert read.Tags()["histograms"] == ["judge_scores/histogram"]
    (first, *_), answer = read.Tensors("samples"), api.load_run(run).base.answers[0]["answer"]
    cells = [cell.decode() for cell in first.tensor_proto.string_val]
    assert cells[:3] == ["instruction", "base", "this round"] and cells[4] == cells[5]
    assert answer.split()[0] in cells[4]


def test_a_killed_and_resumed_run_tells_every_step_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    path = tmp_path / "run"
    words = ["align", "--run", str(path), "--preset", "imitation", *flags(**{**SMALL, "rounds": 1}), "--plain"]
    killed = minisheep(*words, "--log-to", "tensorboard", fault="kill-both:train:2")
    assert killed.returncode == -9
    said = minisheep("align", "--run", str(path), "--plain", check=True).stdout
    # The run remembers it without the flag, and says it once.
    assert said.count("Shown in TensorBoard") == 1 and "WARNING: TensorBoard" not in said
    # That of the killed run may have got its turn last; it writes the same anew.
    wait_for_trackers(path)
    steps = steps_of(path)
    points = read_back(path).Scalars("train/loss")
    assert Counter(point.step for point in points) == Counter(range(points[0].step, points[-1].step + 1))
    assert len(points) == len(steps) and points[-1].value == pytest.approx(steps[-1].loss)


# W&B and trackio, by stand-ins


@pytest.mark.parametrize("target", ["wandb", "trackio"])
def test_a_service_is_told_once_and_gone_on_with(run: Path, services: StandIns, target: str) -> None:
    following.send(run, target)
    opened, *told, finished = services.notes()
    assert finished == {"finished": True}
    steps = [note["train/step"] for note in told if "train/loss" in note]
    assert steps == list(range(1, len(steps_of(run)) + 1))
    assert {note["round"] for note in told} == {0, 1, 2}
    assert sum(any("samples" in name for name in note) for note in told) == 3
    again = following.send(run, target)
    assert again.before == again.lines and len(services.notes()) == len(told) + 4
    assert json.loads((run / "tracking" / f"{target}.json").read_text())["id"] in str(opened)
    names = [note["opened"].get("id") or note["opened"]["name"] for note in services.notes() if "opened" in note]
    assert names[0] == names[1]
    with open(run / "events.jsonl", "a") as file:
        late = {"round": 3, "step": 1, "total": 1, "loss": 1.5, "learning_rate": 0.1, "tokens_per_second": 9.0}
        file.write(json.dumps({"time": 1.0, "event": "TrainStep", **late}) + "\n")
    following.send(run, target)
    assert [note["train/loss"] for note in services.notes()[len(told) + 4 :] if "train/loss" in note] == [1.5]


@pytest.mark.parametrize("mode", ["refuses", "dies", "hangs"])
def test_a_service_that_fails_is_one_warning_and_the_run_is_as_without(
    made: Path, tmp_path: Path, services: StandIns, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr(following, "CLOSE_SECONDS", 3.0)
    services.mode(mode)
    begun = time.monotonic()
    first = loop.Phase(1, "train")
    shown, said = tiny_run(tmp_path / "shown", **SMALL, log_to="wandb", until=first)
    of_first = {name: found for name, found in outcome(made).items() if name in outcome(shown.path)}
    assert outcome(shown.path) == of_first and "round-1/kept.jsonl" in of_first
    warnings = [event.text for event in said if isinstance(event, Note) and "Weights & Biases is" in event.text]
    assert len(warnings) == 1 and "minisheep log" in warnings[0] and time.monotonic() - begun < 100
    reason = {"refuses": "refuses ***", "dies": "the service is gone", "hangs": "within 3 s"}[mode]
    assert reason in warnings[0]
    for secret in ("nobody-may-see", "hunter2", "abc"):
        assert secret not in (shown.path / "events.jsonl").read_text()
    if mode != "hangs":
        return
    # What the service has is known, so the rest can be told afterwards.
    services.mode("")
    following.send(shown.path, "wandb")
    lines = [note["step"] for note in services.notes() if "step" in note]
    assert lines == sorted(set(lines)) and sum("train/loss" in note for note in services.notes()) == len(
        steps_of(shown.path)
    )


def test_a_missing_package_is_a_warning_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "installed", lambda target: False)
    said: list[Event] = []
    settings = config.make({"log_to": "trackio"})
    with following.following(tmp_path, settings, said.append) as emit:
        emit(Note("one"))
    (warning, one) = said
    assert isinstance(warning, Note) and warning.level == "warning" and one == Note("one")
    assert install_extra("trackio") in warning.text and "The run goes on" in warning.text
    with pytest.raises(UsageError):
        following.send(tmp_path, "trackio")


def test_two_processes_never_tell_the_same_service(
    run: Path, services: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    from minisheep.errors import RunLockedError

    monkeypatch.setattr(following, "LOCK_SECONDS", 0.1)
    (run / "tracking").mkdir()
    with following._only_one(run / "tracking" / "wandb.lock", "wandb"), pytest.raises(RunLockedError):
        following.send(run, "wandb")


def test_the_command_tells_a_finished_run(run: Path, services: StandIns) -> None:
    done = minisheep("log", str(run), "--log-to", "wandb,trackio", "--json", check=True)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [row["to"] for row in found] == ["wandb", "trackio"] and found[0]["events"] > 20
    wrong = minisheep("log", str(run), "--log-to", "mlflow")
    assert wrong.returncode == 2 and "tensorboard, wandb, trackio" in wrong.stderr and "Traceback" not in wrong.stderr


def test_a_run_of_the_first_version_can_be_told(tmp_path: Path, services: StandIns) -> None:
    old = Path(shutil.copytree(Path(__file__).parent / "data" / "run-0.1", tmp_path / "old"))
    following.send(old, "wandb")
    assert any("train/loss" in note for note in services.notes())
    assert any("measures/nll" in note for note in services.notes())


# What an event shows


def step(number: int, round: int = 1, loss: float = 1.0) -> TrainStep:
    return TrainStep(round, number, 9, loss, 0.1, 5.0, loss if number == 2 else None)


def filtered(kept: int) -> PhaseFinished:
    return PhaseFinished(1, "filter", 2.0, {"kept": kept})


def test_steps_done_again_are_shown_once_and_another_training_goes_on_behind() -> None:
    fold = ValueFold("auto")
    resumed = [filtered(3), *map(step, (1, 2, 3, 2, 3, 4))]
    again = [filtered(2), step(1), step(2), step(1, round=2)]
    shown = [(s.axis, s.at) for s in map(fold.shown, [*resumed, *again]) if s is not None]
    assert [at for axis, at in shown if axis == "train/step"] == [1, 2, 3, 4, 5, 6, 7]


def test_what_is_said_again_shows_nothing_again_and_what_changed_does() -> None:
    fold = ValueFold("auto")
    assert fold.shown(filtered(3)) and fold.shown(filtered(3)) is None and fold.shown(filtered(4))
    measured = RoundMeasured(1, {"round": 1, "model": {"held_out_nll": 2.0}})
    first = fold.shown(measured)
    assert first is not None and first.numbers["measures/nll"] == 2.0 and fold.shown(measured) is None


@pytest.mark.parametrize(
    "metrics",
    [
        {},
        {"model": {"held_out_nll": float("nan"), "verifiable_by_kind": {"a:b": {"own": 1, "n": 0}, "c": 3}}},
        {"data": {"scores": {"histogram": {"edges": [1], "counts": "x"}, "mean": None}, "dropped_by_rule": {"x": "y"}}},
        {"data": {"constraints": {"k:i": {"draws": 4, "passed": 1}}, "exam": 7}, "decision": {"measures": {"m": None}}},
    ],
)
def test_whatever_metrics_hold_only_finite_numbers_are_shown(metrics: dict[str, Any]) -> None:
    shown = ValueFold("auto").shown(RoundMeasured(1, {"round": 1, **metrics}))
    assert shown is not None and all(isinstance(v, float) and abs(v) < 1e9 for v in shown.numbers.values())
    assert not any(":" in name for name in shown.numbers)


# Settings and secrets


def test_targets_are_kept_in_one_spelling() -> None:
    assert (
        log_targets(" WandB,tensorboard,wandb") == "tensorboard,wandb" and log_targets("none") == log_targets("") == ""
    )
    for wrong in ("mlflow", "none,wandb"):
        with pytest.raises(ConfigError):
            config.make({"log_to": wrong})


def test_the_flag_may_be_repeated(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from minisheep.cli.options import given_settings
    from minisheep.cli.work import align

    taken = align.make_context("align", ["--log-to", "wandb", "--log-to", "tensorboard,trackio"]).params["log_to"]
    assert given_settings(None, None, {"log_to": taken})[0] == {"log_to": "wandb,tensorboard,trackio"}
    assert align.make_context("align", []).params["log_to"] is None


def test_no_secret_of_this_machine_is_told() -> None:
    hidden = secrets({"OPENAI_API_KEY": "abcd/efgh", "MINE": "tiny", "HOME": "/home/me", "PAGER_TOKEN": "x"}, ("MINE",))
    assert hidden == ("abcd/efgh", "tiny")
    text = (
        'key abcd/efgh, "abcd\\/efgh", sk-abcdefghijklmnop, hf_abcdefghijklmnop at https://u:p@h.example/v1?token=1#a'
    )
    assert tellable(text, hidden) == 'key ***, "***", ***, *** at https://h.example/v1'
    settings = config.make({
        "engine": "openai", "engine_url": "http://localhost:8000/v1?api_key=letmein", "engine_model": "m",
        "engine_key_env": "MINE", "engine_hook": "load --password letmein", "seeds": "/home/me/seeds.jsonl",
    })  # fmt: skip
    told = tellable_settings(settings.model_dump(mode="json"), hidden)
    assert told["engine_url"] == "http://localhost:8000/v1" and told["seeds"] == "seeds.jsonl" and told["rounds"] == 3
    assert "letmein" not in json.dumps(told) and "engine_hook" not in told and "/home/me" not in json.dumps(told)


def test_a_folder_from_elsewhere_sends_nothing_in_this_users_name(run: Path, services: StandIns) -> None:
    text = (run / "run.toml").read_text()
    (run / "run.toml").write_text(text.replace('log_to = ""', 'log_to = "wandb"').replace("rounds = 2", "rounds = 3"))
    with pytest.raises(UsageError, match="log_to"):
        api.align(run, inline=True)
    assert not services.notes()
    api.align(run, inline=True, log_to="wandb", until=api.load_run(run).next_phase)
    assert services.notes()


def test_torch_is_never_loaded_for_it() -> None:
    program = "import sys, minisheep.tracking.following; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
