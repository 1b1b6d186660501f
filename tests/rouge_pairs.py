"""ROUGE-L of one pair, computed without an index: what `NoveltyIndex` must find of many."""

from __future__ import annotations

from minisheep.rules.similarity import common_length, f_measure, tokens


def rouge_l(first: str, second: str) -> float:
    """F of two texts, 0 .. 1; 0 where one of them is blank."""
    a, b = tokens(first), tokens(second)
    return f_measure(common_length(a, b), len(a), len(b))
