"""The loop on the fake engine: what comes next, that a run ends whole, that interruptions leave no trace."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_runs import HELD, ONLY, TINY, case, chosen, ended, flags, minisheep, outcome, tiny_run

from minisheep import config, loop, opening
from minisheep.errors import RunMismatchError, StarvedError, Stopped, UsageError
from minisheep.host import InlineHost
from minisheep.run.events import EngineReady, Note, PhaseFinished
from minisheep.run.folder import Lock, RunFolder
from minisheep.workspace import Workspace


@given(st.integers(1, 5), st.integers(0, 40))
def test_the_next_phase_is_the_first_that_is_not_done(rounds: int, count: int) -> None:
    settings = config.make({"rounds": rounds, "patience": 0})
    keys = [phase.key for phase in loop.phases(settings)]
    after = loop.next_phase(settings, {key: {} for key in keys[:count]})
    assert (after.key if after else None) == (keys[count] if count < len(keys) else None)


def test_a_run_ends_with_all_its_files(tmp_path: Path) -> None:
    run, said = tiny_run(tmp_path / "run")
    assert run.next_phase is None
    for number in (1, 2):
        folder = run.rounds[number - 1]
        assert len(folder.instructions) == TINY["per_round"]
        assert len(folder.responses) == TINY["per_round"]
        assert folder.kept
        assert folder.adapter_gguf.exists()
        assert (folder.adapter / "adapter_config.json").exists()
        assert folder.metrics["data"]["kept"] == len(folder.kept)
    assert any(isinstance(event, EngineReady) and event.backend == "fake" for event in said)
    assert any(isinstance(event, Note) and event.level == "warning" and "fake" in event.text for event in said)


def test_kept_and_dropped_add_up_to_what_was_made(tmp_path: Path) -> None:
    run, _ = tiny_run(tmp_path / "run")
    for folder in run.rounds:
        dropped = [r for r in folder.rejected if r.stage == "filter"]
        assert len(folder.kept) + len(dropped) == len(folder.responses)
        assert all(r.rule for r in folder.rejected)


def test_every_example_leads_back_to_its_parents(tmp_path: Path) -> None:
    run, _ = tiny_run(tmp_path / "run")
    folder = run.rounds[1]
    known = {r.id for records in (folder.instructions, folder.responses, folder.verdicts) for r in records}
    for example in folder.kept:
        assert set(example.parents) <= known
        assert example.messages[1] == {"role": "assistant", "content": example.output}


def test_the_whole_loop_on_fakes_is_quick(tmp_path: Path) -> None:
    tiny_run(tmp_path / "warm-up")
    begun = time.process_time()
    tiny_run(tmp_path / "run")
    assert time.process_time() - begun < 1.0


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    tiny_run(tmp_path / "run")
    before = outcome(tmp_path / "run")
    _, said = tiny_run(tmp_path / "run")
    assert not any(isinstance(event, PhaseFinished) for event in said)
    assert outcome(tmp_path / "run") == before


def test_more_rounds_continue_a_finished_run(tmp_path: Path) -> None:
    tiny_run(tmp_path / "run")
    run, _ = tiny_run(tmp_path / "run", rounds=3)
    assert run.rounds[2].kept
    tiny_run(tmp_path / "three", rounds=3)
    assert outcome(tmp_path / "run") == outcome(tmp_path / "three")


def test_no_instruction_is_written_twice_in_a_run(tmp_path: Path) -> None:
    run, _ = tiny_run(tmp_path / "run", rounds=3)
    texts = [i.instruction.lower() + i.input for folder in run.rounds for i in folder.instructions]
    assert len(set(texts)) == len(texts)


def test_held_out_tasks_are_never_shown(tmp_path: Path) -> None:
    from minisheep.data.seed_tasks import load_seeds
    from minisheep.run.folder import read_records
    from minisheep.run.records import Draft

    run, _ = tiny_run(tmp_path / "run")
    held_out = {seed.id for seed in load_seeds() if seed.held_out}
    for folder in run.rounds:
        assert not held_out & {seed for draft in read_records(folder.folder.drafts, Draft) for seed in draft.seeds}


class StopAfter:
    """Says stop after so many questions."""

    def __init__(self, count: int) -> None:
        self.left = count

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_stopping_anywhere_and_going_on_changes_nothing(tmp_path: Path) -> None:
    tiny_run(tmp_path / "undisturbed")
    path = tmp_path / "run"
    stops = 0
    for count in range(3, 200):
        try:
            with opening.open_run(
                path, None if stops else "imitation", {} if stops else TINY, lambda event: None
            ) as opened:
                folder, settings, _, log = opened
                loop.run(folder, settings, InlineHost(StopAfter(count)), log)
            break
        except Stopped as stopped:
            assert stopped.exit_code == 130
            stops += 1
    assert stops > 10
    assert outcome(path) == outcome(tmp_path / "undisturbed")


def test_an_impossible_threshold_says_what_the_scores_were_and_can_be_changed(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with pytest.raises(StarvedError) as starved:
        tiny_run(path, keep="threshold:2.9")
    assert "median" in starved.value.message
    assert "--keep" in starved.value.fix
    run, said = tiny_run(path, keep="top:0.6")
    assert run.next_phase is None
    assert any(isinstance(event, Note) and "threshold:2.9 -> top:0.6" in event.text for event in said)
    tiny_run(tmp_path / "straight")
    assert outcome(path) == outcome(tmp_path / "straight")


def test_settings_that_would_contradict_finished_work_are_named(tmp_path: Path) -> None:
    tiny_run(tmp_path / "run")
    with pytest.raises(RunMismatchError) as refused:
        tiny_run(tmp_path / "run", learning_rate=0.01, seed=7, slots=3)
    assert "--learning-rate" in refused.value.message
    assert "--seed" in refused.value.message
    assert "--slots" not in refused.value.message


def test_the_filter_can_be_done_again_until_training(tmp_path: Path) -> None:
    path = tmp_path / "run"
    run, _ = tiny_run(path, until=loop.Phase(1, "filter"))
    half = len(run.rounds[0].kept)
    run, _ = tiny_run(path, until=loop.Phase(1, "filter"), keep="top:0.25")
    assert len(run.rounds[0].kept) < half
    dropped = [r for r in run.rounds[0].rejected if r.stage == "filter"]
    assert len(run.rounds[0].kept) + len(dropped) == len(run.rounds[0].responses)


def test_asking_again_for_a_phase_that_is_done_does_nothing_more(tmp_path: Path) -> None:
    path = tmp_path / "run"
    tiny_run(path, until=loop.Phase(1, "filter"))
    run, said = tiny_run(path, until=loop.Phase(1, "filter"))
    assert run.next_phase == loop.Phase(1, "train")
    assert not any(isinstance(event, PhaseFinished) for event in said)


def test_a_second_process_is_told_who_holds_the_run(tmp_path: Path) -> None:
    path = tmp_path / "run"
    RunFolder(path).create()
    lock = Lock(path)
    try:
        done = minisheep("align", "--run", str(path), "--preset", "imitation", *flags())
    finally:
        lock.release()
    assert done.returncode == 75
    assert f"process {os.getpid()}" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("phase", ["exam", "generate", "respond", "judge", "filter", "train", "evaluate"])
def test_a_worker_that_aborts_ends_as_one_line_and_the_run_goes_on(phase: str, tmp_path: Path) -> None:
    path = tmp_path / "run"
    more = {"judge": "auto", "exam_tasks": 12, "exam_auc": 0.5, "exam_kind": 0} if phase == "exam" else {}
    command = ("align", "--run", str(path), "--preset", "imitation", "--plain", *flags(rounds=1, **more))
    count = "1" if phase == "filter" else "2"
    died = minisheep(*command, fault=f"abort:{phase}:{count}")
    assert died.returncode == 3
    assert "SIGABRT" in died.stderr and phase in died.stderr
    assert len(died.stderr.strip().splitlines()) == 1
    assert minisheep(*command).returncode == 0
    tiny_run(tmp_path / "undisturbed", rounds=1, **more)
    assert outcome(path) == outcome(tmp_path / "undisturbed")


def test_a_full_disk_in_a_worker_ends_with_its_own_code(tmp_path: Path) -> None:
    command = ("align", "--run", str(tmp_path / "run"), "--preset", "imitation", "--json", *flags(rounds=1))
    full = minisheep(*command, fault="full:respond:3")
    assert full.returncode == 74
    assert full.stderr == ""
    assert minisheep(*command).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_interrupt_stops_cleanly_and_says_how_to_go_on(number: signal.Signals, tmp_path: Path) -> None:
    path = tmp_path / "run"
    command = [sys.executable, "-m", "minisheep", "align", "--run", str(path), "--preset", "imitation", "--plain"]
    process = subprocess.Popen(
        [*command, *flags(per_round=3000, rounds=1)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "round 1, generate" in line:
            break
    time.sleep(0.2)
    process.send_signal(number)
    out, err = process.communicate(timeout=HELD)
    assert process.returncode == 128 + number
    assert "Stopping" in out
    assert "same command" in err
    assert "Traceback" not in err


def test_a_run_that_was_killed_in_its_first_write_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir()
    (path / ".run.toml.4711.tmp").write_bytes(b"model = ")
    tiny_run(path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".notes.4711.tmp").touch()
    with pytest.raises(UsageError, match="other"):
        tiny_run(tmp_path / "other")


APPENDED = ("drafts.jsonl", "instructions.jsonl", "responses.jsonl", "verdicts.jsonl")
KINDS = ("kill", "kill-parent", "kill-both")


def acknowledged(run: Path) -> dict[Path, bytes]:
    """The whole lines of the files that only grow."""
    found = {path: path.read_bytes() for path in run.glob("round-*/*.jsonl") if path.name in APPENDED}
    return {path: data[: data.rfind(b"\n") + 1] for path, data in found.items()}


def test_a_case_that_fails_is_told_with_all_that_is_known_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ONLY, raising=False)
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "worker.log").write_text("last words")
    with pytest.raises(AssertionError) as failed, case(17, "a kill", tmp_path) as told:
        told.append("stderr: boom")
        raise TimeoutError("no end")
    text = str(failed.value)
    assert all(part in text for part in ("Case 17: a kill", f"{ONLY}=17", "stderr: boom", "last words", "no end"))
    assert [*chosen(3)] == [0, 1, 2]
    for named, numbers in (("17", [17]), ("4-6", [4, 5, 6])):
        monkeypatch.setenv(ONLY, named)
        assert [*chosen(3)] == numbers


PHASES = ("exam", "generate", "respond", "judge", "filter", "train", "evaluate")


@pytest.mark.timeout(0)  # each command has a limit of its own
@pytest.mark.parametrize("wanted", [15, pytest.param(300, marks=pytest.mark.slow)])
def test_kills_leave_no_trace(tmp_path: Path, wanted: int, capsys: pytest.CaptureFixture[str]) -> None:
    """``kill -9`` of the worker, of the parent or of both after a record of each phase in turn. Nothing that was
    acknowledged is lost, and the same command ends with an undisturbed run's records.

    A case is one run, killed in each of its phases; what happens to it follows from its number alone.
    """
    more = {"judge": "auto", "exam_tasks": 12, "exam_auc": 0.5, "exam_kind": 0}
    tiny_run(tmp_path / "undisturbed", **more)
    right = outcome(tmp_path / "undisturbed")
    planned = [phase.name for phase in loop.phases(config.make({**TINY, **more}, "imitation"))]
    fell: Counter[tuple[str, str]] = Counter()
    for number in chosen(-(-wanted // len(planned))):
        path, chance = tmp_path / f"run-{number}", random.Random(f"kills {number}")
        command = ("align", "--run", str(path), "--preset", "imitation", "--plain", *flags(**more))
        kills = planned[: wanted - number * len(planned)]
        with case(number, f"after {fell.total()} kills that were survived", path) as told:
            killed_again_and_again(path, command, kills, chance, told, fell)
            assert outcome(path) == right
            assert not list(path.rglob(".*.tmp")), "a killed process left a file"
        shutil.rmtree(path)
    with capsys.disabled():
        where = ", ".join(f"{name} {kind} {n}" for (name, kind), n in sorted(fell.items()))
        sys.stdout.write(f"\n{fell.total()} kills: {where}\n")
    if ONLY not in os.environ:
        assert fell.total() == wanted and {kind for _, kind in fell} == set(KINDS)
        assert {name for name, _ in fell} == set(PHASES)


def killed_again_and_again(
    path: Path,
    command: tuple[str, ...],
    phases: list[str],
    chance: random.Random,
    told: list[str],
    fell: Counter[tuple[str, str]],
) -> None:
    """Does a run, with one kill in each of these phases; `told` gets how the last command ended."""
    safe: dict[Path, bytes] = {}
    kinds = chance.sample(KINDS, 3)
    for place, phase in enumerate(phases):
        kind = kinds[place % 3]
        count = 1 if phase in ("filter", "train") else chance.choice((1, 2))
        died = minisheep(*command, fault=f"{kind}:{phase}:{count}")
        told[:] = [f"{kind} at record {count} of phase {place}, {phase}", ended(died)]
        assert died.returncode == (3 if kind == "kill" else -signal.SIGKILL)
        assert "Traceback" not in died.stderr and "damaged" not in died.stderr
        fell[phase, kind] += 1
        safe = nothing_lost(path, safe)
    done = minisheep(*command)
    told[:] = ["the last command, without a kill", ended(done)]
    assert done.returncode == 0
    nothing_lost(path, safe)


def nothing_lost(path: Path, safe: dict[Path, bytes]) -> dict[Path, bytes]:
    now = acknowledged(path)
    for file, data in safe.items():
        assert now[file].startswith(data), f"{file} had {len(data)} bytes and has lost some"
    return now


def test_answer_shots_says_where_it_does_nothing_and_what_it_lacks(tmp_path: Path) -> None:
    _, said = tiny_run(tmp_path / "run", answer_shots=2)
    told = any(isinstance(event, Note) and "--answer-shots" in event.text for event in said)
    assert told and Workspace(tmp_path / "run").frame(1).template is not None
    with pytest.raises(UsageError, match="--answer-shots 2"):
        opening.check(opening.resolve({"answer_shots": 2, "seeds": long_seeds(tmp_path), **TINY}))


def test_a_base_model_whose_answers_do_not_end_is_told_of_at_once(tmp_path: Path) -> None:
    def warned(name: str, **settings: str | int) -> bool:
        _, said = tiny_run(tmp_path / name, until=loop.Phase(1, "respond"), answer_max_tokens=3, **settings)
        return any(isinstance(event, Note) and "ran into the limit of 3 tokens" in event.text for event in said)

    assert warned("base", kind="base")
    assert not warned("shown", kind="base", answer_shots=2)
    assert not warned("instruct", kind="instruct")


def long_seeds(folder: Path) -> str:
    path = folder / "seeds.jsonl"
    rows = [{"id": str(n), "instruction": f"Task {n}.", "input": "", "output": f"{n} " * 400} for n in range(40)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)
