"""Novelty of new instructions among many, against `rouge_score`; the decisions must be the same."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import material
from benchmarks.bench_setup import BenchSetup
from benchmarks.measure import Comparison, Target
from benchmarks.turns import alternate, compare_rates
from minisheep.errors import MinisheepError
from minisheep.machine.installing import pip_install
from minisheep.plan.calibration import Turn, timed
from minisheep.rules.similarity import NoveltyIndex

THRESHOLD = 0.7
PEER_NAME = "rouge_score"
WHAT = "novelty"


def measure(setup: BenchSetup) -> Iterator[Comparison]:
    """New instructions a second, each compared with everything known and then added if it is new.

    What is known is indexed (ours) or tokenised (the peer) before the clock starts.
    """
    sizes = setup.job.sizes
    work = f"{sizes['new']} new against {sizes['known']}, threshold {THRESHOLD}"
    try:
        scorer = importlib.import_module("rouge_score.rouge_scorer")
    except ImportError:
        note = f"rouge_score is not installed: `{pip_install('rouge-score')}` installs it."
        yield Comparison(WHAT, None, None, PEER_NAME, "instructions/s", sizes=work, note=note, target=Target(1000.0))
        return
    texts = material.novel_texts(sizes["known"] + sizes["new"])
    known, new = texts[: sizes["known"]], texts[sizes["known"] :]
    decisions: set[tuple[bool, ...]] = set()
    turns = alternate(
        lambda turn: _ours(known, new, decisions), lambda turn: _peer(scorer, known, new, decisions), setup.job.repeats
    )
    if len(decisions) != 1:
        raise MinisheepError(
            "minisheep and rouge_score decided differently about novelty, so their speeds cannot be compared."
        )
    kept = sum(next(iter(decisions)))
    yield compare_rates(
        WHAT, turns, peer_name=PEER_NAME, unit="instructions/s", sizes=work, target=Target(1000.0),
        note=f"decisions identical: {kept} new, {len(new) - kept} too similar",
    )  # fmt: skip


def _ours(known: Sequence[str], new: Sequence[str], decisions: set[tuple[bool, ...]]) -> Turn:
    index = NoveltyIndex(known)
    found: list[bool] = []

    def work() -> float:
        for text in new:
            similar, _, _ = index.too_similar(text, THRESHOLD)
            if not similar:
                index.add(text)
            found.append(not similar)
        return len(new)

    turn = timed(work)
    decisions.add(tuple(found))
    return turn


def _peer(module: Any, known: Sequence[str], new: Sequence[str], decisions: set[tuple[bool, ...]]) -> Turn:
    """As I-SHEEP's own code does it: every text tokenised once, `_score_lcs` on the tokens."""
    scorer = module.RougeScorer(["rougeL"], use_stemmer=False)
    tokens = [scorer._tokenizer.tokenize(text) for text in known]
    found: list[bool] = []

    def work() -> float:
        for text in new:
            words = scorer._tokenizer.tokenize(text)
            is_new = max(module._score_lcs(words, other).fmeasure for other in tokens) <= THRESHOLD
            if is_new:
                tokens.append(words)
            found.append(is_new)
        return len(new)

    turn = timed(work)
    decisions.add(tuple(found))
    return turn
