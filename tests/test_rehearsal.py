"""What takes hours is tried in small first: on a pretended GPU with stand-ins for workers, and once on a real model."""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
import real_models
import tomli_w
from worker_stand_ins import pretend

from minisheep import config, host, loop, rehearsal
from minisheep.errors import TrainerFailedError, WorkerError
from minisheep.host import WorkerHost
from minisheep.machine.gpu import Gpu
from minisheep.machine.worker import WorkerProcess
from minisheep.prepare import fake_model
from minisheep.run.events import Event, Note
from minisheep.run.folder import RunFolder
from minisheep.trainers import choose_trainer
from minisheep.workspace import Workspace

GPU = Gpu("NVIDIA GeForce RTX 3060", (8, 6), 12 * 2**30, 11 * 2**30)
FACTS = "{'slots': 13, 'context': 2048, 'trainer': 'peft', 'tokens': 1024, 'planned_bytes': 2**33}"
WORKS = f"facts.update({FACTS})"


def made(path: Path, **settings: Any) -> RunFolder:
    """A run on llama.cpp that was prepared; nothing else is there of it."""
    folder = RunFolder(path)
    folder.create()
    folder.settings.write_text(tomli_w.dumps(config.make(settings).model_dump()))
    fake_model().write(folder.model)
    return folder


def prepared(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, source: str, gpu: Gpu | None = GPU
) -> tuple[list[Note], WorkerHost]:
    """What a host says while it prepares the run with workers that run `source`."""
    script = pretend(monkeypatch, source)
    monkeypatch.setattr(WorkerHost, "_start", lambda self, folder: WorkerProcess(script))
    said: list[Event] = []
    with tempfile.TemporaryFile() as lock:
        working = WorkerHost(lock.fileno(), gpu=lambda: gpu)
        try:
            working.run(folder, loop.PREPARE, said.append)
        finally:
            working.close()
    return [event for event in said if isinstance(event, Note)], working


def stored(folder: RunFolder) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder.path / rehearsal.FILE).read_bytes())
    return found


def test_the_parts_are_the_host_s() -> None:
    assert (rehearsal.WRITING, rehearsal.TRAINING) == host.REHEARSALS
    assert rehearsal.TRAINING in host.ALONE and rehearsal.WRITING not in host.ALONE


def test_a_gpu_is_rehearsed_once_and_again_after_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made(tmp_path / "run")
    (told,), _ = prepared(folder, monkeypatch, WORKS)
    assert told.text.startswith("Rehearsed: writing with 13 slots of 2048 tokens") and told.level == "info"
    kept = stored(folder)
    assert kept["writing"]["slots"] == 13 and kept["training"]["trainer"] == "peft" and kept["slot_share"] == 1.0
    assert kept["key"]["gpu"]["name"] == GPU.name and "peft" in kept["key"]["versions"]
    assert prepared(folder, monkeypatch, WORKS)[0] == []
    assert len(prepared(folder, monkeypatch, WORKS, dataclasses.replace(GPU, name="another"))[0]) == 1
    folder.settings.write_text(tomli_w.dumps(config.make({"slots": 4}).model_dump()))
    assert len(prepared(folder, monkeypatch, WORKS)[0]) == 1


@pytest.mark.parametrize(
    ("gpu", "settings"),
    [(None, {}), (GPU, {"rehearsal": False}), (GPU, {"engine": "fake", "trainer": "fake"})],
)
def test_without_a_gpu_or_a_wish_nothing_is_rehearsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: Gpu | None, settings: dict[str, Any]
) -> None:
    folder = made(tmp_path / "run", **settings)
    assert prepared(folder, monkeypatch, WORKS, gpu)[0] == []
    assert not (folder.path / rehearsal.FILE).exists()


def test_an_abort_while_writing_leaves_fewer_slots_to_the_run_and_to_its_continuation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(tmp_path / "run")
    source = f"if job['phase'] == 'rehearse writing' and job.get('slot_share', 1.0) > 0.6: os.abort()\n{WORKS}"
    said, working = prepared(folder, monkeypatch, source)
    assert ["SIGABRT" in note.text for note in said] == [True, True, False] and working._share == 0.5625
    assert stored(folder)["slot_share"] == 0.5625
    assert prepared(folder, monkeypatch, WORKS)[1]._share == 0.5625


def test_each_peak_is_measured_from_a_gpu_that_no_worker_of_the_run_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bool] = []
    closed = WorkerHost.close

    class Looking(host.Peak):
        def __enter__(self) -> Looking:
            held.append(alive[-1])
            super().__enter__()
            return self

    alive: list[bool] = []
    monkeypatch.setattr(WorkerHost, "close", lambda self: (closed(self), alive.append(bool(self._workers())))[0])
    monkeypatch.setattr(WorkerHost, "_run_inference", kept_in_mind(alive, WorkerHost._run_inference))
    monkeypatch.setattr(host, "Peak", Looking)
    prepared(made(tmp_path / "run"), monkeypatch, WORKS)
    assert held == [False, False]


