"""The data phase of a round (generate, respond, judge, filter) by the loop's own phases, over two engines."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.bench_setup import BenchSetup
from benchmarks.measure import Comparison, Target
from benchmarks.peers_llama import PEER_NAME, OneAtATime
from benchmarks.turns import alternate, compare_rates
from minisheep import opening, phases
from minisheep.config import Settings
from minisheep.engines.base import Engine, EngineInfo
from minisheep.engines.llamacpp import LlamaCppEngine
from minisheep.errors import StarvedError
from minisheep.plan.calibration import Turn, timed
from minisheep.run.folder import RunFolder, read_records
from minisheep.run.records import Example
from minisheep.workspace import Workspace

PHASES = ("generate", "respond", "judge", "filter")


class Lent(Workspace):
    """A run folder whose phases use an engine that outlives it."""

    def __init__(self, path: Path, engine: Engine) -> None:
        super().__init__(path)
        self._lent = engine

    def engine(self, adapter_round: int, ready: Callable[[EngineInfo], None]) -> Engine:
        return self._lent


def measure(setup: BenchSetup) -> Iterator[Comparison]:
    """Kept pairs a second: both sides use the same phases, prompts, rules and share kept. The peer asks for one
    completion at a time and judges by two sampled replies; minisheep batches and reads the distribution of grades."""
    sizes = setup.job.sizes
    gguf, context = setup.model.inference_gguf, sizes["context"]
    common = {"per_round": sizes["per_round"], "context": context}
    ours, theirs = setup.settings(judge="logits", **common), setup.settings(judge="sample", **common)
    engine = LlamaCppEngine(gguf, slots=setup.job.slots, context=context, threads=setup.threads)
    try:
        peer = OneAtATime(gguf, context=context, threads=setup.threads)
        try:
            turns = alternate(
                lambda turn: _do(setup, engine, ours, turn),
                lambda turn: _do(setup, peer, theirs, turn),
                setup.job.repeats,
            )
        finally:
            peer.close()
    finally:
        engine.close()
    kept = [[f"{turn.amount:g}" for turn in side] for side in (turns.ours, turns.peer)]
    yield compare_rates(
        "data phase", turns, peer_name=f"{PEER_NAME}: write, answer, two sampled judgements a pair",
        unit="kept pairs/s",
        sizes=f"{sizes['per_round']} instructions, answers of at most {ours.answer_max_tokens} tokens, keep"
        f" {ours.keep}, {engine.info.slots} slots, {setup.model.format}",
        target=Target(5.0), note=f"kept {', '.join(kept[0])} (minisheep) and {', '.join(kept[1])} (peer)",
    )  # fmt: skip


def _do(setup: BenchSetup, engine: Engine, settings: Settings, turn: int) -> Turn:
    """One data phase in its own run folder. The seed depends on the turn and is the same for both sides."""
    settings = settings.model_copy(update={"seed": turn + 1})
    with tempfile.TemporaryDirectory(dir=setup.folder) as name:
        folder = RunFolder(Path(name) / "run")
        folder.create()
        opening.write_settings(folder, settings)
        setup.model.prepared.write(folder.model)
        work = Lent(folder.path, engine)

        def run() -> float:
            for phase in PHASES:
                try:
                    phases.do(work, 1, phase, lambda event: None, lambda: False)
                except StarvedError:
                    # The judge gave no readable grade at all: keeping nothing is a result too.
                    return 0.0
            return float(len(read_records(folder.round(1).kept, Example)))

        return timed(run)
