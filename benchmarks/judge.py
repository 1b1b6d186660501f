"""Judging by the distribution over grades, against two sampled ``grade || explanation`` replies a pair."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import material
from benchmarks.bench_setup import BenchSetup
from benchmarks.measure import Comparison, Target
from benchmarks.peers_llama import PEER_NAME, OneAtATime
from benchmarks.turns import alternate, compare_rates
from minisheep.engines.base import Engine
from minisheep.engines.llamacpp import LlamaCppEngine
from minisheep.plan.calibration import Turn, timed
from minisheep.stages import judge as stage
from minisheep.stages.judge import Judge, JudgedText, Pair


def measure(setup: BenchSetup) -> Iterator[Comparison]:
    """Pairs a second, both criteria each."""
    sizes = setup.job.sizes
    gguf, context = setup.model.inference_gguf, sizes["context"]
    pairs = material.judge_pairs(setup.seeds, sizes["pairs"])
    engine = LlamaCppEngine(gguf, slots=setup.job.slots, context=context, threads=setup.threads)
    try:
        peer = OneAtATime(gguf, context=context, threads=setup.threads)
        try:
            ours, theirs = Judge("logits"), Judge("sample")
            for warm, judge in ((engine, ours), (peer, theirs)):
                _judge(setup, warm, judge, pairs[:1])
            turns = alternate(
                lambda turn: _judge(setup, engine, ours, pairs),
                lambda turn: _judge(setup, peer, theirs, pairs),
                setup.job.repeats,
            )
        finally:
            peer.close()
    finally:
        engine.close()
    yield compare_rates(
        "judge", turns, peer_name=f"{PEER_NAME}: two sampled replies 'grade || explanation' a pair",
        unit="pairs/s", sizes=f"{len(pairs)} pairs, both criteria, {engine.info.slots} slots, {setup.model.format}",
        target=Target(6.0),
        note=f"the peer's replies: temperature 1, top_p 0.95, at most {stage.SAMPLE_TOKENS} tokens, ended by a newline",
    )  # fmt: skip


def _judge(setup: BenchSetup, engine: Engine, judge: Judge, pairs: list[Pair]) -> Turn:
    def work() -> float:
        verdicts = list(
            stage.judge_pairs(engine, judge, setup.frame, setup.texts, [JudgedText.of(pair) for pair in pairs])
        )
        return float(len(verdicts))

    return timed(work)