def kept_in_mind(alive: list[bool], run: Any) -> Any:
    """`run`, after which a worker is alive."""
    return lambda self, *given: (run(self, *given), alive.append(True))[0]


UNSLOTH_FAILS = f"""
from pathlib import Path
from minisheep.models.prepared import PreparedModel
import dataclasses
import math
stored = Path(job['run']) / 'model.json'
model = PreparedModel.read(stored)
if job['phase'] in ('rehearse training', 'train') and model.trainer != 'peft':
    dataclasses.replace(model, trainer='peft', trainer_failed='it failed').write(stored)
    raise TrainerFailedError('Unsloth failed.')
{WORKS}
"""


def test_a_trainer_that_fails_is_replaced_in_a_new_process_and_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(tmp_path / "run")
    said, _ = prepared(folder, monkeypatch, UNSLOTH_FAILS)
    assert [(note.text.split(":")[0], note.level) for note in said] == [
        ("Unsloth failed.", "warning"), ("Rehearsed", "info"),
    ]  # fmt: skip


def test_a_part_that_fails_otherwise_ends_the_run_before_anything_is_generated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(tmp_path / "run")
    with pytest.raises(WorkerError):
        prepared(folder, monkeypatch, "if job['phase'] == 'rehearse training': os.kill(os.getpid(), signal.SIGKILL)")
    assert not (folder.path / rehearsal.FILE).exists()
    with pytest.raises(TrainerFailedError):  # the user chose Unsloth, so nothing takes its place
        prepared(folder, monkeypatch, "if job['phase'] == 'rehearse training': raise TrainerFailedError('no.')")


def test_a_peak_far_beyond_the_plan_is_a_warning() -> None:
    facts = {"slots": 13, "context": 2048, "trainer": "unsloth", "tokens": 1024, "planned_bytes": 8 * 2**30}
    fine, much = rehearsal.PartResult(facts, 8 * 2**30), rehearsal.PartResult(facts, 10 * 2**30)
    assert rehearsal.verdict(fine, fine).level == "info"
    told = rehearsal.verdict(fine, much)
    assert told.level == "warning" and "took 10.0 GiB, 8.0 were planned" in told.text
    assert "works" in rehearsal.verdict(rehearsal.PartResult(facts, None), fine).text
    assert "--kv-type q8_0" in rehearsal.verdict(fine, fine, kv_type="auto").text
    assert "--kv-type" not in rehearsal.verdict(fine, fine, kv_type="f16").text


def test_a_trainer_that_was_given_up_stays_so_until_a_version_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose_trainer.system, "versions", lambda names: {"unsloth": "1", "torch": "2"})
    failed = f"Unsloth failed before its first finished step: no Python.h ({choose_trainer.failed_with()})"
    chosen = choose_trainer.TrainerChoice("unsloth", "Training goes through Unsloth.")
    found = choose_trainer.after_failure(chosen, failed)
    assert found.trainer == "peft" and found.warning and "no Python.h" in found.message
    assert choose_trainer.after_failure(chosen, "") == chosen
    assert choose_trainer.after_failure(choose_trainer.TrainerChoice("unsloth", ""), failed).trainer == "unsloth"
    monkeypatch.setattr(choose_trainer.system, "versions", lambda names: {"unsloth": "2", "torch": "2"})
    assert choose_trainer.after_failure(chosen, failed) == chosen


@pytest.mark.model
@pytest.mark.parametrize("learning", [{}, {"loss": "dpo", "constraints": 0.5, "answers": 2}], ids=["sft", "dpo"])
def test_both_parts_on_a_real_model_and_a_processor(tmp_path: Path, learning: dict[str, Any]) -> None:
    from minisheep.formats.gguf_to_hf import dequantise
    from minisheep.rules.templates import plain

    gguf, weights = real_models.smollm2(), tmp_path / "weights"
    dequantise(gguf, weights, lambda event: None)
    short = [f"{name}_max_tokens" for name in ("generate", "answer", "eval", "eval_verifiable")]
    folder = made(tmp_path / "run", slots=3, context=256, max_length=48, micro_batch_size=2, load_in="fp32",
                  **dict.fromkeys(short, 64), **learning)  # fmt: skip
    model = dataclasses.replace(
        fake_model(), gguf=gguf, inference_gguf=gguf, weights=weights, architecture="llama", trainer="peft",
        template=plain("<|im_end|>"),
    )  # fmt: skip
    model.write(folder.model)
    said: list[Event] = []
    writing = rehearsal.do(Workspace(folder.path), rehearsal.WRITING, said.append, lambda: False)
    assert writing["slots"] == 3 and 0 < writing["tokens"] <= 3 * rehearsal.NEW_TOKENS
    training = rehearsal.do(Workspace(folder.path), rehearsal.TRAINING, said.append, lambda: False)
    assert training["trainer"] == "peft" and training["micro_batch_size"] == 2 and training["loss"] > 0
    if learning:
        # Two answers that are the same: neither is preferred.
        assert training["loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert min(writing["planned_bytes"], training["planned_bytes"]) > 2**28
    assert [path.name for path in folder.scratch.iterdir()] == []
