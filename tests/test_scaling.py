"""What must not grow with a run: counts of work for each record, never seconds."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import tiny_run

from minisheep import loop, workspace
from minisheep import phases as phases_module
from minisheep.engines.fake_text import _task
from minisheep.rules.similarity import NoveltyIndex
from minisheep.run import folder as folder_module
from minisheep.run.folder import each_record, read_records
from minisheep.run.records import Draft, Instruction, Rejection
from minisheep.stages.generate import Harvest
from minisheep.workspace import Workspace

GENERATE, FILTER = loop.Phase(1, "generate"), loop.Phase(1, "filter")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file of records was read."""
    count: Counter[str] = Counter()

    def counted(path: Path, kind: Any, *own: Any) -> Iterator[Any]:
        count[path.name] += path.exists()
        return each_record(path, kind, *own)

    for module in (folder_module, phases_module, workspace):
        monkeypatch.setattr(module, "each_record", counted)
    return count


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts whose nearest was looked for."""
    asked: list[str] = []
    nearest = NoveltyIndex.nearest

    def counted(self: NoveltyIndex, text: str) -> tuple[float, int]:
        asked.append(text)
        return nearest(self, text)

    monkeypatch.setattr(NoveltyIndex, "nearest", counted)
    return asked


def forget(run: Path, *phases: str) -> None:
    """As if the run had been killed before the manifest was told of these phases of round 1."""
    manifest = json.loads((run / "manifest.json").read_text())
    for phase in phases:
        del manifest["phases"][f"round-1/{phase}"]
    (run / "manifest.json").write_text(json.dumps(manifest))


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def test_a_phase_that_goes_on_reads_each_file_once(tmp_path: Path, reads: Counter[str]) -> None:
    tiny_run(tmp_path / "run", until=GENERATE)
    forget(tmp_path / "run", "generate")
    reads.clear()
    tiny_run(tmp_path / "run", until=GENERATE)
    assert reads == {"drafts.jsonl": 1, "instructions.jsonl": 1, "rejected.jsonl": 1}


def test_the_number_of_reads_does_not_grow_with_the_round(tmp_path: Path, reads: Counter[str]) -> None:
    counts = []
    for size in (10, 60):
        reads.clear()
        tiny_run(tmp_path / str(size), until=FILTER, per_round=size)
        counts.append(dict(reads))
    assert counts[0] == counts[1]


def test_going_on_compares_only_the_last_draft_again(tmp_path: Path, compared: list[str]) -> None:
    tiny_run(tmp_path / "run", until=GENERATE, per_round=60)
    before = lines(tmp_path / "run/round-1/instructions.jsonl")
    made = len(compared)
    forget(tmp_path / "run", "generate")
    compared.clear()
    tiny_run(tmp_path / "run", until=GENERATE)
    assert made >= 60 and len(compared) <= 7
    assert lines(tmp_path / "run/round-1/instructions.jsonl") == before


@pytest.mark.parametrize("cut", [0, 1, 2, 17, 40])
def test_any_number_of_lost_instructions_is_made_again_the_same(tmp_path: Path, cut: int) -> None:
    run = tmp_path / "run"
    tiny_run(run, until=GENERATE, per_round=40)
    folder = run / "round-1"
    kept, rejected, drafts = (lines(folder / f"{name}.jsonl") for name in ("instructions", "rejected", "drafts"))
    forget(run, "generate")
    # What a kill leaves: nothing of the drafts after the one that was being read, and part of that one.
    left = kept[:cut]
    number = next(
        (
            d.index
            for d in read_records(folder / "drafts.jsonl", Draft)
            if left and d.id == json.loads(left[-1])["draft"]
        ),
        0,
    )
    known = {json.loads(line)["id"] for line in drafts[:number]}
    (folder / "instructions.jsonl").write_bytes(b"".join(left))
    (folder / "rejected.jsonl").write_bytes(b"".join(r for r in rejected if json.loads(r)["parent"] in known))
    tiny_run(run, until=GENERATE)
    assert [lines(folder / f"{name}.jsonl") for name in ("instructions", "rejected")] == [kept, rejected]


def test_drafts_that_were_read_are_not_kept_in_memory(tmp_path: Path) -> None:
    tiny_run(tmp_path / "run", until=GENERATE, per_round=40)
    folder = tmp_path / "run/round-1"
    drafts = {draft.index: draft for draft in each_record(folder / "drafts.jsonl", Draft)}
    harvest = Harvest(Workspace(tmp_path / "run").settings, NoveltyIndex())
    again = workspace.replay(
        harvest,
        drafts,
        read_records(folder / "instructions.jsonl", Instruction),
        read_records(folder / "rejected.jsonl", Rejection),
    )
    assert len(drafts) == 1 and again
    assert len(harvest.novelty) == len(harvest.kept) > 30


def test_batches_ask_for_everything_once_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "BATCH", 4)
    asked: list[list[int]] = []

    def ask(some: list[int]) -> Iterator[int]:
        asked.append(some)
        return iter(some)

    assert list(workspace.in_batches(ask, list(range(10)))) == list(range(10))
    assert [len(some) for some in asked] == [4, 4, 2]


def test_small_batches_make_the_same_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_run(tmp_path / "whole", until=FILTER, per_round=30)
    for module in (phases_module, workspace):
        monkeypatch.setattr(module, "BATCH", 7)
    tiny_run(tmp_path / "parts", until=FILTER, per_round=30)
    for name in ("instructions", "responses", "verdicts", "kept"):
        assert lines(tmp_path / f"whole/round-1/{name}.jsonl") == lines(tmp_path / f"parts/round-1/{name}.jsonl")


def test_the_fake_engine_does_not_run_out_of_new_tasks() -> None:
    """So that a run of any size measures the loop and not a list of words that is exhausted."""
    draw = random.Random(4)
    index = NoveltyIndex(" ".join(_task(draw)) for _ in range(10_000))
    similar = sum(index.too_similar(" ".join(_task(draw)), 0.7)[0] for _ in range(200))
    assert similar < 30
