"""The whole loop on SmolLM2-135M: real llama.cpp, real training, killed in the middle of the training.

Kills in the other phases are the slow tier's; on the fakes every phase is killed in `test_loop`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_runs import HELD

from minisheep import api
from minisheep.engines.base import GenerateRequest, LoglikRequest, Sampling
from minisheep.models.prepared import PreparedModel
from minisheep.rules.templates import Segment
from minisheep.run.folder import read_records
from minisheep.run.records import Draft

pytestmark = [pytest.mark.model, pytest.mark.timeout(7200)]

SMALL = {
    "per-round": 10, "eval-tasks": 8, "eval-answers": 4, "eval-max-tokens": 24, "generate-max-tokens": 160,
    "answer-max-tokens": 48, "epochs": 3, "checkpoint-seconds": 0.5, "slots": 8,
}  # fmt: skip


def run_with_kills(path: Path, phases: tuple[str, ...]) -> api.Run:
    """A run whose `phases` were cut by ``kill -9`` once they had made something."""
    from conftest import TEST_CACHE

    command = [sys.executable, "-m", "minisheep", "align", "--run", str(path), "--preset", "imitation", "--json"]
    command += [part for name, value in SMALL.items() for part in (f"--{name}", str(value))]
    environment = {**os.environ, "MINISHEEP_CACHE": str(TEST_CACHE)}
    environment.pop("HF_HUB_OFFLINE", None)
    cut = []
    for phase in phases:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            begun = event["event"] in ("Progress", "TrainStep") and event.get("phase", "train") == phase
            if begun and event.get("done", event.get("step", 0)) >= 2 and event["round"] == 1:
                cut.append(phase)
                break
            assert event["event"] != "Failed", line
        # The other phases acknowledge each record; a checkpoint of a training is waited for, however busy the machine.
        ends = time.monotonic() + HELD
        while phase == "train" and process.poll() is None and not [*path.glob("scratch/**/step-*")]:
            assert time.monotonic() < ends, "no checkpoint came"
            time.sleep(0.1)
        process.kill()
        process.wait()
        process.stdout.close()
    assert cut == list(phases)
    done = subprocess.run(command, capture_output=True, text=True, timeout=4 * HELD, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return api.load_run(path)


@pytest.fixture(scope="module")
def killed_run(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    """A run whose training was killed."""
    return run_with_kills(tmp_path_factory.mktemp("real") / "run", ("train",))


def test_a_run_killed_in_its_training_ends_whole(killed_run: api.Run) -> None:
    assert_whole(killed_run)


@pytest.mark.slow
def test_a_run_killed_in_every_phase_ends_whole(tmp_path: Path) -> None:
    assert_whole(run_with_kills(tmp_path / "run", ("generate", "respond", "judge", "train")))


def assert_whole(run: api.Run) -> None:
    assert run.next_phase is None
    for folder in run.rounds:
        drafts = read_records(folder.folder.drafts, Draft)
        assert len({draft.index for draft in drafts}) == len(drafts)
        instructions = [i.id for i in folder.instructions]
        assert len(set(instructions)) == len(instructions) == 10
        assert sorted(r.instruction_id for r in folder.responses) == sorted(instructions)
        assert len({v.response_id for v in folder.verdicts}) == len(folder.verdicts)
        dropped = [r for r in folder.rejected if r.stage == "filter"]
        assert len(folder.kept) + len(dropped) == len(instructions)
        assert folder.kept
        assert folder.adapter_gguf.stat().st_size > 1_000_000


def test_training_went_on_from_its_checkpoint(killed_run: api.Run) -> None:
    run = killed_run
    events = [json.loads(line) for line in (run.path / "events.jsonl").read_text().splitlines()]
    steps = [e["step"] for e in events if e["event"] == "TrainStep" and e["round"] == 1]
    total = max(steps)
    assert sorted(set(steps)) == list(range(1, total + 1))
    # Begun once and killed once: a training that had begun anew would have told every step from the first again.
    assert steps.count(1) == 1


def test_the_second_round_really_runs_with_the_first_rounds_adapter(killed_run: api.Run) -> None:
    from minisheep.engines.llamacpp import LlamaCppEngine

    run = killed_run
    model = PreparedModel.read(run.path / "model.json")
    prompt = model.template.prompt("Name three things that float on water.")
    request = LoglikRequest("x", prompt, (Segment("Wood, ice and corks float on water."),))
    greedy = GenerateRequest("x", prompt, Sampling(temperature=0, max_tokens=8))
    engine = LlamaCppEngine(model.inference_gguf, slots=2, context=512)
    try:
        base = next(iter(engine.loglik([request]))).logprobs
        engine.set_adapter(run.rounds[0].adapter_gguf)
        aligned = next(iter(engine.loglik([request]))).logprobs
        assert next(iter(engine.generate([greedy]))).tokens > 0
        engine.set_adapter(None)
        again = next(iter(engine.loglik([request]))).logprobs
    finally:
        engine.close()
    assert max(abs(a - b) for a, b in zip(base, aligned, strict=True)) > 1e-3
    assert max(abs(a - b) for a, b in zip(base, again, strict=True)) < 1e-5
    # And the worker of round 2 had it loaded: its log names no other base, its events one engine after training.
    drafts = read_records(run.rounds[1].folder.drafts, Draft)
    assert drafts and all(draft.round == 2 for draft in drafts)


def test_what_was_measured_follows_from_the_files(killed_run: api.Run) -> None:
    run = killed_run
    base, first, second = run.metrics
    for metrics in (first, second):
        by_task = metrics["model"]["nll_by_task"]
        differences = [by_task[task] - base["model"]["nll_by_task"][task] for task in by_task]
        assert abs(sum(differences) / len(differences) - metrics["model"]["nll_change"]["mean"]) < 1e-5
        assert metrics["data"]["kept"] == len(run.rounds[metrics["round"] - 1].kept)


def test_the_runs_own_judge_knows_its_own_answers(killed_run: api.Run) -> None:
    run = killed_run
    verdicts = [v for folder in run.rounds for v in folder.verdicts]
    assert {v.judge for v in verdicts} == {"pmi"}
    assert all(v.score is not None and abs(v.raw["given"] - v.raw["alone"] - v.score) < 1e-4 for v in verdicts)
    # Evidence that answers belong to their instructions is positive on the whole, or the measure is broken.
    assert sum(v.score for v in verdicts if v.score is not None) / len(verdicts) > 0


def test_adapter_gguf_is_of_this_base(killed_run: api.Run) -> None:
    from minisheep.formats.gguf_header import read_header

    run = killed_run
    header = read_header(Path(run.rounds[1].adapter_gguf))
    assert header.metadata["general.type"] == "adapter"
    assert header.architecture == "llama"
